"""The facts against papers, and the shipped table against the architectures it was made from."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm_names import SMALLEST

from vertebra import AutoConfig, ResNetBackbone, ResNetConfig, SwinBackbone, SwinConfig
from vertebra.auto.backbone import AutoBackbone
from vertebra.environment import import_timm
from vertebra.inspection import make_table
from vertebra.inspection.cost import cost
from vertebra.inspection.dataflow import observe
from vertebra.inspection.facts import NoDraws
from vertebra.inspection.find import ATTENTION, LICENCE_GROUPS, NORMS
from vertebra.inspection.make_table import inspect, main, names_of_all
from vertebra.inspection.table import (
    FORMAT,
    SHIPPED,
    Traits,
    cached_path,
    installed_timm,
    load_table,
    read_table,
    write_table,
)
from vertebra.inspection.traits import traits

TABLE = {row.name: row for row in read_table(SHIPPED).rows}
PYRAMID, FIVE = (4, 8, 16, 32), (2, 4, 8, 16, 32)

# name: strides, channels of the last stage, attention, positions, norms, prefix tokens, patch size; from the papers
PAPERS: dict[str, tuple[Any, ...]] = {
    "resnet50": (FIVE, 2048, "", "", "batch", 0, None),
    "resnetv2_50x1_bit": (FIVE, 2048, "", "", "group", 0, None),
    "vgg16": ((1, 2, 4, 8, 16, 32), 512, "", "", "", 0, None),
    "densenet121": (FIVE, 1024, "", "", "batch", 0, None),
    "regnety_032": (FIVE, 1512, "", "", "batch", 0, None),
    "efficientnet_b0": (FIVE, 320, "", "", "batch", 0, None),
    "nfnet_f0": (FIVE, 3072, "", "", "", 0, None),
    "convnext_tiny": (PYRAMID, 768, "", "", "layer", 0, 4),
    "convnextv2_tiny": (PYRAMID, 768, "", "", "layer response", 0, 4),
    "hrnet_w32": (FIVE, 1024, "", "", "batch", 0, None),
    "mixer_b16_224": ((16,) * 12, 768, "", "", "layer", 0, 16),
    "swin_tiny_patch4_window7_224": (PYRAMID, 768, "windowed", "relative", "layer", 0, 4),
    "swinv2_tiny_window8_256": (PYRAMID, 768, "windowed", "relative", "layer", 0, 4),
    "maxvit_tiny_tf_224": (FIVE, 512, "windowed", "relative", "batch layer", 0, None),
    "pvt_v2_b2": (PYRAMID, 512, "global", "", "layer", 0, None),
    "mvitv2_tiny": (PYRAMID, 768, "global", "relative", "layer", 0, None),
    "hiera_tiny_224": (PYRAMID, 768, "global windowed", "absolute", "layer", 0, None),
    "davit_tiny": (PYRAMID, 768, "linear windowed", "", "layer", 0, None),
    "twins_svt_small": (PYRAMID, 512, "global windowed", "", "layer", 0, 4),
    "efficientvit_b1": (PYRAMID, 256, "linear", "", "batch", 0, None),
    "xcit_small_12_p16_224": ((16,) * 12, 384, "linear", "absolute", "batch layer", 0, None),
    "volo_d1_224": ((8, 16, 16, 16), 384, "global windowed", "absolute", "batch layer", 0, None),
    "vit_base_patch16_224": ((16,) * 12, 768, "global", "absolute", "layer", 1, 16),
    "deit_tiny_distilled_patch16_224": ((16,) * 12, 192, "global", "absolute", "layer", 2, 16),
    "vit_small_patch14_dinov2": ((14,) * 12, 384, "global", "absolute", "layer", 1, 14),
    "vit_small_patch14_reg4_dinov2": ((14,) * 12, 384, "global", "absolute", "layer", 5, 14),
    "vit_small_patch16_dinov3": ((16,) * 12, 384, "global", "rotary", "layer", 5, 16),
    "eva02_tiny_patch14_224": ((14,) * 12, 192, "global", "absolute rotary", "layer", 1, 14),
    "beit_base_patch16_224": ((16,) * 12, 768, "global", "relative", "layer", 1, 16),
    "samvit_base_patch16": ((16,) * 12, 768, "global windowed", "absolute relative", "layer", 0, 16),
    "levit_128s": ((16, 32, 64), 384, "global", "relative", "batch", 0, None),
    "tnt_s_patch16_224": ((16,) * 12, 384, "global windowed", "absolute", "layer", 1, None),
    "botnet26t_256": (FIVE, 2048, "global", "relative", "batch", 0, None),
    "halonet26t": (FIVE, 2048, "windowed", "relative", "batch", 0, None),
    "mobilevitv2_100": (FIVE, 512, "linear", "", "batch group", 0, None),
    "swin": (PYRAMID, 768, "windowed", "relative", "layer", 0, 4),
    "resnet": (PYRAMID, 2048, "", "", "batch", 0, None),
}


@pytest.mark.parametrize("name", PAPERS)
def test_what_papers_say(name: str) -> None:
    row, (strides, channels, attention, positions, norms, prefix, patch) = TABLE[name], PAPERS[name]
    steps = tuple(stride for stride in row.strides if row.library == "timm" or stride >= 4)
    assert steps[-len(strides) :] == strides
    assert row.channels[-1] == channels
    assert " ".join(row.attention or ()) == attention
    assert " ".join(row.positions or ()) == positions
    assert " ".join(row.norms) == norms
    assert row.prefix_tokens == prefix
    assert row.patch_size == patch


@pytest.mark.parametrize(
    ("name", "gmacs", "head"),  # of the whole network as published, and the multiply-adds of its classifier
    [
        ("resnet50", 4.11, 2048 * 1000),
        ("vit_base_patch16_224", 17.58, 768 * 1000),
        ("swin_tiny_patch4_window7_224", 4.51, 768 * 1000),
        ("convnext_tiny", 4.47, 768 * 1000),
        ("efficientnet_b0", 0.39, (320 * 49 + 1000) * 1280),
        ("swin", 4.51, 768 * 1000),
        ("resnet", 4.11, 2048 * 1000),
    ],
)
def test_flops_are_twice_the_published_multiply_adds(name: str, gmacs: float, head: int) -> None:
    assert TABLE[name].flops == pytest.approx(2 * (gmacs * 1e9 - head), rel=0.03)


@pytest.mark.parametrize(
    ("name", "beyond"),  # what stands after the last stage
    [
        ("resnet50", ("fc",)),
        ("vit_base_patch16_224", ("norm", "head")),
        ("swin_tiny_patch4_window7_224", ("norm", "head")),
        ("convnext_tiny", ("head",)),
        ("efficientnet_b0", ("conv_head", "bn2", "classifier")),
    ],
)
def test_parameters_are_those_of_timm_without_what_follows_the_last_stage(name: str, beyond: tuple[str, ...]) -> None:
    with torch.device("meta"), NoDraws():
        model = import_timm().create_model(name)
    counted = [tensor.numel() for key, tensor in model.named_parameters() if key.partition(".")[0] not in beyond]
    assert TABLE[name].parameters == sum(counted)


def test_flops_of_a_native_backbone_are_the_closed_form() -> None:
    config = ResNetConfig(embedding_size=4, hidden_sizes=[8], depths=[1], layer_type="basic", out_indices=[0, 1])
    stem = 32 * 48 * 4 * 3 * 49  # 7x7 at stride 2
    shortcut = 16 * 24 * 8 * 4  # 1x1, after the pooling
    block = 16 * 24 * 8 * (4 * 9 + 8 * 9)
    backbone = ResNetBackbone(config)
    assert observe(backbone.twin(), 64, 96).flops == 2 * (stem + shortcut + block)
    assert cost(backbone, 64, 96).flops == 2 * (stem + shortcut + block)
    with pytest.raises(ValueError, match="no pixels"):
        observe(backbone.twin(), 0, 96)


def test_the_selection_changes_nothing_and_weights_are_no_part() -> None:
    config = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "image_size": 32}
    found = traits(SwinBackbone(SwinConfig(**config, out_indices=(1,))))
    assert found == traits(SwinBackbone(SwinConfig(**config, out_indices=(0, 1, 2), size_policy="pad")))
    assert found.stages == ("stem", "stage1", "stage2")
    assert found.weights == ()
    assert (found.name, found.library, found.sizes) == ("swin", "vertebra", "any")


# The shipped table


def test_the_table_is_for_the_timm_that_is_installed_and_complete() -> None:
    table, stale = load_table()
    assert (table.timm, stale) == (installed_timm(), ""), "python -m vertebra.inspection.make_table makes it again"
    assert {row.name for row in table.rows} == set(names_of_all())
    assert dict(table.failed) == {}
    assert SHIPPED.stat().st_size < 500_000


def test_the_table_uses_the_words_that_find_knows() -> None:
    for row in TABLE.values():
        assert {*(row.attention or ())} <= {*ATTENTION}, row.name
        assert {*row.norms} <= {*NORMS} - {"other"}, row.name
        assert row.sizes in ("any", "multiple", "restricted", "fixed", None), row.name
        assert len(row.stages) == len(row.channels) == len(row.strides) > 0
    licences = {weights.licence for row in TABLE.values() for weights in row.weights}
    assert set(LICENCE_GROUPS["commercial"]) <= licences


def test_what_is_unknown_is_none_and_rare() -> None:
    unknown = {row.name for row in TABLE.values() if None in (row.flops, row.sizes)}
    assert unknown == {name for name in TABLE if name.startswith("gemma4")}
    assert [row.name for row in TABLE.values() if row.attention is None] == []


REBUILT = [
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_byobnet",
    "test_efficientnet",
    "vgg11",
    "swin_tiny_patch4_window7_224",
    "deit_tiny_distilled_patch16_224",
    "efficientvit_b0",
    "pit_ti_224",
    "swin",
    "resnet",
]


@pytest.mark.parametrize("name", REBUILT)
def test_a_row_made_again_is_the_same(name: str) -> None:
    assert inspect(name) == TABLE[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(SMALLEST.values()) - set(REBUILT)))
def test_a_row_of_every_class_made_again_is_the_same(name: str) -> None:
    assert inspect(name) == TABLE[name]


def test_licences_are_those_of_the_tag() -> None:
    weights = {each.tag: each for each in TABLE["convnextv2_atto"].weights}
    assert weights["fcmae_ft_in1k"].licence == "cc-by-nc-4.0"
    assert weights["fcmae_ft_in1k"].where == "timm/convnextv2_atto.fcmae_ft_in1k"
    assert (weights["fcmae_ft_in1k"].classes, weights["fcmae_ft_in1k"].input_size) == (1000, (224, 224))
    assert TABLE["vit_small_patch16_dinov3"].weights[0].licence == "dinov3-license"
    assert TABLE["vit_base_patch16_224"].weights[0].tag == "augreg2_in21k_ft_in1k", "the default comes first"
    assert TABLE["test_mambaout"].weights == ()


# Files


def rows() -> list[Traits]:
    return [TABLE["crossvit_tiny_240"], TABLE["resnet50"], TABLE["swin"]]


def test_a_table_is_read_as_it_was_written_and_has_the_same_bytes(tmp_path: Path) -> None:
    for name, order in (("a.json.gz", rows()), ("b.json.gz", rows()[::-1])):
        write_table(tmp_path / name, "9.9", order, {"broken": "ValueError: no"})
    table = read_table(tmp_path / "a.json.gz")
    assert {row.name: row for row in table.rows} == {row.name: row for row in rows()}
    assert (table.timm, dict(table.failed)) == ("9.9", {"broken": "ValueError: no"})
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    assert json.loads(json.dumps(rows()[0].as_dict()))["strides"][-1] == "120/7"


@pytest.mark.parametrize("content", [b"", b"no gzip", SHIPPED.read_bytes()[:1000]])
def test_a_damaged_table_says_how_to_make_it_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.json.gz").write_bytes(content)
    with pytest.raises(OSError, match=r"t\.json\.gz' cannot be read: .* `vertebra find --rebuild` makes it again"):
        read_table(tmp_path / "t.json.gz")


def test_another_timm_has_a_table_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path))
    monkeypatch.setattr("vertebra.inspection.table.version", lambda name: "9.9")
    table, stale = load_table()
    assert table.path == SHIPPED
    assert f"for timm {table.timm}, and timm 9.9 is installed; `vertebra find --rebuild`" in stale
    write_table(cached_path("9.9"), "9.9", rows(), {})
    assert cached_path("9.9").parent == tmp_path
    assert str(FORMAT) in cached_path("9.9").name
    table, stale = load_table()
    assert (table.timm, len(table.rows), stale) == ("9.9", 3, "")


def test_what_cannot_be_inspected_is_in_the_table_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def two() -> Iterable[str]:
        return ["test_resnet", "no_such_architecture"]

    monkeypatch.setattr(make_table, "names_of_all", two)
    assert main(["--out", str(tmp_path / "t.json.gz"), "--processes", "1"]) == 1
    table = read_table(tmp_path / "t.json.gz")
    assert [row.name for row in table.rows] == ["test_resnet"]
    assert "timm has no architecture 'no_such_architecture'" in table.failed["no_such_architecture"]
    printed = capsys.readouterr()
    assert printed.out.startswith("1 rows in ")
    assert "FAILED no_such_architecture: ValueError" in printed.err
    assert main(["--processes", "0"]) == 2


def test_necks_have_no_row() -> None:
    assert "vertebra_fpn" not in names_of_all()
    assert AutoBackbone.from_config(AutoConfig.for_model("resnet", depths=[1] * 4)).config.model_type in names_of_all()
