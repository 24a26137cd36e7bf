"""One graph under torch.compile, and torch.export, for every native family: outputs equal eager's."""

import pytest
import torch
from oracle import close, perturb

from vertebra import AutoBackbone, Backbone, ResNetConfig, SwinConfig, TimmBackboneConfig

CONFIGS = [
    SwinConfig(embed_dim=12, depths=[1, 2], num_heads=[1, 2], window_size=4, out_indices=[1, 2]),
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_indices=[1, 2]),
    TimmBackboneConfig("test_resnet", use_pretrained_backbone=False, out_indices=[1, 2]),
]


@pytest.fixture(params=CONFIGS, ids=lambda config: config.model_type)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch._dynamo.reset()
    return perturb(AutoBackbone.from_config(request.param)).eval()


def test_compiles_to_one_graph(backbone: Backbone) -> None:
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    for batch, height, width in ((2, 64, 64), (3, 64, 64), (1, 37, 51)):
        pixels = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            close(compiled(pixels).feature_maps, backbone(pixels).feature_maps)


def test_frozen_backbones_compile(backbone: Backbone) -> None:
    backbone.freeze(backbone.stage_names[1])
    compiled = torch.compile(backbone.train(), fullgraph=True, backend="eager")
    pixels = torch.randn(2, 3, 64, 64)
    close(compiled(pixels).feature_maps[0], backbone(pixels).feature_maps[0])


def test_exports_and_survives_a_file(backbone: Backbone, tmp_path) -> None:
    pixels = torch.randn(2, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(backbone, (pixels,), dynamic_shapes={"pixel_values": {0: batch}})
    torch.export.save(exported, tmp_path / "backbone.pt2")
    loaded = torch.export.load(tmp_path / "backbone.pt2").module()
    for count in (1, 5):
        more = torch.randn(count, 3, 64, 64)
        close(loaded(more).feature_maps, tuple(level.detach() for level in backbone(more).feature_maps))
