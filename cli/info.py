"""`vertebra info`: what a backbone or another model is, without its weights."""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from vertebra.cli import card
from vertebra.cli.arguments import add_selection, image_size, selection

if TYPE_CHECKING:
    from vertebra.inspection.facts import Facts, StageFacts
    from vertebra.inspection.model_facts import ModelFacts
    from vertebra.inspection.weight_facts import WeightFacts

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
Pair = tuple[Fraction, Fraction]


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info",
        help="stages, parameters, sizes and weights of a backbone, without loading it; tasks and weights of other models",
        description="Describe the backbone MODEL: its stages with channels, strides and map sizes, its parameters, the image "
        "sizes it runs at, and the dtype and bytes of its weights. Of a model that is no backbone: the Auto classes that load it, "
        "its parameters and its weights. Nothing is computed, and no weights are read or "
        "downloaded: of a model on the hub config.json and the headers of its weight files are enough.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a local folder, a Hugging Face id (org/name), or a timm name (resnet50)"
    )
    add_selection(parser, "which are selected; default: the checkpoint's own selection")
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="HxW",
        help="size of the images whose maps are shown (default: the model's own)",
    )
    card.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub")
    parser.add_argument("--local-files-only", action="store_true", help="never ask the network")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra.environment import check_torchvision
    from vertebra.hub import HubOptions
    from vertebra.inspection.model_facts import ModelFacts, describe_any

    check_torchvision()
    chosen = selection(args)
    options = HubOptions(revision=args.revision, local_files_only=args.local_files_only)
    asked = (("the selection", chosen), ("--size", args.size), ("the cost card", card.is_asked(args)))
    beside = " and ".join(name for name, given in asked if given)
    facts = describe_any(args.model, args.size, options, beside, **chosen)
    if isinstance(facts, ModelFacts):
        text, content = model_text(facts), model_dict(facts)
    else:
        text, content = as_text(facts), as_dict(facts)
        if card.is_asked(args):
            cost_text, cost_content = card.make(args, facts, chosen)
            text, content = f"{text}\n\n{cost_text}", {**content, "cost": cost_content}
    print(json.dumps(content, indent=1) if args.json else text)
    return 0


def model_text(facts: ModelFacts) -> str:
    """The facts of a model that is no backbone, as people read them."""
    numbers = facts.weights.numbers
    classes = [
        f"{name} by {', '.join(auto for auto, chosen in facts.tasks.items() if chosen == name)}"
        for name in dict.fromkeys(facts.tasks.values())
    ]
    lines = [
        _headline(facts),
        "stages      none: it is no backbone",
        *(f"{'' if number else 'loads as':<12}{line}" for number, line in enumerate(classes)),
        f"parameters  {'not known' if numbers is None else f'{numbers:,} in its weight files'}",
        _weights(facts.weights),
    ]
    return "\n".join(lines)


def model_dict(facts: ModelFacts) -> dict[str, Any]:
    """The facts of a model that is no backbone, as JSON can hold them."""
    return {
        "name": facts.name,
        "kind": facts.kind,
        "class": facts.class_name,
        "model_type": facts.model_type,
        "commit": facts.commit,
        "tasks": dict(facts.tasks),
        "parameters": {"whole": facts.weights.numbers},
        "weights": vars(facts.weights),
    }


def _headline(facts: Facts | ModelFacts) -> str:
    family = "" if facts.model_type == facts.name else f" {facts.model_type},"
    place = {"timm": "timm architecture", "hub": "on the hub", "folder": "local folder"}[facts.kind]
    commit = f" at commit {facts.commit[:12]}" if facts.commit else ""
    return f"{facts.name}: {facts.class_name},{family} {place}{commit}"


def as_text(facts: Facts) -> str:
    """The facts as people read them."""
    chosen = [f"{row.stage.name} ({row.stage.channels}, stride {_pair(row.stage.stride)})" for row in _selected(facts)]
    lines = [
        _headline(facts),
        f"selected    {', '.join(chosen) or 'nothing'}",
        "",
        *_table(facts),
        "",
        f"parameters  {facts.selected_parameters:,} with this selection, {facts.parameters:,} in the whole network",
        *_sizes(facts),
        _weights(facts.weights),
        *(f"exception   {claim}: {reason}" for claim, reason in facts.exceptions.items()),
    ]
    return "\n".join(lines)


def _selected(facts: Facts) -> list[StageFacts]:
    return [row for row in facts.stages if row.selected]


def _table(facts: Facts) -> list[str]:
    width = max([len(row.stage.name) for row in facts.stages] + [5])
    head = ("#", "stage", "channels", "stride", "offset", f"map at {_size(facts.size)}", "parameters up to here")
    rows = [
        (
            str(row.stage.index),
            row.stage.name,
            str(row.stage.channels),
            _pair(row.stage.stride),
            _pair(row.stage.offset),
            "x".join(map(str, row.shape)) if row.shape else "-",
            f"{row.parameters:,}" if row.parameters is not None else "-",
        )
        for row in facts.stages
    ]
    marks = ["  ", *("* " if row.selected else "  " for row in facts.stages)]
    return [
        f"{mark}{a:>3}  {b:<{width}}  {c:>8}  {d:>7}  {e:>7}  {f:>18}  {g:>21}"
        for mark, (a, b, c, d, e, f, g) in zip(marks, [head, *rows], strict=True)
    ]


def _sizes(facts: Facts) -> list[str]:
    policy = {
        None: "the architecture's own rule",
        "floor": "sizes are cut down to a multiple of it (size_policy 'floor')",
        "pad": "sizes are padded to a multiple of it, maps are cut back (size_policy 'pad')",
    }[facts.size_policy]
    words = {True: "runs", False: "does not run", None: "is not known without running it"}
    tried = ", ".join(f"{_size(size)} {words[runs]}" for size, runs in facts.runs.items())
    return [
        f"sizes       native {_size(facts.native_size)}, size divisor {facts.size_divisor}; {policy}",
        f"            {tried}",
    ]


def _weights(weights: WeightFacts) -> str:
    parts = [weights.where]
    if weights.tensors is not None:
        parts.append(f"{weights.tensors} tensors")
    if weights.dtypes:
        several = len(weights.dtypes) > 1
        parts += [f"{DTYPES.get(name, name)}{f' ({n})' if several else ''}" for name, n in weights.dtypes.items()]
    if weights.size_bytes is not None:
        parts.append(_bytes(weights.size_bytes))
    if weights.read_bytes is not None:
        parts.append(f"the selection reads {_bytes(weights.read_bytes)}")
    return f"weights     {', '.join(parts)}{f' ({weights.note})' if weights.note else ''}"


def as_dict(facts: Facts) -> dict[str, Any]:
    """The facts as JSON can hold them; strides and offsets are `[vertical, horizontal]`, as text where no whole number."""
    return {
        "name": facts.name,
        "kind": facts.kind,
        "class": facts.class_name,
        "model_type": facts.model_type,
        "commit": facts.commit,
        "selected": [row.stage.name for row in _selected(facts)],
        "size": list(facts.size),
        "stages": [
            {
                "index": row.stage.index,
                "name": row.stage.name,
                "channels": row.stage.channels,
                "stride": _numbers(row.stage.stride),
                "offset": _numbers(row.stage.offset),
                "shape": list(row.shape) if row.shape else None,
                "parameters": row.parameters,
            }
            for row in facts.stages
        ],
        "parameters": {"whole": facts.parameters, "selection": facts.selected_parameters},
        "sizes": {
            "native": list(facts.native_size),
            "divisor": facts.size_divisor,
            "policy": facts.size_policy,
            "runs": {_size(size): runs for size, runs in facts.runs.items()},
        },
        "weights": vars(facts.weights),
        "exceptions": dict(facts.exceptions),
    }


def _numbers(pair: Pair | None) -> list[int | str] | None:
    return None if pair is None else [int(value) if value.denominator == 1 else str(value) for value in pair]


def _pair(pair: Pair | None) -> str:
    if pair is None:
        return "-"
    first, second = (f"{float(value):.6g}" if 64 % value.denominator == 0 else str(value) for value in pair)
    return first if first == second else f"{first}x{second}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _bytes(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"
