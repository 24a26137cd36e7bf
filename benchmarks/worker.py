"""The fresh process that runs a file of cases, or one side of one case; the runner (run.py) starts it and reads what it prints.

Prints one JSON object a line: `{"start": name}`, `{"row": …}`, at the end `{"failure": …}` if the file did not come to its end.
What cases print themselves goes to the error stream.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cache, partial
from importlib.metadata import requires
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch
from machine import facts, matrix_peak
from pairs import Case, Missing, measure
from peak_memory import can_measure, peak_of
from report import Row

DISTRIBUTIONS = {"skimage": "scikit-image", "PIL": "pillow"}
"""Packages that are installed under another name than they are imported by."""


def run_file(name: str, peak: float, rounds: int | None, part: str, out: IO[str]) -> None:
    """Run the cases of a file, those whose name has `part` in it."""

    def say(**message: Any) -> None:
        print(json.dumps(message), file=out, flush=True)

    try:
        for index, case in enumerate(cases_of(name)):
            if part.lower() in case.name.lower():
                say(start=case.name)
                if rounds is not None and isinstance(case, Case) and case.rounds:
                    case = replace(case, rounds=rounds)
                say(row=asdict(result(case, name, index, peak)))
            del case  # the next one is built with this one's memory free
            gc.collect()
    except ModuleNotFoundError as error:
        reason = not_installed(error)
        if not reason:
            raise
        say(row=asdict(Row("all cases that follow", "", not_run=reason)))
    except Exception as error:
        traceback.print_exc()
        say(failure=short(error))


def cases_of(name: str) -> Iterator[Case | Missing]:
    """The cases of a file, with the seed that all begin with."""
    torch.manual_seed(0)
    return importlib.import_module(name).cases()


def result(case: Case | Missing, file: str, index: int, peak: float) -> Row:
    """Compare, then time both sides of a case and measure their memory."""
    if isinstance(case, Missing):
        return Row(case.name, case.peer, not_run=how_to_install(case.package))
    row = Row(
        case.name,
        case.peer,
        asked=case.asked,
        operations=case.operations,
        peak=max(peak, _peak()) if case.operations else None,
        asked_memory=case.asked_memory,
        remark=case.remark,
    )
    try:
        row = replace(row, difference=case.difference())
        if case.rounds:
            timing = measure(case)
            low, high = timing.spread
            times = {"ours": timing.ours, "theirs": timing.theirs, "rounds": len(timing.ratios)}
            row = replace(row, **times, ratio=timing.ratio, low=low, high=high)
            if case.limit is not None and timing.ours > case.limit:
                raise AssertionError(f"ours takes {timing.ours:.3f} s; the limit is {case.limit} s")
        if (case.memory or case.asked_memory is not None) and can_measure():
            with ThreadPoolExecutor(2) as both:  # memory does not depend on who else computes
                here, there = both.map(partial(peak_of_side, file, index), ("ours", "theirs"))
            row = replace(row, our_memory=here, their_memory=there)
    except ModuleNotFoundError as error:
        reason = not_installed(error)
        if not reason:
            traceback.print_exc()
        return replace(row, not_run=reason, failure="" if reason else short(error))
    except Exception as error:
        traceback.print_exc()
        return replace(row, failure=short(error))
    return row


@cache
def _peak() -> float:
    """Measured once more in this process: a moment in which others kept the machine busy does not count."""
    return matrix_peak()


def peak_of_side(file: str, index: int, side: str) -> float:
    """Peak MiB of one run of a side in a fresh process."""
    command = [sys.executable, __file__, "memory", file, str(index), side]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def memory(file: str, index: int, side: str) -> float:
    """Peak MiB of one run of a side in this process."""
    case = next(islice(cases_of(file), index, None))
    return peak_of(getattr(case, side))


def not_installed(error: ModuleNotFoundError) -> str:
    """What to install where a peer is missing; nothing where the module that is missing belongs to none."""
    module = (error.name or "").partition(".")[0]
    return how_to_install(DISTRIBUTIONS.get(module, module)) if extra_of(DISTRIBUTIONS.get(module, module)) else ""


def how_to_install(package: str) -> str:
    """The sentence on a package that is missing."""
    return f"{package} is not installed (pip install 'vertebra[{extra_of(package) or 'bench'}]')"


def extra_of(package: str) -> str:
    """The first extra of vertebra that brings a package."""
    for requirement in requires("vertebra") or ():
        needed, _, marker = requirement.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        if extra and (re.match(r"[\w.-]+", needed) or [""])[0].lower() == package.lower():
            return extra[1]
    return ""


def short(error: Exception) -> str:
    """An error in one line, without paths of this machine."""
    text = f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)
    return re.sub(r"(?<![\w.])/[\w.@+-]+(?:/[\w.@+-]+)+", lambda path: Path(path[0]).name, " ".join(text.split()))


def main(task: str, *arguments: str) -> None:
    """Do one task of the runner's: `machine`, `file NAME PEAK ROUNDS PART`, or `memory NAME INDEX SIDE`."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if task == "machine":
        print(json.dumps({"facts": facts(), "peak": matrix_peak()}), file=out)
    elif task == "file":
        name, peak, rounds, part = arguments
        run_file(name, float(peak), int(rounds) if rounds else None, part, out)
    else:
        name, index, side = arguments
        print(json.dumps(memory(name, int(index), side)), file=out)
    out.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
