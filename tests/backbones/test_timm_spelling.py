"""Names of timm parameters as transformers 5 writes them, for every kind of feature extractor that timm has."""

import pytest
import torch
import transformers
from timm_names import SMALLEST

from vertebra import TimmBackbone, TimmBackboneConfig
from vertebra.backbones.timm_spelling import wrapped_spelling

KINDS = (
    "ConvNeXt",
    "ResNet",
    "VisionTransformer",
    "EfficientNet",
    "SwinTransformer",
    "ByobNet",
    "PyramidVisionTransformerV2",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [True, False])
def test_names_are_those_of_transformers(kind: str, every: bool) -> None:
    name = SMALLEST[kind]
    with torch.device("meta"):
        levels = len(TimmBackbone(TimmBackboneConfig(name)).stages)
        indices = list(range(levels)) if every else [levels - 1]
        ours = TimmBackbone(TimmBackboneConfig(name, out_indices=indices)).state_dict()
        theirs = transformers.TimmBackbone(
            transformers.TimmBackboneConfig(backbone=name, out_indices=indices)
        ).state_dict()
    spelling = wrapped_spelling(name, ours, indices)
    assert set(spelling) == set(ours)
    assert len(set(spelling.values())) == len(ours)
    assert set(spelling.values()) <= set(theirs)
    for own, other in spelling.items():
        assert ours[own].shape == theirs[other].shape
