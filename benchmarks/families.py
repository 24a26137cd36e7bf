"""The table of native families, `docs/families.md`: what each is, and how fast it runs beside transformers.

A family is a row of `NETWORKS`. What transformers' side of it is, also where that has no Backbone, is what `tests/families`
says for the parity tests.

Run: python benchmarks/families.py --write (or `make families`); `--only swin vit` measures some and writes nothing.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch

from vertebra import AutoBackbone, AutoConfig
from vertebra.auto.registry import FAMILIES, NECKS, TIMM, WRAPPER, model_class
from vertebra.backbones.base import Backbone
from vertebra.backbones.recipes import DENSE
from vertebra.stages import stride_text

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "families.md"
TOLERANCE = 1e-4
NOISE = 0.02
"""Standard deviation of what is added to all weights, so that none keeps a value at which a mistake would not show."""


@dataclass(frozen=True)
class Network:
    """A row of the table: a published network of a family.

    Args:
        model_types: The family's row in the registry, then those of whole models that the same backbone is read from.
        checkpoints: Names on the hub; the network is the first one's.
        kwargs: What its configuration has that is not the default.
        size: Side of the image it is run with, in pixels.
        inside: Whether the checkpoints are those of models around it.
    """

    model_types: tuple[str, ...]
    checkpoints: tuple[str, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    size: int = 224
    inside: bool = False

    @property
    def name(self) -> str:
        """The family's `model_type`."""
        return self.model_types[0]

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone with every stage that can be selected, on the meta device."""
        config = AutoConfig.for_model(self.name, **self.kwargs)
        cls = model_class(type(config), "backbone", "AutoBackbone")
        config.out_indices = range(cls.first_map, len(config.stage_names))
        with torch.device("meta"):
            return cls(config)

    @property
    def classes(self) -> list[str]:
        """Names of the public classes, the Backbone first."""
        rows = [FAMILIES[name] for name in self.model_types]
        heads = [head for row in rows for head in row.heads.values()]
        return list(dict.fromkeys(filter(None, [rows[0].backbone, rows[0].model, *heads])))

    def facts(self) -> list[str]:
        """What the table says without measuring: classes, stages, channels, strides, parameters."""
        backbone = self.backbone
        strides = [stride_text(stage.stride) for stage in backbone.output_stages]
        parameters = sum(parameter.numel() for parameter in backbone.parameters())
        return [
            shortened(self.classes),
            ranged(backbone.out_features),
            same(backbone.channels),
            same(strides),
            f"{parameters / 1e6:.1f}",
        ]

    def examples(self) -> str:
        """The checkpoints, as the table names them."""
        return ("inside " if self.inside else "") + ", ".join(f"`{name}`" for name in self.checkpoints)


# fmt: off
NETWORKS = (
    Network(("beit",), ("microsoft/beit-base-patch16-224",), {"use_relative_position_bias": True}),
    Network(("bit",), ("google/bit-50",)),
    Network(("clip_vision_model", "clip"), ("openai/clip-vit-base-patch32",)),
    Network(("convnext",), ("facebook/convnext-tiny-224",)),
    Network(("convnextv2",), ("facebook/convnextv2-tiny-1k-224",)),
    Network(("deit",), ("facebook/deit-base-distilled-patch16-224",)),
    Network(("dinov2",), ("facebook/dinov2-base",), {"image_size": 518}),
    Network(("dinov2_with_registers",), ("facebook/dinov2-with-registers-base",), {"image_size": 518, "patch_size": 14}),
    Network(("dinov3_convnext",), ("facebook/dinov3-convnext-tiny-pretrain-lvd1689m",)),
    Network(("dinov3_vit",), ("facebook/dinov3-vits16-pretrain-lvd1689m",), {"num_register_tokens": 4}),
    Network(("focalnet",), ("microsoft/focalnet-tiny",)),
    Network(("hgnet_v2",), ("ustc-community/hgnet-v2",), {
        "stem_channels": [3, 32, 64], "stage_in_channels": [64, 128, 512, 1024], "stage_mid_channels": [64, 128, 256, 512],
        "stage_num_blocks": [1, 2, 5, 2],
    }),
    Network(("hiera",), ("facebook/hiera-tiny-224-hf",), {"depths": [1, 2, 7, 2]}),
    Network(("maskformer-swin",), ("facebook/maskformer-swin-tiny-coco",), inside=True),
    Network(("pvt_v2",), ("OpenGVLab/pvt_v2_b0",)),
    Network(("resnet",), ("microsoft/resnet-50",)),
    Network(("rt_detr_resnet",), ("PekingU/rtdetr_r50vd",), inside=True),
    Network(("segformer",), ("nvidia/mit-b0", "nvidia/segformer-b0-finetuned-ade-512-512")),
    Network(("siglip_vision_model", "siglip"), ("google/siglip-base-patch16-224",)),
    Network(("swin",), ("microsoft/swin-tiny-patch4-window7-224",)),
    Network(("swinv2",), ("microsoft/swinv2-tiny-patch4-window8-256",), {"window_size": 8, "image_size": 256}, size=256),
    Network(("vit",), ("google/vit-base-patch16-224",)),
    Network(("vitdet",), ("hustvl/vitmatte-small-composition-1k",), {
        "hidden_size": 384, "num_attention_heads": 6, "image_size": 512, "num_channels": 4, "window_size": 14,
        "window_block_indices": [0, 1, 3, 4, 6, 7, 9, 10], "residual_block_indices": [2, 5, 8, 11],
        "use_relative_position_embeddings": True,
    }, size=512, inside=True),
)
# fmt: on

COLUMNS = (
    *("model_type", "classes", "stages", "channels", "strides", "parameters (M)", "image", "ms"),
    *("transformers takes", "checkpoint"),
)

PAGE_TEXT = """# Native families

<!-- Written by `python benchmarks/families.py --write` (`make families`); tests/test_families_table.py compares all but times. -->

The families that vertebra implements itself. Beside them every architecture of timm is there, as `timm_backbone`.

## Names and indices of stages

{notes}

```python
import torch
from vertebra import AutoBackbone, ConvNextBackbone, ConvNextConfig, Dinov2Backbone, Dinov2Config

native = ConvNextBackbone(ConvNextConfig(out_strides=(8,)))
timm = AutoBackbone.from_pretrained("convnext_tiny", use_pretrained_backbone=False, out_strides=(8,))
native.out_features, native.out_indices  # (['stage2'], [2])
timm.out_features, timm.out_indices  # (['stages.1'], [1])
first = AutoBackbone.from_pretrained("resnet18", use_pretrained_backbone=False, out_indices=(0,))
first.out_features, first.strides  # (['act1'], [2])

small = Dinov2Config(hidden_size=384, num_attention_heads=6, out_indices="dense")
dino = Dinov2Backbone(small).eval()
dino.out_features  # ['stage3', 'stage6', 'stage9', 'stage12']
images = torch.randn(1, 3, 224, 280)
output = dino(images, output_tokens=True)
[tuple(found.shape) for found in output.feature_maps]  # [(1, 384, 16, 20), (1, 384, 16, 20), (1, 384, 16, 20), (1, 384, 16, 20)]
[tuple(found.shape) for found in output.tokens]  # [(1, 1, 384), (1, 1, 384), (1, 1, 384), (1, 1, 384)]
blocks = dino.get_intermediate_layers(images, n=[2, 5, 8, 11], reshape=True)
all(map(torch.equal, blocks, output.feature_maps))  # True
```

## The table

A row is the network of its first checkpoint, as a backbone with all stages of the row selected; `inside` means that the checkpoint
is that of a model around it. Names of checkpoints, and how their configurations differ from the defaults, are data in
`benchmarks/families.py`: the table is made without a network. Parameters are those of that backbone, without classifier and pooler.
`…Model` stands for the same name with another ending.

{measured}

One image of the given side, float32. Both libraries read one file of random weights and run in turns; where maps differ by more
than 1e-4 of the largest value, nothing is written. `ms` is the median of ours. What transformers takes is a multiple of ours: the
median, and quartiles. Where it has no Backbone, its Model is taken, with hidden states and, in transformers of one stride, the
final norm on each of them.

{table}
"""


def notes() -> str:
    """What holds of the stages of all families, with the names of those that are special."""
    first = {network.name: network.backbone.stages[0] for network in NETWORKS}
    stemless = [name for name, stage in first.items() if stage.name != "stem"]
    image = [name for name, stage in first.items() if stage.name == "stem" and stage.stride == (1, 1)]
    closed = [network.name for network in NETWORKS if network.backbone.first_map]
    lines = (
        f"`stem` is index 0, and `stage1` … `stageN` are 1 to N. Families without a stem begin with "
        f"`stage1` at index 0: {named(stemless)}.",
        f"The stem of {named(image)} is the image itself. That of {named(closed)} has a hidden state, but no map to select.",
        "In plain vision transformers the stem is the embedded patches, and `stageN` is what block N returns, counted from 1. All "
        "have the stride of a patch.",
        "timm has no common rule: index 0 may be a stem (ResNet's `act1`, of stride 2), the first stage, or block 0 of a "
        "transformer. Strides mean the same everywhere, so `out_strides` fits any backbone.",
        f'`out_indices="dense"` selects the layers that published heads for dense prediction read ({named(DENSE)}). '
        "`output_tokens` adds the class and register tokens of each map. `get_intermediate_layers` is what users of DINO's own "
        "code know; it counts blocks from 0, so block i is `stage{i + 1}`.",
    )
    return "\n".join(f"- {line}" for line in lines)


def native() -> set[str]:
    """The families of the registry that the table must have: all backbones but timm's and the necks."""
    elsewhere = (TIMM, WRAPPER, NECKS)
    return {name for name, row in FAMILIES.items() if row.backbone and not row.module.startswith(elsewhere)}


def page(measured: str, times: Mapping[str, tuple[str, str]]) -> str:
    """The whole page.

    Args:
        measured: The sentences on the machine.
        times: `model_type` to the cells `ms` and `transformers takes`.
    """
    table = [f"| {' | '.join(COLUMNS)} |", "| " + " | ".join(["---"] * len(COLUMNS)) + " |"]
    for network in NETWORKS:
        names = ", ".join(f"`{name}`" for name in network.model_types)
        cells = [names, *network.facts(), str(network.size), *times[network.name], network.examples()]
        table.append(f"| {' | '.join(cells)} |")
    return PAGE_TEXT.format(notes=notes(), measured=measured, table="\n".join(table))


def measurements(text: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """What of a page was measured: the arguments that `page` writes it from."""
    measured = re.search(r"^Measured on .*$", text, re.MULTILINE)
    rows = re.findall(r"^\| `([^`]+)`.*\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    return measured[0] if measured else "", {name: (ours, ratio) for name, ours, ratio in rows}


# Cells


def shortened(classes: list[str]) -> str:
    """Names of classes, those that begin like the Backbone as their endings."""
    stem = classes[0].removesuffix("Backbone")
    return ", ".join(f"`{name}`" if place == 0 else f"`{_ending(name, stem)}`" for place, name in enumerate(classes))


def _ending(name: str, stem: str) -> str:
    return f"…{name.removeprefix(stem)}" if name.startswith(stem) else name


def ranged(names: list[str]) -> str:
    """Names of stages, numbered ones as a range."""
    numbered = [name for name in names if name != "stem"]
    return ", ".join([*names[: len(names) - len(numbered)], f"{numbered[0]}…{numbered[-1].removeprefix('stage')}"])


def same(values: list[Any]) -> str:
    """Values, or the one that all are."""
    return f"{values[0]} each" if len(set(values)) == 1 else ", ".join(map(str, values))


def named(names: Any) -> str:
    """Names as code."""
    return ", ".join(f"`{name}`" for name in names)


# Measuring


def measure(network: Network, rounds: int) -> tuple[str, str]:
    """Run a network in both libraries and return the cells `ms` and `transformers takes`.

    Raises:
        SystemExit: the maps differ, or there are not as many.
    """
    alternate, rows, oracle = _measuring()
    row = next(iter(rows.FAMILIES[network.name.replace("-", "_")].values()))
    default = row.their_class("Backbone").config_class(**network.kwargs)
    lists = {key: list(value) for key, value in vars(default).items() if isinstance(value, tuple)}
    row = replace(row, kwargs={**lists, **network.kwargs})  # transformers cannot build its own default tuples
    indices = list(network.backbone.selected)
    pixels = torch.randn(1, network.backbone.config.num_channels, network.size, network.size)
    theirs = row.their_model("Backbone", **({} if row.oracle else {"out_indices": indices}))
    oracle.perturb(theirs, scale=NOISE).eval()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        theirs.save_pretrained(folder)
        ours = AutoBackbone.from_pretrained(folder, out_indices=indices)
        if ours.num_parameters() != network.backbone.num_parameters():
            raise SystemExit(f"{network.name}: transformers saved another network than the table describes.")
        ask = partial(row.expect, theirs, pixels, indices)
        for stage, here, there in zip(ours.out_features, ours(pixels).feature_maps, ask().feature_maps, strict=True):
            error, largest = (here - there).abs().max().item(), there.abs().max().item()
            if here.shape != there.shape or not error <= TOLERANCE * largest:
                raise SystemExit(
                    f"{network.name}, {stage}: maps differ by {error:.3g}; the largest value is {largest:.3g}."
                )
        here, _, ratios = alternate(partial(ours, pixels), ask, rounds)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{here * 1e3:.0f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"


@cache
def _measuring() -> tuple[Any, Any, Any]:
    """How two sides are timed, the rows of the parity tests, and their oracle."""
    import pairs
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # the rows are modules of tests/families; this file, which has that name too, must not be found for it
    sys.path = [
        str(ROOT / "tests"),
        *(path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent),
    ]
    return pairs.alternate, importlib.import_module("backbone_rows"), importlib.import_module("oracle")


def machine(rounds: int) -> str:
    """The sentences on where and how it is measured."""
    import transformers

    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", re.MULTILINE)
    cpu = model[1].strip() if model else platform.processor() or platform.machine()
    busy, cores = os.getloadavg()[0], os.cpu_count()
    others = (
        f" Other programs kept {busy:.1f} processes busy when it began, so all times are too long."
        if busy > 0.5
        else ""
    )
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"Measured on {cpu}, {cores} cores, {torch.get_num_threads()} threads, {versions}, {rounds} rounds.{others}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the native families beside transformers.")
    parser.add_argument(
        "--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}; else only print the rows"
    )
    parser.add_argument("--only", nargs="+", metavar="MODEL_TYPE", choices=[network.name for network in NETWORKS])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write is for the whole table; leave --only out.")
    torch.manual_seed(0)
    measured, times = machine(options.rounds), {}
    print(measured)
    for network in NETWORKS:
        if options.only is None or network.name in options.only:
            times[network.name] = measure(network, options.rounds)
            print(
                f"{network.name:<24}{'  '.join(network.facts()[2:]):<60}{' ms, transformers '.join(times[network.name])}",
                flush=True,
            )
    if options.write:
        PAGE.write_text(page(measured, times), encoding="utf-8")


if __name__ == "__main__":
    main()
