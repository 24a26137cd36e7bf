"""`vertebra extract`: the feature maps of a folder of images, as files."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from vertebra.cli.arguments import add_model, positive

if TYPE_CHECKING:
    from vertebra.backbones.base import Backbone
    from vertebra.extraction.extract import Extraction

SHOWN = 5


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "extract",
        help="feature maps of a folder of images, as safetensors files",
        description="Compute the feature maps of all images of SRC and store them in the folder OUT. "
        "Exit code: 0 all images, 3 all but some (listed in OUT/index.json), 1 failed.",
    )
    parser.add_argument(
        "source", metavar="SRC", help="a folder (with subfolders), a quoted pattern, an image, or a .txt list of paths"
    )
    parser.add_argument("out", metavar="OUT", help="a new or empty folder, or one with this very job")
    add_model(parser, "the deepest stage of each stride")
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="images that run together (default: 8)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        default="float16",
        help="dtype of the stored maps (default: float16)",
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra.cli.models import deepest_of_each_stride, load
    from vertebra.extraction.extract import extract
    from vertebra.extraction.sources import find_images

    find_images(args.source)  # a wrong path should not wait for a model to load
    backbone, processor = load(args, deepest_of_each_stride)
    done = extract(
        args.source,
        args.out,
        backbone,
        processor,
        size=args.size,
        batch_size=args.batch_size,
        dtype=args.dtype,
        device=args.device,
    )
    print(_as_json(done, backbone) if args.json else _as_text(done, backbone, args.dtype))
    for id_, reason in list(done.failed.items())[:SHOWN]:
        print(f"failed: {id_}: {reason}", file=sys.stderr)
    if len(done.failed) > SHOWN:
        print(f"… and {len(done.failed) - SHOWN} more; index.json lists them under 'failed'.", file=sys.stderr)
    return done.exit_code


def _as_text(done: Extraction, backbone: Backbone, dtype: str) -> str:
    rows = [
        f"  {stage.name:<12} {stage.channels:>5} channels  stride {stride}"
        for stage, stride in zip(backbone.output_stages, backbone.strides, strict=True)
    ]
    total = done.extracted + len(done.failed)
    summary = (
        f"{done.extracted} of {total} images, {dtype}, {done.size_bytes / 2**20:.1f} MiB in {done.shards} "
        f"shard{'s' if done.shards > 1 else ''}, {done.seconds:.1f} s on {done.device} -> {done.out}"
    )
    return "\n".join([summary, *rows])


def _as_json(done: Extraction, backbone: Backbone) -> str:
    content = {
        "out": str(done.out),
        "extracted": done.extracted,
        "failed": dict(done.failed),
        "levels": {
            stage.name: {"channels": stage.channels, "stride": [str(hop) for hop in stage.stride]}
            for stage in backbone.output_stages
        },
        "shards": done.shards,
        "bytes": done.size_bytes,
        "seconds": round(done.seconds, 3),
        "device": done.device,
    }
    return json.dumps(content, indent=1)
