"""Where the cells of timm's maps lie: closed forms, and gradients of single cells of linearised networks."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from vertebra import AutoBackbone, TimmBackbone, TimmBackboneConfig


def build(name: str, **kwargs: object) -> TimmBackbone:
    return AutoBackbone.from_config(TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, **kwargs)).eval()


def on_meta(name: str, **kwargs: object) -> TimmBackbone:
    with torch.device("meta"):
        return build(name, **kwargs)


HALF = Fraction(1, 2)
CLOSED = {  # by hand, from kernels, strides and paddings
    "resnet50": [HALF] * 5,  # every window is odd and centred
    "convnext_atto": [2, 4, 8, 16],  # 4x4 patches, then 2x2 merged
    "test_vit": [8] * 6,
    "vit_tiny_patch16_224": [8] * 12,
    "swin_tiny_patch4_window7_224": [2, 4, 8, 16],
    "inception_v3": [Fraction(7, 2), Fraction(19, 2), Fraction(27, 2), Fraction(43, 2), Fraction(75, 2)],
    "efficientnet_lite0": [HALF] * 5,
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name: str) -> None:
    backbone = on_meta(name)
    expected = {stage.name: (offset, offset) for stage, offset in zip(backbone.stages, CLOSED[name], strict=True)}
    assert backbone.measure_offsets() == expected
    assert {stage.name: stage.offset for stage in backbone.stages} == expected
    assert backbone.stages[0].cell_to_pixel(1, 0) == (CLOSED[name][0] + backbone.stages[0].stride[0], CLOSED[name][0])


def linear(backbone: TimmBackbone) -> nn.Module:
    """The same network as a linear map: equal positive weights, no norms, no activations, maxima become means."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(1.0 / parameter[0].numel() if parameter.ndim > 1 else 0.0)
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            kind = type(child).__name__
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
            elif kind.startswith(("BatchNorm", "LayerNorm")) or isinstance(
                child, (nn.ReLU, nn.GELU, nn.SiLU, nn.ReLU6)
            ):
                setattr(parent, name, nn.Identity())
    return backbone.double()


def centroid(weights: Tensor) -> tuple[float, float]:
    """Centre of mass of `(h, w)` weights; pixel `i` is centred at `i + 0.5`."""
    total = weights.sum()
    rows, columns = (torch.arange(side, dtype=weights.dtype) + 0.5 for side in weights.shape)
    return float((weights.sum(1) * rows).sum() / total), float((weights.sum(0) * columns).sum() / total)


@pytest.mark.parametrize(
    ("name", "size", "last"),
    [
        ("resnet18", (256, 320), 3),
        ("vgg11", (192, 224), 4),
        ("inception_v3", (299, 331), 2),
        ("convnext_atto", (128, 160), 0),
    ],
)
def test_a_cell_responds_around_where_it_is_said_to_lie(name: str, size: tuple[int, int], last: int) -> None:
    backbone = build(name, out_indices=range(last + 1))
    offsets = backbone.measure_offsets()
    network = linear(backbone)
    pixels = torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    for stage, level in zip(backbone.output_stages, network(pixels).feature_maps, strict=True):
        assert offsets[stage.name] == stage.offset
        row, column = level.shape[-2] // 2, level.shape[-1] // 2 + 1
        (gradient,) = torch.autograd.grad(level[0, :, row, column].sum(), pixels, retain_graph=True)
        assert gradient.abs().sum() > 0
        assert centroid(gradient[0].sum(0)) == pytest.approx(stage.cell_to_pixel(row, column), abs=1e-6)


class TestUnknown:
    def test_before_it_is_measured(self) -> None:
        with pytest.raises(ValueError, match=r"timm does not say; backbone\.measure_offsets\(\) measures it"):
            on_meta("resnet18").stages[0].cell_to_pixel(0, 0)

    def test_same_padding_depends_on_the_size(self) -> None:
        backbone = on_meta("tf_efficientnet_lite0")
        assert set(backbone.measure_offsets().values()) == {None}
        with pytest.raises(
            ValueError, match=r"its padding depends on the image size; backbone\.measure_offsets\(height, width\)"
        ):
            backbone.stages[0].cell_to_pixel(0, 0)
        even, odd = backbone.measure_offsets(224, 224), backbone.measure_offsets(225, 225)
        first = backbone.stage_names[0]
        assert even[first] == (Fraction(3, 2), Fraction(3, 2))  # 3x3, stride 2, one row of padding below alone
        assert odd[first] == (HALF, HALF)
        assert backbone.stages[0].offset is None

    def test_paths_that_disagree(self) -> None:
        backbone = on_meta("resnet50d")  # its shortcuts average 2x2 cells, its blocks look at 3x3
        found = backbone.measure_offsets()
        assert found["layer1"] == (HALF, HALF)
        assert found["layer2"] is None
        with pytest.raises(ValueError, match="paths whose cells lie at different places meet"):
            backbone.stages[2].cell_to_pixel(0, 0)

    def test_a_size_that_does_not_run(self) -> None:
        with pytest.raises(ValueError, match=r"The nearest size that runs is 96x96"):
            on_meta("test_vit").measure_offsets(100, 100)
