"""Few graphs under torch.compile, and torch.export, for every native family: outputs equal eager's."""

import copy
import os
import shutil
from typing import Any

import pytest
import torch
from backbone_rows import MAIN, Row, run
from oracle import close, perturb

from vertebra import AutoBackbone, Backbone, ResNetConfig, SwinConfig, TimmBackboneConfig

CONFIGS = [
    SwinConfig(embed_dim=12, depths=[1, 2], num_heads=[1, 2], window_size=4, out_indices=[1, 2]),
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_indices=[1, 2]),
    TimmBackboneConfig("test_resnet", use_pretrained_backbone=False, out_indices=[1, 2]),
]
OTHERS = {name: row for name, row in MAIN.items() if row.module not in {config.model_type for config in CONFIGS}}
BATCHES = (1, 2, 3, 4, 5, 8, 17)
FURTHER = ((96, 64), (37, 51))


class Counting:
    """A backend of torch.compile that counts the graphs it is given and leaves them to another."""

    def __init__(self, backend: str) -> None:
        self.graphs = 0
        self.backend = torch._dynamo.lookup_backend(backend)

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return self.backend(graph, inputs)


def assert_few_graphs(config: Any, grad: bool, policy: str | None, backend: str, tol: float) -> None:
    """Three graphs at most for all batches of one size, and one more for each further size.

    Torch itself keeps single images apart at every size, so these count once more where they come as well.
    """
    torch._dynamo.reset()
    config = copy.deepcopy(config)
    config.size_policy = policy
    backbone = perturb(AutoBackbone.from_config(config)).eval()
    counting = Counting(backend)
    compiled = torch.compile(backbone, fullgraph=True, backend=counting)

    def graphs(batches: tuple[int, ...], height: int, width: int) -> int:
        before = counting.graphs
        for batch in batches:
            pixels = torch.randn(batch, 3, height, width)
            with torch.set_grad_enabled(grad):
                close(compiled(pixels).feature_maps, backbone(pixels).feature_maps, tol)
        return counting.graphs - before

    assert 1 <= graphs(BATCHES, 64, 64) <= 3
    for size in FURTHER:
        assert graphs((5, 2, 8), *size) <= 1
    assert graphs((1,), *FURTHER[-1]) <= 1
    assert graphs(BATCHES, 64, 64) == 0


@pytest.fixture(params=CONFIGS, ids=lambda config: config.model_type)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch._dynamo.reset()
    return perturb(AutoBackbone.from_config(request.param)).eval()


@pytest.mark.parametrize("row", OTHERS.values(), ids=OTHERS.keys())
def test_every_other_family_is_one_graph(row: Row) -> None:
    torch._dynamo.reset()
    backbone, pixels = row.build(), row.pixels()
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    close(run(compiled, pixels).feature_maps, run(backbone, pixels).feature_maps)


@pytest.mark.parametrize("row", OTHERS.values(), ids=OTHERS.keys())
def test_every_other_family_is_exported(row: Row) -> None:
    backbone = row.build(out_indices=[row.first, 2])  # the last stage takes as long as the others together
    batch = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    exported = torch.export.export(backbone, (row.pixels(),), dynamic_shapes=batch).module()
    for count in (1, 3):
        pixels = row.pixels(batch=count)
        close(run(exported, pixels).feature_maps, run(backbone, pixels).feature_maps)


def test_compiles_to_one_graph(backbone: Backbone) -> None:
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    for batch, height, width in ((2, 64, 64), (3, 64, 64), (1, 37, 51)):
        pixels = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            close(compiled(pixels).feature_maps, backbone(pixels).feature_maps)


@pytest.mark.slow
@pytest.mark.parametrize(("grad", "policy"), [(False, None), (True, "pad")])
@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda config: config.model_type)
def test_few_graphs(config: Any, grad: bool, policy: str | None) -> None:
    assert_few_graphs(config, grad, policy, "eager", tol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda config: config.model_type)
def test_few_graphs_of_inductor(config: Any, grad: bool) -> None:
    compiler = os.environ.get("CXX", "g++")
    assert shutil.which(compiler), f"inductor needs a C++ compiler, and there is no {compiler}: install g++ or set CXX"
    assert_few_graphs(config, grad, None, "inductor", tol=1e-4)


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
