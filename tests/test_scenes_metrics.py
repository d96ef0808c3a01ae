"""Losses and metrics of scenes against NumPy and scikit-learn, which know nothing of how they are computed here."""

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch.nn import functional

from accord.bench.scenes.losses import depth_loss, loss_of, normal_loss, segmentation_loss
from accord.bench.scenes.metrics import DepthMeter, NormalMeter, SegmentationMeter, meter_of

CLASSES = 5


def batch(seed, size=3, height=6, width=7):
    """Predictions and truths of a random batch, with unknown pixels."""
    draw = torch.Generator().manual_seed(seed)
    shape = (size, height, width)
    known = torch.rand(shape, generator=draw) > 0.3
    label = torch.randint(CLASSES - 1, shape, generator=draw).where(known, torch.tensor(-1))  # the last never occurs
    depth = (torch.rand(shape, generator=draw) + 0.5)[:, None] * known[:, None]
    normal = functional.normalize(torch.randn((size, 3, height, width), generator=draw), dim=1) * known[:, None]
    scores = torch.randn((size, CLASSES, height, width), generator=draw)
    scores[:, -1] -= 100
    near = normal + 0.4 * torch.randn((size, 3, height, width), generator=draw)
    return {
        "seg": (scores, label),
        "depth": (torch.rand(depth.shape, generator=draw), depth),
        "normal": (3 * near, normal),
    }


def angles(prediction, normal):
    """Degrees between predicted and true normals, over known pixels, by the half-chord formula."""
    p, n = (np.moveaxis(x.numpy().astype(np.float64), 1, -1).reshape(-1, 3) for x in (prediction, normal))
    p, n = p[(n**2).sum(1) > 0], n[(n**2).sum(1) > 0]
    p, n = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (p, n))
    return np.degrees(2 * np.arcsin(np.linalg.norm(p - n, axis=1).clip(0, 2) / 2))


# Losses


def test_the_losses_are_their_definitions():
    parts = batch(0)
    scores, label = (x.numpy() for x in parts["seg"])
    rows = np.moveaxis(scores, 1, -1).reshape(-1, CLASSES).astype(np.float64)
    chosen = label.ravel() >= 0
    probability = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    expected = -np.log(probability[chosen, label.ravel()[chosen]]).mean()
    assert segmentation_loss(*parts["seg"]).item() == pytest.approx(expected, rel=1e-5)

    prediction, depth = (x.numpy() for x in parts["depth"])
    assert depth_loss(*parts["depth"]).item() == pytest.approx(np.abs(prediction - depth)[depth != 0].mean(), rel=1e-5)

    cosines = np.cos(np.radians(angles(*parts["normal"])))
    assert normal_loss(*parts["normal"]).item() == pytest.approx(1 - cosines.mean(), rel=1e-5)


@pytest.mark.parametrize("task", ["seg", "depth", "normal"])
def test_their_gradients_are_right_and_none_at_unknown_pixels(task):
    prediction, truth = batch(1, size=1, height=3, width=3)[task]
    prediction = prediction.double().requires_grad_()
    truth = truth if task == "seg" else truth.double()
    assert torch.autograd.gradcheck(lambda p: loss_of(task, p, truth), prediction)
    (gradient,) = torch.autograd.grad(loss_of(task, prediction, truth), prediction)
    unknown = (truth == -1)[:, None] if task == "seg" else (truth == 0).all(dim=1, keepdim=True)
    assert unknown.any()
    assert (gradient * unknown == 0).all()


@pytest.mark.parametrize("task", ["seg", "depth", "normal"])
def test_where_nothing_is_known_the_loss_is_zero_and_finite(task):
    prediction, truth = batch(2)[task]
    prediction.requires_grad_()
    loss = loss_of(task, prediction, torch.full_like(truth, -1 if task == "seg" else 0))
    loss.backward()
    assert loss.item() == 0
    assert (prediction.grad == 0).all()


# Metrics


def filled(meter, task, seeds):
    for seed in seeds:
        meter.add(*batch(seed)[task])
    return meter.values()


def test_segmentation_agrees_with_scikit_learn():
    found = filled(SegmentationMeter(CLASSES), "seg", range(4))
    parts = [batch(seed)["seg"] for seed in range(4)]
    truth = np.concatenate([label[label >= 0].numpy() for _, label in parts])
    guess = np.concatenate([scores.argmax(1)[label >= 0].numpy() for scores, label in parts])
    assert CLASSES - 1 not in truth  # a class that never occurs takes no part in the mean
    assert found["mIoU"] == pytest.approx(100 * reference.jaccard_score(truth, guess, average="macro"))
    assert found["PixAcc"] == pytest.approx(100 * reference.accuracy_score(truth, guess))


def test_depth_errors_are_over_all_known_pixels():
    found = filled(DepthMeter(), "depth", range(4))
    parts = [batch(seed)["depth"] for seed in range(4)]
    guess, truth = (np.concatenate([x.numpy().ravel() for x in column]) for column in zip(*parts, strict=True))
    guess, truth = guess[truth != 0], truth[truth != 0]
    assert found["AbsErr"] == pytest.approx(np.abs(guess - truth).mean(), rel=1e-6)
    assert found["RelErr"] == pytest.approx((np.abs(guess - truth) / truth).mean(), rel=1e-6)


def test_normals_are_over_all_known_pixels():
    found = filled(NormalMeter(), "normal", range(4))
    every = np.concatenate([angles(*batch(seed)["normal"]) for seed in range(4)])
    assert found["mean"] == pytest.approx(every.mean(), rel=1e-5)
    assert found["median"] == pytest.approx(np.median(every), rel=1e-5)
    for limit in (11.25, 22.5, 30):
        share = (every < limit).mean()
        assert 0 < share < 1
        assert found[f"{limit:g}"] == pytest.approx(100 * share)


def test_by_default_the_batch_size_does_not_matter_and_per_batch_it_does():
    prediction, normal = batch(5, size=8)["normal"]
    values = {}
    for per_batch in (False, True):
        for size in (1, 8):
            meter = NormalMeter(per_batch)
            for first in range(0, 8, size):
                meter.add(prediction[first : first + size], normal[first : first + size])
            values[per_batch, size] = meter.values()
    assert values[False, 1] == pytest.approx(values[False, 8])
    assert values[True, 8] == pytest.approx(values[False, 8])
    each = [np.median(angles(prediction[i : i + 1], normal[i : i + 1])) for i in range(8)]
    assert values[True, 1]["median"] == pytest.approx(np.mean(each), rel=1e-5)
    assert values[True, 1]["median"] != pytest.approx(values[False, 1]["median"], rel=1e-3)


def test_depth_per_batch_is_the_mean_of_the_batches():
    prediction, depth = batch(6, size=4)["depth"]
    meter = DepthMeter(per_batch=True)
    singles = []
    for p, d in zip(prediction.split(1), depth.split(1), strict=True):
        meter.add(p, d)
        singles.append((p - d).abs()[d != 0].mean().item())
    assert meter.values()["AbsErr"] == pytest.approx(np.mean(singles), rel=1e-6)


def test_small_angles_are_told_apart():
    angle = torch.tensor(0.005)  # degrees: its cosine is 1 in float32
    truth = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
    guess = torch.stack((torch.deg2rad(angle), torch.tensor(0.0), torch.tensor(1.0))).reshape(1, 3, 1, 1)
    meter = NormalMeter()
    meter.add(guess, truth)
    assert meter.values()["mean"] == pytest.approx(0.005, rel=1e-3)


@pytest.mark.parametrize("task", ["seg", "depth", "normal"])
def test_where_nothing_is_known_there_is_no_number(task):
    prediction, truth = batch(3)[task]
    meter = meter_of(task, CLASSES)
    meter.add(prediction, torch.full_like(truth, -1 if task == "seg" else 0))
    assert all(np.isnan(value) for value in meter.values().values())
