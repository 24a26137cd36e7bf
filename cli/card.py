"""The cost card of `vertebra info`: what running a backbone and storing its maps takes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vertebra.cli.arguments import byte_count, positive

if TYPE_CHECKING:
    from vertebra.inspection.cost import Cost
    from vertebra.inspection.facts import Facts

STORED = "float16"
"""Dtype in which `vertebra extract` stores maps unless told otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; any of them asks for the card."""
    group = parser.add_argument_group(
        "cost", "any of these adds the cost card: parameters, multiply-adds and bytes per stage, from the meta device"
    )
    group.add_argument("--batch", type=positive, metavar="N", help="images that run together (default: 1)")
    group.add_argument("--images", type=positive, metavar="N", help="bytes that `vertebra extract` stores for N images")
    group.add_argument(
        "--memory", type=byte_count, metavar="BYTES", help="largest batch for this much memory: 16GB, 24GiB, 800MB"
    )
    group.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        help="dtype that is computed in (default: that of the weight file)",
    )
    group.add_argument("--training", action="store_true", help="cost of a forward and a backward instead of a forward")


def is_asked(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for the card."""
    return bool(args.batch or args.images or args.memory or args.dtype or args.training)


def make(args: argparse.Namespace, facts: Facts, selection: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Make the card, as people read it and as JSON holds it.

    Args:
        args: The arguments of `vertebra info`.
        facts: What is known of the backbone.
        selection: Its selection of stages.
    """
    import torch

    from vertebra import AutoBackbone
    from vertebra.inspection.cost import cost, why_unknown

    where = {"revision": facts.commit or args.revision, "local_files_only": args.local_files_only}
    with torch.device("meta"):
        backbone = AutoBackbone.from_pretrained(args.model, use_pretrained_backbone=False, **selection, **where)
    if (reason := why_unknown(backbone)) is not None:
        return f"cost        {reason}", {"unknown": reason}
    dtype = args.dtype or _file_dtype(facts)
    found = cost(backbone, *facts.size, args.batch or 1, dtype=dtype, training=args.training)
    lines, content = [str(found)], found.to_dict()
    if args.images:
        sizes = found.disk_bytes(args.images, STORED)
        lines.append(_disk(sizes, args.images))
        content["disk"] = {"images": args.images, "dtype": STORED, "levels": sizes, "bytes": sum(sizes.values())}
    if args.memory:
        batch = found.largest_batch(args.memory)
        lines.append(_batch(found, batch, args.memory))
        content["largest_batch"] = {"budget": args.memory, "batch": batch}
    return "\n".join(lines), content


def _file_dtype(facts: Facts) -> str:
    """The dtype a load has: that of most tensors of the file, float32 where there is none."""
    from vertebra.cli.info import DTYPES

    counts = {name: n for name, n in (facts.weights.dtypes or {}).items() if "float" in DTYPES.get(name, "")}
    return DTYPES[max(counts, key=lambda name: counts[name])] if counts else "float32"


def _disk(sizes: dict[str, int], images: int) -> str:
    from vertebra.inspection.cost import binary

    levels = ", ".join(f"{name} {binary(size)}" for name, size in sizes.items()) or "nothing is selected"
    return f"disk        {binary(sum(sizes.values()))} for {images:,} images extracted as {STORED}: {levels}"


def _batch(found: Cost, batch: int, budget: int) -> str:
    from vertebra.inspection.cost import binary

    held = f"{batch} images take {binary(found.memory_at(batch))}" if batch else "not even one image fits"
    plural = "s" if batch else ""
    more = f"{batch + 1} image{plural} would take {binary(found.memory_at(batch + 1))}"
    return f"batch       {held}; {more}, and there are {binary(budget)}"
