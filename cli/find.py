"""`vertebra find`: which backbones fit, by strides, channels, parameters, cost, sizes, licence."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from vertebra.cli.arguments import image_size, names, positive, whole_numbers

if TYPE_CHECKING:
    from vertebra.inspection.find import Found, Query
    from vertebra.inspection.table import Table

SHOWN = 25
"""Lines of the table where no limit is given."""
SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
CONDITIONS = (
    "text",
    "strides",
    "channels",
    "min_params",
    "max_params",
    "max_flops",
    "any_size",
    "size",
    "licence",
    "dilation",
    "attention",
    "norm",
    "prefix_tokens",
    "patch_size",
    "pretrained",
)


def number(text: str) -> float:
    """Read `30e6`, `30M` or `4.5G`.

    Raises:
        argparse.ArgumentTypeError: it is no such number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\+?\d+)?)([kmgbt]?)", text.strip().lower().replace("_", ""))
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write for example 30e6, 30M or 4.5G")
    return float(match[1]) * SUFFIXES[match[2]]


def whole(text: str) -> int:
    """Read a whole number of at least 0.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"\d+", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "find",
        help="backbones by strides, channels, parameters, cost, sizes, licence",
        description="List the backbones that fulfil every condition: timm's architectures and vertebra's own families, from a "
        "table of facts that were found by inspection. Parameters and FLOPs are those of the backbone without its classifier, for "
        "one image of the native size; a multiply-add counts as two. Numbers may be written 30e6, 30M or 4.5G.",
    )
    parser.add_argument(
        "text",
        nargs="*",
        metavar="TEXT",
        help="words in the name, family or class; * and ? make a pattern: 'convnext*'",
    )
    parser.add_argument("--strides", type=whole_numbers, metavar="S,T", help="it has maps of these strides: 4,8,16,32")
    parser.add_argument("--channels", type=whole_numbers, metavar="C,D", help="its maps have these channels, in order")
    parser.add_argument("--min-params", type=number, metavar="N", help="fewest parameters")
    parser.add_argument("--max-params", type=number, metavar="N", help="most parameters")
    parser.add_argument("--max-flops", type=number, metavar="N", help="most floating point operations")
    parser.add_argument(
        "--any-size", action="store_true", default=None, help="images of every size run, by themselves or padded"
    )
    parser.add_argument("--size", type=image_size, metavar="HxW", help="images of this size run as they are")
    parser.add_argument(
        "--licence",
        "--license",
        type=names,
        metavar="L,M",
        help="it has weights under one of these licences: mit,apache-2.0; or 'commercial'",
    )
    parser.add_argument("--dilation", type=whole, metavar="S", help="no stride beyond 8 or 16 when dilated")
    parser.add_argument("--attention", metavar="KIND", help="global, windowed, linear or none")
    parser.add_argument("--norm", metavar="KIND", help="batch, layer, group, rms, … or none")
    parser.add_argument("--prefix-tokens", type=whole, metavar="N", help="class, distillation and register tokens")
    parser.add_argument("--patch-size", type=whole, metavar="N", help="side of the patches")
    parser.add_argument("--pretrained", action="store_true", default=None, help="there are weights for it")
    parser.add_argument("--sort", default="params", metavar="KEY", help="params (default), flops or name")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help=f"most backbones (default: {SHOWN}, or all with --json)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="make the table for the installed timm, in the user's cache; takes minutes",
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code; finding nothing is an answer, and no failure."""
    if args.rebuild:
        return _rebuild()
    from vertebra.inspection.find import SORTS, ask, one_of
    from vertebra.inspection.table import load_table

    table, stale = load_table()
    args.text = " ".join(args.text) or None
    query = ask(table, **{name: getattr(args, name) for name in CONDITIONS})
    one_of("sort", args.sort, SORTS)
    found = query.run(table, args.sort)
    if stale:
        print(f"note: {stale}", file=sys.stderr)
    if args.json:
        print(json.dumps([each.as_dict() for each in found[: args.limit]], indent=1))
    elif found:
        print(as_text(found, found[: args.limit or SHOWN], len(table.rows)))
    if not found:
        print(hint(query, table), file=sys.stderr)
    return 0


def _rebuild() -> int:
    from vertebra.environment import check_torchvision
    from vertebra.inspection.make_table import rebuild

    check_torchvision()
    path, count, failed = rebuild()
    print(f"{count} backbones in {path}")
    for name, error in failed.items():
        print(f"could not be inspected: {name}: {error}", file=sys.stderr)
    return 0


def as_text(found: list[Found], shown: list[Found], total: int) -> str:
    """The backbones as people read them."""
    head = ("name", "params", "GFLOPs", "maps (stride:channels)", "sizes", "attention", "licences")
    rows = [head, *map(_cells, shown)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    lines = [
        "  ".join(
            [
                *(
                    cell.rjust(width) if column in (1, 2) else cell.ljust(width)
                    for column, (cell, width) in enumerate(zip(row, widths, strict=False))
                ),
                row[-1],
            ]
        ).rstrip()
        for row in rows
    ]
    rest = f"; the first {len(shown)} are shown, --limit shows more" if len(shown) < len(found) else ""
    return "\n".join([*lines, "", f"{len(found)} of {total} backbones{rest}"])


def _cells(found: Found) -> tuple[str, ...]:
    row = found.traits
    size = "x".join(map(str, row.native_size))
    sizes = {None: "?", "multiple": f"x {row.size_divisor}", "fixed": f"only {size}", "restricted": "some"}
    return (
        row.name,
        f"{row.parameters / 1e6:.1f} M",
        "?" if row.flops is None else f"{row.flops / 1e9:.2f}",
        " ".join(f"{_stride(stride)}:{width}" for stride, width in zip(found.strides, found.channels, strict=True)),
        sizes.get(row.sizes, str(row.sizes)),
        "?" if row.attention is None else ", ".join(row.attention) or "none",
        ", ".join(found.licences) or ("not stated" if found.weights else "no weights"),
    )


def _stride(stride: Any) -> str:
    return "x".join(map(str, stride)) if isinstance(stride, tuple) else str(stride)


def hint(query: Query, table: Table) -> str:
    """Why nothing was found: what each condition excludes, the most first, and which one to give up."""
    from vertebra.inspection.find import nearest_names

    excluded = query.excluded(table)
    if query.text is not None and excluded["text"][0] == len(table.rows):
        return f"no backbone is called {query.text!r}.{nearest_names(query.text, table)}"
    most = sorted(excluded.items(), key=lambda item: -item[1][0])
    text = f"no backbone of {len(table.rows)} fulfils all of this. "
    text += f"Excluded are {', '.join(f'{count} by {_flag(name)}' for name, (count, _) in most)}"
    helps = [f"{without} without {_flag(name)}" for name, (_, without) in most if without]
    return f"{text}; there would be {', '.join(helps)}." if helps else f"{text}; no single condition is to blame."


def _flag(name: str) -> str:
    return "TEXT" if name == "text" else f"--{name.replace('_', '-')}"
