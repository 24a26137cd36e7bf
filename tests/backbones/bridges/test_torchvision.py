"""torchvision's detectors on our backbones: they train on a real photo, and are the functions that torchvision's own are."""

import copy
import pickle
from typing import Any

import pytest
import tiny
import torch
from labelled import HEIGHT, WIDTH, labelled_photo
from oracle import close, perturb, same
from torch import nn
from torchvision.models import detection, resnet18
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from vertebra import AutoBackbone, ResNetConfig, SwinConfig, TimmBackboneConfig, pyramid, to_torchvision

RESNET = ResNetConfig(**tiny.RESNET)
SWIN = SwinConfig(embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4)
VIT = TimmBackboneConfig(
    "vit_tiny_patch16_224",
    use_pretrained_backbone=False,
    model_args={"depth": 2, "embed_dim": 24, "num_heads": 2, "dynamic_img_size": True},
)
TIMM = TimmBackboneConfig("test_resnet", use_pretrained_backbone=False)
FINE, COARSE = (4, 8, 16, 32), (8, 16, 32, 64, 128)
WIDE = 32
"""Channels of the pyramids: the fewest that the heads of FCOS take."""
FEW = {
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 32,
    "rpn_pre_nms_top_n_train": 200,
    "rpn_post_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_test": 50,
}


def two_stage(**more: Any) -> dict[str, Any]:
    """Small heads and few proposals."""
    return {**FEW, "box_head": TwoMLPHead(WIDE * 7 * 7, 64), "box_predictor": FastRCNNPredictor(64, 5), **more}


def heads(name: str) -> dict[str, Any]:
    if name == "MaskRCNN":
        return two_stage(mask_head=MaskRCNNHeads(WIDE, (16,), 1), mask_predictor=MaskRCNNPredictor(16, 16, 5))
    return two_stage() if name == "FasterRCNN" else {"num_classes": 5, "topk_candidates": 100}


def build(name: str, backbone: Any, strides: tuple[int, ...], **kwargs: Any) -> Any:
    features = to_torchvision(pyramid(backbone, strides, WIDE, neck_options={"norm": "group"}))
    cls = getattr(detection, name)
    sizes = {"min_size": HEIGHT, "max_size": WIDTH}
    return cls(features, **sizes, **heads(name), **features.arguments(cls), **kwargs)


def train(detector: Any, steps: int) -> list[float]:
    image, objects = labelled_photo()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3, betas=(0.9, 0.95))
    losses = []
    for _ in range(steps):
        loss = sum(detector([image], [objects]).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("name", "backbone", "strides", "steps"),
    [
        ("FasterRCNN", RESNET, (*FINE, 64), 32),
        ("MaskRCNN", SWIN, FINE, 32),
        ("RetinaNet", TIMM, COARSE, 24),
        ("FCOS", VIT, COARSE, 16),
    ],
    ids=["FasterRCNN-resnet", "MaskRCNN-swin", "RetinaNet-timm", "FCOS-vit"],
)
def test_trains_on_a_real_photo_and_predicts(name: str, backbone: Any, strides: tuple[int, ...], steps: int) -> None:
    detector = build(name, backbone, strides).train()
    losses = train(detector, steps)
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3]), losses
    assert all(p.grad is not None for p in detector.backbone.parameters())
    with torch.no_grad():
        (found,) = detector.eval()([labelled_photo()[0]])
    count = len(found["boxes"])
    assert count > 0
    assert found["boxes"].shape == (count, 4)
    x0, y0, x1, y1 = found["boxes"].unbind(1)
    assert (x0 >= 0).all()
    assert (x0 < x1).all()
    assert (x1 <= WIDTH).all()
    assert (y0 >= 0).all()
    assert (y0 < y1).all()
    assert (y1 <= HEIGHT).all()
    assert set(found["labels"].tolist()) <= {0, 1, 2, 3, 4}
    assert ((found["scores"] > 0) & (found["scores"] <= 1)).all()
    if name == "MaskRCNN":
        assert found["masks"].shape == (count, 1, HEIGHT, WIDTH)


def copy_resnet18(theirs: nn.Module, ours: nn.Module) -> None:
    """Torchvision's ResNet-18 with FPN into ours: both list their weights in the same order but for shortcuts."""
    state = theirs.state_dict()
    renamed = {}
    for name, tensor in state.items():
        fpn = name.split(".")
        leaf = fpn[-1]
        if fpn[0] == "fpn":
            part = {"inner_blocks": "lateral", "layer_blocks": "output"}[fpn[1]]
            renamed[f"body.{part}.stride{4 * 2 ** int(fpn[2])}.0.{leaf}"] = tensor
        elif fpn[1] in ("conv1", "bn1"):
            kind = {"conv1": "convolution", "bn1": "normalization"}[fpn[1]]
            renamed[f"body.backbone.embedder.embedder.{kind}.{leaf}"] = tensor
        else:
            block = f"body.backbone.encoder.stages.{int(fpn[1][5:]) - 1}.layers.{fpn[2]}"
            if fpn[3] == "downsample":
                place = f"shortcut.{('convolution', 'normalization')[int(fpn[4])]}"
            else:
                place = f"layer.{int(fpn[3][-1]) - 1}.{'convolution' if 'conv' in fpn[3] else 'normalization'}"
            renamed[f"{block}.{place}.{leaf}"] = tensor
    ours.load_state_dict(renamed)


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    """Torchvision's ResNet-18 with FPN and a pooled fifth level, and ours with the same weights."""
    norm = nn.BatchNorm2d
    theirs = perturb(resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm), scale=0.02)
    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    ours = to_torchvision(pyramid(config, (*FINE, 64), neck_options={"extra_levels": "pool"}))
    copy_resnet18(theirs, ours)
    return theirs.eval(), ours.eval()


def test_the_maps_are_torchvisions(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    pixels = torch.randn(2, 3, 96, 128)
    expected, actual = theirs(pixels), ours(pixels)
    assert list(expected) == ["0", "1", "2", "3", "pool"]
    assert list(actual) == ["0", "1", "2", "3", "4"]
    close(tuple(actual.values()), tuple(expected.values()), tol=1e-5)
    assert ours.out_channels == theirs.out_channels == 256


def test_the_detector_is_torchvisions(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    sizes = {"num_classes": 5, "min_size": 128, "max_size": 192, "size_divisible": 64}
    expected = detection.FasterRCNN(theirs, **sizes, **FEW, box_score_thresh=0.0).eval()
    actual = detection.FasterRCNN(ours, **{**sizes, **ours.arguments("FasterRCNN")}, **FEW, box_score_thresh=0.0).eval()
    for part in ("rpn", "roi_heads"):
        getattr(actual, part).load_state_dict(getattr(expected, part).state_dict())
    photo, _ = labelled_photo()
    with torch.no_grad():
        (there,), (here,) = expected([photo]), actual([photo])
    assert len(there["boxes"]) > 10
    assert here["labels"].tolist() == there["labels"].tolist()
    close(here["boxes"], there["boxes"], tol=1e-4)
    close(here["scores"], there["scores"], tol=1e-4)


@pytest.mark.parametrize(
    ("name", "strides", "oracle"),
    [
        ("FasterRCNN", (*FINE, 64), "faster_rcnn"),
        ("RetinaNet", COARSE, "retinanet"),
        ("FCOS", COARSE, "fcos"),
    ],
)
def test_anchors_are_torchvisions(name: str, strides: tuple[int, ...], oracle: str) -> None:
    if name == "FCOS":
        expected = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    else:
        expected = getattr(detection, oracle)._default_anchorgen()
    actual = to_torchvision(pyramid(RESNET, strides, WIDE)).anchor_generator(name)
    for here, there in zip(actual.cell_anchors, expected.cell_anchors, strict=True):
        same(here, there)


def test_anchors_lie_at_the_strides_where_sizes_are_divisible() -> None:
    """By whole division torchvision would take 832 pixels and 7 cells for a stride of 118."""
    features = to_torchvision(pyramid(RESNET, COARSE, WIDE)).eval()
    assert features.size_divisible == 128
    side = 256
    images = ImageList(torch.zeros(1, 3, side, side), [(side, side)])
    (anchors,) = features.anchor_generator("FCOS")(images, list(features(images.tensors).values()))
    assert len(anchors) == sum((side // stride) ** 2 for stride in COARSE)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    same(centres[-4:], torch.tensor([[0.0, 0.0], [128.0, 0.0], [0.0, 128.0], [128.0, 128.0]]))


def test_anchor_numbers_of_ones_own() -> None:
    features = to_torchvision(pyramid(RESNET, (8, 16), WIDE))
    made = features.anchor_generator(scale=2, per_octave=2, aspect_ratios=(1.0, 3.0))
    assert made.sizes == ((16, 22), (32, 45))
    assert made.aspect_ratios == ((1.0, 3.0),) * 2


@pytest.mark.parametrize("output_size", [7, (14, 10)])
def test_region_pooling_is_torchvisions(output_size: Any) -> None:
    features = to_torchvision(pyramid(RESNET, (*FINE, 64), WIDE)).eval()
    maps = features(torch.randn(1, 3, 256, 256))
    corners = torch.rand(50, 2) * 100
    boxes = [torch.cat([corners, corners + 2 + torch.rand(50, 2) * 150], dim=1)]
    expected = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size, 2)(maps, boxes, [(256, 256)])
    actual = features.roi_pool(output_size)(maps, boxes, [(256, 256)])
    same(actual, expected)


def test_region_pooling_of_strides_that_are_no_powers_of_two() -> None:
    """A map of where its cells lie has the middle of a box as its mean, at the true scale alone; torchvision takes 7 for 8."""
    pool = to_torchvision(pyramid(RESNET, (7, 14, 28), WIDE, "interpolate")).roi_pool(1, sampling_ratio=4)
    assert pool.scales == [1 / 7, 1 / 14, 1 / 28]
    ramps = [torch.arange(224 / stride) * stride for stride in (7, 14, 28)]  # region pooling has cell 0 at pixel 0
    maps = {str(level): ramp.repeat(1, 1, len(ramp), 1) + 1000 * level for level, ramp in enumerate(ramps)}
    boxes = [torch.tensor([[40.0, 40, 80, 80], [30, 60, 190, 180], [0, 0, 224, 224]])]
    close(pool(maps, boxes, [(224, 224)]).flatten(), torch.tensor([60.0, 110, 1112]), tol=1e-6)


def test_frozen_stays_frozen_under_the_detectors_train() -> None:
    features = to_torchvision(pyramid(RESNET, COARSE, WIDE, freeze="stage2"))
    detector = detection.FCOS(features, 5, min_size=HEIGHT, max_size=WIDTH, **features.arguments("FCOS")).train()
    before = copy.deepcopy(features.body.backbone.state_dict())
    train(detector, 2)
    after = features.body.backbone.state_dict()
    moved = {name.split(".")[2] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"2", "3"}
    assert not features.body.backbone.embedder.training


def test_it_copies_pickles_and_saves_under_body() -> None:
    features = to_torchvision(pyramid(RESNET, FINE, WIDE)).eval()
    assert {name.split(".")[0] for name in features.state_dict()} == {"body"}
    pixels = torch.randn(1, 3, 64, 64)
    for twin in (copy.deepcopy(features), pickle.loads(pickle.dumps(features))):
        same(tuple(twin(pixels).values()), tuple(features(pixels).values()))
    assert pickle.loads(pickle.dumps(features.roi_pool())).scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_errors_teach() -> None:
    config = copy.deepcopy(RESNET)
    config.out_indices = [2, 3]
    with pytest.raises(
        ValueError, match=r"one width; this ResNetBackbone has channels \[16, 32\].*strides=\(8, 16\), channels=256"
    ):
        to_torchvision(AutoBackbone.from_config(config))
    with pytest.raises(
        TypeError, match=r"built backbone of vertebra, got 'resnet50'.*to_torchvision\(pyramid\(name\)\)"
    ):
        to_torchvision("resnet50")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got ResNet"):
        to_torchvision(resnet18())
    features = to_torchvision(pyramid(RESNET, (4, 16), 24))
    with pytest.raises(ValueError, match=r"whose strides double; these are 4, 16.*pyramid"):
        features.roi_pool()
    with pytest.raises(ValueError, match=r"norms of 32 groups, so 24 channels do not fit.*channels=32"):
        features.arguments("FCOS")
    with pytest.raises(ValueError, match=r"detector='RetinaNt' is not known. Did you mean 'RetinaNet'"):
        features.arguments("RetinaNt")
    with pytest.raises(ValueError, match=r"detector='SSD' is not known.*anchor_generator"):
        features.anchor_generator(detection.ssd.SSD)
    odd = to_torchvision(pyramid(RESNET, (3.5, 7), WIDE, "interpolate"))
    with pytest.raises(ValueError, match=r"'stride7/2' has stride 7/2; .* in whole pixels"):
        odd.anchor_generator()
    assert odd.roi_pool().scales == [2 / 7, 1 / 7]
