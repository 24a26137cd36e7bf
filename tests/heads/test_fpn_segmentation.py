"""The semantic branch of Panoptic FPN against its equations written out, and over any backbone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import close, perturb, same
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from vertebra import (
    AutoBackbone,
    AutoModelForSemanticSegmentation,
    ResNetConfig,
    SwinConfig,
    TimmBackboneConfig,
    pyramid,
)
from vertebra.heads.fpn_segmentation.config import FPNSegmentationConfig
from vertebra.heads.fpn_segmentation.model import FPNForSemanticSegmentation, FPNHead

HEAD: dict[str, Any] = {"pyramid_channels": 16, "hidden_size": 8, "num_labels": 5}
RESNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 32, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


def model(below: Any = None, **kwargs: Any) -> FPNForSemanticSegmentation:
    below = ResNetConfig(**RESNET) if below is None else below
    return FPNForSemanticSegmentation(FPNSegmentationConfig(backbone_config=below, **{**HEAD, **kwargs}))


def batch(size: tuple[int, int] = (64, 96), count: int = 2) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(count, 3, *size), "labels": torch.randint(0, 5, (count, *size))}


def written_out(weights: dict[str, Tensor], maps: list[Tensor], doublings: list[int]) -> Tensor:
    """Kirillov et al. 2019, figure 3: 3x3 convolution, group norm, ReLU and 2x bilinear upsampling, until all are at 1/4."""
    total: Any = 0
    for level, (x, count) in enumerate(zip(maps, doublings, strict=True)):
        for step in range(max(count, 1)):
            place = f"levels.{level}.{step * (4 if count else 3)}"
            norm = f"levels.{level}.{step * (4 if count else 3) + 1}"
            x = F.conv2d(x, weights[f"{place}.weight"], padding=1)
            groups = x.unflatten(1, (8, -1))
            centred = groups - groups.mean((2, 3, 4), keepdim=True)
            x = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()).flatten(1, 2)
            x = F.relu(x * weights[f"{norm}.weight"][:, None, None] + weights[f"{norm}.bias"][:, None, None])
            if count:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + x
    return (
        torch.einsum("oc,bchw->bohw", weights["classifier.weight"][:, :, 0, 0], total)
        + weights["classifier.bias"][:, None, None]
    )


def test_the_head_is_the_branch_of_the_paper() -> None:
    head = perturb(FPNHead([6, 7, 8, 9], (4, 8, 16, 32), num_labels=5, hidden_size=8)).double()
    maps = [torch.randn(2, 6 + level, 32 >> level, 48 >> level, dtype=torch.float64) for level in range(4)]
    close(head(maps), written_out(head.state_dict(), maps, [0, 1, 2, 3]), tol=1e-10)


def test_logits_are_enlarged_four_times() -> None:
    segmenter = perturb(model(), scale=0.05).eval()
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = segmenter.backbone(pixels).feature_maps
        assert [tuple(x.shape[1:]) for x in maps] == [(16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3)]
        coarse = segmenter.decode_head(maps)
        assert coarse.shape == (2, 5, 16, 24)
        close(segmenter(pixels).logits, F.interpolate(coarse, (64, 96), mode="bilinear"))


@pytest.mark.parametrize("size", [(70, 90), (33, 200), (37, 51)])
def test_cells_stay_where_they_are_at_odd_sizes(size: tuple[int, int]) -> None:
    segmenter = perturb(model(), scale=0.05).eval()
    pixels = torch.randn(1, 3, *size)
    with torch.no_grad():
        logits = segmenter(pixels).logits
        coarse = segmenter.decode_head(segmenter.backbone(pixels).feature_maps)
        assert coarse.shape[-2:] == tuple(-(-side // 4) for side in size)
        large = F.interpolate(coarse, scale_factor=4, mode="bilinear")
    same(logits, large[..., : size[0], : size[1]])  # exactly four pixels a cell, what is beyond the image cropped


VIT = TimmBackboneConfig("test_vit", use_pretrained_backbone=False)


@pytest.mark.parametrize(
    ("below", "kwargs", "neck", "channels"),
    [
        (ResNetConfig(**RESNET), {}, "vertebra_fpn", [16] * 4),
        (ResNetConfig(**RESNET), {"neck": "pafpn"}, "vertebra_pafpn", [16] * 4),
        (ResNetConfig(**RESNET, out_indices=[2, 4]), {"neck": None}, "resnet", [16, 64]),
        (SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 2, 4, 8], window_size=3), {}, "vertebra_fpn", [16] * 4),
        (VIT, {}, "vertebra_simple_feature_pyramid", [16] * 4),
    ],
)
def test_any_backbone_gets_a_pyramid_and_trains(
    below: Any, kwargs: dict[str, Any], neck: str, channels: list[int], tmp_path: Path
) -> None:
    segmenter = model(below, **kwargs)
    assert segmenter.config.backbone_config.model_type == neck
    assert segmenter.backbone.channels == channels
    inputs = batch((160, 160))
    segmenter(**inputs).loss.backward()
    assert [name for name, parameter in segmenter.named_parameters() if parameter.grad is None] == []
    perturb(segmenter.eval(), scale=0.05).save_pretrained(tmp_path)
    back, info = FPNForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    back.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (tmp_path / "config.json").read_text()
    with torch.no_grad():
        same(back(**inputs).to_tuple(), segmenter(**inputs).to_tuple())
    assert isinstance(AutoModelForSemanticSegmentation.from_pretrained(tmp_path), FPNForSemanticSegmentation)


def test_a_built_backbone_and_a_built_pyramid_are_taken() -> None:
    backbone = AutoBackbone.from_config(ResNetConfig(**RESNET, out_indices=[1, 2, 3, 4]))
    weight = backbone.embedder.embedder.convolution.weight
    segmenter = FPNForSemanticSegmentation(FPNSegmentationConfig(**HEAD), backbone=backbone)
    assert segmenter.backbone.backbone is backbone
    assert segmenter.backbone.backbone.embedder.embedder.convolution.weight is weight
    neck = pyramid(ResNetConfig(**RESNET), (4, 8, 16, 32), 24, "pafpn")
    assert FPNForSemanticSegmentation(FPNSegmentationConfig(**HEAD), backbone=neck).backbone is neck


def test_it_learns() -> None:
    segmenter = model()
    pixels = torch.rand(2, 3, 64, 64)
    labels = (pixels[:, 0] > 0.5).long()
    labels = F.max_pool2d(labels[:, None].float(), 9, 1, 4)[:, 0].long()
    labels[:, :32] = 2
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = segmenter(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - torch.log(torch.tensor(5.0)).item()) < 0.2
    assert losses[-1] < 0.5 * losses[0]


def test_outputs_and_flags() -> None:
    segmenter = model(SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 2, 4, 8], window_size=3)).eval()
    inputs = batch((64, 64))
    with torch.no_grad():
        output = segmenter(**inputs, output_hidden_states=True, output_attentions=True)
        assert list(output) == ["loss", "logits", "hidden_states", "attentions"]
        assert (len(output.hidden_states), len(output.attentions)) == (5, 4)
        close(segmenter(**inputs, return_dict=False), (output.loss, output.logits))


def test_strides_that_doubling_does_not_reach() -> None:
    with pytest.raises(
        ValueError, match=r"Stride 14 is not the finest one, 4, times a power of two.* pyramid\(backbone"
    ):
        FPNHead([8, 8], (4, 14), num_labels=5)
    with pytest.raises(
        ValueError, match=r"channels=\[8, 8, 8\] and strides=\['4', '8'\] must have one entry for each map"
    ):
        FPNHead([8, 8, 8], (4, 8), num_labels=5)
    with pytest.raises(ValueError, match="hidden_size=0 must be a whole number of 1 at least"):
        FPNSegmentationConfig(hidden_size=0)


def test_compiles_to_one_graph() -> None:
    torch._dynamo.reset()
    segmenter = perturb(model(), scale=0.05).eval()
    counting = CompileCounter()
    compiled = torch.compile(segmenter, fullgraph=True, backend=counting)
    for count in (2, 3):
        inputs = batch((64, 96), count)
        for tensor in inputs.values():
            torch._dynamo.mark_dynamic(tensor, 0)
        with torch.no_grad():
            close(compiled(**inputs).to_tuple(), segmenter(**inputs).to_tuple())
    assert counting.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 96), (70, 90)])
def test_onnx_runtime_agrees(size: tuple[int, int], tmp_path: Path) -> None:
    import onnxruntime

    segmenter = perturb(model(), scale=0.05).eval()
    torch.onnx.export(
        segmenter,
        (torch.randn(2, 3, *size),),
        tmp_path / "fpn.onnx",
        dynamo=True,
        verbose=False,
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=16)}},
    )
    session = onnxruntime.InferenceSession(tmp_path / "fpn.onnx", providers=["CPUExecutionProvider"])
    pixels = torch.randn(3, 3, *size)
    (actual,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    with torch.no_grad():
        close(torch.from_numpy(actual), segmenter(pixels).logits, tol=1e-4)
