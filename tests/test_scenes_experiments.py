"""NYUv2 and Cityscapes through the harness: every method runs on the real loader, and a resumed run is the same."""

import copy
import dataclasses

import pytest
import torch

from accord.bench.experiments import load
from accord.bench.methods import METHODS
from accord.bench.models.mtan import MTAN
from accord.bench.models.segnet import SegNet
from accord.bench.runner import expand
from accord.bench.scenes.mtan import mtan_problem
from accord.bench.scenes.problem import Held, SceneProblem, SceneSettings
from accord.bench.spec import MethodSpec
from accord.errors import DataError, OptionError, ShapeError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, cache):
    monkeypatch.setenv("ACCORD_CACHE", str(cache))
    monkeypatch.delenv("ACCORD_NYUV2", raising=False)
    monkeypatch.delenv("ACCORD_CITYSCAPES", raising=False)


def trial(name, method, preset=None, seed=0):
    experiment = load(name)
    return experiment.trial(preset or experiment.presets["smoke"], MethodSpec.parse(method), seed)


def finished(run):
    while run.epoch < run.length:
        run.advance()
    return run.result()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_in_smoke(method):
    experiment = load("nyuv2")
    for spec in expand(experiment, method):
        result = finished(trial("nyuv2", str(spec)))
        wanted = [name for name, _ in experiment.metrics if method != "stl" or name.startswith(spec.options["task"])]
        assert list(result["metrics"]) == wanted
        assert result["data"].startswith("synthetic")
        assert (result["train"], result["test"]) == (8, 4)


@pytest.mark.parametrize("method", ["stl:task=depth", "ls", "fairgrad"])
def test_cityscapes_has_two_tasks(method):
    result = finished(trial("cityscapes", method))
    wanted = ["seg/mIoU", "seg/PixAcc", "depth/AbsErr", "depth/RelErr"]
    assert list(result["metrics"]) == (wanted[2:] if method.startswith("stl") else wanted)


@pytest.mark.parametrize("method", ["nash-mtl", "famo"])
def test_a_resumed_run_goes_on_to_the_same_numbers(method):
    preset = dataclasses.replace(load("nyuv2").presets["smoke"], epochs=3, average_last=2, lr_step=1)
    whole = trial("nyuv2", method, preset)
    expected = finished(whole)
    first = trial("nyuv2", method, preset)
    first.advance()
    first.advance()
    saved = copy.deepcopy(first.state_dict())
    torch.manual_seed(123)
    second = trial("nyuv2", method, preset)
    second.load_state_dict(saved)
    found = finished(second)
    assert found["metrics"] == expected["metrics"]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_one_seed_gives_all_methods_the_same_start_and_batches():
    preset = load("nyuv2").presets["smoke"]
    ls, mgda = trial("nyuv2", "ls", preset), trial("nyuv2", "mgda", preset)
    for a, b in zip(ls.model.parameters(), mgda.model.parameters(), strict=True):
        assert torch.equal(a, b)
    seen = {}
    for name, run in (("ls", ls), ("mgda", mgda), ("other", trial("nyuv2", "ls", preset, seed=1))):
        run.problem.losses = lambda batch, of=run.problem.losses, name=name: (
            seen.setdefault(name, []).append(batch["image"]),
            of(batch),
        )[1]
        run.advance()
    assert len(seen["ls"]) == len(seen["mgda"]) == 4
    assert all(torch.equal(a, b) for a, b in zip(seen["ls"], seen["mgda"], strict=True))
    assert not torch.equal(seen["ls"][0], seen["other"][0])


def test_single_task_learning_has_a_segnet_of_its_own_and_reads_only_its_maps():
    run = trial("nyuv2", "stl:task=normal")
    assert isinstance(run.model, SegNet)
    assert list(run.model.heads) == ["normal"]
    assert {key for batch in run.training.batches for key in batch} == {"image", "normal"}
    preset = dataclasses.replace(load("nyuv2").presets["smoke"], stl_network="mtan")
    assert isinstance(trial("nyuv2", "stl:task=normal", preset).model, MTAN)
    assert isinstance(trial("nyuv2", "ls").model, MTAN)


def test_at_features_is_for_segnet_and_refused_for_mtan():
    with pytest.raises(OptionError, match=r"MTAN has no representation.*network='segnet'"):
        trial("nyuv2", "mgda:at=features")
    preset = dataclasses.replace(load("nyuv2").presets["smoke"], network="segnet")
    result = finished(trial("nyuv2", "mgda:at=features", preset))
    assert len(result["metrics"]) == 9


def test_the_published_protocol():
    nyuv2, cityscapes = (load(name).presets["paper"] for name in ("nyuv2", "cityscapes"))
    assert (nyuv2.classes, nyuv2.size, nyuv2.batch) == (13, (288, 384), 2)
    assert (cityscapes.classes, cityscapes.size, cityscapes.batch) == (7, (128, 256), 8)
    for preset in (nyuv2, cityscapes):
        assert (preset.lr, preset.lr_step, preset.lr_factor, preset.epochs) == (1e-4, 100, 0.5, 200)
        assert (preset.average_last, preset.network, preset.stl_network) == (10, "mtan", "segnet")
        assert preset.widths == (64, 128, 256, 512, 512)
        assert preset.augment
        assert preset.per_batch
        assert preset.train is None
        assert preset.test is None
        assert not preset.synthetic


def test_the_learning_rate_falls_in_steps():
    preset = dataclasses.replace(load("nyuv2").presets["smoke"], epochs=3, lr=0.1, lr_step=2, average_last=1)
    run = trial("nyuv2", "ls", preset)
    assert [run.advance()["lr"] for _ in range(3)] == [0.1, 0.1, 0.05]


def test_without_the_data_it_says_where_they_are(monkeypatch, tmp_path):
    for name in ("nyuv2", "cityscapes"):
        experiment = load(name)
        for preset in ("laptop", "paper"):
            with pytest.raises(DataError, match=rf"ACCORD_{name.upper()} is not set.*github.com/lorenmt/mtan"):
                experiment.prepare(experiment.presets[preset])
    monkeypatch.setenv("ACCORD_CITYSCAPES", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere is not a folder.*registration at https://www.cityscapes-dataset.com"):
        mtan_problem(load("cityscapes").presets["laptop"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("depth", "seg")}, "in this order"),
        ({"tasks": ()}, "in this order"),
        ({"network": "unet"}, "must be one of"),
        ({"size": (4, 32)}, "halved once for each of the widths"),
        ({"batch": 0}, "batch=0"),
        ({"dataset": "kitti"}, "must be one of"),
        ({"train": None}, "set train and test"),
    ],
)
def test_settings_that_make_no_sense_are_told(change, message):
    preset = dataclasses.replace(load("nyuv2").presets["smoke"], **change)
    with pytest.raises(OptionError, match=message):
        mtan_problem(preset)


@pytest.mark.parametrize("network", ["segnet", "mtan"])
def test_the_networks_learn_scenes_by_heart(network):
    base = load("nyuv2").presets["smoke"]
    preset = dataclasses.replace(
        base,
        network=network,
        train=2,
        test=2,
        size=(16, 24),
        widths=(8, 8),
        augment=False,
        epochs=60,
        eval_every=60,
        lr=5e-3,
    )
    load("nyuv2").prepare(preset)
    run = trial("nyuv2", "ls", preset)
    losses = [run.advance()["train_loss"] for _ in range(run.length)]
    for task in ("seg", "depth", "normal"):
        assert losses[-1][task] < losses[0][task] / 2, task


def test_scenes_of_another_size_are_told():
    scenes = Held([{"image": torch.rand(3, 8, 8), "depth": torch.rand(1, 8, 9)}])
    settings = SceneSettings(classes=2, tasks=("depth",), size=(8, 8), widths=(2, 2), epochs=1, average_last=1)
    problem = SceneProblem(settings, scenes, scenes, "small")
    problem.active = ("depth",)
    with pytest.raises(ShapeError, match=r"depth of scene 0 is \(1, 8, 9\); the settings want \(1, 8, 8\)"):
        list(problem.build().batches)
