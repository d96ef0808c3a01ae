"""The ToxCast-40 experiment: metrics by hand, one protocol for all methods, resumed equal to uninterrupted."""

import dataclasses
import io
import json

import numpy as np
import pytest
import torch

from accord.bench import experiments
from accord.bench.binary import auc, best_threshold, f1
from accord.bench.data import toxcast
from accord.bench.experiments.toxcast40 import EXPERIMENT, PRESETS
from accord.bench.report import summarise
from accord.bench.runner import run
from accord.bench.spec import MethodSpec
from accord.bench.store import Store
from accord.errors import OptionError

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors: more threads only wait for each other
    yield
    torch.set_num_threads(threads)


def trial(method="ls", seed=0, **changes):
    return EXPERIMENT.trial(dataclasses.replace(SMOKE, **changes), MethodSpec.parse(method), seed)


def timeless(value):
    """Without what depends on the clock."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not k.startswith("seconds")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


# Metrics


def drawn(seed, count=200):
    random = np.random.default_rng(seed)
    labels = random.random(count) < 0.1
    return labels.astype(np.uint8), np.round(random.normal(labels, 1.0), 1)  # with ties


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed):
    labels, scores = drawn(seed)
    up, down = scores[labels == 1][:, None], scores[labels == 0][None]
    assert auc(labels, scores) == pytest.approx(((up > down) + 0.5 * (up == down)).mean())


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_all(seed):
    labels, scores = drawn(seed)

    def by_hand(threshold):
        called = scores >= threshold
        return 2 * (called & (labels == 1)).sum() / (called.sum() + labels.sum())

    found = best_threshold(labels, scores)
    assert by_hand(found) == pytest.approx(max(by_hand(threshold) for threshold in scores))
    assert f1(labels[None], (scores >= found)[None]) == pytest.approx([by_hand(found)])
    other = scores >= scores.min()
    both = f1(np.stack([labels, labels]), np.stack([scores >= found, other]))
    assert both == pytest.approx([by_hand(found), by_hand(scores.min())])


def test_f1_without_a_right_call_is_zero():
    labels, called = np.array([[0, 1], [0, 1]]), np.array([[False, False], [True, False]])
    assert f1(labels, called) == [0, 0]
    assert f1(labels[:1], called[:1]) == [0]


# The experiment


def test_it_is_registered():
    assert experiments.load("toxcast40") is EXPERIMENT
    assert [task.name for task in EXPERIMENT.tasks] == list(toxcast.TASKS)
    assert all(metric.higher_is_better for _, metric in EXPERIMENT.metrics)


@pytest.mark.parametrize("method", [m for m in EXPERIMENT.methods if m != "stl"] + ["nash-mtl:at=features"])
def test_every_method_runs_and_records_plain_data(method):
    one = trial(method, epochs=1, molecules=1200, val=300, test=300)
    record = one.advance()
    result = one.result()
    json.dumps([record, result], allow_nan=False)
    assert list(record["metrics"]) == [name for name, _ in EXPERIMENT.metrics]
    assert all(0 <= value <= 1 for value in record["metrics"].values())
    assert sum(record["outcomes"].values()) == record["steps"] == 6
    assert (result["train"], result["val"], result["test"]) == (600, 300, 300)


@pytest.mark.parametrize("method", ["uw", "graddrop", "nash-mtl", "stl:task=AhR_LUC_Agonist"])
def test_a_resumed_run_equals_an_uninterrupted_one(method):
    small = {"molecules": 1200, "val": 300, "test": 300, "widths": (16,), "dropout": 0.2}
    straight = trial(method, **small)
    wanted = [straight.advance() for _ in range(2)]
    first = trial(method, **small)
    first.advance()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = trial(method, **small)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    torch.manual_seed(99)  # the global generator does not matter
    assert timeless(second.advance()) == timeless(wanted[1])
    assert timeless(second.result()) == timeless(straight.result())


def test_methods_of_a_seed_share_split_weights_and_batches():
    a, b, other = trial("ls"), trial("stl:task=Aromatase_Inhibition"), trial("ls", seed=1)
    assert torch.equal(a.problem._test.x, b.problem._test.x)
    assert not torch.equal(a.problem._test.x, other.problem._test.x)
    for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(p, q)
    torch.manual_seed(3)
    first = [x for x, _ in a.training.batches]
    torch.manual_seed(3)
    second = [x for x, _ in b.training.batches]
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))
    assert sum(len(x) for x in first) == 1400
    column = toxcast.TASKS.index("Aromatase_Inhibition")
    assert torch.equal(b.problem._test.y[:, 0], a.problem._test.y[:, column])


def test_the_epoch_with_the_best_mean_validation_auc_counts():
    one = trial("ls", epochs=4, lr=0.02)
    records = [one.advance() for _ in range(4)]
    means = [np.mean([v for name, v in r["val_metrics"].items() if name.endswith("AUC")]) for r in records]
    best = int(np.argmax(means))
    assert one.result()["epoch"] == best + 1
    assert one.result()["metrics"] == records[best]["metrics"]


def test_a_task_alone_is_learnt():
    one = trial(
        "stl:task=TR_LUC_GH3_Antagonist", molecules=None, val=793, test=793, epochs=3, lr=1e-3, widths=(128, 64)
    )
    for _ in range(3):
        one.advance()
    assert one.result()["metrics"]["TR_LUC_GH3_Antagonist/AUC"] > 0.72


def test_thresholds_come_from_the_validation_set_or_from_the_settings():
    one, fixed = trial("ls", epochs=1, threshold="validation"), trial("ls", epochs=1)
    found, other = one.advance(), fixed.advance()
    for record, threshold in ((found, None), (other, SMOKE.threshold)):
        problem = (one if threshold is None else fixed).problem
        with torch.no_grad():
            val = [torch.sigmoid(s).numpy() for s in problem._model(problem._val.x, range(40))]
            test = [torch.sigmoid(s).numpy() for s in problem._model(problem._test.x, range(40))]
        for column, task in enumerate(toxcast.TASKS):
            used = best_threshold(problem._val.labels[:, column], val[column]) if threshold is None else threshold
            called, right = test[column] >= used, problem._test.labels[:, column] == 1
            by_hand = 2 * (called & right).sum() / (called.sum() + right.sum())
            assert record["metrics"][f"{task}/F1"] == pytest.approx(by_hand, abs=0.02)  # ties after rounding
    same = {name: value for name, value in found["metrics"].items() if name.endswith("AUC")}
    assert same.items() <= other["metrics"].items()


def test_molecules_with_one_scaffold_stay_together(monkeypatch):
    pytest.importorskip("rdkit")
    asked = []
    split = toxcast.split

    def watched(labels, val, test, random, groups):
        parts = split(labels, val, test, random, groups)
        asked.append((groups, parts))
        return parts

    monkeypatch.setattr(toxcast, "split", watched)
    one = trial(split="scaffold")
    ((groups, parts),) = asked
    kinds = [set(groups[part]) for part in parts]
    assert not kinds[0] & kinds[1]
    assert not kinds[0] & kinds[2]
    assert not kinds[1] & kinds[2]
    sizes = one.problem.details()
    assert [len(part) for part in parts] == [sizes["train"], sizes["val"], sizes["test"]]
    assert len(kinds[2]) > 50
    assert abs(sizes["test"] - SMOKE.test) < 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 1.5}, "threshold=1.5 must be between 0 and 1, or 'validation'"),
        ({"threshold": "test"}, "threshold='test' must be between 0 and 1"),
        ({"split": "time"}, "split='time' must be one of"),
        ({"batch": 0}, "batch=0 must be 1 or more"),
        ({"molecules": 8000}, "molecules=8000 must be from 1 to 7,934"),
        ({"widths": ()}, "widths="),
        ({"dropout": 1.0}, "dropout=1.0 must be from 0 to below 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        trial(**changes)


def test_smoke_makes_a_whole_table(tmp_path):
    outcomes = run(EXPERIMENT, "smoke", ("stl", "ls"), (0,), tmp_path)
    assert {outcome.status for outcome in outcomes} == {"done"}
    report = summarise(Store(tmp_path), EXPERIMENT, "smoke")
    rows = {row.method: row for row in report.rows}
    assert set(rows) == {"stl", "ls"}
    assert rows["ls"].delta_m is not None
    assert len(rows["stl"].metrics) == 80
