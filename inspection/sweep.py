"""sweep: `verify` and `pyramid` over every architecture of timm, on the meta device.

`python -m vertebra.inspection.sweep [--filter GLOB] [--json FILE]`; `make sweep`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

import torch

from vertebra.auto.backbone import AutoBackbone
from vertebra.auto.config import AutoConfig
from vertebra.auto.pyramid import pyramid
from vertebra.backbones.base import Backbone
from vertebra.environment import import_timm
from vertebra.errors import did_you_mean
from vertebra.files import write_text
from vertebra.inspection.facts import REAL_RUN, NoDraws
from vertebra.inspection.verify import check_hops, check_maps, verify

PROCESSES = 2
SHOWN = 3
STRIDES = (4, 8, 16, 32)
CHANNELS = 32


@dataclass(frozen=True)
class Row:
    """What became of one architecture.

    Args:
        name: timm's name.
        kind: Class of timm's model; empty where it could not be built.
        size: `(height, width)` it ran at.
        device: `"meta"`, or `"cpu"` where its class is in `REAL_RUN`.
        seconds: How long that took, building included.
        failures: Claims that do not hold, or the error.
        expected: Claims that do not hold and that the architecture's exceptions explain.
        neck: Necks that `pyramid` chose for strides 4, 8, 16 and 32, the outermost first.
    """

    name: str
    kind: str
    size: tuple[int, int]
    device: str
    seconds: float
    failures: tuple[str, ...]
    expected: tuple[str, ...]
    neck: str = ""


def check(name: str) -> Row:
    """Verify one architecture; whatever it raises is a failure."""
    start = time.perf_counter()
    kind, size, device = "", (0, 0), "meta"
    failures: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    neck = ""
    try:
        config = AutoConfig.for_model("timm_backbone", name, use_pretrained_backbone=False)
        with NoDraws():
            with torch.device("meta"):
                backbone = AutoBackbone.from_config(config)
            kind, size = type(backbone.timm_model).__name__, backbone.native_size
            if kind in REAL_RUN:
                size, device = REAL_RUN[kind][0], "cpu"
            report = verify(backbone, size, device)
            failures, expected = report.failures, report.expected
            neck, odd = check_pyramid(backbone, size, device)
        if reason := backbone.exceptions.get("cells") or _cut_off(backbone, size):
            expected += tuple(f"{text} ({reason})" for text in odd)
        else:
            failures += odd
    except Exception as error:  # a sweep goes on
        failures += (f"{type(error).__name__}: {error}",)
    return Row(name, kind, size, device, round(time.perf_counter() - start, 3), failures, expected, neck)


def _cut_off(backbone: Backbone, size: tuple[int, int]) -> str | None:
    """Why the pyramid of a flat transformer covers less than the image, where patches do not divide it."""
    strides = {stage.stride for stage in backbone.stages}
    whole = all(side % hop == 0 for stride in strides for side, hop in zip(size, stride, strict=True))
    return None if whole or len(strides) > 1 else "patches do not divide the image, whose border timm cuts off"


def check_pyramid(backbone: Backbone, size: tuple[int, int], device: str) -> tuple[str, tuple[str, ...]]:
    """Build `pyramid` over all stages of a backbone and run it; returns the necks it chose, and what does not hold."""
    whole = backbone.twin(device, out_indices=range(backbone.first_map, len(backbone.stages)), size_policy=None).eval()
    with torch.device(device):
        model = pyramid(whole, STRIDES, CHANNELS).eval()
        pixels = torch.rand(1, backbone.config.num_channels, *size)
    with torch.no_grad():
        maps = model(pixels).feature_maps
    findings = [text for _, text in (*check_maps(model, maps, *size), *check_hops(model, maps, *size))]
    if model.strides != list(STRIDES) or set(model.channels) != {CHANNELS}:
        findings.append(f"strides {model.strides} of {model.channels} channels")
    names = [type(each).__name__ for each in model.modules() if hasattr(each, "inputs") and isinstance(each, Backbone)]
    return " over ".join(names), tuple(f"pyramid: {text}" for text in findings)


def sweep(names: Sequence[str], processes: int = PROCESSES) -> Iterator[Row]:
    """Verify architectures, several at a time; yields them as they are done.

    Raises:
        RuntimeError: a process was killed, as happens when memory runs out.
    """
    if processes == 1:
        yield from map(check, names)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(check, name): name for name in names}
        try:
            for done in as_completed(list(waiting)):
                yield done.result()
                del waiting[done]
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"A process was killed with {len(waiting)} architectures to go; memory may have run out. Sweep with "
                f"--processes 1, or a part of them: --filter 'vit_*'."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def summary(rows: Iterable[Row]) -> dict[str, int]:
    """How many architectures and classes there are, and how many of them hold, fail, and fail as expected."""
    rows = list(rows)
    return {
        "architectures": len(rows),
        "classes": len({row.kind for row in rows}),
        "every claim holds": sum(not row.failures and not row.expected for row in rows),
        "expected exceptions": sum(bool(row.expected) and not row.failures for row in rows),
        "failed": sum(bool(row.failures) for row in rows),
        "run on real tensors": sum(row.device != "meta" for row in rows),
    }


def table(rows: Iterable[Row]) -> str:
    """The classes with something to tell, one a paragraph: how many failed, and what, the same things together."""
    kinds: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.kind, row.name)):
        kinds.setdefault(row.kind, []).append(row)
    lines = [f"{'class':<28} {'archs':>5} {'hold':>5} {'expected':>8} {'failed':>6}"]
    for kind, members in kinds.items():
        counts = summary(members)
        if counts["every claim holds"] == len(members) and kind not in REAL_RUN:
            continue
        numbers = (counts["every claim holds"], counts["expected exceptions"], counts["failed"])
        lines.append("{:<28} {:>5} {:>5} {:>8} {:>6}".format(kind or "(not built)", len(members), *numbers))
        if kind in REAL_RUN and any(row.device != "meta" for row in members):
            (height, width), reason = REAL_RUN[kind]
            lines.append(f"    run on real tensors at {height}x{width}: {reason}")
        lines += [f"    expected: {text}" for text in _reasons(members)]
        for row in members:
            lines += [f"    FAILED {row.name}: {text}" for text in row.failures[:SHOWN]]
            if len(row.failures) > SHOWN:
                lines.append(f"    FAILED {row.name}: … and {len(row.failures) - SHOWN} more; --json lists them")
    return "\n".join(lines if len(lines) > 1 else [])


def _reasons(members: Iterable[Row]) -> list[str]:
    """The reasons of the expected exceptions, with how many architectures each explains."""
    counts = Counter(reason for row in members for reason in {text.rpartition(" (")[2][:-1] for text in row.expected})
    return [f"{reason} ({count} architectures)" for reason, count in counts.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep; returns 0 when every claim holds or is expected not to, 1 when one fails, 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m vertebra.inspection.sweep",
        description="Verify every architecture of timm on the meta device: no weights, no network. Takes minutes. "
        "Exit code: 0 all claims hold or are known exceptions, 1 something fails.",
    )
    parser.add_argument(
        "--filter", metavar="GLOB", default="*", help="names of architectures: 'resnet*' (default: all)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write every architecture's result to FILE")
    parser.add_argument("--processes", type=int, default=PROCESSES, metavar="N", help=f"default: {PROCESSES}")
    args = parser.parse_args(argv)
    timm = import_timm()
    names = timm.list_models(args.filter)
    if not names:
        near = did_you_mean(args.filter.strip("*"), timm.list_models())
        print(f"error: --filter {args.filter!r} matches no architecture of timm.{near}", file=sys.stderr)
        return 2
    if args.processes < 1:
        print(f"error: --processes {args.processes} must be at least 1.", file=sys.stderr)
        return 2
    from tqdm import tqdm

    start = time.perf_counter()
    try:
        rows = list(tqdm(sweep(names, args.processes), total=len(names), unit="arch", smoothing=0.05))
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start
    counts = summary(rows)
    if args.json:
        versions = {"timm": timm.__version__, "torch": torch.__version__}
        _write(args.json, {**versions, "seconds": round(seconds, 1), "summary": counts}, rows)
    print("\n".join(part for part in (table(rows), _line(counts, seconds)) if part))
    return 1 if counts["failed"] else 0


def _line(counts: dict[str, int], seconds: float) -> str:
    total, classes = counts.pop("architectures"), counts.pop("classes")
    rest = ", ".join(f"{number} {what}" for what, number in counts.items())
    return f"{total} architectures of {classes} classes in {seconds:.0f} s: {rest}"


def _write(path: str, head: dict[str, Any], rows: Iterable[Row]) -> None:
    ordered = [asdict(row) for row in sorted(rows, key=lambda row: row.name)]
    write_text(path, json.dumps({**head, "architectures": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
