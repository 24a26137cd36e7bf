"""Images of 320x512 and 333x517 through one architecture of every class of timm, on the meta device."""

import re

import pytest
import torch
from timm import create_model, list_models
from timm_names import SMALLEST

from vertebra import AutoBackbone, TimmBackbone, TimmBackboneConfig
from vertebra.backbones.timm_models import module_of
from vertebra.backbones.timm_sizes import FLEXIBLE

SIZES = ((320, 512), (333, 517))
RUNS = ("runs", "runs")
EXPECTED = {  # at 320x512 and at 333x517; classes that are not here run at both as they are
    **dict.fromkeys(
        "CSATv2 DLA Eva HieraDet HighResolutionNet NaFlexVit Qwen3VitClassifier Qwen3VitEncoder SwinTransformer "
        "SwinTransformerV2 TResNet VisionTransformer VisionTransformerDistilled VisionTransformerSAM".split(),
        ("runs", "pad"),
    ),
    **dict.fromkeys("DeepseekVitClassifier DeepseekVitEncoder".split(), ("pad", "pad")),
    "Gemma4VitClassifier": ("runs", "pad"),
    "Gemma4VitEncoder": ("refused", "pad"),  # wants multiples of 48, of which 336x528 happens to be one
    **dict.fromkeys(
        "Beit Cait MlpMixer PoolingVisionTransformer VOLO VisionTransformerRelPos".split(),
        ("image_size", "image_size"),
    ),
    **dict.fromkeys(
        "CoaT EfficientFormerV2 GlobalContextVit Hiera Levit LevitDistilled MaxxVit TNT Visformer".split(),
        ("image_size", "image_size and pad"),
    ),
    **dict.fromkeys("ConVit CrossVit EfficientFormer Nest".split(), ("refused", "refused")),
}
WAYS = {
    "runs": {},
    "pad": {"size_policy": "pad"},
    "image_size": {"image_size": True},
    "image_size and pad": {"image_size": True, "size_policy": "pad"},
}


def on_meta(name: str, **kwargs: object) -> TimmBackbone:
    with torch.device("meta"):
        return AutoBackbone.from_config(TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, **kwargs))


def outcome(name: str, size: tuple[int, int]) -> str:
    """The first way in which images of a size run."""
    for way, kwargs in WAYS.items():
        try:
            if on_meta(name, **{**kwargs, **({"image_size": size} if "image_size" in kwargs else {})}).accepts(*size):
                return way
        except ValueError as error:
            if re.search(r"The nearest size that runs is \d+x\d+", str(error)) is None:
                raise
    return "refused"


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", sorted(SMALLEST))
def test_every_class(kind: str, size: tuple[int, int]) -> None:
    assert outcome(SMALLEST[kind], size) == EXPECTED.get(kind, RUNS)[SIZES.index(size)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(EXPECTED))
def test_a_refusal_names_a_size_that_runs(kind: str) -> None:
    backbone = on_meta(SMALLEST[kind])
    if backbone.accepts(*SIZES[1]):
        return
    near = backbone.nearest_size(*SIZES[1])
    with pytest.raises(ValueError, match=rf"The nearest size that runs is {near[0]}x{near[1]}\b"):
        backbone.output_shapes(*SIZES[1])
    assert backbone.output_shapes(*near)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if module_of(name) in FLEXIBLE])
def test_what_makes_sizes_flexible_leaves_names_shapes_and_the_native_size(name: str) -> None:
    backbone = on_meta(name, prune=False)
    with torch.device("meta"):
        theirs = create_model(name)
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in backbone.state_dict().items()} == shapes
    assert backbone.accepts(*backbone.native_size)
