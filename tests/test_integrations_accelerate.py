"""Accelerate: its loop with the balanced backward equals the loop written out."""

import logging

import pytest
import torch

import accord
from accord.errors import EngineError, NonFiniteError, OptionError, ShapeError
from accord.integrations.accelerate import backward, scalars
from support.frameworks import (
    BATCH,
    STEPS,
    TASKS,
    Net,
    accelerated,
    apart,
    flat,
    fresh,
    loader,
    on_processes,
    optimizer_of,
    quiet,
    raw,
)

TOLERANCE = 1e-6
SPECS = ["nash-mtl", "nash-mtl:update_every=3", "mgda", "pcgrad", "graddrop", "uw", "dwa", "sdmgrad", "moco", "rlw"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_loop_is_the_loop_written_out(spec):
    net, balancer, _, balances = accelerated(spec)
    wanted, reference = raw(spec)
    assert apart(net, wanted) <= TOLERANCE
    assert apart(net, Net()) > 1e-3
    assert balancer.steps == reference.steps == len(balances) == STEPS


@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop", "uw", "nash-mtl:max_norm=0.5"])
def test_micro_batches_are_balanced_one_by_one_and_averaged(spec):
    net = accelerated(spec, gradient_accumulation_steps=3)[0]
    assert apart(net, raw(spec, accumulate=3)[0]) <= TOLERANCE


def test_rows_of_micro_batches_added_up_are_the_whole_batch():
    with quiet():
        accelerator = fresh(gradient_accumulation_steps=2)
        net, balancer = Net(), accord.NashMTL(tasks=TASKS)
        model, optimizer = accelerator.prepare(net, optimizer_of(net.parameters()))
        sums = accord.jacobian.accumulated(net.trunk)
        for batch in loader(BATCH // 2):
            with accelerator.accumulate(model):
                losses = {task: loss / 2 for task, loss in model(**batch).items()}
                sums.include(losses, scaler=accelerator.scaler)
                if accelerator.sync_gradients:
                    balancer.apply(sums)
                    sums = accord.jacobian.accumulated(net.trunk)
                optimizer.step()
                optimizer.zero_grad()
    assert balancer.steps == STEPS
    assert apart(net, raw("nash-mtl")[0]) <= TOLERANCE
    assert apart(accelerated("nash-mtl", batches=loader(BATCH // 2), gradient_accumulation_steps=2)[0], net) > 1e-4


@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop"])
def test_bfloat16(spec):
    net = accelerated(spec, mixed_precision="bf16")[0]
    assert apart(net, raw(spec, cast=torch.bfloat16)[0]) <= TOLERANCE


@pytest.mark.parametrize(("n", "scale"), [(1, 2.0**6), (1, 2.0**20), (2, 2.0**6)])
def test_float16_with_a_scaler(scale, n):
    options = {"init_scale": scale, "growth_interval": 3}
    with quiet():
        accelerator = fresh(mixed_precision="fp16", gradient_accumulation_steps=n)
        accelerator.native_amp = True  # on a CPU Accelerate would leave float16 out
        accelerator.scaler = torch.amp.GradScaler("cpu", **options)
        net, balancer = Net(), accord.NashMTL(tasks=TASKS)
        model, optimizer = accelerator.prepare(net, optimizer_of(net.parameters()))
        outcomes = []
        for batch in loader():
            with accelerator.accumulate(model):
                outcomes.append(backward(accelerator, balancer, model(**batch), shared=net.trunk).outcome)
                optimizer.step()
                optimizer.zero_grad()
    reference = torch.amp.GradScaler("cpu", **options)
    wanted, _ = raw("nash-mtl", cast=torch.float16, scaler=reference, accumulate=n)
    assert apart(net, wanted) <= TOLERANCE
    assert accelerator.scaler.get_scale() == reference.get_scale()
    assert ("skipped" in outcomes) == (scale > 2.0**10)


@pytest.mark.parametrize("spec", ["nash-mtl:update_every=5", "rlw", "moco"])
def test_a_loop_that_is_resumed_is_one_that_never_stopped(tmp_path, spec):
    def loop(steps, *, begin=0, load=None, save=None):
        with quiet():
            accelerator = fresh()
            net, balancer = Net(), accord.make(spec, TASKS)
            model, optimizer = accelerator.prepare(net, optimizer_of(net.parameters()))
            accelerator.register_for_checkpointing(balancer)
            if load:
                accelerator.load_state(str(load))
            for batch in list(loader())[begin:steps]:
                backward(accelerator, balancer, model(**batch), shared=net.trunk)
                optimizer.step()
                optimizer.zero_grad()
            if save:
                accelerator.save_state(str(save), safe_serialization=False)
        return net, balancer

    loop(7, save=tmp_path / "state")
    net, balancer = loop(STEPS, begin=7, load=tmp_path / "state")
    whole, reference = loop(STEPS)
    assert balancer.steps == reference.steps == STEPS
    assert torch.equal(flat(net), flat(whole))


@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop", "ls"])
def test_two_processes_are_one_with_the_joint_batch(pair, spec):
    found = pair.run(on_processes, "accelerate", spec, limit=300)
    for figures in found:
        assert figures["apart"] <= TOLERANCE
        assert figures["moved"] > 1e-3
    assert torch.equal(found[0]["parameters"], found[1]["parameters"])


def test_scalars_go_to_a_tracker(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with quiet():
        accelerator = fresh(log_with="tensorboard", project_dir=str(tmp_path))
        accelerator.init_trackers("run")
        net, balancer = Net(), accord.NashMTL(tasks=TASKS)
        balances = []
        for step, batch in enumerate(loader(steps=3)):
            balances.append(backward(accelerator, balancer, net(**batch), shared=net.trunk))
            accelerator.log(scalars(balances[-1]), step=step)
        accelerator.end_training()
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        events = EventAccumulator(str(next(tmp_path.rglob("events.out*")).parent))
        events.Reload()
    for k, task in enumerate(TASKS):
        logged = [event.value for event in events.Scalars(f"weight/{task}")]
        assert logged == pytest.approx([balance.weights[k].item() for balance in balances], rel=1e-6)


# ---------------------------------------------------------------------- bad input


@pytest.fixture
def made():
    """An accelerator, a balancer, a network and the losses of a batch."""
    with quiet():
        accelerator = fresh()
    net = Net()
    return accelerator, accord.NashMTL(tasks=TASKS), net, net(**next(iter(loader())))


def test_arguments_in_another_order_are_refused(made):
    accelerator, balancer, net, losses = made
    with pytest.raises(OptionError, match=r"call backward\(accelerator, balancer, losses"):
        backward(balancer, accelerator, losses, shared=net.trunk)
    with pytest.raises(OptionError, match=r"the balancer is a dict; make one"):
        backward(accelerator, losses, balancer, shared=net.trunk)


def test_a_summed_loss_is_refused(made):
    accelerator, balancer, net, losses = made
    with pytest.raises(ShapeError, match="Do not sum or average the tasks first"):
        backward(accelerator, balancer, sum(losses.values()), shared=net.trunk)


def test_tasks_that_are_not_the_balancers_are_refused(made):
    accelerator, balancer, net, losses = made
    with pytest.raises(ShapeError, match="'colour'"):
        backward(accelerator, balancer, {**losses, "colour": losses["size"]}, shared=net.trunk)


def test_no_shared_parameters_are_refused(made):
    accelerator, balancer, _, losses = made
    with pytest.raises(OptionError, match="give one of shared= "):
        backward(accelerator, balancer, losses)


def test_a_scaler_is_the_accelerators(made):
    accelerator, balancer, net, losses = made
    with pytest.raises(OptionError, match="the framework's own is used"):
        backward(accelerator, balancer, losses, shared=net.trunk, scaler=torch.amp.GradScaler("cpu"))


def test_a_loss_that_is_not_finite_is_an_error_and_nothing_is_written(made):
    accelerator, balancer, net, losses = made
    accelerator.gradient_accumulation_steps = 2
    with pytest.raises(NonFiniteError, match="'sign' = inf"):
        backward(accelerator, balancer, {**losses, "sign": losses["sign"] * torch.inf}, shared=net.trunk)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM"])
def test_backends_with_a_backward_of_their_own_are_refused(made, kind, monkeypatch):
    from accelerate.utils import DistributedType

    accelerator, balancer, net, losses = made
    monkeypatch.setattr(type(accelerator), "distributed_type", DistributedType[kind])
    with pytest.raises(EngineError, match="use DistributedDataParallel"):
        backward(accelerator, balancer, losses, shared=net.trunk)
