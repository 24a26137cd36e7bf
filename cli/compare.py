"""`vertebra compare`: two backbones side by side, and the first module in which they part."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vertebra.cli.arguments import add_selection, image_size, selection

DIFFERENT = 1


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "compare",
        help="how far the maps of two backbones are apart, and where they part",
        description="Run the backbones A and B on the same images and print the error of every level and the first module that "
        "differs. Exit code: 0 equal within the tolerance, 1 different or failed.",
    )
    where = "a local folder, a Hugging Face id (org/name), or a timm name (resnet50)"
    parser.add_argument("a", metavar="A", help=where)
    parser.add_argument("b", metavar="B", help="the other one; errors are relative to A's values")
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="image files (default: noise with a fixed seed)")
    add_selection(parser, "which levels of both; default: each checkpoint's own selection")
    parser.add_argument("--size", type=image_size, metavar="HxW", help="image size in pixels (default: A's own)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        metavar="T",
        help="largest difference over largest value that counts as equal (default: 1e-5)",
    )
    for letter in ("a", "b"):
        name = letter.upper()
        parser.add_argument(f"--revision-{letter}", metavar="REV", help=f"branch, tag or commit of {name} on the hub")
        parser.add_argument(
            f"--dtype-{letter}", metavar="D", help=f"dtype of {name}: bfloat16, float16, float32 (default: the file's)"
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--local-files-only", action="store_true", help="never ask the network")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra.environment import check_torchvision
    from vertebra.inspection.compare import compare

    check_torchvision()
    found = compare(
        args.a,
        args.b,
        args.images or None,
        size=args.size,
        tolerance=args.tolerance,
        a_options={"revision": args.revision_a, "dtype": args.dtype_a},
        b_options={"revision": args.revision_b, "dtype": args.dtype_b},
        local_files_only=args.local_files_only,
        **selection(args),
    )
    print(json.dumps(found.to_dict(), indent=1) if args.json else found)
    return 0 if found.ok else DIFFERENT
