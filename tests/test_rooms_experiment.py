"""The experiment ``rooms``: what a scene holds, all methods in smoke, resume, and its figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from accord.bench.data import rooms as data
from accord.bench.data.rooms_layout import make_room
from accord.bench.data.rooms_scene import CLASSES
from accord.bench.experiments import load
from accord.bench.experiments.rooms import EXPERIMENT, PRESETS, RoomScenes, figures, problem
from accord.bench.experiments.rooms_guess import metrics_of_guesses
from accord.bench.methods import METHODS
from accord.bench.scenes.augment import mirror
from accord.bench.scenes.problem import SceneProblem
from accord.bench.spec import MethodSpec
from accord.bench.trial import ProblemTrial
from accord.errors import ShapeError

pytest.importorskip("mitsuba")
TINY = dataclasses.replace(
    PRESETS["smoke"], train=6, test=4, samples=1, size=(16, 24), widths=(4, 6), batch=3, epochs=2, average_last=1
)
EVERY = (*(f"stl:task={task.name}" for task in EXPERIMENT.tasks), *METHODS[1:])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCORD_CACHE", str(tmp_path_factory.mktemp("rooms")))
        yield None


def scenes() -> RoomScenes:
    return RoomScenes(data.load("train", 6, 16, 24, 1))


def test_a_scene_is_what_the_problem_wants() -> None:
    found = scenes()
    assert len(found) == 6
    for number in range(6):
        scene = found[number]
        assert {name: (tuple(t.shape), t.dtype) for name, t in scene.items()} == {
            "image": ((3, 16, 24), torch.float32),
            "label": ((16, 24), torch.int64),
            "depth": ((1, 16, 24), torch.float32),
            "normal": ((3, 16, 24), torch.float32),
        }
        assert 0 <= scene["image"].min() < scene["image"].max() <= 1
        assert 0 <= scene["label"].min() <= scene["label"].max() < len(CLASSES)
        assert (scene["depth"] > 0.1).all()
        torch.testing.assert_close(scene["normal"].norm(dim=0), torch.ones(16, 24))


def angles(depth: np.ndarray, normal: np.ndarray, field: float) -> np.ndarray:
    """Degrees between normals (3, H, W) and those of the depth map, where it is that of a plane."""
    height, width = depth.shape
    half = np.tan(np.radians(field) / 2)
    x = ((np.arange(width) + 0.5) / width * 2 - 1) * half
    y = (1 - (np.arange(height) + 0.5) / height * 2) * half * height / width
    points = np.stack([x[None] * depth, y[:, None] * depth, -depth], -1)
    found = np.cross(points[2:, 1:-1] - points[:-2, 1:-1], points[1:-1, 2:] - points[1:-1, :-2])
    found /= np.linalg.norm(found, axis=-1, keepdims=True)
    inverse = 1 / depth
    bend_x = abs(inverse[1:-1, 2:] + inverse[1:-1, :-2] - 2 * inverse[1:-1, 1:-1])
    bend_y = abs(inverse[2:, 1:-1] + inverse[:-2, 1:-1] - 2 * inverse[1:-1, 1:-1])
    plane = (bend_x < 1e-5) & (bend_y < 1e-5)
    cosine = (found * np.moveaxis(normal, 0, -1)[1:-1, 1:-1]).sum(-1)
    return np.degrees(np.arccos(np.clip(cosine[plane], -1, 1)))


@pytest.mark.parametrize("change", [dict, mirror])
def test_normals_fit_depth_also_in_the_mirror(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> None:
    found = scenes()
    for number in range(6):
        scene = change(found[number])
        depth, normal = scene["depth"][0].double().numpy(), scene["normal"].double().numpy()
        between = angles(depth, normal, make_room("train", number).camera.field)
        assert len(between) > 40
        assert np.median(between) < 0.1


@pytest.mark.parametrize("method", EVERY)
def test_every_method_trains(method: str) -> None:
    preset = dataclasses.replace(TINY, epochs=1)
    trial = EXPERIMENT.trial(preset, MethodSpec.parse(method), 0)
    record = trial.advance()
    tasks = [method.partition("task=")[2]] if method.startswith("stl") else [task.name for task in EXPERIMENT.tasks]
    assert list(record["metrics"]) == [name for name, _ in EXPERIMENT.metrics if name.split("/")[0] in tasks]
    assert record["steps"] == 2
    result = trial.result()
    assert result["data"].startswith("synthetic")
    assert (result["train"], result["test"]) == (6, 4)


@pytest.mark.parametrize("method", ["uw", "nash-mtl"])
def test_resume_is_bit_equal_to_uninterrupted(method: str) -> None:
    spec = MethodSpec.parse(method)
    whole = EXPERIMENT.trial(TINY, spec, 1)
    first = EXPERIMENT.trial(TINY, spec, 1)
    whole.advance()
    first.advance()
    second = EXPERIMENT.trial(TINY, spec, 1)
    second.load_state_dict(first.state_dict())
    assert second.advance()["metrics"] == whole.advance()["metrics"]
    assert second.result()["metrics"] == whole.result()["metrics"]


def test_it_learns_what_it_has_seen() -> None:
    preset = dataclasses.replace(
        TINY, epochs=80, lr=1e-2, lr_step=60, augment=False, eval_every=80, network="segnet", widths=(8, 8)
    )
    seen = scenes()
    trial = ProblemTrial(SceneProblem(preset, seen, seen, "rooms"), MethodSpec("ls"), 0)
    for _ in range(80):
        record = trial.advance()
    depth = torch.stack([seen[number]["depth"] for number in range(6)])
    label = torch.stack([seen[number]["label"] for number in range(6)])
    majority = 100 * float(label.flatten().bincount().max() / label.numel())
    assert record["metrics"]["seg/PixAcc"] > majority + 20
    assert record["metrics"]["depth/AbsErr"] < 0.5 * float((depth - depth.median()).abs().mean())
    normals = torch.stack([seen[number]["normal"] for number in range(6)]).permute(0, 2, 3, 1).reshape(-1, 3)
    normals = normals[normals.norm(dim=1) > 0.5]  # where there is one
    mean = normals.mean(0) / normals.mean(0).norm()
    constant = float(torch.rad2deg(torch.acos((normals @ mean).clamp(-1, 1))).mean())  # degrees, 56
    assert record["metrics"]["normal/mean"] < 0.7 * constant  # about 30, by the arithmetic of the processor


def test_the_registry_knows_it_and_says_synthetic() -> None:
    assert load("rooms") is EXPERIMENT
    assert "synthetic" in EXPERIMENT.summary
    assert set(PRESETS) >= {"smoke", "laptop", "paper"}
    assert PRESETS["paper"].network == "mtan"
    assert all(preset.classes == len(CLASSES) for preset in PRESETS.values())


def test_the_figure_shows_the_first_test_frames(tmp_path: Path) -> None:
    (path,) = figures(TINY, [], tmp_path)
    image = path.read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(image) > 5_000


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ShapeError, match="classes=7, but the frames have 13: bed, books"):
        problem(dataclasses.replace(TINY, classes=7))


def test_a_guess_is_right_where_all_frames_are_alike_and_wrong_elsewhere() -> None:
    train, test = data.load("train", 6, 16, 24, 1), data.load("test", 4, 16, 24, 1)
    alone = metrics_of_guesses(test.head(1), test.head(1))
    assert alone["seg/mIoU"] == alone["seg/PixAcc"] == 100
    assert alone["depth/AbsErr"] == 0
    assert alone["normal/mean"] < 0.1
    found = metrics_of_guesses(train, test)
    assert list(found) == [name for name, _ in EXPERIMENT.metrics]
    depth = np.abs(np.median(train.depth, axis=0) - test.depth).mean()
    assert found["depth/AbsErr"] == pytest.approx(depth, rel=1e-5)
    assert 20 < found["seg/PixAcc"] < 90
