"""`find`: each condition against the rows themselves, errors that teach, and nothing heavy imported."""

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from vertebra import find
from vertebra.inspection.find import LICENCE_GROUPS, ask
from vertebra.inspection.table import SHIPPED, Table, Traits, Weights, read_table

ROWS = read_table(SHIPPED).rows


def names(**conditions: Any) -> set[str]:
    return {found.name for found in find(**conditions)}


def expected(condition: Any) -> set[str]:
    chosen = {row.name for row in ROWS if condition(row)}
    assert 0 < len(chosen) < len(ROWS), "a condition that all or none fulfil tests nothing"
    return chosen


@pytest.mark.parametrize(
    ("conditions", "condition"),
    [
        ({"text": "convnext"}, lambda row: "convnext" in row.name + row.family + row.class_name.lower()),
        ({"text": "VIT tiny"}, lambda row: "tiny" in row.name and "vit" in row.name + row.family + row.class_name.lower()),
        ({"text": "resnet1*"}, lambda row: row.name.startswith("resnet1")),
        ({"strides": (4, 8, 16, 32)}, lambda row: {4, 8, 16, 32} <= set(row.strides)),
        ({"strides": 14}, lambda row: 14 in row.strides),
        ({"min_params": 3e8}, lambda row: row.parameters >= 3e8),
        ({"max_params": 5e6}, lambda row: row.parameters <= 5e6),
        ({"max_flops": 1e9}, lambda row: row.flops is not None and row.flops <= 1e9),
        ({"any_size": True}, lambda row: row.sizes in ("any", "multiple")),
        ({"any_size": False}, lambda row: row.sizes in ("fixed", "restricted")),
        ({"size": 240}, lambda row: runs_at_240(row)),
        ({"licence": "mit"}, lambda row: "mit" in {each.licence for each in row.weights}),
        ({"licence": ["MIT", "cc-by-4.0"]}, lambda row: {"mit", "cc-by-4.0"} & {each.licence for each in row.weights}),
        ({"licence": "commercial"}, lambda row: {*LICENCE_GROUPS["commercial"]} & {each.licence for each in row.weights}),
        ({"dilation": 8}, lambda row: 8 in row.dilation),
        ({"attention": "windowed"}, lambda row: "windowed" in row.attention),
        ({"attention": "none"}, lambda row: row.attention == ()),
        ({"norm": "batch"}, lambda row: "batch" in row.norms),
        ({"norm": "none"}, lambda row: row.norms == ()),
        ({"prefix_tokens": 5}, lambda row: row.prefix_tokens == 5),
        ({"patch_size": 14}, lambda row: row.patch_size == 14),
        ({"pretrained": True}, lambda row: len(row.weights) > 0),
        ({"pretrained": False}, lambda row: len(row.weights) == 0),
        ({"channels": (96, 192, 384, 768)}, lambda row: is_subsequence((96, 192, 384, 768), row.channels)),
        (
            {"attention": "windowed", "max_params": 3e7, "licence": "mit"},
            lambda row: "windowed" in row.attention and row.parameters <= 3e7 and "mit" in {w.licence for w in row.weights},
        ),
    ],
    ids=lambda part: str(part) if isinstance(part, dict) else "",
)  # fmt: skip
def test_each_condition(conditions: dict[str, Any], condition: Any) -> None:
    assert names(**conditions) == expected(condition)


def runs_at_240(row: Traits) -> bool:
    if row.sizes == "multiple":
        return 240 % row.size_divisor == 0 or row.native_size == (240, 240)
    return row.sizes == "any" or row.native_size == (240, 240)


def is_subsequence(wanted: tuple[int, ...], widths: tuple[int, ...]) -> bool:
    position = -1
    for width in wanted:
        if width not in widths[position + 1 :]:
            return False
        position = widths.index(width, position + 1)
    return True


def test_the_deepest_stage_of_each_stride_is_selected() -> None:
    (found,) = find("vit_base_patch16_224")[:1] and [
        f for f in find("vit_base_patch16_224") if f.name == "vit_base_patch16_224"
    ]
    assert (found.stages, found.strides, found.channels) == (("blocks.11",), (16,), (768,))
    (resnet,) = [f for f in find("resnet50", strides=(8, 32)) if f.name == "resnet50"]
    assert (resnet.stages, resnet.channels) == (("layer2", "layer4"), (512, 2048))
    assert resnet.as_dict()["selected"] == {"stages": ("layer2", "layer4"), "strides": [8, 32], "channels": (512, 2048)}


def test_channels_belong_to_the_strides_asked_for() -> None:
    assert "resnet50" in names(strides=(4, 8), channels=(256, 512))
    assert "resnet50" not in names(strides=(4, 8), channels=(512, 1024))
    assert "resnet50" in names(channels=1024)


def test_weights_are_those_under_the_licence() -> None:
    everything = {f.name: f for f in find("swin_base")}["swin_base_patch4_window7_224"]
    assert everything.weights == everything.traits.weights
    (found,) = find("convnextv2_tiny", licence="cc-by-nc-4.0")
    assert {each.licence for each in found.weights} == {"cc-by-nc-4.0"} == set(found.licences)


def test_order_and_limit() -> None:
    params = [found.traits.parameters for found in find("resnet", limit=5)]
    assert params == sorted(params)
    assert len(params) == 5
    flops = [found.traits.flops for found in find(sort="flops")]
    known = [value for value in flops if value is not None]
    assert flops[: len(known)] == sorted(known)
    assert [found.name for found in find("resnet", sort="name")] == sorted(names(text="resnet"))
    assert find("no such thing at all") == []


def test_strides_that_are_no_whole_numbers() -> None:
    assert {"crossvit_tiny_240"} <= names(strides=(12, Fraction(120, 7)))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"attention": "windowd"}, r"attention='windowd' is not known\. Did you mean 'windowed'\? Known are global, windowed"),
        ({"norm": "bath"}, r"norm='bath' is not known\. Did you mean 'batch'"),
        ({"licence": "apache"}, r"licence='apache' is not known\. Did you mean 'apache-2\.0'\? Known are commercial, apache-2\.0"),
        ({"licence": ("mit", "gpl")}, r"licence='gpl' is not known"),
        ({"sort": "param"}, r"sort='param' is not known\. Did you mean 'params'\? Known are params, flops, name"),
        ({"dilation": 4}, r"dilation=4 is not known\. Known are 8, 16"),
        ({"strides": (32, 8)}, r"strides=\(32, 8\) must ascend, each once; write strides=\(8, 32\)"),
        ({"strides": "4,8"}, r"strides='4,8' must be strides in pixels, such as \(4, 8, 16, 32\)"),
        ({"strides": ()}, r"strides=\(\) must be strides"),
        ({"strides": (0, 4)}, r"strides=\(0, 4\) must be strides"),
        ({"channels": (0,)}, r"channels=\(0,\) must be numbers of channels"),
        ({"size": (224,)}, r"size=\(224,\) must be \(height, width\) in pixels"),
        ({"max_params": "30M"}, r"max_params='30M' must be a number of at least 0"),
        ({"max_flops": -1}, r"max_flops=-1 must be a number of at least 0"),
        ({"max_params": float("nan")}, r"max_params=nan must be a number"),
        ({"min_params": 5, "max_params": 4}, r"min_params=5 is more than max_params=4"),
        ({"limit": 0}, r"limit=0 must be a whole number of at least 1, or None for all"),
    ],
)  # fmt: skip
def test_errors_teach(conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(**conditions)


def test_an_argument_that_does_not_exist() -> None:
    with pytest.raises(TypeError, match="stride"):
        find(stride=4)  # type: ignore[call-arg]


def test_what_is_unknown_fulfils_no_condition() -> None:
    known = ROWS[0]
    unknown = replace(known, attention=None, flops=None, sizes=None)
    table = Table("1", (unknown,), {}, Path())
    for condition in ({"attention": "none"}, {"max_flops": 1e18}, {"any_size": True}, {"any_size": False}):
        assert ask(table, **condition).run(table) == []
    assert len(ask(table).run(table)) == 1


def test_what_each_condition_excludes() -> None:
    def row(name: str, parameters: int, licence: str) -> Traits:
        return replace(ROWS[0], name=name, parameters=parameters, weights=(Weights("", licence, None, None, None),))

    table = Table("1", (row("a", 1, "mit"), row("b", 5, "mit"), row("c", 9, "apache-2.0")), {}, Path())
    query = ask(table, max_params=4, licence="apache-2.0")
    assert query.run(table) == []
    assert query.excluded(table) == {"max_params": (2, 1), "licence": (2, 1)}
    assert ask(table, max_params=4).excluded(table) == {"max_params": (2, 3)}


def test_another_timm_warns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path))
    monkeypatch.setattr("vertebra.inspection.table.version", lambda name: "9.9")
    with pytest.warns(UserWarning, match=r"timm 9\.9 is installed; `vertebra find --rebuild` makes one for it"):
        assert find("resnet50")


@pytest.mark.parametrize(
    "code",
    [
        "import sys, vertebra; assert vertebra.find(strides=(4, 8, 16, 32), any_size=True)",
        "import sys; from vertebra.cli import main; assert main(['find', '--strides', '4,8,16,32', '--json']) == 0",
    ],
)
def test_neither_torch_nor_timm_is_imported(code: str) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}; print('\\nloaded', *sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.rpartition("\nloaded")[2]
    assert not {"torch", "timm", "torchvision", "numpy", "huggingface_hub"} & set(loaded.split())
