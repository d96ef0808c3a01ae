"""Two sound balancers, and one broken for each thing that the contract checks."""

import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from accord.balancers import Balancer, Decision, GramianBalancer, LossBalancer
from accord.balancers.randomness import Seeded
from accord.jacobian import FeatureJacobian
from accord.solvers import Solution


class Sound(LossBalancer):
    """Weights that fall from 2 to 1 with the steps."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self._count = 0

    def weigh(self, values):
        self._count += 1
        return np.full(len(values), 1.0 + 1.0 / self._count)

    def reset(self):
        super().reset()
        self._count = 0

    def own_state(self):
        return {"count": self._count}

    def load_own_state(self, state):
        self._count = state["count"]


class SoundOnGramian(GramianBalancer):
    """Gradients divided by a power of their norms."""

    def __init__(self, tasks, *, power=1.0, heads="plain", update_every=1):
        super().__init__(tasks, heads=heads, update_every=update_every)
        self.power = power

    @property
    def homogeneity(self):
        return -self.power

    def solve(self, gramian):
        norms = np.sqrt(np.diagonal(gramian))
        weights = np.where(norms > 0, np.where(norms > 0, norms, 1.0) ** -self.power, 0.0)
        return Solution("sound", weights, 0.0, 0.0, "solved", "", 0, tuple(np.flatnonzero(norms == 0).tolist()))


class SinglePrecision(Sound):
    def weigh(self, values):
        return super().weigh(values).astype(np.float32)


class Misreports(Sound):
    def apply(self, jacobian):
        balance = super().apply(jacobian)
        return replace(balance, weights=2 * balance.weights)


class HeadsTwice(Sound):
    def decide(self, jacobian):
        decision = super().decide(jacobian)
        return replace(decision, head_weights=2 * decision.weights)


class Overwrites(Sound):
    def _write(self, jacobian, decision):
        for parameter in jacobian.parameters:
            parameter.grad = None
        return super()._write(jacobian, decision)


class EngineBound(Sound):
    def weigh(self, values):
        return super().weigh(values) * self._factor

    def decide(self, jacobian):
        self._factor = 1.0 + (jacobian.engine == "batched")
        return super().decide(jacobian)


class FeaturesTwice(Sound):
    def _write(self, jacobian, decision):
        factor = 1.0 + isinstance(jacobian, FeatureJacobian)
        return super()._write(jacobian, replace(decision, weights=factor * decision.weights))


class ScalarTwice(Sound):
    def objective(self, losses, weights):
        return 2 * super().objective(losses, weights)


class SharesGradients(Sound):
    def _write(self, jacobian, decision):
        scale = super()._write(jacobian, decision)
        first = jacobian.parameters[0]
        for parameter in jacobian.parameters:
            if parameter.shape == first.shape:
                parameter.grad = first.grad
        return scale


class NoHalf(Sound):
    def decide(self, jacobian):
        if jacobian.losses[0].dtype.itemsize < 4:
            raise TypeError("half precision is not supported")
        return super().decide(jacobian)


class AtMostTen(Sound):
    def __init__(self, tasks):
        super().__init__(tasks)
        if self.num_tasks > 10:
            raise ValueError("too many tasks")


class DividesByZero(SoundOnGramian):
    def solve(self, gramian):
        return replace(super().solve(gramian), weights=1.0 / np.sqrt(np.diagonal(gramian)))


class HidesNaN(Sound):
    def _write(self, jacobian, decision):
        scale = super()._write(jacobian, decision)
        for parameter in jacobian.parameters:
            parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        return scale


class DoesNotSkip(SoundOnGramian):
    def decide(self, jacobian):
        weights = np.ones(self.num_tasks)
        return Decision(weights, weights, jacobian.gramian())


class TakesAnything(Sound):
    def backward(self, losses, shared=None, **options):
        if isinstance(losses, dict):
            losses = {name: loss.nan_to_num(0.0, 0.0) for name, loss in losses.items()}
        return super().backward(losses, shared, **options)


class Undeclared(Sound):
    needs = "everything"


class FalseDescent(LossBalancer):
    descent = True

    def weigh(self, values):
        return np.ones(len(values))


class WrongPower(SoundOnGramian):
    homogeneity = -2.0


class FirstTaskFirst(Sound):
    def weigh(self, values):
        return super().weigh(values) * np.where(np.arange(len(values)) == 0, 2.0, 1.0)


class NeverTwiceAlike(Sound):
    calls = 0

    def weigh(self, values):
        type(self).calls += 1
        return super().weigh(values) * (1.0 + 1.0 / self.calls)


class GlobalDice(Sound):
    def weigh(self, values):
        return super().weigh(values) * float(torch.rand(()) + 0.5)


class NumpysDice(Sound):
    def weigh(self, values):
        return super().weigh(values) * (np.random.rand() + 0.5)  # noqa: NPY002


class DeafToItsSeed(Seeded, LossBalancer):
    equivariant = False

    def __init__(self, tasks, *, seed=0):
        super().__init__(tasks)
        self.seed_with(seed)
        self._generator.seed = 0
        self._generator.reset()

    def weigh(self, values):
        with self._generator.draw() as generator:
            return torch.rand(len(values), generator=generator, dtype=torch.float64).numpy()


class Forgets(Sound):
    def own_state(self):
        return {}

    def load_own_state(self, state):
        pass


class Aliases(Sound):
    def __init__(self, tasks):
        super().__init__(tasks)
        self._seen = torch.zeros(())

    def weigh(self, values):
        self._seen += 1
        return super().weigh(values)

    def own_state(self):
        return {**super().own_state(), "seen": self._seen}


class NoCopies(Sound):
    def __getstate__(self):
        return {**self.__dict__, "_count": 0}


class Halved(Sound):
    def __init__(self, tasks):
        super().__init__(tasks)
        self.register_buffer("mean", torch.full((), 1.1))

    _apply = nn.Module._apply


class LearnsInEval(Sound):
    def _decide(self, jacobian):
        return Decision(*[self.weigh(jacobian.values.numpy())] * 2, outcome="frozen")


class NeverForgets(Sound):
    def reset(self):
        Balancer.reset(self)


class CountsFailures(Sound):
    def restore(self, state):
        pass


class OptionChanged(Sound):
    def __init__(self, tasks, *, factor=1.0):
        super().__init__(tasks)
        self.factor = 2 * factor


class Chatty(Sound):
    def weigh(self, values):
        warnings.warn("a step was made", UserWarning, stacklevel=2)
        return super().weigh(values)


class AnyNumber(Sound):
    def _check(self, jacobian):
        pass


class NamesUnread(Sound):
    def _ordered(self, losses):
        return losses

    def weigh(self, values):
        return super().weigh(values) / values


class NotAModule(Sound):
    def apply(self, jacobian):
        self._check(jacobian)
        return super().apply(jacobian)


class AsksTwice(Sound):
    def after_step(self, losses):
        if callable(losses):
            losses(), losses()


CAUGHT_BY = {
    SinglePrecision: ["shapes"],
    Misreports: ["weights_describe_gradients"],
    HeadsTwice: ["heads"],
    Overwrites: ["accumulates"],
    EngineBound: ["engines"],
    FeaturesTwice: ["features"],
    ScalarTwice: ["scalar_entry"],
    SharesGradients: ["own_memory"],
    NoHalf: ["dtypes", "mixed_dtypes"],
    AtMostTen: ["task_counts"],
    DividesByZero: ["hard_gradients", "unreached_task"],
    HidesNaN: ["non_finite_gradient"],
    DoesNotSkip: ["non_finite_gradient"],
    TakesAnything: ["non_finite_loss"],
    Undeclared: ["declarations"],
    FalseDescent: ["descent"],
    WrongPower: ["homogeneity"],
    FirstTaskFirst: ["equivariance"],
    NeverTwiceAlike: ["determinism"],
    GlobalDice: ["private_generators", "determinism"],
    NumpysDice: ["private_generators"],
    DeafToItsSeed: ["private_generators"],
    Forgets: ["resume", "failed_step"],
    Aliases: ["state_is_a_copy"],
    NoCopies: ["copies"],
    Halved: ["moves"],
    LearnsInEval: ["eval_freezes"],
    NeverForgets: ["reset"],
    CountsFailures: ["failed_step"],
    OptionChanged: ["text"],
    Chatty: ["quiet"],
    AnyNumber: ["bad_tasks"],
    NamesUnread: ["names"],
    NotAModule: ["module_apply"],
    AsksTwice: ["after_step"],
}
"""The checks that each broken balancer must fail; it may fail others too."""
