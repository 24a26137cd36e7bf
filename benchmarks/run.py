"""Run the benchmarks: each file of cases in a fresh process, both sides of a case in turns.

Run: python benchmarks/run.py [--only NAME …] [--write] [--json FILE] [--rounds N] [--case TEXT]; `make bench` writes RESULTS.md.
A file of cases defines `cases()`, which yields `pairs.Case`s, each built when its turn has come. `python benchmarks/NAME.py` does
the same as `--only NAME`.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from report import EVERY, HEADER, Part, Results, Row, line, load, markdown, save, with_headlines

FOLDER = Path(__file__).resolve().parent
PAGE, RESULTS = FOLDER / "RESULTS.md", FOLDER / "results.json"
README = FOLDER.parent / "README.md"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore",
}
"""What the processes have set: nothing is asked of a network, nothing is told beside the results."""


def benchmarks(folder: Path = FOLDER) -> dict[str, str]:
    """Name and title of each file of cases: the files that define `cases`, with the first line of their docstring."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "cases" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def run(names: dict[str, str], folder: Path, rounds: int | None = None, case: str = "") -> Results:
    """Run files and print their tables.

    Args:
        names: Name to title.
        folder: Where they are.
        rounds: How often each side runs; as each case says when None.
        case: Only those cases whose name has this in it.
    """
    machine = _machine()
    threads, peak = machine["facts"]["threads"], machine["peak"]
    print(f"{machine['facts']['processor']}, {threads} threads, matrix peak {peak / 1e9:.0f} GFLOP/s")
    print(HEADER, flush=True)
    results = {}
    for number, (name, title) in enumerate(names.items(), 1):
        print(f"\n[{number}/{len(names)}] {name}: {title}", flush=True)
        start, today = time.perf_counter(), datetime.now(timezone.utc).date().isoformat()
        rows, failure = [], ""
        for message in _messages(folder, "file", name, str(peak), str(rounds or ""), case):
            if "row" in message:
                rows.append(Row(**message["row"]))
                print(f"{_erase()}{line(rows[-1])}", flush=True)
            failure = message.get("failure", failure)
            if "start" in message and sys.stdout.isatty():
                print(f"{_erase()}{message['start']} …", end="", flush=True)
        taken = time.perf_counter() - start
        if failure:
            print(f"{_erase()}FAILED: {failure}")
        print(f"{_erase()}{taken:.0f} s", flush=True)
        results[name] = Part(title, today, taken, machine["facts"], rows, failure, EVERY)
    return results


def main(file: str | None = None) -> NoReturn:
    """The command; given the file of a benchmark, the command for it alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the files to run; all by default")
    parser.add_argument("--write", action="store_true", help="put the results into results.json and RESULTS.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results of this run")
    parser.add_argument("--rounds", type=int, help="how often each side runs; as each case says by default")
    parser.add_argument("--case", default="", metavar="TEXT", help="only cases whose name has TEXT in it")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    options = parser.parse_args(["--only", Path(file).stem, *sys.argv[1:]] if file else None)
    every = benchmarks(options.folder)
    names = {Path(name).stem: "" for name in options.only or every}
    if unknown := sorted(names.keys() - every.keys()):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(every)}")
    if options.write and options.case:
        parser.error("--write is for whole files; leave --case out.")
    if options.rounds is not None and options.rounds < 2:
        parser.error(f"--rounds is {options.rounds}; a spread needs at least 2.")
    start = time.perf_counter()
    results = run({name: every[name] for name in names}, options.folder, options.rounds, options.case)
    if options.json:
        save(results, options.json)
    if options.write:
        kept = {name: part for name, part in load(options.folder / RESULTS.name).items() if name in every}
        save(kept | results, options.folder / RESULTS.name)
        (options.folder / PAGE.name).write_text(markdown(kept | results), encoding="utf-8")
        if options.folder == FOLDER:
            README.write_text(with_headlines(README.read_text(encoding="utf-8"), kept | results), encoding="utf-8")
    failed = [name for name, part in results.items() if part.failed]
    print(f"\n{len(results)} files in {(time.perf_counter() - start) / 60:.1f} min", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _machine() -> dict[str, Any]:
    """What the numbers depend on, measured before anything else is in memory."""
    (message,) = _messages(FOLDER, "machine")
    if "failure" in message:
        sys.exit(f"The machine cannot be measured: {message['failure']}")
    return message


def _messages(folder: Path, *task: str) -> Iterator[dict[str, Any]]:
    """What a fresh worker prints; what it told on its error stream is shown if it failed."""
    command = [sys.executable, str(FOLDER / "worker.py"), *task]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as told,
        tempfile.TemporaryDirectory() as cache,  # what an earlier run remembers decides nothing
    ):
        environment = {**os.environ, **QUIET, "PYTHONPATH": path, "VERTEBRA_CACHE": cache}
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True, env=environment)
        failed = False
        with worker:
            try:
                for text in worker.stdout or ():
                    message = json.loads(text)
                    failed |= "failure" in message or bool(message.get("row", {}).get("failure"))
                    yield message
            except BaseException:
                worker.kill()
                raise
        if worker.returncode:
            yield {"failure": f"the process ended with {worker.returncode}"}
        if failed or worker.returncode:
            told.seek(0)
            print(told.read()[-4000:], file=sys.stderr, flush=True)


def _erase() -> str:
    """What takes the progress line away."""
    return "\r\033[K" if sys.stdout.isatty() else ""


if __name__ == "__main__":
    main()
