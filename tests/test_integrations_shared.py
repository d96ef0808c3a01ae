"""What all integrations rest on: imports when they are wanted, one set of names for logs, a step in two halves."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import accord
from accord.errors import EngineError, OptionError, UnknownNameError
from accord.integrations.deferred import Deferred
from accord.integrations.logs import Means, scalars

PACKAGES = {
    "lightning": ["pytorch_lightning", "lightning"],
    "accelerate": ["accelerate"],
    "transformers": ["transformers"],
}


def python(program):
    return subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)


def test_nothing_is_imported_before_it_is_named():
    everything = [package for packages in PACKAGES.values() for package in packages]
    done = python(
        f"import sys, accord, accord.integrations; accord.NashMTL; dir(accord.integrations); wanted = {everything}; "
        "found = [p for p in wanted if p in sys.modules]; assert not found, found"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("extra", PACKAGES)
def test_a_missing_package_names_its_extra(extra):
    hide = (
        "import importlib.util as util; find = util.find_spec\n"
        f"util.find_spec = lambda name, package=None: None if name in {PACKAGES[extra]} else find(name, package)\n"
    )
    done = python(
        f"{hide}import accord.errors, accord.integrations\n"
        f"try:\n    accord.integrations.{extra}\nexcept accord.errors.DependencyError as error:\n    print(error)"
    )
    assert f"pip install 'accord[{extra}]'" in done.stdout, done.stderr


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="'keras'"):
        accord.integrations.keras  # noqa: B018


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.heads = nn.Linear(4, 6), nn.Linear(6, 3)

    def losses(self):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
        return dict(zip("abc", (self.heads(self.trunk(x).tanh()) - 1).square().mean(0).unbind(), strict=True))


def gradients(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("spec", ["nash-mtl", "graddrop", "pcgrad", "uw", "ls", "cagrad:max_norm=0.5"])
@pytest.mark.parametrize("factor", [1.0, 0.25, 512.0])
@pytest.mark.parametrize("engine", ["sequential", "batched", accord.jacobian.sequential])
def test_gradients_come_at_the_factor_and_weights_do_not(spec, factor, engine):
    ours, theirs = Net(), Net()
    balancer, reference = accord.make(spec, list("abc")), accord.make(spec, list("abc"))
    step = Deferred("test", balancer, ours.losses(), shared=ours.trunk, engine=engine)
    assert step.loss.item() == pytest.approx(sum(loss.item() for loss in ours.losses().values()))
    (factor * step.loss).backward()
    balance = step.run(scaled=False)
    wanted = reference.backward(theirs.losses(), theirs.trunk, engine=engine)
    torch.testing.assert_close(gradients(ours), factor * gradients(theirs), rtol=1e-5, atol=1e-7 * factor)
    torch.testing.assert_close(balance.weights, wanted.weights, equal_nan=True, rtol=1e-5, atol=1e-8)
    assert balance.outcome == wanted.outcome
    for mine, other in zip(balancer.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, factor * other.grad)


def test_what_a_framework_divides_and_scales_is_found_whoever_does_it():
    net, balancer = Net(), accord.NashMTL(tasks=list("abc"))
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    step = Deferred("test", balancer, net.losses(), shared=net.trunk)
    (scaler.scale(step.loss / 4) + net.heads.bias.square().sum()).backward()
    bias = net.heads.bias.grad.clone()
    step.run(scaled=True)
    other = Net()
    accord.NashMTL(tasks=list("abc")).backward(other.losses(), other.trunk)
    torch.testing.assert_close(net.trunk.weight.grad, 16 * other.trunk.weight.grad)
    torch.testing.assert_close(net.heads.bias.grad, bias + 16 * other.heads.bias.grad)


def test_a_generator_of_losses_is_read_once():
    net, balancer = Net(), accord.NashMTL(tasks=3)
    step = Deferred("test", balancer, (loss for loss in net.losses().values()), shared=net.trunk)
    step.loss.backward()
    assert step.run(scaled=False).outcome == "solved"


def test_a_second_batch_is_balanced_at_the_factor_too():
    ours, theirs = Net(), Net()
    step = Deferred("test", accord.SDMGrad(tasks=3), ours.losses(), shared=ours.trunk, second=ours.losses())
    (step.loss / 2).backward()
    step.run(scaled=False)
    accord.SDMGrad(tasks=3).backward(theirs.losses(), theirs.trunk, second=theirs.losses())
    torch.testing.assert_close(gradients(ours), gradients(theirs) / 2)


def test_bad_input():
    net, balancer = Net(), accord.NashMTL(tasks=list("abc"))
    with pytest.raises(OptionError, match=r"sharde= is not to be given here; there are shared"):
        Deferred("test", balancer, net.losses(), sharde=net.trunk)
    with pytest.raises(OptionError, match=r"the balancer is a Linear; make one"):
        Deferred("test", net.trunk, net.losses())
    with pytest.raises(EngineError, match="did not reach the loss"):
        Deferred("test", balancer, net.losses(), shared=net.trunk).run(scaled=False)


# ---------------------------------------------------------------------- logs


def balanced(spec):
    net = Net()
    return accord.make(spec, list("abc")).backward(net.losses(), net.trunk)


def test_every_number_of_a_step_has_a_name():
    balance = balanced("nash-mtl")
    found = scalars(balance)
    kinds = [f"{kind}/{task}" for kind in ("loss", "weight") for task in "abc"]
    assert set(found) == {*kinds, "conflict/share", "conflict/mean_cosine", "conflict/min_cosine", "residual"}
    assert [found[f"weight/{task}"] for task in "abc"] == balance.weights.tolist()
    assert found["conflict/min_cosine"] == accord.metrics.conflict(balance.gramian).min_cosine
    assert all(type(value) is float for value in found.values())


def test_what_a_step_does_not_have_is_left_out():
    assert scalars(balanced("graddrop"), ["weight", "residual"]) == {}  # no weights describe it
    assert "conflict/share" not in scalars(balanced("ls"))
    assert scalars(balanced("ls"), ["conflict/share"]) == {}


def test_names_and_groups_choose():
    assert set(scalars(balanced("nash-mtl"), ["weight/b", "conflict"])) == {
        "weight/b",
        "conflict/share",
        "conflict/mean_cosine",
        "conflict/min_cosine",
    }


@pytest.mark.parametrize(
    ("name", "nearest"), [("weight/d", "weight/a"), ("wieght", "weight"), ("conflict/shar", "share")]
)
def test_unknown_names_are_answered_with_the_nearest(name, nearest):
    with pytest.raises(UnknownNameError, match=rf"{name}' is not logged.*{nearest}"):
        scalars(balanced("nash-mtl"), [name])


def test_one_string_is_no_list_of_names():
    with pytest.raises(OptionError, match=r"'weight' is one string; give a list of names: \['weight'\]"):
        scalars(balanced("nash-mtl"), "weight")


def test_means_are_over_the_steps_that_had_the_number():
    means = Means()
    means.add({"a": 1.0, "b": 5.0})
    means.add({"a": 2.0})
    assert means.take() == {"a": 1.5, "b": 5.0}
    assert means.take() == {}
