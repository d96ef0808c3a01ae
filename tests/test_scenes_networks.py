"""SegNet and MTAN have the structure of their papers."""

import math

import pytest
import torch
from torch import nn

from accord.bench.models.mtan import MTAN
from accord.bench.models.segnet import SegNet, Trunk
from accord.errors import OptionError, ShapeError

OUTPUTS = {"seg": 4, "depth": 1, "normal": 3}
WIDTHS = (4, 6, 8)


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_the_published_trunk_is_vgg_16_and_its_mirror_image():
    with torch.device("meta"):
        trunk = Trunk()
    encoder = [(m.in_channels, m.out_channels) for m in convolutions(trunk.encoder)]
    vgg = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
    assert encoder == vgg + [(512, 512)] * 5
    decoder = [(m.in_channels, m.out_channels) for block in reversed(trunk.decoder) for m in convolutions(block)]
    assert decoder == [*((b, a) for a, b in reversed(encoder[1:])), (64, 64)]
    assert all(m.kernel_size == (3, 3) for m in convolutions(trunk))


@pytest.mark.parametrize("size", [(16, 24), (19, 29)])
@pytest.mark.parametrize("network", [SegNet, MTAN])
def test_predictions_have_the_size_of_the_images(network, size):
    model = network(OUTPUTS, WIDTHS)
    found = model(torch.rand(2, 3, *size))
    assert {task: tuple(p.shape) for task, p in found.items()} == {t: (2, c, *size) for t, c in OUTPUTS.items()}
    assert list(model(torch.rand(2, 3, *size), ["depth"])) == ["depth"]


def test_unpooling_puts_values_where_the_maxima_were():
    torch.manual_seed(0)
    encoded, decoded = Trunk(WIDTHS).eval().blocks(torch.rand(1, 3, 16, 24))
    for (_, last), (unpooled, _) in zip(encoded, decoded, strict=True):
        assert unpooled.shape == last.shape
        windows, values = (x[0].unfold(1, 2, 2).unfold(2, 2, 2).flatten(3) for x in (last, unpooled))
        assert ((values != 0).sum(-1) <= 1).all()
        largest = windows.argmax(-1, keepdim=True)
        clear = (windows == windows.max(-1, keepdim=True).values).sum(-1) == 1  # zeros after ReLU tie
        elsewhere = values.scatter(-1, largest, 0.0).abs().sum(-1)
        assert clear.any()
        assert (elsewhere[clear] == 0).all()
        assert values.gather(-1, largest)[..., 0][clear].abs().sum() > 0


@pytest.mark.parametrize("network", [SegNet, MTAN])
def test_every_task_reaches_all_shared_and_only_its_own_parameters(network):
    torch.manual_seed(0)
    model = network(OUTPUTS, WIDTHS)
    names = dict(model.named_parameters())
    shared = {name for name, p in names.items() if any(p is s for s in model.shared())}
    found = model(torch.rand(3, 3, 16, 24))
    reached = {}
    for task, prediction in found.items():
        loss = (prediction * torch.randn_like(prediction)).sum()
        gradients = torch.autograd.grad(loss, list(names.values()), retain_graph=True, allow_unused=True)
        reached[task] = {name for name, g in zip(names, gradients, strict=True) if g is not None}
        assert shared <= reached[task]
        assert all(task in name for name in reached[task] - shared)
    assert set.union(*reached.values()) == set(names)


def test_masks_lie_between_zero_and_one_and_weigh_the_shared_features():
    torch.manual_seed(0)
    model = MTAN(OUTPUTS, WIDTHS).eval()
    seen = []
    for block in model.attention["depth"].modules():
        if isinstance(block, nn.Sigmoid):
            block.register_forward_hook(lambda _, __, mask: seen.append(mask))
    image = torch.rand(2, 3, 16, 24)
    prediction = model(image, ["depth"])["depth"]
    assert len(seen) == 2 * len(WIDTHS)
    assert all((mask > 0).all() and (mask < 1).all() for mask in seen)
    encoded, decoded = model.trunk.blocks(image)
    shapes = [last.shape for _, last in encoded] + [last.shape for _, last in decoded[::-1]]
    assert [mask.shape for mask in seen] == shapes
    expected = model.heads["depth"](seen[-1] * decoded[0][1])
    torch.testing.assert_close(prediction, expected)


@pytest.mark.parametrize("network", [SegNet, MTAN])
def test_the_weights_begin_xavier_normal(network):
    torch.manual_seed(0)
    model = network(OUTPUTS, (32, 48))
    for layer in convolutions(model):
        if layer.weight.numel() > 4000:
            field = layer.kernel_size[0] * layer.kernel_size[1]
            deviation = math.sqrt(2 / (field * (layer.in_channels + layer.out_channels)))
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert (layer.bias == 0).all()


def test_what_does_not_fit_is_told():
    with pytest.raises(ShapeError, match=r"halve \(B, 3, H, W\) as often.*8 at the least"):
        SegNet(OUTPUTS, WIDTHS)(torch.rand(1, 3, 4, 24))
    with pytest.raises(ShapeError, match=r"\(1, 1, 16, 24\)"):
        MTAN(OUTPUTS, WIDTHS)(torch.rand(1, 1, 16, 24))
    with pytest.raises(OptionError, match="widths"):
        SegNet(OUTPUTS, ())
