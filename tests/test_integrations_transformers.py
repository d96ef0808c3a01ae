"""The Trainer of transformers: a run equals the loop written out, a small text model's too, and is resumed exactly."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

import accord
from accord.errors import DataError, NonFiniteError, OptionError, OptionWarning, ShapeError, UnknownNameError
from accord.integrations.transformers import STATE, MultiTaskTrainer
from support.frameworks import (
    BATCH,
    STEPS,
    TASKS,
    Balanced,
    Net,
    Output,
    Samples,
    apart,
    flat,
    loader,
    on_processes,
    quiet,
    raw,
    train,
    trainer_of,
)

TOLERANCE = 1e-6
SPECS = ["nash-mtl", "nash-mtl:update_every=3", "mgda", "pcgrad", "graddrop", "uw", "dwa", "moco", "rlw"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_run_is_the_loop_written_out(tmp_path, spec):
    trainer = trainer_of(tmp_path, spec)
    train(trainer)
    wanted, balancer = raw(spec)
    assert apart(trainer.model.net, wanted) <= TOLERANCE
    assert apart(trainer.model.net, Net()) > 1e-3
    assert trainer.balancer.steps == balancer.steps == STEPS
    for ours, theirs in zip(trainer.balancer.parameters(), balancer.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop", "uw"])
def test_micro_batches_are_balanced_one_by_one_and_averaged(tmp_path, spec):
    trainer = trainer_of(tmp_path, spec, arguments={"gradient_accumulation_steps": 3})
    train(trainer)
    assert trainer.state.global_step == STEPS // 3
    assert apart(trainer.model.net, raw(spec, accumulate=3)[0]) <= TOLERANCE


def test_a_model_that_takes_any_argument_is_divided_too(tmp_path):
    class Anything(Output):
        def forward(self, x, y, **kwargs):
            assert not kwargs
            return super().forward(x, y)

    trainer = trainer_of(tmp_path, model=Anything(), arguments={"gradient_accumulation_steps": 3})
    train(trainer)
    assert apart(trainer.model.net, raw("nash-mtl", accumulate=3)[0]) <= TOLERANCE


def test_bfloat16(tmp_path):
    trainer = trainer_of(tmp_path, arguments={"bf16": True})
    train(trainer)
    assert apart(trainer.model.net, raw("nash-mtl", cast=torch.bfloat16)[0]) <= TOLERANCE


@pytest.mark.parametrize(("n", "scale"), [(1, 2.0**20), (2, 2.0**6)])
def test_float16_with_a_scaler(tmp_path, n, scale):
    options = {"init_scale": scale, "growth_interval": 3}
    trainer = trainer_of(tmp_path, arguments={"fp16": True, "gradient_accumulation_steps": n})
    trainer.accelerator.native_amp = True  # on a CPU Accelerate would leave float16 out
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", **options)
    train(trainer)
    reference = torch.amp.GradScaler("cpu", **options)
    wanted, balancer = raw("nash-mtl", cast=torch.float16, scaler=reference, accumulate=n)
    assert apart(trainer.model.net, wanted) <= TOLERANCE
    assert trainer.accelerator.scaler.get_scale() == reference.get_scale()
    assert trainer.balancer.steps == balancer.steps
    assert (balancer.steps < STEPS) == (scale > 2.0**10)


def test_gradients_are_clipped_after_they_are_balanced(tmp_path):
    trainer = trainer_of(tmp_path, arguments={"max_grad_norm": 1e-3})
    train(trainer)
    logged = [logs["grad_norm"] for logs in trainer.state.log_history if "grad_norm" in logs]
    assert min(logged) > 1e-3
    moved = flat(trainer.model.net) - flat(Net())
    assert 0 < moved.norm() <= STEPS * 0.1 * 1e-3 * 1.001


@pytest.mark.parametrize(
    "shared", ["net.trunk", lambda model: model.net.trunk, lambda model: list(model.net.trunk.parameters())]
)
def test_places_by_name_and_by_function(tmp_path, shared):
    options = {"heads": "net.heads", "engine": "batched"}
    trainer = trainer_of(tmp_path, shared=shared, balance_options=options)
    train(trainer)
    assert trainer.last_balance.engine == "batched"
    assert apart(trainer.model.net, raw("nash-mtl")[0]) <= TOLERANCE


@pytest.mark.parametrize("spec", ["nash-mtl:update_every=5", "rlw", "uw", "moco"])
def test_a_run_that_is_resumed_is_one_that_never_stopped(tmp_path, spec):
    keep = {"save_strategy": "steps", "save_steps": 7}
    whole = trainer_of(tmp_path / "whole", spec, arguments=keep)
    train(whole)
    shutil.copytree(tmp_path / "whole" / "checkpoint-7", tmp_path / "again" / "checkpoint-7")
    second = trainer_of(tmp_path / "again", spec, arguments=keep)
    train(second, resume_from_checkpoint=True)
    assert second.balancer.steps == STEPS
    assert torch.equal(flat(second.model), flat(whole.model))
    assert all(
        torch.equal(a, b) for a, b in zip(second.balancer.parameters(), whole.balancer.parameters(), strict=True)
    )


@pytest.mark.parametrize("spec", ["uw", "dwa:window=2"])
def test_each_new_model_has_a_balancer_that_knows_nothing_of_the_last(tmp_path, spec):
    class Begins(Balanced):
        def __init__(self, model, *args, **options):
            super().__init__(None, *args, model_init=Output, **options)

    trainer, found = trainer_of(tmp_path, spec, trainer=Begins), []
    for _ in range(2):
        train(trainer)
        found.append(torch.cat([flat(trainer.model), flat(trainer.balancer)]) if spec == "uw" else flat(trainer.model))
        assert trainer.balancer.steps == STEPS
    assert torch.equal(*found)
    assert apart(trainer.model.net, raw(spec)[0]) <= TOLERANCE


def test_weights_and_conflicts_are_logged_as_means(tmp_path):
    trainer = trainer_of(tmp_path, arguments={"logging_steps": 4})
    seen = []

    class Watching(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **options):
            seen.append(trainer.last_balance)

    trainer.add_callback(Watching())
    train(trainer)
    logs = [logs for logs in trainer.state.log_history if "loss" in logs]
    assert len(logs) == STEPS // 4
    for i, found in enumerate(logs):
        steps = seen[4 * i : 4 * i + 4]
        for k, task in enumerate(TASKS):
            assert found[f"weight/{task}"] == pytest.approx(sum(b.weights[k].item() for b in steps) / 4)
        assert found["loss"] == pytest.approx(sum(found[f"loss/{task}"] for task in TASKS), rel=1e-4)
        shares = [accord.metrics.conflict(b.gramian).share for b in steps]
        assert found["conflict/share"] == pytest.approx(sum(shares) / 4)
        assert found["residual"] <= 1e-8


def plain_sum(net, *, steps):
    """The sum of the tasks' losses, as a mean over batches."""
    with torch.no_grad():
        return sum(loss.item() for batch in loader(steps=steps) for loss in net(**batch).values()) / steps


def test_evaluation_has_the_plain_sum_and_the_predictions(tmp_path):
    trainer = trainer_of(tmp_path, compute_metrics=lambda found: {"shape": list(found.predictions.shape)})
    with quiet():
        found = trainer.evaluate(Samples(steps=2))
    assert found["eval_loss"] == pytest.approx(plain_sum(trainer.model.net, steps=2), rel=1e-6)
    assert found["eval_shape"] == [2 * BATCH, 7]
    assert trainer.balancer.steps == 0


@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop", "ls"])
@pytest.mark.parametrize("unused", [True, False])
def test_two_processes_are_one_with_the_joint_batch(pair, tmp_path, spec, unused):
    arguments = {"ddp_find_unused_parameters": unused}
    found = pair.run(on_processes, "transformers", spec, folder=str(tmp_path), arguments=arguments, limit=300)
    for figures in found:
        assert figures["apart"] <= TOLERANCE
        assert figures["moved"] > 1e-3
    assert torch.equal(found[0]["parameters"], found[1]["parameters"])


# ---------------------------------------------------------------------- a text model

WORDS, LENGTH = 40, 10


class Texts(torch.utils.data.Dataset):
    """Token sequences; a label of the sequence, and one of each token."""

    def __init__(self):
        generator = torch.Generator().manual_seed(2)
        self.tokens = torch.randint(3, WORDS, (48, LENGTH), generator=generator)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        tokens = self.tokens[i]
        return {"input_ids": tokens, "parity": tokens[0] % 2, "tags": (tokens > 20).long()}


class TwoTasks(transformers.BertPreTrainedModel):
    """A small BERT, made from its configuration, with a sequence and a token classifier."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = transformers.BertModel(config, add_pooling_layer=False)
        self.sequence, self.token = nn.Linear(config.hidden_size, 2), nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids, parity=None, tags=None):
        states = self.bert(input_ids).last_hidden_state  # (B, L, H)
        of_sequence, of_token = self.sequence(states[:, 0]), self.token(states)
        losses = {
            "parity": nn.functional.cross_entropy(of_sequence, parity),
            "tags": nn.functional.cross_entropy(of_token.flatten(0, 1), tags.flatten()),
        }
        return {"losses": losses, "parity": of_sequence, "tags": of_token}


def text_model():
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return TwoTasks(config)


@pytest.mark.parametrize("method", ["nash-mtl", "pcgrad"])
def test_a_text_model_is_the_loop_written_out(tmp_path, method):
    arguments = {"label_names": ["parity", "tags"], "num_train_epochs": 3}
    balancer = accord.make(method, ["parity", "tags"])
    trainer = trainer_of(tmp_path, balancer, model=text_model(), shared="bert", arguments=arguments)
    trainer.train_dataset = Texts()
    train(trainer)
    model, reference = text_model(), accord.make(method, ["parity", "tags"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(3):
        for batch in torch.utils.data.DataLoader(Texts(), batch_size=BATCH):
            reference.backward(model(**batch)["losses"], model.bert)
            optimizer.step()
            optimizer.zero_grad()
    assert apart(trainer.model, model) <= TOLERANCE
    assert apart(trainer.model, text_model()) > 1e-3
    with quiet():
        trainer.save_model(str(tmp_path / "saved"))
        again = TwoTasks.from_pretrained(tmp_path / "saved")
    assert torch.equal(flat(again), flat(trainer.model))
    other = accord.make(method, ["parity", "tags"])
    other.load_state_dict(torch.load(tmp_path / "saved" / STATE, weights_only=True))
    assert other.steps == reference.steps


# ---------------------------------------------------------------------- bad input


def test_a_model_that_returns_one_summed_loss_is_refused(tmp_path):
    class Summed(Output):
        def forward(self, x, y):
            return {"loss": sum(self.net(x, y).values())}

    with pytest.raises(ShapeError, match=r"'loss' is one number.*'losses': \{'task': loss, \.\.\.\}"):
        train(trainer_of(tmp_path, model=Summed()))


def test_a_model_that_returns_no_losses_is_refused(tmp_path):
    class Nothing(Output):
        def forward(self, x, y):
            return (sum(self.net(x, y).values()),)

    with pytest.raises(ShapeError, match=r"has tuple: no losses.*override task_losses"):
        train(trainer_of(tmp_path, model=Nothing()))


@pytest.mark.parametrize("kind", ["tuple", "object"])
def test_losses_kept_elsewhere_are_found_by_override(tmp_path, kind):
    class Elsewhere(Output):
        def forward(self, x, y):
            losses = self.net(x, y)
            if kind == "object":
                return SimpleNamespace(by_task=losses)
            return *losses.values(), self.net.trunk(x)

    class Finds(Balanced):
        def task_losses(self, outputs):
            return outputs.by_task if kind == "object" else dict(zip(TASKS, outputs[:-1], strict=True))

    metrics = {"compute_metrics": lambda found: {"shape": list(found.predictions[-1].shape)}} if kind == "tuple" else {}
    trainer = trainer_of(tmp_path, model=Elsewhere(), trainer=Finds, **metrics)
    train(trainer)
    assert apart(trainer.model.net, raw("nash-mtl")[0]) <= TOLERANCE
    with quiet():
        found = trainer.evaluate(Samples(steps=2))
    assert found["eval_loss"] == pytest.approx(plain_sum(trainer.model.net, steps=2), rel=1e-6)
    assert found.get("eval_shape") == ([2 * BATCH, 7] if kind == "tuple" else None)


def test_an_unknown_task_in_the_log_is_named_before_training(tmp_path):
    with pytest.raises(UnknownNameError, match=r"'weight/sizes' is not logged.*did you mean 'weight/size'"):
        trainer_of(tmp_path, log_balance=["weight/sizes"])


def test_names_that_the_first_losses_bring_are_checked_with_them(tmp_path):
    trainer = trainer_of(tmp_path, accord.NashMTL(tasks=3), log_balance=["weight/size"])
    train(trainer)
    assert "weight/size" in trainer.state.log_history[0]
    trainer = trainer_of(tmp_path, accord.NashMTL(tasks=3), log_balance=["weight/sizes"])
    with pytest.raises(UnknownNameError, match=r"'weight/sizes' is not logged.*did you mean 'weight/size'"):
        train(trainer)
    assert trainer.balancer.steps == 1
    with pytest.raises(UnknownNameError, match=r"'residuals' is not logged.*did you mean 'residual'"):
        trainer_of(tmp_path, accord.NashMTL(tasks=3), log_balance=["residuals"])


def test_one_string_is_no_list_of_names(tmp_path):
    with pytest.raises(OptionError, match=r"'weight' is one string; give a list of names: \['weight'\]"):
        trainer_of(tmp_path, log_balance="weight")


def test_an_unknown_submodule_is_named(tmp_path):
    with pytest.raises(UnknownNameError, match=r"no submodule 'net\.trnk'; did you mean 'net\.trunk'"):
        train(trainer_of(tmp_path, shared="net.trnk"))


def test_no_shared_parameters_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"give one of shared= "):
        train(trainer_of(tmp_path, shared=None))


def test_what_is_no_balancer_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"the balancer is a NoneType; make one"):
        trainer_of(tmp_path, None)


def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"balance_options: 'engines' is none; did you mean 'engine'"):
        trainer_of(tmp_path, balance_options={"engines": "batched"})


def test_what_would_have_no_effect_is_refused(tmp_path):
    with pytest.raises(OptionError, match="label_smoothing_factor cannot be combined with a balancer: smooth in"):
        trainer_of(tmp_path, model=text_model(), arguments={"label_smoothing_factor": 0.1})
    with pytest.raises(OptionError, match=r"compute_loss_func cannot be combined.*override task_losses"):
        trainer_of(tmp_path, compute_loss_func=lambda *args, **options: 0)
    with pytest.raises(OptionError, match="steps inside the backward"):
        trainer_of(tmp_path, arguments={"optim": "lomo"})


def test_famo_is_told_the_losses_after_the_step(tmp_path):
    trainer = trainer_of(tmp_path, "famo")
    train(trainer)
    assert apart(trainer.model.net, raw("famo", after=True)[0]) <= TOLERANCE


@pytest.mark.parametrize("spec", ["famo", "cr-mogm:of=famo"])
def test_famo_looks_at_the_last_of_the_micro_batches(tmp_path, spec):
    trainer = trainer_of(tmp_path, spec, arguments={"gradient_accumulation_steps": 3})
    train(trainer)
    with pytest.warns(OptionWarning, match="after_step was not called"):  # in the loop it is not, between micro-batches
        wanted, balancer = raw(spec, accumulate=3, after=True)
    assert apart(trainer.model.net, wanted) <= TOLERANCE
    assert trainer.balancer.last_weights()[0] == pytest.approx(balancer.last_weights()[0], rel=1e-5)


@pytest.mark.parametrize("spec", ["sdmgrad", "modo"])
def test_methods_of_two_batches_say_that_one_biases_them(tmp_path, spec):
    trainer = trainer_of(tmp_path, spec, steps=2)
    train(trainer)
    assert "one batch was given" in trainer.last_balance.cause


def test_a_part_of_a_batch_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"gramian_batch = 0\.5 takes gradients of part of the batch"):
        train(trainer_of(tmp_path, "nash-mtl:gramian_batch=0.5"))


def test_an_override_that_does_not_balance_is_noticed(tmp_path):
    class Own(Balanced):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return sum(model(**inputs)["losses"].values())

    with pytest.raises(OptionError, match="compute_loss is overridden, so that nothing was balanced"):
        train(trainer_of(tmp_path, trainer=Own))


@pytest.mark.parametrize("n", [1, 2])
def test_a_loss_that_is_not_finite_is_an_error_without_a_scaler(tmp_path, n):
    class Infinite(Output):
        def forward(self, x, y):
            losses = self.net(x, y)
            return {"losses": {**losses, "sign": losses["sign"] * torch.nan}}

    trainer = trainer_of(tmp_path, model=Infinite(), arguments={"gradient_accumulation_steps": n})
    with pytest.raises(NonFiniteError, match="'sign' = nan"):
        train(trainer)


def test_a_checkpoint_without_a_balancer_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, arguments={"save_strategy": "steps", "save_steps": 7})
    train(trainer)
    (tmp_path / "checkpoint-7" / STATE).unlink()
    with pytest.raises(DataError, match=re.escape(f"has no {STATE}")):
        train(trainer_of(tmp_path), resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_bases_in_the_wrong_order_are_refused():
    with pytest.raises(OptionError, match=r"write class Wrong\(MultiTaskTrainer, Trainer\)"):

        class Wrong(transformers.Trainer, MultiTaskTrainer):
            pass
