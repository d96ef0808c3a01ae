"""Augmented scenes are still scenes: on a plane, image, depth and normals go on belonging together."""

import pytest
import torch

from accord.bench.scenes.augment import augment, crop, mirror

HEIGHT, WIDTH, FOCAL = 60, 90, 80.0
NORMAL = torch.nn.functional.normalize(torch.tensor([0.3, -0.4, -1.0]), dim=0)
DISTANCE = -2.0  # the plane is NORMAL · point = DISTANCE


def rays(columns, rows, focal, centre):
    """Directions (3, H, W) of pixels, z = 1."""
    x, y = (columns - centre[0]) / focal, (rows - centre[1]) / focal
    return torch.stack((x, y, torch.ones_like(x)))


def plane():
    """A scene of one plane; the image holds each pixel's own coordinates, the label its column."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    direction = rays(columns, rows, FOCAL, (WIDTH / 2, HEIGHT / 2))
    depth = DISTANCE / (NORMAL[:, None, None] * direction).sum(0, keepdim=True)
    assert (depth > 0).all()
    return {
        "image": torch.stack((columns / WIDTH, rows / HEIGHT, torch.zeros_like(rows))),
        "label": columns.long(),
        "depth": depth,
        "normal": NORMAL[:, None, None].expand(3, HEIGHT, WIDTH).clone(),
    }


def off_plane(scene, direction, depth, normal):
    """By how much the points of a scene miss the plane through one of them with a normal, at most."""
    points = direction * depth
    heights = (normal[:, None, None] * points).sum(0)
    return (heights - DISTANCE).abs().max().item()


def test_the_plane_is_one():
    scene = plane()
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    direction = rays(columns, rows, FOCAL, (WIDTH / 2, HEIGHT / 2))
    assert off_plane(scene, direction, scene["depth"], NORMAL) < 1e-5


def test_a_mirrored_plane_is_a_plane_with_the_mirrored_normal():
    scene = mirror(plane())
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    direction = rays(columns, rows, FOCAL, (WIDTH / 2, HEIGHT / 2))
    normal = scene["normal"][:, 0, 0]
    assert normal.tolist() == [-NORMAL[0], NORMAL[1], NORMAL[2]]
    assert off_plane(scene, direction, scene["depth"], normal) < 1e-5
    assert off_plane(scene, direction, scene["depth"], NORMAL) > 0.1  # with the old normal it is none
    assert (scene["label"] == WIDTH - 1 - plane()["label"]).all()


@pytest.mark.parametrize(("scale", "top", "left"), [(1.5, 0, 0), (1.5, 20, 30), (1.2, 10, 15), (1.2, 3, 7)])
def test_an_enlarged_plane_is_what_a_longer_lens_sees(scale, top, left):
    rows_kept, columns_kept = int(HEIGHT / scale), int(WIDTH / scale)
    scene = crop(plane(), top, left, rows_kept, columns_kept, scale)
    # where the pixels of the result lie in the first image, and so their directions there
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    direction = rays(left + columns / scale, top + rows / scale, FOCAL, (WIDTH / 2, HEIGHT / 2))
    normal = scene["normal"][:, 5, 5]
    torch.testing.assert_close(scene["normal"], NORMAL[:, None, None].expand(3, HEIGHT, WIDTH))
    # the nearest depth is at most half a pixel off
    slope = (plane()["depth"][0].diff(dim=0).abs().max() + plane()["depth"][0].diff(dim=1).abs().max()).item()
    assert off_plane(scene, direction, scene["depth"] * scale, normal) < slope
    # image and class tell the same place
    inside = (slice(3, -3), slice(3, -3))
    columns_of_image = scene["image"][0][inside] * WIDTH
    assert (columns_of_image - (left + columns / scale)[inside]).abs().max() < 1e-3
    assert (columns_of_image - 0.5 - scene["label"][inside]).abs().max() <= 0.5 + 1e-3


def test_unknown_pixels_stay_unknown_and_make_no_values():
    scene = plane()
    hidden = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    hidden[:, 40:50] = True
    scene["label"][hidden] = -1
    scene["depth"][:, hidden] = 0
    scene["normal"][:, hidden] = 0
    large = crop(scene, 5, 20, 40, 60, 1.5)
    gaps = (large["depth"].flatten()[:, None] * 1.5 - scene["depth"].flatten()).abs().amin(dim=1)
    assert gaps.max() < 1e-5  # every depth is one that was there
    assert ((large["label"] == -1) == (large["depth"][0] == 0)).all()
    length = large["normal"].norm(dim=0)
    assert ((length == 0) | ((length - 1).abs() < 1e-5)).all()
    assert (length == 0).any()


def test_draws_come_from_the_global_generator_and_cover_all():
    torch.manual_seed(0)
    first = [augment(plane())["image"] for _ in range(4)]
    torch.manual_seed(0)
    again = [augment(plane())["image"] for _ in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.manual_seed(1)
    drawn = [augment(plane()) for _ in range(60)]
    mirrored = [bool(scene["normal"][0, 0, 0] < 0) for scene in drawn]
    assert 15 < sum(mirrored) < 45
    spans = {round(float((s["image"][0, 0, -1] - s["image"][0, 0, 0]).abs()), 1) for s in drawn}
    assert spans == {1.0, 0.8, 0.7}  # the whole width, and 1/1.2 and 1/1.5 of it


def test_the_draws_do_not_depend_on_the_maps():
    torch.manual_seed(3)
    with_all = augment(plane())
    torch.manual_seed(3)
    alone = augment({"image": plane()["image"]})
    assert torch.equal(with_all["image"], alone["image"])
