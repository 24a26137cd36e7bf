"""The `vertebra` command: one file a subcommand. Nothing heavy is imported before a subcommand runs."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from vertebra.cli import compare, extract, features, find, info, picture, segment

COMMANDS = (extract, features, picture, segment, find, info, compare)
INTERRUPTED = 130
UNREAD = 141


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
        The exit code: 0 done, 1 failed, 2 wrong usage, 3 done but some images failed, 130 interrupted, 141 nobody reads on
        (`vertebra find | head`).
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
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"interrupted{getattr(args, 'again', '')}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return UNREAD
        if args.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1


def _nobody_reads() -> bool:
    """Whether it is the command's own output that is closed, and not another pipe; what is left of it goes nowhere."""
    try:
        print(flush=True)  # what failed once may have been dropped, and flushing nothing tells nothing
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        return True
    return False
