"""Arguments that several subcommands share, and how their values are spelled."""

from __future__ import annotations

import argparse
import re
from typing import Any


def image_size(text: str) -> tuple[int, int]:
    """Read `320` or `320x512` as `(height, width)` in pixels.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; write 320 for a square, or HEIGHTxWIDTH such as 320x512"
        )
    return int(match[1]), int(match[2] or match[1])


def names(text: str) -> list[str]:
    """Read `layer1,layer2`."""
    return [part.strip() for part in text.split(",") if part.strip()]


def whole_numbers(text: str) -> list[int]:
    """Read `1,2,-1`.

    Raises:
        argparse.ArgumentTypeError: a part is no whole number.
    """
    try:
        return [int(part) for part in names(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers; write for example 1,2,3") from error


def positive(text: str) -> int:
    """Read a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"0*[1-9]\d*", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def fraction(text: str) -> float:
    """Read a number within 0..1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number within 0..1")
    return value


def byte_count(text: str) -> int:
    """Read `16GB` (powers of 1000), `24GiB` (powers of 1024) or a plain number of bytes.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", text.strip(), re.IGNORECASE)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes; write for example 16GB, 24GiB or 800MB")
    power = " KMGT".index(match[2].upper()) if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def add_model(parser: argparse.ArgumentParser, default_selection: str) -> None:
    """Add the model, the selection of its stages, the size of its images, and how the hub is asked."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="M",
        help="a local folder, a Hugging Face id (org/name), or a timm name (resnet50)",
    )
    add_selection(parser, f"which maps; default: {default_selection}")
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="HxW",
        help="size that the network gets, in pixels: 320 or 320x512 (default: the model's own); processors that crop still do",
    )
    add_running(parser)


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add where the model runs, and how the hub is asked."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub")
    parser.add_argument("--local-files-only", action="store_true", help="never ask the network")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")


def add_selection(parser: argparse.ArgumentParser, description: str) -> None:
    """Add the three ways to select stages, which `selection` reads."""
    chosen = parser.add_argument_group("stages", description).add_mutually_exclusive_group()
    chosen.add_argument("--features", type=names, metavar="A,B", help="by name: layer1,layer2")
    chosen.add_argument(
        "--indices", type=whole_numbers, metavar="I,J", help="by index; negative ones count from the end (--indices=-1)"
    )
    chosen.add_argument(
        "--strides", type=whole_numbers, metavar="S,T", help="the deepest stage of each stride: 8,16,32"
    )


def selection(args: argparse.Namespace) -> dict[str, Any]:
    """The stages that `add_selection`'s arguments choose, as keywords of `AutoBackbone.from_pretrained`; empty for none."""
    given = {"out_features": args.features, "out_indices": args.indices, "out_strides": args.strides}
    return {name: value for name, value in given.items() if value is not None}
