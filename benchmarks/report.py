"""Results of benchmarks: their rows, the file that keeps them, and how they read on a terminal and in Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

HEADER = (
    f"{'':<58} {'peer':<14} {'vertebra':>11} {'peer':>11}   ratio (quartiles)       asked     of peak  peak MiB, ratio"
)
COLUMNS = (
    *("", "against", "vertebra, ms", "peer, ms", "ratio (quartiles)", "asked", "of peak"),
    *("peak memory, vertebra and peer, MiB", "ratio", "asked"),
)
INTRODUCTION = """# Measured speed and memory

<!-- Written by `python benchmarks/run.py --write` (`make bench`) from results.json; tests/test_benchmarks.py compares the two. -->

Both sides of a line do the same work on the same weights and inputs, and their outputs are compared before anything is timed.
Then they run in turns in one process, each file of cases in a fresh one. Times are medians; the ratio is the peer's time over ours,
the median of all rounds, with the quartiles. `of peak` is what our side computes a second, as a share of what the fastest
single-precision matrix product on this machine does. Peak memory is the most that a fresh process of each side held while it ran
once, less what it held with model and inputs in place. `asked` is the ratio that was set as a goal.
"""

EVERY = bool(os.environ.get("EVERY"))
"""Whether the cases are wanted too that not every run has: parts of models, large networks, what was not asked for."""
HEADLINES = (
    ("Swin-T, four stages, 8 images of 224x224", "backbones", "Swin-T, four stages, 8 of 224x224"),
    ("the same with `optimize()`", "optimized", "Swin-T, 8 of 224x224, float32"),
    ("the same in bfloat16", "optimized", "Swin-T, 8 of 224x224, bfloat16"),
    ("stage 1 alone", "selection", "Swin-T, stage 1, 8 of 224x224"),
    ("ResNet-50, four stages, 8 images of 224x224", "backbones", "ResNet-50, four stages, 8 of 224x224"),
    ("Mask2Former Swin-T, an image of 512x512", "heads", "Mask2Former Swin-T, one image of 512x512"),
    ("its masks made semantic, 2048x2048", "post_processing", "semantic, 2048x2048, blobs"),
    ("MaskFormer's image processor, 8 photos", "image_processing", "MaskFormer, PIL"),
    ("8 JPEGs of 640x480 to a batch", "decoding", "8 of 640x480, 'fast'"),
    ("`from_pretrained`, Swin-T", "loading", "Swin-T"),
    ("`import` of AutoBackbone, over torch's own", "import_cost", "from … import AutoBackbone"),
)
"""Lines of the README: words, file, name of the case."""
HEADLINE_MARKS = ("<!-- speed, by benchmarks/run.py --write -->", "<!-- /speed -->")


@dataclass(frozen=True)
class Row:
    """What became of a case.

    Args:
        name: The case's.
        peer: The case's.
        ours: Median seconds of our side; None where time was not measured.
        theirs: Median seconds of the peer.
        ratio: Median of the rounds' ratios.
        low: Their lower quartile.
        high: Their upper quartile.
        rounds: How many there were.
        asked: The ratio asked for.
        operations: Floating-point operations of a run.
        peak: Operations a second of the fastest matrix product, measured in the same call of the runner.
        difference: The largest between the outputs, of the largest value.
        our_memory: Peak MiB of our side; None where it was not measured.
        their_memory: Peak MiB of the peer.
        asked_memory: The ratio asked for.
        remark: What a reader has to know.
        not_run: Why nothing was measured: the package that is missing.
        failure: What went wrong.
    """

    name: str
    peer: str
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    asked: float | None = None
    operations: float | None = None
    peak: float | None = None
    difference: float | None = None
    our_memory: float | None = None
    their_memory: float | None = None
    asked_memory: float | None = None
    remark: str = ""
    not_run: str = ""
    failure: str = ""

    @property
    def of_peak(self) -> float | None:
        """The share of the machine's peak that our side computes at."""
        return self.operations / self.ours / self.peak if self.operations and self.ours and self.peak else None

    @property
    def memory_ratio(self) -> float | None:
        """The peer's peak memory over ours."""
        if self.our_memory is None or self.their_memory is None:
            return None
        return self.their_memory / max(self.our_memory, 1)  # less than a MiB is what any call leaves behind

    def goals(self) -> Iterator[tuple[str, float | None, float]]:
        """What was asked for: of what, what was reached, what was asked."""
        for kind, reached, asked in (
            ("time", self.ratio, self.asked),
            ("memory", self.memory_ratio, self.asked_memory),
        ):
            if asked is not None:
                yield kind, reached, asked


@dataclass(frozen=True)
class Part:
    """What a file of cases gave.

    Args:
        title: First line of the file's docstring.
        date: Of the day.
        seconds: All that it took.
        facts: What it was measured with.
        rows: One a case.
        failure: What ended the file before its last case.
        every: Whether it has the cases that not every run has.
    """

    title: str
    date: str
    seconds: float
    facts: Mapping[str, str]
    rows: list[Row] = field(default_factory=list)
    failure: str = ""
    every: bool = False

    @property
    def failed(self) -> bool:
        """Whether the file or one of its cases failed."""
        return bool(self.failure) or any(row.failure for row in self.rows)


Results = dict[str, Part]
"""A part for each name of a file."""


def load(path: Path) -> Results:
    """Read results; none where there is no file."""
    if not path.exists():
        return {}
    parts = json.loads(path.read_text(encoding="utf-8"))
    return {name: Part(**{**part, "rows": [Row(**row) for row in part["rows"]]}) for name, part in parts.items()}


def save(results: Results, path: Path) -> None:
    """Write results; fields of rows that have nothing to say are left out."""
    parts = {}
    for name, part in sorted(results.items()):
        rows = [{key: value for key, value in asdict(row).items() if value not in (None, "")} for row in part.rows]
        parts[name] = {**asdict(part), "rows": rows}
    path.write_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def line(row: Row) -> str:
    """A row on a terminal."""
    start = f"{row.name:<58} {row.peer:<14}"
    if row.failure or row.not_run:
        return f"{start} {'FAILED: ' + row.failure if row.failure else 'not run: ' + row.not_run}"
    words = [start, f"{_ms(row.ours):>8} ms {_ms(row.theirs):>8} ms" if row.ours else " " * 23]
    words.append(f"  {_ratio(row):<22}")
    words.append(f"{_goal(row.ratio, row.asked):<13}")
    words.append(f"{_percent(row.of_peak):>5}")
    if row.memory_ratio is not None:
        words.append(f" {row.our_memory:.0f} {row.their_memory:.0f}, {row.memory_ratio:.2f}x")
        words.append(_goal(row.memory_ratio, row.asked_memory))
    return " ".join(words).rstrip()


def markdown(results: Results) -> str:
    """The whole page."""
    if not results:
        return f"{INTRODUCTION}\nNothing has been measured yet.\n"
    newest = max(results.values(), key=lambda part: part.date).facts
    parts = [INTRODUCTION, _machine(newest), *_summary(results)]
    for name, part in sorted(results.items()):
        parts += [f"## {name}\n", f"{part.title}\n", *_table(part)]
        parts += [f"- {text}" for text in _remarks(part)]
        parts.append(_source(name, part, newest))
    return "\n".join(parts).rstrip() + "\n"


def headlines(results: Results) -> str:
    """The README's table: each of `HEADLINES` that was measured, beside the faster peer."""
    lines = ["| | vertebra, ms | fastest peer, ms | ratio |", "| --- | ---: | --- | ---: |"]
    for words, file, name in HEADLINES:
        rows = [row for row in results[file].rows if row.name == name and row.ratio] if file in results else []
        if rows:
            row = min((row for row in rows if row.peer != "OpenVINO"), key=lambda row: row.ratio or 0.0)
            lines.append(f"| {words} | {_ms(row.ours)} | {_ms(row.theirs)}, {row.peer} | {row.ratio:.2f} |")
    return "\n".join(lines)


def with_headlines(text: str, results: Results) -> str:
    """A text with the table between its marks written anew."""
    start, end = HEADLINE_MARKS
    before, _, rest = text.partition(start)
    return f"{before}{start}\n\n{headlines(results)}\n\n{end}{rest.partition(end)[2]}" if rest else text


def _machine(facts: Mapping[str, str]) -> str:
    """What was there, and what was not and so was not measured."""
    names = {"processor", "cores", "threads", "GPU"}
    versions = ", ".join(f"{name} {value}" for name, value in facts.items() if name not in names)
    where = f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads; {versions}."
    gpu = "no GPU was there" if facts["GPU"] == "none" else f"the {facts['GPU']} of this machine was not used"
    scope = "All of this is the CPU, fp32 unless a line says otherwise."
    return f"Measured on {where}\n\nNot measured: anything on a GPU; {gpu}. {scope}\n"


def _summary(results: Results) -> Iterator[str]:
    goals = [(name, row, *goal) for name, part in sorted(results.items()) for row in part.rows for goal in row.goals()]
    missed = [goal for goal in goals if goal[3] is None or goal[3] < goal[4]]
    yield f"Of {len(goals)} ratios that were asked for, {len(goals) - len(missed)} are reached.\n"
    if missed:
        yield "Not reached:\n"
        for name, row, kind, reached, asked in missed:
            found = "not measured" if reached is None else f"{reached:.2f}"
            yield f"- {name}: {row.name}, {kind}, against {row.peer}: {found}, asked {asked:g}"
        yield ""


def _table(part: Part) -> Iterator[str]:
    memory = any(row.memory_ratio is not None or row.asked_memory is not None for row in part.rows)
    shown = len(COLUMNS) if memory else len(COLUMNS) - 3
    if part.rows:
        yield f"| {' | '.join(COLUMNS[:shown])} |".replace("|  |", "| |")
        yield "| " + " | ".join(["---"] * 2 + ["---:"] * (shown - 2)) + " |"
    for row in part.rows:
        cells = [row.name, row.peer, _ms(row.ours), _ms(row.theirs), _ratio(row), _goal(row.ratio, row.asked)]
        cells.append(_percent(row.of_peak))
        if memory:
            both = "" if row.memory_ratio is None else f"{row.our_memory:.0f}, {row.their_memory:.0f}"
            cells += [both, "" if row.memory_ratio is None else f"{row.memory_ratio:.2f}"]
            cells.append(_goal(row.memory_ratio, row.asked_memory))
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
    yield ""


def _remarks(part: Part) -> Iterator[str]:
    for row in part.rows:
        if row.failure:
            yield f"{row.name}, against {row.peer}: failed. {row.failure}"
        if row.not_run:
            yield f"{row.name}, against {row.peer}: not run, {row.not_run}."
        if row.remark:
            yield f"{row.name}, against {row.peer}: {row.remark}"
    if part.failure:
        yield f"The rest of this file failed: {part.failure}"


def _source(name: str, part: Part, newest: Mapping[str, str]) -> str:
    """The command, the day, and how its machine differs from the one at the top."""
    peaks = [row.peak for row in part.rows if row.peak]
    peak = f", matrix peak {peaks[0] / 1e9:.0f} GFLOP/s" if peaks else ""
    rounds = sorted({row.rounds for row in part.rows if row.rounds})
    counts = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else "".join(map(str, rounds))
    worst = max((row.difference for row in part.rows if row.difference is not None), default=None)
    apart = "" if worst is None else f", outputs at most {worst:.0e} apart"
    others = [f"{key} {value}" for key, value in part.facts.items() if newest.get(key) != value]
    other = f", with {', '.join(others)}" if others else ""
    start = "\n" if any(_remarks(part)) else ""
    told = f"{counts} rounds{apart}{peak}{other}" if rounds else f"one run{apart}{peak}{other}"
    command = f"{'EVERY=1 ' if part.every else ''}python benchmarks/run.py --only {name}"
    return f"{start}`{command}`, {part.date}, {part.seconds:.0f} s: {told}.\n"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e3:.{0 if seconds >= 0.1 else 1 if seconds >= 1e-3 else 3}f}"


def _ratio(row: Row) -> str:
    return "" if row.ratio is None else f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})"


def _goal(reached: float | None, asked: float | None) -> str:
    if asked is None:
        return ""
    return f"{asked:g}, {'reached' if reached is not None and reached >= asked else 'missed'}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
