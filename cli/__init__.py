"""The `vertebra` command: one file a subcommand. Nothing heavy is imported before a subcommand runs."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from vertebra.cli import extract, info, picture

COMMANDS = (extract, picture, info)
INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="vertebra", description="Multi-scale feature maps of images from any Hugging Face or timm backbone."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 3 done but some images failed, 130 interrupted.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        import vertebra

        print(vertebra.__version__)
        return 0
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if args.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
