"""Checks of the installation, made before a broken one shows up as something else far away.

`python -m vertebra.environment [EXTRA …]` checks what a command needs and says what is missing; the Makefile uses it.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

DISTRIBUTION = "vertebra"
ABSENT = "(not installed)"


def check_torchvision() -> None:
    """Import torchvision, which timm needs too, and turn what a mismatched build raises into an error that helps.

    torchvision is compiled against one version and one build (CPU or CUDA) of torch; beside another it fails on import
    with messages such as `operator torchvision::nms does not exist`, and timm with it.

    Raises:
        ImportError: it is missing, or does not fit the installed torch; says what to reinstall.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ImportError(
            f"torchvision {_version('torchvision')} cannot be imported beside torch {_version('torch')}: {error}. "
            f"The two must come from one build; install them with one command: "
            f"pip install --force-reinstall torch torchvision"
        ) from error


def import_timm() -> Any:
    """Return timm; an installation in which torchvision is broken is an error that says so.

    Raises:
        ImportError: torchvision or timm is missing, or torchvision does not fit the installed torch.
    """
    check_torchvision()
    return importlib.import_module("timm")


def missing_packages(extras: Iterable[str] = ()) -> list[str]:
    """Return the names of the packages that vertebra and its `extras` need and that are not installed, sorted."""
    missing, seen, waiting = set(), set(), ["", *extras]
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in requires(DISTRIBUTION) or ():
            needed, _, marker = requirement.partition(";")
            if (re.findall(r"extra == ['\"]([\w-]+)['\"]", marker) or [""])[0] != extra:
                continue
            name, inner = re.match(r"\s*([\w.-]+)(?:\[([^]]*)\])?", needed).groups()  # type: ignore[union-attr]
            if name == DISTRIBUTION:
                waiting += [part.strip() for part in (inner or "").split(",")]
            elif _version(name) == ABSENT:
                missing.add(name)
    return sorted(missing)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def main(extras: list[str]) -> int:
    """Check the installation for the given extras; return 0 when all is well, else print what is not and return 1."""
    if missing := missing_packages(extras):
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 1
    try:
        check_torchvision()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
