"""The CelebA experiment: its network, its protocol, the original's behaviour as options, resumed equal to straight."""

import dataclasses
import io
import json

import pytest
import torch
from torch import nn

from accord.bench import experiments
from accord.bench.data import celeba_made
from accord.bench.data.celeba import ATTRIBUTES
from accord.bench.experiments.celeba import EXPERIMENT, PRESETS, PUBLISHED_STL_F1
from accord.bench.models.celeba import CelebANet
from accord.bench.report import summarise
from accord.bench.runner import run
from accord.bench.spec import MethodSpec
from accord.bench.store import Store
from accord.errors import DataError, OptionError

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCORD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("ACCORD_CELEBA", raising=False)
        EXPERIMENT.prepare(SMOKE)
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


# The network and the figures on record


def test_the_network_has_nine_layers_and_the_published_sizes():
    network = CelebANet(40)
    layers = [m for m in network.trunk if isinstance(m, nn.Conv2d | nn.Linear)]
    shapes = [tuple(layer.weight.shape) for layer in layers]
    widths = [(3, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    assert shapes == [(out, into, 3, 3) for into, out in widths] + [(512, 512)] * 2
    assert all(layer.bias is None for layer in layers)
    seen = []
    for pool in (m for m in network.trunk if isinstance(m, nn.MaxPool2d | nn.AdaptiveAvgPool2d)):
        pool.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    outputs = network(torch.zeros(2, 3, 64, 64), [0, 39])
    assert seen == [32, 16, 8, 1]
    assert [output.shape for output in outputs] == [(2,), (2,)]
    network.eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(x, [7, 39])[1], network.heads[39](network.trunk(x))[:, 0])


def test_odd_widths_are_refused():
    with pytest.raises(OptionError, match=r"widths=\(64, 128\) must be four positive numbers"):
        CelebANet(40, (64, 128))


def test_the_published_baseline_is_that_of_the_published_table():
    # the mean that the source of these numbers reports
    assert list(PUBLISHED_STL_F1) == list(ATTRIBUTES)
    assert sum(PUBLISHED_STL_F1.values()) / 40 == pytest.approx(0.6971, abs=5e-5)


def test_the_paper_presets_are_the_published_protocol():
    paper, released = PRESETS["paper"], PRESETS["paper-released"]
    assert (paper.size, paper.batch, paper.epochs, paper.lr) == (64, 256, 15, 3e-4)
    assert (paper.train, paper.val, paper.test) == (None, None, None)
    assert paper.uw_trained
    assert not paper.stl_train_mode
    assert released == dataclasses.replace(paper, uw_trained=False, stl_train_mode=True)


# Training


def test_it_is_registered():
    assert experiments.load("celeba") is EXPERIMENT
    assert [task.name for task in EXPERIMENT.tasks] == list(ATTRIBUTES)


@pytest.mark.parametrize("method", [m for m in EXPERIMENT.methods if m != "stl"] + ["nash-mtl:at=features"])
def test_every_method_runs_and_records_plain_data(method):
    one = trial(method, epochs=1, train=64)
    record = one.advance()
    result = one.result()
    json.dumps([record, result], allow_nan=False)
    assert list(record["metrics"]) == [f"{name}/F1" for name in ATTRIBUTES]
    assert all(0 <= value <= 1 for value in record["metrics"].values())
    assert sum(record["outcomes"].values()) == record["steps"] == 4
    assert (result["train"], result["val"], result["test"]) == (64, 64, 64)
    assert result["data"].startswith("synthetic")


@pytest.fixture(scope="module", autouse=True)
def small_folder(cache):
    celeba_made.make({"train": 64, "val": 64, "test": 64})


@pytest.mark.parametrize(
    ("method", "train_mode"), [("uw", False), ("famo", False), ("stl:task=Male", False), ("stl:task=Male", True)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(method, train_mode):
    changes = {"train": 64, "stl_train_mode": train_mode}
    straight = trial(method, **changes)
    wanted = [straight.advance() for _ in range(2)]
    first = trial(method, **changes)
    first.advance()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = trial(method, **changes)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    torch.manual_seed(99)  # the global generator does not matter
    assert timeless(second.advance()) == timeless(wanted[1])
    assert timeless(second.result()) == timeless(straight.result())


@pytest.mark.parametrize("workers", [0, 2])
def test_with_and_without_the_cache_the_numbers_are_the_same(workers):
    changes = {"train": 64, "epochs": 1}
    held, read = trial("ls", **changes), trial("ls", cache=False, workers=workers, **changes)
    assert timeless(held.advance()) == timeless(read.advance())
    for p, q in zip(held.model.parameters(), read.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_methods_of_a_seed_share_weights_and_batches():
    a, b, other = trial("ls", train=64), trial("stl:task=Bald", train=64), trial("ls", seed=1, train=64)
    for p, q, r in zip(a.model.parameters(), b.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.ndim == 1 or not torch.equal(p, r)
    torch.manual_seed(3)
    first = [images for images, _ in a.training.batches]
    torch.manual_seed(3)
    second = [images for images, _ in b.training.batches]
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


def test_f1_agrees_with_a_count_by_hand():
    one = trial("ls", train=64, epochs=1)
    found = one.advance()["metrics"]
    problem = one.problem
    x, y = problem._sets["test"].held.float() / 255, problem._sets["test"].labels
    with torch.no_grad():
        called = torch.stack([torch.sigmoid(s) for s in problem._model(x, range(40))], 1) > 0.5
    right = (called & (y == 1)).sum(0)
    by_hand = 2 * right / (called.sum(0) + y.sum(0))
    assert list(found.values()) == pytest.approx(by_hand.tolist(), abs=1e-6)


def test_an_attribute_alone_is_learnt():
    one = trial("stl:task=Male", size=24, epochs=6, widths=(8, 12, 16, 24), hidden=32)
    records = [one.advance() for _ in range(6)]
    assert records[-1]["train_loss"]["Male"] < 0.5 * records[0]["train_loss"]["Male"]


# The original's behaviour as options


def test_parameters_of_uw_are_trained_unless_told_otherwise():
    ours, theirs = trial("uw", train=64), trial("uw", train=64, uw_trained=False)
    (s,), (t,) = list(ours.balancer.parameters()), list(theirs.balancer.parameters())
    start = t.detach().clone()
    for each in (ours, theirs):
        each.advance()
    assert not torch.equal(s, start)
    assert torch.equal(t, start)


def test_single_task_networks_are_judged_on_running_statistics_unless_told_otherwise():
    ours, theirs = (trial("stl:task=Male", train=64, batch=32, stl_train_mode=mode) for mode in (False, True))
    found, other = (each.advance()["metrics"]["Male/F1"] for each in (ours, theirs))
    for one, mode, value in ((ours, False, found), (theirs, True, other)):
        images = one.problem._sets["test"]
        one.model.train(mode)
        column = ATTRIBUTES.index("Male")
        called = []
        with torch.no_grad():
            for rows in torch.arange(64).split(32):  # the batches matter in training mode
                called.append(one.model(images.held[rows].float() / 255, [column])[0] > 0)
        called, y = torch.cat(called), images.labels[:, column]
        by_hand = 2 * (called & (y == 1)).sum() / (called.sum() + y.sum())
        assert value == pytest.approx(by_hand.item())


def test_multi_task_networks_are_always_judged_on_running_statistics():
    plain, asked = (trial("ls", train=64, epochs=1, stl_train_mode=mode) for mode in (False, True))
    assert plain.advance()["metrics"] == asked.advance()["metrics"]


# Bad input


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_presets_on_photographs_say_where_to_get_them(preset):
    with pytest.raises(DataError, match=r"ACCORD_CELEBA is not set.*mmlab\.ie\.cuhk\.edu\.hk"):
        EXPERIMENT.prepare(PRESETS[preset])


def test_the_users_folder_is_read(tmp_path, monkeypatch):
    celeba_made.write(tmp_path, {"train": 20, "val": 12, "test": 12})
    monkeypatch.setenv("ACCORD_CELEBA", str(tmp_path))
    changes = {"synthetic": False, "train": 16, "val": 10, "test": 10, "batch": 8, "epochs": 1}
    EXPERIMENT.prepare(dataclasses.replace(SMOKE, **changes))
    one = trial("ls", **changes)
    one.advance()
    assert one.result()["data"] == "CelebA"
    with pytest.raises(DataError, match=r"all 162,770 images of the official train split are needed.*names 20 there"):
        trial("ls", **{**changes, "train": None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 1}, "batch=1 must be 2 at the least"),
        ({"size": 4}, "size=4 must be 8 at the least"),
        ({"workers": -1}, "workers=-1 must be 0 at the least"),
        ({"lr": 0.0}, "lr=0.0 must be positive"),
        ({"train": None}, "synthetic images need to know how many"),
        ({"batch": 63, "train": 64}, "64 train images in batches of 63 leave one for the last batch"),
        ({"batch": 63, "train": 63, "stl_train_mode": True}, "64 val images in batches of 63 leave one"),
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
    assert any("synthetic" in note for note in report.notes)
