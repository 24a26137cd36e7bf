"""`vertebra features show`: one HTML page that shows a store."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vertebra.cli.arguments import names, positive


def add_show(subparsers: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "show",
        help="one HTML page: pictures of every level, norms, the quarantine, and which patches are alike",
        description="Write one HTML page that needs no network: facts, images and their maps as colours, norms with outliers, the "
        "quarantine; click a patch to see what is like it.",
    )
    parser.add_argument("out", metavar="OUT", help="the folder or uri of a store")
    parser.add_argument("--out", dest="page", metavar="FILE", help="the page (default: OUT's name with .html, here)")
    parser.add_argument(
        "--images", type=positive, default=24, metavar="N", help="how many images, evenly from the store (default: 24)"
    )
    parser.add_argument("--levels", type=names, metavar="A,B", help="which levels (default: all)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra.extraction.show.page import show

    page = show(args.out, args.page, images=args.images, levels=args.levels)
    print(page)
    if args.open:
        import webbrowser

        if not webbrowser.open(page.as_uri()):
            print("There is no browser to open it in.", file=sys.stderr)
    return 0
