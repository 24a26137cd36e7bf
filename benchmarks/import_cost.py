"""What imports cost: vertebra's names on top of torch, beside transformers' same names; a fresh interpreter each time.

Run: make bench-import. Exits with 1 where vertebra adds more than `LIMIT` seconds to `import torch`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

ROUNDS = 7
LIMIT = 0.15
NAMES = "AutoBackbone, AutoImageProcessor"
STATEMENTS = {  # what is timed, after what
    "torch": ("import torch", ""),
    "package": ("import vertebra", ""),
    "vertebra": (f"from vertebra import {NAMES}", "import torch"),
    "transformers": (f"from transformers import {NAMES}", "import torch"),
}
TIMED = "{before}\nimport time\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"


def seconds(statement: str, before: str = "") -> float:
    """Time a statement in a fresh interpreter that has run `before`."""
    quiet = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", TIMED.format(statement=statement, before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=quiet)
    return float(done.stdout.split()[-1])


def main() -> int:
    """Print the table; return 1 where vertebra is over its limit."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for number in range(ROUNDS + 1):
        for name, statement in STATEMENTS.items():
            taken = seconds(*statement)
            if number:  # the first round fills the disk's cache and writes the byte code
                times[name].append(taken)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"seconds, medians of {ROUNDS} fresh interpreters (least to most)")
    for name, (statement, before) in STATEMENTS.items():
        text = f"{statement}{f', after {before}' if before else ''}"
        print(f"{text:<78} {median[name]:6.3f}  ({min(times[name]):.3f} to {max(times[name]):.3f})")
    ours, theirs = median["vertebra"], median["transformers"]
    print(f"transformers adds {theirs / ours:.1f}x what vertebra adds; vertebra's limit is {LIMIT} s")
    return int(ours > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
