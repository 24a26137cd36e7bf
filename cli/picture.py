"""`vertebra picture`: one PNG that shows what every stage of a backbone makes of a photo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vertebra.cli.arguments import add_model


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "picture",
        help="one PNG: a photo and every stage's feature map as colours",
        description="Write one PNG: the photo, and one tile per stage with the three principal components of its map "
        "as colours.",
    )
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument(
        "--out", metavar="PATH", help="the PNG (default: IMAGE's name with _stages.png, in the current folder)"
    )
    add_model(parser, "all stages")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if not Path(args.image).expanduser().is_file():
        raise FileNotFoundError(f"{args.image!r} is not an existing image file.")
    from vertebra.cli.models import every_stage, load
    from vertebra.extraction.extract import pick_device
    from vertebra.extraction.pictures import picture

    backbone, processor = load(args, every_stage)
    backbone.to(pick_device(args.device))
    image = Path(args.image).expanduser()
    print(picture(image, backbone, processor, args.out or f"{image.stem}_stages.png", size=args.size))
    return 0
