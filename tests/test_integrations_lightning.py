"""Lightning: each fit equals the loop written out, is resumed as if it had not stopped, and logs what was balanced."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import accord
from accord.errors import EngineError, NonFiniteError, OptionError, OptionWarning, ShapeError, UnknownNameError
from accord.integrations.lightning import MultiTaskModule
from support.frameworks import STEPS, TASKS, Lit, Net, apart, fit, flat, loader, on_processes, optimizer_of, quiet, raw

TOLERANCE = 1e-6
SPECS = ["nash-mtl", "nash-mtl:update_every=3", "mgda", "pcgrad", "graddrop", "uw", "dwa", "sdmgrad", "moco", "rlw"]


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_fit_is_the_loop_written_out(spec, manual):
    module = Lit(spec, manual=manual)
    fit(module)
    wanted, balancer = raw(spec)
    assert apart(module.net, wanted) <= TOLERANCE
    assert apart(module.net, Net()) > 1e-3
    assert module.balancer.steps == balancer.steps == STEPS
    for ours, theirs in zip(module.balancer.parameters(), balancer.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_scalar_form_needs_nothing_from_here():
    class Plain(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.balancer = Net(), accord.NashMTL(tasks=TASKS)

        def training_step(self, batch, batch_idx):
            return self.balancer(self.net(**batch), shared=self.net.trunk)

        def configure_optimizers(self):
            return optimizer_of(self.parameters())

    module = Plain()
    fit(module)
    assert apart(module.net, raw("nash-mtl")[0]) <= TOLERANCE


@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop", "uw", "nash-mtl:max_norm=0.5"])
@pytest.mark.parametrize("n", [2, 3])
def test_micro_batches_are_balanced_one_by_one_and_averaged(spec, n):
    module = Lit(spec)
    fit(module, accumulate_grad_batches=n)
    assert apart(module.net, raw(spec, accumulate=n)[0]) <= TOLERANCE


def test_micro_batches_with_an_engine_and_features():
    class AtFeatures(Lit):
        def training_step(self, batch, batch_idx):
            z = self.net.trunk(batch["x"])
            losses = [(head(z)[:, 0] - batch["y"][:, 0]).square().mean() for head in self.net.heads.values()]
            return self.balance(losses, features=z, engine="batched")

    module, wanted = AtFeatures(), Net()
    fit(module, accumulate_grad_batches=2)
    balancer, optimizer = accord.NashMTL(tasks=3), optimizer_of(wanted.parameters())
    for i, batch in enumerate(loader()):
        z = wanted.trunk(batch["x"])
        losses = [(head(z)[:, 0] - batch["y"][:, 0]).square().mean() for head in wanted.heads.values()]
        balancer.backward(losses, features=z, engine="batched")
        if i % 2:
            for parameter in wanted.parameters():
                parameter.grad /= 2
            optimizer.step()
            optimizer.zero_grad()
    assert apart(module.net, wanted) <= TOLERANCE


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop", "uw"])
def test_float16_with_a_scaler(spec, accumulate):
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=3) for _ in range(2)]
    module = Lit(spec)
    fit(module, plugins=[MixedPrecision("16-mixed", "cpu", scalers[0])], accumulate_grad_batches=accumulate)
    wanted, _ = raw(spec, cast=torch.float16, scaler=scalers[1], accumulate=accumulate)
    assert apart(module.net, wanted) <= TOLERANCE
    assert scalers[0].get_scale() == scalers[1].get_scale() > 2.0**6
    assert all(balance.outcome != "skipped" for balance in module.balances)


def test_a_step_that_overflows_is_skipped_by_the_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    module = Lit()
    fit(module, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    outcomes = [balance.outcome for balance in module.balances]
    assert outcomes[0] == "skipped"
    assert outcomes[-1] == "solved"
    assert module.balancer.steps == outcomes.count("solved") < STEPS
    assert scaler.get_scale() < 2.0**20


def test_bfloat16_and_float64():
    module = Lit()
    fit(module, precision="bf16-mixed")
    assert apart(module.net, raw("nash-mtl", cast=torch.bfloat16)[0]) <= TOLERANCE
    module = Lit()
    fit(module, precision="64-true")
    assert apart(module.net, raw("nash-mtl")[0]) <= 1e-5
    assert module.balancer.last_weights()[0].dtype == "float64"


def test_gradients_are_clipped_after_they_are_balanced():
    module, (wanted, balancer) = Lit(), (Net(), accord.NashMTL(tasks=TASKS))
    fit(module, gradient_clip_val=0.1)
    optimizer = optimizer_of(wanted.parameters())
    for batch in loader():
        optimizer.zero_grad()
        balancer.backward(wanted(**batch), wanted.trunk)
        torch.nn.utils.clip_grad_norm_(wanted.parameters(), 0.1)
        optimizer.step()
    assert apart(module.net, wanted) <= TOLERANCE


def test_several_optimizers_in_manual_optimisation():
    module = Lit(manual=True, optimizers=2)
    fit(module)
    assert apart(module.net, raw("nash-mtl")[0]) <= TOLERANCE


class Told(Lit):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.after_step(lambda: self.net(**batch))


def test_famo_is_told_the_losses_after_the_step():
    module = Told("famo")
    fit(module)
    assert apart(module.net, raw("famo", after=True)[0]) <= TOLERANCE


@pytest.mark.parametrize("spec", ["famo", "cr-mogm:of=famo"])
def test_famo_looks_at_the_last_of_the_micro_batches(spec):
    module = Told(spec)
    fit(module, accumulate_grad_batches=3)
    with pytest.warns(OptionWarning, match="after_step was not called"):  # in the loop it is not, between micro-batches
        wanted, balancer = raw(spec, accumulate=3, after=True)
    assert apart(module.net, wanted) <= TOLERANCE
    assert module.balancer.last_weights()[0] == pytest.approx(balancer.last_weights()[0], rel=1e-5)


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_a_step_of_length_zero_is_no_fall_at_any_precision(precision, manual):
    class Still(Told):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.0)

    module = Still("famo:gamma=0", manual=manual)
    fit(module, precision=precision)
    state = module.balancer.own_state()
    assert state["before"] is None  # it looked
    assert torch.equal(state["logits"]["value"], torch.zeros(len(TASKS), dtype=torch.float64))


@pytest.mark.parametrize("spec", ["nash-mtl:update_every=5", "rlw", "uw", "dwa:window=2", "moco"])
def test_a_fit_that_is_resumed_is_one_that_never_stopped(tmp_path, spec):
    whole = Lit(spec)
    fit(whole, max_epochs=2)
    first = Lit(spec)
    keep = ModelCheckpoint(tmp_path, filename="first", save_top_k=-1)
    fit(first, max_epochs=1, callbacks=[keep], enable_checkpointing=True)
    second = Lit(spec)
    fit(second, max_epochs=2, ckpt_path=str(tmp_path / "first.ckpt"))
    assert second.balancer.steps == 2 * STEPS
    assert torch.equal(flat(second), flat(whole))
    assert torch.equal(*(torch.as_tensor(m.balancer.last_weights()[0]) for m in (second, whole)))


class Memory(DummyLogger):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def log_metrics(self, metrics, step=None):
        self.seen.setdefault(step, {}).update(metrics)


@pytest.mark.parametrize(("manual", "accumulate"), [(False, 1), (True, 1), (False, 2)])
def test_weights_and_conflicts_are_logged_where_loggers_record(manual, accumulate):
    module, logger = Lit(manual=manual), Memory()
    trainer = fit(module, logger=logger, log_every_n_steps=3, accumulate_grad_batches=accumulate)
    recorded = {step: logged for step, logged in logger.seen.items() if "weight/size" in logged}
    assert sorted(recorded) == list(range(2, STEPS // accumulate, 3))
    for step, logged in recorded.items():
        balance = module.balances[accumulate * (step + 1) - 1]
        for task, weight, loss in zip(TASKS, balance.weights.tolist(), balance.losses.tolist(), strict=True):
            assert logged[f"weight/{task}"] == pytest.approx(weight, rel=1e-6)
            assert logged[f"loss/{task}"] == pytest.approx(loss, rel=1e-6)
        wanted = accord.metrics.conflict(balance.gramian)
        assert logged["conflict/share"] == pytest.approx(wanted.share)
        assert logged["conflict/min_cosine"] == pytest.approx(wanted.min_cosine, rel=1e-6)
        assert logged["residual"] <= 1e-8
    assert "weight/size" in trainer.callback_metrics


def test_some_are_logged_or_none(tmp_path):
    module = Lit()
    module.log_balance = ["weight", "conflict/share"]
    trainer = fit(module, log_every_n_steps=1, logger=CSVLogger(tmp_path))
    logged = set(trainer.logged_metrics)
    assert logged == {"weight/size", "weight/sign", "weight/age", "conflict/share"}
    module = Lit()
    module.log_balance = False
    assert not fit(module, log_every_n_steps=1).logged_metrics


@pytest.mark.parametrize("first", ["plain", "balanced"])
def test_a_plain_loss_may_be_differentiated_before_or_after(first):
    class Adversary(Lit):
        def __init__(self):
            super().__init__(manual=True)
            self.judge = torch.nn.Linear(5, 1)

        def training_step(self, batch, batch_idx):
            self.optimizers().zero_grad()
            balanced = self.balance(self.net(**batch), shared=self.net.trunk)
            plain = self.judge(batch["x"]).square().mean()
            for loss in (plain, balanced) if first == "plain" else (balanced, plain):
                self.manual_backward(loss)
            self.optimizers().step()

    module = Adversary()
    before = flat(module.judge)
    fit(module)
    assert apart(module.net, raw("nash-mtl")[0]) <= TOLERANCE
    assert module.balancer.steps == STEPS
    assert not torch.equal(flat(module.judge), before)


def test_validation_has_the_plain_sum_and_moves_nothing():
    class Validated(Lit):
        def validation_step(self, batch, batch_idx):
            losses = self.net(**batch)
            self.log("val", loss := self.balance(losses, shared=self.net.trunk))
            assert loss == pytest.approx(sum(v.item() for v in losses.values()))

    module = Validated()
    with quiet():
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader(), loader())
    assert module.balancer.steps == STEPS
    assert apart(module.net, raw("nash-mtl")[0]) <= TOLERANCE


@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop", "ls"])
@pytest.mark.parametrize("strategy", ["ddp", "ddp_find_unused_parameters_true"])
def test_two_processes_are_one_with_the_joint_batch(pair, spec, strategy):
    found = pair.run(on_processes, "lightning", spec, strategy=strategy, limit=300)
    check_replicas(found)


def test_two_processes_in_manual_optimisation(pair):
    check_replicas(pair.run(on_processes, "lightning", "nash-mtl", strategy="ddp", manual=True, limit=300))


def check_replicas(found):
    for figures in found:
        assert figures["apart"] <= TOLERANCE
        assert figures["moved"] > 1e-3
    assert torch.equal(found[0]["parameters"], found[1]["parameters"])


# ---------------------------------------------------------------------- bad input


def fitted(step, *, balancer="nash-mtl", **options):
    """Fit a module with this training step."""

    class Bad(Lit):
        def training_step(self, batch, batch_idx):
            return step(self, self.net(**batch))

    module = Bad()
    if balancer is None:
        del module.balancer
    return fit(module, **options)


def test_a_summed_loss_is_refused():
    with pytest.raises(OptionError, match=r"added up already; return self\.balance\(\{'task': loss"):
        fitted(lambda self, losses: sum(losses.values()))


def test_a_scalar_given_to_balance_is_refused():
    with pytest.raises(ShapeError, match="Do not sum or average the tasks first"):
        fitted(lambda self, losses: self.balance(sum(losses.values()), shared=self.net.trunk))


def test_no_losses_are_refused():
    with pytest.raises(ShapeError, match="without losses"):
        fitted(lambda self, losses: self.balance({}, shared=self.net.trunk))


def test_losses_of_another_task_are_refused():
    with pytest.raises(ShapeError, match="'colour'"):
        fitted(lambda self, losses: self.balance({**losses, "colour": losses["size"]}, shared=self.net.trunk))


def test_a_module_without_a_balancer_says_how_to_make_one():
    with pytest.raises(OptionError, match=r"accord\.make\('nash-mtl'"):
        fitted(lambda self, losses: self.balance(losses, shared=self.net.trunk), balancer=None)


def test_a_loss_without_backward_is_noticed():
    def twice(self, losses):
        return self.balance(losses, shared=self.net.trunk) + self.balance(losses, shared=self.net.trunk)

    with pytest.raises(EngineError, match="was never differentiated"):
        fitted(twice)


def test_a_detached_loss_is_noticed():
    def replaced(self, losses):
        self.balance(losses, shared=self.net.trunk)
        return sum(losses.values())

    with pytest.raises(EngineError, match="did not reach the loss"):
        fitted(replaced)


def test_options_that_are_lightnings_are_refused():
    with pytest.raises(OptionError, match=r"scaler= is not to be given here; the framework's own is used"):
        fitted(lambda self, losses: self.balance(losses, shared=self.net.trunk, scaler=None))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_is_an_error_without_a_scaler(accumulate):
    with pytest.raises(NonFiniteError, match="'sign' = nan"):
        fitted(
            lambda self, losses: self.balance({**losses, "sign": losses["sign"] * torch.nan}, shared=self.net.trunk),
            accumulate_grad_batches=accumulate,
        )


def misspelt(names, *, tasks=TASKS):
    """How many steps were made before the names were refused, at a fit too short to be logged."""
    module = Lit()
    module.balancer, module.log_balance = accord.NashMTL(tasks=tasks), names
    with pytest.raises(UnknownNameError, match=rf"'{names[0]}' is not logged.*did you mean"):
        fit(module, log_every_n_steps=50)
    return module.balancer.steps


def test_an_unknown_name_in_the_log_is_refused_before_the_first_step():
    assert misspelt(["weight/sizes"]) == 0
    assert misspelt(["residuals"], tasks=3) == 0


def test_names_that_the_first_losses_bring_are_checked_with_them():
    assert misspelt(["weight/sizes"], tasks=3) == 1
    module = Lit()
    module.balancer, module.log_balance = accord.NashMTL(tasks=3), ["weight/size"]
    assert set(fit(module, log_every_n_steps=1).logged_metrics) == {"weight/size"}


def test_one_string_is_no_list_of_names():
    module = Lit()
    module.log_balance = "weight"
    with pytest.raises(OptionError, match=r"'weight' is one string; give a list of names: \['weight'\]"):
        fit(module)


def test_several_optimizers_in_automatic_optimisation_are_sent_to_the_manual_one():
    with pytest.raises((RuntimeError, MisconfigurationException), match=r"(?i)automatic_optimization = False"):
        fit(Lit(optimizers=2))


def test_bases_in_the_wrong_order_are_refused():
    with pytest.raises(OptionError, match=r"write class Wrong\(MultiTaskModule, LightningModule\)"):

        class Wrong(pl.LightningModule, MultiTaskModule):
            pass


def test_strategies_that_hide_gradients_are_refused():
    class FSDPStrategy(pl.strategies.SingleDeviceStrategy):
        pass

    with pytest.raises(EngineError, match="flattens parameters"):
        fit(Lit(), strategy=FSDPStrategy(device="cpu"), devices="auto", accelerator="auto")


def test_an_interrupted_fit_leaves_nothing_behind():
    class Interrupted(Lit):
        fail = True

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.fail:
                self.fail = False
                raise ZeroDivisionError
            return loss

    module = Interrupted()
    with pytest.raises(ZeroDivisionError):
        fit(module)
    fit(module)
    assert apart(module.net, raw("nash-mtl")[0]) <= TOLERANCE
