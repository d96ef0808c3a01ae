"""The QM9 experiment: one protocol for every method, resumed runs equal to uninterrupted ones."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from accord.bench.data.qm9 import load
from accord.bench.data.qm9_source import TARGETS, source_folder
from accord.bench.experiments.qm9 import EXPERIMENT, PRESETS, PUBLISHED_STL, UNITS, QM9Trial
from accord.bench.spec import MethodSpec
from accord.errors import DependencyError, OptionError, UnknownNameError
from accord.metrics import delta_m

pytest.importorskip("rdkit")
try:
    source_folder()
except DependencyError:
    pytest.skip("the data set is not installed", allow_module_level=True)

SMOKE = dataclasses.replace(PRESETS["smoke"], epochs=3)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCORD_CACHE", str(tmp_path_factory.mktemp("cache")))
        EXPERIMENT.prepare(SMOKE)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # small tensors: more threads only wait for each other
        yield
        torch.set_num_threads(threads)


def trial(method: str, seed: int = 0, **changes: Any) -> QM9Trial:
    return QM9Trial(dataclasses.replace(SMOKE, **changes), MethodSpec.parse(method), seed)


def run(method: str, seed: int = 0, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    one = trial(method, seed, **changes)
    return [one.advance() for _ in range(one.length)], one.result()


def timeless(value: Any) -> Any:
    """Without what depends on the clock."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not k.startswith("seconds")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("method", [m for m in EXPERIMENT.methods if m != "stl"] + ["stl:task=r2"])
def test_every_method_runs_and_records_plain_data(method: str) -> None:
    records, result = run(method, epochs=2)
    json.dumps([records, result], allow_nan=False)
    tasks = ["r2"] if method.startswith("stl") else list(TARGETS)
    for record in records:
        assert record["steps"] == 6
        assert list(record["train_loss"]) == tasks
        assert list(record["metrics"]) == [f"{task}/mae" for task in tasks]
        assert sum(record["outcomes"].values()) == (0 if method.startswith("stl") else 6)
    if method in ("nash-mtl", "fairgrad", "mgda", "cagrad", "imtl-g"):
        assert result["residual"] < 1e-6
        assert all(0 <= record["conflict"] <= 1 and -1 <= record["cosine"] <= 1 for record in records)


def test_the_loss_falls() -> None:
    records, _ = run("stl:task=alpha", epochs=20, width=16, lr=1e-2)
    assert records[-1]["train_loss"]["alpha"] < 0.7 * records[0]["train_loss"]["alpha"]


@pytest.mark.parametrize("method", ["ls", "rlw", "dwa", "uw", "pcgrad", "graddrop", "nash-mtl", "stl:task=u0"])
def test_a_resumed_run_equals_an_uninterrupted_one(method: str) -> None:
    straight = trial(method)
    wanted = [straight.advance() for _ in range(3)]
    first = trial(method)
    first.advance()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = trial(method)
    second.advance()  # whatever it did before is forgotten
    second.load_state_dict(torch.load(buffer, weights_only=True))
    torch.manual_seed(99)  # the global generator does not matter
    got = [second.advance() for _ in range(2)]
    assert timeless(got) == timeless(wanted[1:])
    assert timeless(second.result()) == timeless(straight.result())
    for a, b in zip(second.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_methods_of_a_seed_share_everything_but_the_method() -> None:
    a, b, other = trial("ls"), trial("stl:task=g"), trial("ls", seed=1)
    assert torch.equal(a.train, b.train)
    assert not torch.equal(a.train, other.train)
    for p, q, r in zip(a.model.parameters(), b.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.ndim == 1 or not torch.equal(p, r)
    orders: list[list[int]] = []
    for one in (a, b):
        seen: list[int] = []
        batches = one.graphs.batches
        one.graphs.batches = lambda order, size, seen=seen, batches=batches: (  # type: ignore[method-assign]
            seen.extend(order.tolist()) or batches(order, size)
        )
        one.advance()
        orders.append(seen)
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(a.train.tolist())


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run("rlw", epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_sets_are_disjoint_and_targets_normalised_on_the_training_set() -> None:
    one = trial("ls")
    sets = [one.train, *(torch.cat([b.chosen for b in one._held_out[name]]) for name in ("val", "metrics"))]
    assert [len(s) for s in sets] == [120, 60, 60]
    assert sorted(torch.cat(sets).tolist()) == list(range(240))
    (batch,) = one.graphs.batches(one.train, 120)
    torch.testing.assert_close(batch.targets.mean(0), torch.zeros(11), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.targets.std(0), torch.ones(11), atol=1e-5, rtol=0)


def test_errors_are_in_published_units() -> None:
    one = trial("ls")
    found = one.advance()["metrics"]
    truth = torch.from_numpy(load(240).targets)
    mean, std = truth[one.train].mean(0), truth[one.train].std(0)
    errors = []
    for batch in one._held_out["metrics"]:
        with torch.no_grad():
            predicted = torch.stack(one.model(batch), 1).double() * std + mean
        errors.append((predicted - truth[batch.chosen]).abs())
    mae = torch.cat(errors).mean(0)
    for task, error in zip(TARGETS, mae.tolist(), strict=True):
        assert found[f"{task}/mae"] == pytest.approx(error * (1000 if UNITS[task] == "meV" else 1), rel=1e-4)


@pytest.mark.parametrize(("method", "tasks"), [("ls", TARGETS), ("stl:task=lumo", ("lumo",))])
def test_the_result_is_the_test_error_at_the_best_validation(method: str, tasks: tuple[str, ...]) -> None:
    records, result = run(method, epochs=6, lr=2e-2)
    base = {f"{task}/mae": PUBLISHED_STL[task] for task in tasks}
    scores = [delta_m(record["val_metrics"], base, dict.fromkeys(base, False)) for record in records]
    best = scores.index(min(scores))
    assert result["metrics"] == records[best]["metrics"]
    assert result["epoch"] == best + 1
    assert result["seconds_per_step"] == pytest.approx(
        sum(r["seconds"] for r in records) / sum(r["steps"] for r in records)
    )


def test_single_task_learning_moves_one_head() -> None:
    one = trial("stl:task=h")
    before = [head.weight.clone() for head in one.model.heads]
    one.advance()
    moved = [not torch.equal(a, head.weight) for a, head in zip(before, one.model.heads, strict=True)]
    assert moved == [task == "h" for task in TARGETS]


def test_the_learning_rate_falls_when_validation_does_not_improve() -> None:
    records, _ = run("stl:task=u0", epochs=6, lr=0.5, patience=1)
    assert records[-1]["lr"] < 0.5


def test_evaluation_can_be_sparse_and_closes_the_run() -> None:
    records, result = run("ls", eval_every=2)
    assert ["metrics" in record for record in records] == [False, True, True]
    assert result["epoch"] in (2, 3)


def test_methods_with_parameters_of_their_own_train_them() -> None:
    one = trial("uw")
    before = [p.detach().clone() for p in one.balancer.parameters()]
    one.advance()
    assert one.optimizer.param_groups[1]["lr"] == 0.025
    assert not any(torch.equal(a, b) for a, b in zip(before, one.balancer.parameters(), strict=True))


def test_random_methods_draw_by_the_seed() -> None:
    first, again, other = (run("rlw", seed, epochs=1)[0][0]["weights"] for seed in (0, 0, 1))
    assert first == again != other


def test_what_cannot_be_run_is_told() -> None:
    with pytest.raises(UnknownNameError, match="stl:task=NAME"):
        trial("stl")
    with pytest.raises(UnknownNameError, match="stl:task=NAME"):
        trial("stl:task=gap")
    with pytest.raises(UnknownNameError, match="did you mean 'nash-mtl'"):
        trial("nash-mlt")
    with pytest.raises(OptionError, match="leave none to train on"):
        trial("ls", test=200)


def test_presets_keep_the_published_protocol() -> None:
    paper, rerun = PRESETS["paper"], PRESETS["rerun"]
    assert (paper.molecules, paper.test, paper.val, paper.epochs) == (None, 10_000, 10_000, 300)
    assert (paper.batch, paper.width, paper.hidden, paper.lr) == (120, 64, 128, 1e-3)
    assert (paper.patience, paper.factor, paper.min_lr) == (5, 0.7, 1e-5)
    assert dataclasses.replace(paper, batch=60, patience=10) == rerun
    assert [name for name, _ in EXPERIMENT.metrics] == [f"{task}/mae" for task in TARGETS]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "rerun"])
def test_the_published_protocols_start(preset: str) -> None:
    """All molecules, the published network and batch: the first steps of a Nash-MTL run, certified."""
    published = QM9Trial(dataclasses.replace(PRESETS[preset], device="cpu"), MethodSpec("nash-mtl"), 0)
    assert len(published.train) == 110_378
    for batch, _ in zip(published.graphs.batches(published.train, PRESETS[preset].batch), range(3), strict=False):
        losses, balance = published._step(batch)
        assert all(bool(loss.isfinite()) for loss in losses)
        assert balance is not None
        assert balance.solved
        assert balance.residual is not None
        assert balance.residual < 1e-8


@pytest.mark.parametrize("method", ["nash-mtl:gramian_batch=0.5", "nash-mtl:at=features"])
def test_gramians_of_a_part_of_the_batch_and_at_the_representation_are_other_gramians(method: str) -> None:
    records, _ = run(method, epochs=2)
    plain, _ = run("nash-mtl", epochs=2)
    assert set(records[0]["outcomes"]) == ({"approximate"} if "batch" in method else {"solved"})
    assert records[0]["train_loss"] != plain[0]["train_loss"]
