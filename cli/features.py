"""`vertebra features`: what to do with a store of feature maps."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from vertebra.cli import append
from vertebra.cli.arguments import names
from vertebra.cli.show import add_show

if TYPE_CHECKING:
    from vertebra.extraction.store.findings import Report


def add_parser(subparsers: Any) -> None:
    """Add the subcommand, and those below it."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "features",
        help="look at, check, add to, join, export and show what `vertebra extract` has stored",
        description="Work on a store that `vertebra extract` wrote: a folder, or a uri such as s3://bucket/features.",
    )
    parser.set_defaults(run=lambda args: _usage(parser), debug=False)
    below = parser.add_subparsers(dest="action", metavar="ACTION")
    _add_status(below)
    _add_verify(below)
    _add_index(below)
    append.add_parser(below)
    _add_merge(below)
    _add_export(below)
    add_show(below)


def _usage(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 2


def _add(below: Any, name: str, run: Any, help: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = below.add_parser(name, help=help, description=description)
    parser.add_argument("out", metavar="OUT", help="the folder or uri of a store")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def _add_status(below: Any) -> None:
    parser = _add(
        below,
        "status",
        run_status,
        "what is planned, done, in quarantine and missing",
        "Say how far OUT is: images, shards, levels, the plans it was made by, and which processes are writing.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_status(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra.extraction.store.status import status

    found = status(args.out)
    print(json.dumps(found.to_json(), indent=1) if args.json else found)
    return 0


def _add_verify(below: Any) -> None:
    parser = _add(
        below,
        "verify",
        run_verify,
        "read all of it, and say what is damaged, missing or strange",
        "Read every shard of OUT and compare it with its checksum and its plan: every image of every plan is in exactly one shard, "
        "or in quarantine. Exit code: 0 sound, 1 not.",
    )
    parser.add_argument(
        "--remove-damaged",
        action="store_true",
        help="remove shards that are damaged, or another one of OUT, so that the same extraction computes them",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_verify(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra.extraction.store.verify import remove_damaged, verify_store

    report: Report = verify_store(args.out, progress=True)
    removed = remove_damaged(report) if args.remove_damaged else []
    print(json.dumps({**report.to_json(), "removed": removed}, indent=1) if args.json else report)
    for name in removed if not args.json else ():
        print(f"removed: {name}")
    return 0 if report.is_sound else 1


def _add_index(below: Any) -> None:
    _add(
        below,
        "index",
        run_index,
        "make manifest.parquet and quarantine.parquet anew",
        "Make manifest.parquet and quarantine.parquet of OUT anew, from the headers of all shards. `vertebra extract` writes them "
        "when it ends; OUT opens sooner with them.",
    )


def run_index(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra import FeatureStore
    from vertebra.extraction.store.manifest import MANIFEST, QUARANTINE

    store = FeatureStore(args.out)
    print(f"{store.index()} images -> {args.out}/{MANIFEST}, {args.out}/{QUARANTINE}")
    return 0


def _add_merge(below: Any) -> None:
    parser = _add(
        below,
        "merge",
        run_merge,
        "copy several stores of one job into a new one",
        "Copy STOREs that hold the same features of different images, such as those of machines without a common folder, into "
        "a new store OUT. The same command again goes on where it stopped.",
    )
    parser.add_argument("stores", nargs="+", metavar="STORE", help="two or more stores")


def run_merge(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra.extraction.store.merge import merge
    from vertebra.extraction.store.status import status

    merge(args.stores, args.out, progress=True)
    print(status(args.out))
    return 0


def _add_export(below: Any) -> None:
    parser = _add(
        below,
        "export",
        run_export,
        "write the maps in the format of other tools",
        "Write the maps of OUT into the new folder DEST, which appears when it is whole. webdataset: tar files of .npy and .json; "
        "npy: an array a level; parquet: a table of tensors. bfloat16 becomes float32.",
    )
    parser.add_argument("dest", metavar="DEST", help="a new or empty folder")
    parser.add_argument(
        "--format", default="webdataset", metavar="F", help="webdataset, npy or parquet (default: webdataset)"
    )
    parser.add_argument("--levels", type=names, metavar="A,B", help="which levels (default: all)")


def run_export(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra import FeatureStore
    from vertebra.extraction.store.export import export

    store = FeatureStore(args.out)
    try:
        folder = export(store, args.dest, args.format, levels=args.levels, progress=True)
    except KeyError as error:
        raise ValueError(error.args[0]) from error
    print(folder)
    if store.missing:
        print(f"{store.missing} images of OUT are not computed yet; they are not in it.", file=sys.stderr)
    return 0
