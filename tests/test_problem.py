"""Problems: one loop for all methods, resumed to the same bits, and mistakes told in the words of the problem."""

import io
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from accord.bench import generators, rng
from accord.bench.spec import MethodSpec, derive_seed
from accord.bench.trial import ProblemTrial
from accord.errors import StoreError
from support.small_problem import Settings, Small
from support.stores import timeless

METHODS = ["ls", "stl:task=down", "uw", "rlw", "mgda:at=features", "famo", "nash-mtl"]
VARIANTS = {
    "plateau": Settings(epochs=4),
    "last three": Settings(epochs=4, validated=False, plateau=False, average_last=3, eval_every=3),
    "every second": Settings(epochs=4, eval_every=2),
}


def trial(problem, method="ls", seed=0):
    return ProblemTrial(problem, MethodSpec.parse(method), seed)


def train(made, first=1):
    """All epochs of a trial, and its result."""
    return [made.advance() for _ in range(first - 1, made.length)], made.result()


def model_bytes(made):
    return timeless(made.model.state_dict())


# The loop


@pytest.mark.parametrize("method", ["ls", "stl:task=up"])
def test_it_is_the_loop_one_would_write_by_hand(method):
    made = trial(Small(Settings(epochs=3, plateau=False)), method)
    train(made)
    plain = Small(Settings(epochs=3, plateau=False))
    rng.seed(derive_seed("small", 0, "build"))
    training = plain.build()
    for epoch in range(3):
        rng.seed(derive_seed("small", 0, "epoch", epoch))
        training.model.train()
        for batch in training.batches:
            losses = plain.losses(batch)
            training.optimizer.zero_grad()
            (losses["up"] + losses["down"] if method == "ls" else losses["up"]).backward()
            training.optimizer.step()
    for mine, theirs in zip(made.model.parameters(), training.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-7)


class Watched(Small):
    """Writes down what each run sees."""

    seen_by: dict[str, Any] = {}  # noqa: RUF012 - of the class, so that copies share it

    def build(self):
        training = super().build()
        self.log = self.seen_by.setdefault(len(self.seen_by), [timeless(self.net.state_dict())])
        return training

    def losses(self, batch):
        self.log.append(timeless(batch))
        return super().losses(batch)


def test_all_methods_of_a_seed_start_alike_and_see_the_same_batches():
    Watched.seen_by.clear()
    for method in METHODS:
        train(trial(Watched(Settings(epochs=2)), method))
    logs = [[each for i, each in enumerate(log) if each not in log[:i]] for log in Watched.seen_by.values()]
    assert len(logs) == len(METHODS)
    assert all(log == logs[0] for log in logs)  # FAMO looks at each batch twice
    train(trial(Watched(Settings(epochs=2)), "ls", seed=1))
    assert Watched.seen_by[len(METHODS)][0] != logs[0][0]
    assert Watched.seen_by[len(METHODS)][1] != logs[0][1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_is_saved_and_loaded_goes_on_to_the_same_bits(variant, method):
    made = trial(Small(VARIANTS[variant]), method)
    records, result = train(made)
    for stop in range(1, made.length):
        half = trial(Small(VARIANTS[variant]), method)
        begun = [half.advance() for _ in range(stop)]
        buffer = io.BytesIO()
        torch.save(half.state_dict(), buffer)
        buffer.seek(0)
        again = trial(Small(VARIANTS[variant]), method)
        rng.seed(99)
        again.load_state_dict(torch.load(buffer, weights_only=True))
        rest, end = train(again, stop + 1)
        assert timeless([*begun, *rest]) == timeless(records)
        assert timeless(end) == timeless(result)
        assert model_bytes(again) == model_bytes(made)


@pytest.mark.parametrize("method", ["uw", "stl:task=up"])
def test_the_epoch_that_counts_is_the_best_in_validation_for_the_tasks_of_the_run(method):
    records, result = train(trial(Small(), method))
    best = min(records, key=lambda record: record["score"])
    assert result["metrics"] == best["metrics"]
    assert result["epoch"] == records.index(best) + 1
    tasks = {"up"} if "up" in method else {"up", "down"}
    assert {name.split("/")[0] for name in result["metrics"]} == tasks
    for record in records:
        assert record["score"] == sum(v for name, v in record["val_metrics"].items() if name.endswith("abs_err"))


def test_without_validation_the_last_epochs_are_averaged_and_they_are_evaluated():
    records, result = train(trial(Small(VARIANTS["last three"])))
    assert [("metrics" in record) for record in records] == [False, True, True, True]
    for name, value in result["metrics"].items():
        assert value == pytest.approx(np.mean([record["metrics"][name] for record in records[1:]]), rel=1e-12)


def test_evaluations_are_as_far_apart_as_asked_and_the_last_epoch_has_one():
    records, _ = train(trial(Small(Settings(epochs=5, eval_every=2))))
    assert [("metrics" in record) for record in records] == [False, True, False, True, True]


def test_a_plateau_follows_the_validation_score():
    records, _ = train(trial(Small(Settings(epochs=8))))
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for record in records:
        assert record["lr"] == optimizer.param_groups[0]["lr"]
        schedule.step(record["score"])
    assert len({record["lr"] for record in records}) > 1


def test_draws_of_an_evaluation_are_the_same_for_all_methods_and_epochs():
    class Drawing(Small):
        def evaluate(self):
            return dict.fromkeys(("up/abs_err", "down/abs_err", "down/hits"), torch.rand(()))

    found = {
        record["metrics"]["up/abs_err"]
        for method in ("ls", "stl:task=up")
        for record in train(trial(Drawing(Settings(epochs=3)), method))[0]
    }
    assert len(found) == 1


def test_shared_parameters_from_a_generator_last_for_all_steps():
    class Generated(Small):
        def build(self):
            training = super().build()
            return replace(training, shared=self.net.left.parameters())

    class Listed(Small):
        def build(self):
            training = super().build()
            return replace(training, shared=list(self.net.left.parameters()))

    assert timeless(train(trial(Generated(), "mgda"))) == timeless(train(trial(Listed(), "mgda")))


def test_the_problem_given_stays_as_it_was():
    problem = Small()
    train(trial(problem))
    assert vars(problem).keys() == vars(Small()).keys()
    assert problem.seen == 0


# Generators of the problem's own


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.Generator().manual_seed(3),
        lambda: np.random.default_rng(3),
        lambda: np.random.Generator(np.random.Philox(3)),
        lambda: np.random.Generator(np.random.MT19937(3)),
        lambda: np.random.Generator(np.random.SFC64(3)),
        lambda: np.random.RandomState(3),
        lambda: random.Random(3),
    ],
)
def test_a_generator_goes_on_where_it_was(make):
    class Holder:
        def __init__(self):
            self.parts = {"inner": [make()]}

    def draw(holder):
        (generator,) = holder.parts["inner"]
        if isinstance(generator, torch.Generator):
            return torch.rand(3, generator=generator).tolist()
        if isinstance(generator, random.Random):
            return [generator.gauss(0, 1) for _ in range(3)]
        return generator.normal(size=3).tolist()

    one, two = Holder(), Holder()
    draw(one)
    found = generators.find(one)
    assert list(found) == ["parts.inner.0"]
    buffer = io.BytesIO()
    torch.save(generators.states(found), buffer)
    buffer.seek(0)
    expected = draw(one)
    assert draw(two) != expected
    generators.restore(generators.find(two), torch.load(buffer, weights_only=True))
    assert draw(two) == expected


def test_generators_are_found_in_loaders_and_data_sets():
    problem = Small()
    problem.training = problem.build()
    found = generators.find(problem)
    assert {type(each) for each in found.values()} == {torch.Generator, np.random.Generator}
    assert len(found) == 2


def test_other_generators_than_those_saved_are_an_error():
    with pytest.raises(StoreError, match=r"\['a'\].*now has \[\].*fresh"):
        generators.restore({}, {"a": 1})
