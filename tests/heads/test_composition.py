"""The compositions that users write, verbatim: each is built, run and trained one step, the hub answered on loopback."""

from pathlib import Path
from typing import Any

import mask2former_cases
import maskformer_cases
import pytest
import torch
from hub_server import HubServer
from oracle import same
from tiny import RESNET
from torch import Tensor, nn

from vertebra import (
    AutoBackbone,
    AutoImageProcessor,
    AutoModelForImageSegmentation,
    AutoModelForInstanceSegmentation,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    ResNetBackbone,
    ResNetConfig,
    SegformerImageProcessor,
    TimmBackboneConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

RESNET_50 = "microsoft/resnet-50"
TIMM_RESNET_50 = "timm/resnet50.a1_in1k"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shallow ResNet with random weights as the hub holds it, its own selection the last stage; and timm's ResNet-50."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    ResNetBackbone(ResNetConfig(depths=[1, 1, 1, 1])).save_pretrained(folder / RESNET_50)
    AutoBackbone.from_pretrained("resnet50", use_pretrained_backbone=False).save_pretrained(folder / TIMM_RESNET_50)
    return folder


@pytest.fixture
def served(hub: HubServer, weights: Path) -> HubServer:
    for name in (RESNET_50, TIMM_RESNET_50):
        hub.add(name, weights / name)
    return hub


def one_step(model: nn.Module, **labels: Any) -> dict[str, bool]:
    """Run a forward and a step of training on one small image; which parameters of the backbone moved."""
    pixels = torch.rand(1, 3, 64, 64)
    model.eval()
    with torch.no_grad():
        before: Any = model(pixels)
    maps = before.logits if "logits" in before else before.masks_queries_logits
    assert maps.shape[-2:] == ((64, 64) if "logits" in before else (16, 16))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    loss = model(torch.cat([pixels, pixels.flip(-1)]), **labels).loss
    loss.backward()
    assert torch.isfinite(loss)
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []
    optimizer.step()
    return {name: not torch.equal(parameter, start[name]) for name, parameter in model.named_parameters()}


def masks() -> dict[str, list[Tensor]]:
    found = torch.zeros(2, 64, 64)
    found[0, :32], found[1, 32:] = 1, 1
    return {"mask_labels": [found, found], "class_labels": [torch.tensor([0, 1])] * 2}


@pytest.mark.parametrize("weighted", [True, False])
def test_maskformer_of_a_hub_id(weighted: bool, served: HubServer, weights: Path) -> None:
    config = MaskFormerConfig(backbone="microsoft/resnet-50", use_pretrained_backbone=weighted)
    model = MaskFormerForInstanceSegmentation(config)
    stored = ResNetBackbone.from_pretrained(weights / RESNET_50).state_dict()
    equal = [torch.equal(model.backbone.state_dict()[name], stored[name]) for name in stored if stored[name].ndim == 4]
    assert len(equal) == 17
    assert all(equal) is weighted
    assert model.backbone.out_features == ["stage1", "stage2", "stage3", "stage4"]
    assert any(one_step(model, **masks()).values())


def test_maskformer_of_an_untouched_configuration() -> None:
    model = MaskFormerForInstanceSegmentation(MaskFormerConfig(backbone_config=ResNetConfig()))
    assert model.backbone.strides == [4, 8, 16, 32]
    assert any(one_step(model, **masks()).values())


@pytest.mark.parametrize("weighted", [True, False])
def test_maskformer_of_a_timm_name(weighted: bool, served: HubServer, weights: Path) -> None:
    config = MaskFormerConfig(backbone="resnet50", use_timm_backbone=True, use_pretrained_backbone=weighted)
    model = MaskFormerForInstanceSegmentation(config)
    stored = AutoBackbone.from_pretrained(weights / TIMM_RESNET_50).state_dict()
    equal = [torch.equal(model.backbone.state_dict()[name], stored[name]) for name in stored if stored[name].ndim == 4]
    assert len(equal) == 53
    assert all(equal) is weighted
    assert model.backbone.out_features == ["layer1", "layer2", "layer3", "layer4"]
    assert any(one_step(model, **masks()).values())


def test_maskformer_of_a_timm_configuration() -> None:
    config = MaskFormerConfig(backbone_config=TimmBackboneConfig("resnet50", use_pretrained_backbone=False))
    assert any(one_step(MaskFormerForInstanceSegmentation(config), **masks()).values())


def test_transformers_takes_the_last_stage_alone_and_fails_at_the_first_forward() -> None:
    import transformers

    config = transformers.MaskFormerConfig(backbone_config=transformers.ResNetConfig())
    model = transformers.MaskFormerForInstanceSegmentation(config)
    with pytest.raises(IndexError):
        model(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("backbone", ["resnet18", "swin_tiny_patch4_window7_224", "test_vit"])
@pytest.mark.parametrize(
    ("head", "config", "labels"),
    [
        (MaskFormerForInstanceSegmentation, MaskFormerConfig, masks()),
        (Mask2FormerForUniversalSegmentation, Mask2FormerConfig, masks()),
        (UperNetForSemanticSegmentation, UperNetConfig, {"labels": torch.arange(2)[:, None, None].expand(2, 64, 64)}),
    ],
    ids=["maskformer", "mask2former", "upernet"],
)
def test_one_entry_swaps_the_backbone(backbone: str, head: Any, config: Any, labels: dict[str, Any]) -> None:
    kwargs = {"backbone_kwargs": {"image_size": (64, 64)}} if backbone != "resnet18" else {}
    small = {"hidden_size": 32} if head is UperNetForSemanticSegmentation else {}
    model = head(config(backbone=backbone, **kwargs, **small))
    assert model.backbone.strides == [4, 8, 16, 32]
    moved = one_step(model, **labels)
    below = [moved[name] for name in moved if name.startswith(model.backbone_path) and name.endswith("weight")]
    assert below[0]


SMALL: dict[Any, dict[str, Any]] = {
    MaskFormerForInstanceSegmentation: {"decoder_config": maskformer_cases.DECODER, **maskformer_cases.HEAD},
    Mask2FormerForUniversalSegmentation: mask2former_cases.HEAD,
    UperNetForSemanticSegmentation: {"hidden_size": 32},
}


class TestAuto:
    @pytest.mark.parametrize(
        ("auto", "head"),
        [
            (AutoModelForInstanceSegmentation, MaskFormerForInstanceSegmentation),
            (AutoModelForUniversalSegmentation, MaskFormerForInstanceSegmentation),
            (AutoModelForImageSegmentation, MaskFormerForInstanceSegmentation),
            (AutoModelForUniversalSegmentation, Mask2FormerForUniversalSegmentation),
            (AutoModelForImageSegmentation, Mask2FormerForUniversalSegmentation),
            (AutoModelForSemanticSegmentation, UperNetForSemanticSegmentation),
            (AutoModelForImageSegmentation, UperNetForSemanticSegmentation),
        ],
    )
    def test_the_class_is_chosen(self, auto: Any, head: Any, tmp_path: Path) -> None:
        model = head(head.config_class(backbone_config=ResNetConfig(**RESNET), **SMALL[head])).eval()
        model.save_pretrained(tmp_path)
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is head
        for name, tensor in model.state_dict().items():
            same(loaded.state_dict()[name], tensor, name)

    def test_a_task_that_a_head_does_not_serve(self) -> None:
        config = UperNetConfig(backbone_config=ResNetConfig(**RESNET))
        with pytest.raises(
            ValueError, match=r"AutoModelForInstanceSegmentation has no class for UperNetConfig.*MaskFormerConfig"
        ):
            AutoModelForInstanceSegmentation.from_config(config)

    def test_the_error_says_who_does_serve_it(self, tmp_path: Path) -> None:
        UperNetForSemanticSegmentation(UperNetConfig(backbone_config=ResNetConfig(**RESNET))).save_pretrained(tmp_path)
        with pytest.raises(
            ValueError,
            match=r"Other Auto classes have one: AutoModelForSemanticSegmentation, AutoModelForImageSegmentation",
        ):
            AutoModelForInstanceSegmentation.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"AutoModelForImageSegmentation.from_pretrained\(…\).backbone is that"):
            AutoBackbone.from_pretrained(tmp_path)

    def test_the_image_processor_is_the_heads_own(self, tmp_path: Path) -> None:
        UperNetForSemanticSegmentation(UperNetConfig(backbone="test_resnet", hidden_size=8)).save_pretrained(tmp_path)
        with pytest.raises(FileNotFoundError, match="how its images are prepared"):
            AutoImageProcessor.from_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 64, "width": 64}}')
        assert type(AutoImageProcessor.from_pretrained(tmp_path)) is SegformerImageProcessor
