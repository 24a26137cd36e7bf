"""The linear probe against its definition; what is frozen stays so through training, saving and loading."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backbone_rows import everywhere
from oracle import close, perturb, same
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from vertebra import AutoBackbone, AutoModelForSemanticSegmentation, ResNetConfig, SwinConfig, TimmBackboneConfig
from vertebra.heads.linear_probe.config import LinearProbeConfig
from vertebra.heads.linear_probe.model import LinearProbeForSemanticSegmentation

RESNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 32, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
VIT = TimmBackboneConfig("test_vit", use_pretrained_backbone=False, out_indices=[-3, -1])


def probe(below: Any = None, **kwargs: Any) -> LinearProbeForSemanticSegmentation:
    below = ResNetConfig(**RESNET, out_indices=[1, 2, 4]) if below is None else below
    return LinearProbeForSemanticSegmentation(LinearProbeConfig(backbone_config=below, num_labels=5, **kwargs))


def batch(size: tuple[int, int] = (64, 96), count: int = 2) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(count, 3, *size), "labels": torch.randint(0, 5, (count, *size))}


def written_out(model: LinearProbeForSemanticSegmentation, pixels: Tensor) -> Tensor:
    """Resize, concatenate, norm by running statistics, one linear layer at every cell, resize (sizes that divide evenly)."""
    maps = model.backbone(pixels).feature_maps
    x = torch.cat([F.interpolate(each, maps[0].shape[-2:], mode="bilinear") for each in maps], 1)
    head = {
        name: tensor[:, None, None] if tensor.ndim == 1 else tensor
        for name, tensor in model.decode_head.state_dict().items()
    }
    x = (x - head["batch_norm.running_mean"]) / (head["batch_norm.running_var"] + 1e-5).sqrt()
    x = x * head["batch_norm.weight"] + head["batch_norm.bias"]
    x = torch.einsum("oc,bchw->bohw", head["classifier.weight"][:, :, 0, 0], x) + head["classifier.bias"]
    return F.interpolate(x, pixels.shape[-2:], mode="bilinear")


@pytest.mark.parametrize(
    "below", [None, ResNetConfig(**RESNET), VIT], ids=["three maps", "last map", "two maps of one stride"]
)
@torch.no_grad()
def test_equals_its_definition(below: Any) -> None:
    model = perturb(probe(below)).double().eval()
    pixels = torch.randn(2, 3, 160, 160, dtype=torch.float64)
    close(model(pixels).logits, written_out(model, pixels), tol=1e-10)


@torch.no_grad()
def test_cells_stay_where_they_are_at_odd_sizes() -> None:
    model = perturb(probe()).eval()
    pixels = torch.randn(1, 3, 70, 90)
    maps = model.backbone(pixels).feature_maps
    assert [tuple(x.shape[-2:]) for x in maps] == [(18, 23), (9, 12), (3, 3)]
    x = torch.cat(
        [
            F.interpolate(each, scale_factor=ratio, mode="bilinear")[..., :18, :23]
            for each, ratio in zip(maps, (1, 2, 8), strict=True)
        ],
        1,
    )
    x = model.decode_head.classifier(model.decode_head.batch_norm(x))
    close(model(pixels).logits, F.interpolate(x, scale_factor=4, mode="bilinear")[..., :70, :90])


def test_only_the_head_learns() -> None:
    below = SwinConfig(
        embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=3, drop_path_rate=0.5, hidden_dropout_prob=0.5
    )
    for config in (below, ResNetConfig(**RESNET), VIT):
        model = probe(config).train()
        everywhere(model)
        before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        inputs = batch((160, 160))
        losses = []
        for _ in range(2):
            loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[1] < losses[0]
        assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
            f"decode_head.{name}"
            for name in ("batch_norm.weight", "batch_norm.bias", "classifier.weight", "classifier.bias")
        }
        for name, tensor in model.backbone.state_dict().items():
            same(tensor, before[name], name)


def test_frozen_or_not_is_said_once_and_kept(tmp_path: Path) -> None:
    model = probe()
    model.save_pretrained(tmp_path / "frozen")
    saved = json.loads((tmp_path / "frozen/config.json").read_text())
    assert saved["freeze_backbone"] is True
    assert "freeze" not in saved["backbone_config"].get("vertebra", {})
    load = LinearProbeForSemanticSegmentation.from_pretrained
    assert trainable(load(tmp_path / "frozen")) == {"decode_head"}
    assert trainable(load(tmp_path / "frozen", freeze_backbone=False)) == {"decode_head", "backbone"}
    model.backbone.unfreeze()
    model.save_pretrained(tmp_path / "free")
    assert trainable(load(tmp_path / "free")) == {"decode_head", "backbone"}
    model.backbone.freeze("stage2")
    model.save_pretrained(tmp_path / "partly")
    back = load(tmp_path / "partly")
    assert trainable(back) == {"decode_head", "backbone"}
    assert back.backbone.config.freeze == "stage2"
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        same(back(x).logits, model.eval()(x).logits)


def trainable(model: LinearProbeForSemanticSegmentation) -> set[str]:
    return {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_an_unfrozen_backbone_learns_too() -> None:
    model = probe(freeze_backbone=False)
    model(**batch()).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_built_backbone_keeps_its_weights_and_selection(tmp_path: Path) -> None:
    backbone = perturb(AutoBackbone.from_config(ResNetConfig(**RESNET, out_indices=[2, 3])))
    model = LinearProbeForSemanticSegmentation(LinearProbeConfig(num_labels=5), backbone=backbone)
    assert model.backbone is backbone
    assert model.decode_head.classifier.in_channels == 16 + 32
    model.eval().save_pretrained(tmp_path)
    back = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert isinstance(back, LinearProbeForSemanticSegmentation)
    inputs = batch()
    with torch.no_grad():
        same(back(**inputs).to_tuple(), model(**inputs).to_tuple())


def test_no_map_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="reads the maps that are selected, and nothing is"):
        probe(ResNetConfig(**RESNET, out_indices=[]))


def test_outputs_and_flags() -> None:
    model = probe(SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=3)).eval()
    with torch.no_grad():
        output = model(**batch(), output_hidden_states=True, output_attentions=True)
    assert list(output) == ["loss", "logits", "hidden_states", "attentions"]
    assert output.logits.shape == (2, 5, 64, 96)


def test_compiles_to_one_graph() -> None:
    torch._dynamo.reset()
    model = perturb(probe()).eval()
    counting = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counting)
    for count in (2, 3):
        inputs = batch(count=count)
        for tensor in inputs.values():
            torch._dynamo.mark_dynamic(tensor, 0)
        with torch.no_grad():
            close(compiled(**inputs).to_tuple(), model(**inputs).to_tuple())
    assert counting.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 96), (70, 90)])
def test_onnx_runtime_agrees(size: tuple[int, int], tmp_path: Path) -> None:
    import onnxruntime

    model = perturb(probe()).eval()
    torch.onnx.export(
        model,
        (torch.randn(2, 3, *size),),
        tmp_path / "probe.onnx",
        dynamo=True,
        verbose=False,
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=16)}},
    )
    session = onnxruntime.InferenceSession(tmp_path / "probe.onnx", providers=["CPUExecutionProvider"])
    pixels = torch.randn(3, 3, *size)
    (actual,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    with torch.no_grad():
        close(torch.from_numpy(actual), model(pixels).logits, tol=1e-4)


def test_a_configuration_survives_its_dictionary() -> None:
    config = probe().config
    assert "vertebra" not in config.to_dict()["backbone_config"]
    assert LinearProbeConfig.from_dict(config.to_dict()) == config


def test_a_neck_that_would_change_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="neck='fpn' changes nothing for LinearProbeConfig"):
        LinearProbeConfig(neck="fpn")
