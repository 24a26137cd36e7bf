"""Make the table of facts that `find` answers from: every architecture of timm, and vertebra's own families.

`python -m vertebra.inspection.make_table [--out FILE]`; `make traits`. Another timm's table: `vertebra find --rebuild`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from vertebra.auto.backbone import AutoBackbone
from vertebra.auto.config import AutoConfig
from vertebra.auto.registry import FAMILIES, config_class, model_class
from vertebra.environment import import_timm
from vertebra.inspection.facts import NoDraws
from vertebra.inspection.table import SHIPPED, Traits, Weights, cached_path, write_table
from vertebra.inspection.traits import traits

PROCESSES = 2
TIMM = {"timm_backbone", "timm_wrapper"}
"""Families that are timm's architectures, which have rows of their own."""
MADE_OF = "backbone_config"
"""What configurations of necks have: they are made of another backbone."""


def names_of_all() -> list[str]:
    """Every name that gets a row: vertebra's own families by `model_type`, then timm's architectures.

    A model around a tower (`clip`) has none: its backbone is that of the tower's own family.
    """
    own = [name for name, family in FAMILIES.items() if family.backbone is not None and name not in TIMM]
    own = [name for name in own if not hasattr(config_class(name), MADE_OF)]
    own = [name for name in own if _backbone_class(name).config_class is config_class(name)]
    return [*own, *import_timm().list_models()]


def _backbone_class(name: str) -> type[Any]:
    return model_class(config_class(name), "backbone", "AutoBackbone")


def inspect(name: str) -> Traits:
    """The facts about one name, its weights included; a family of vertebra's own stands for its default configuration.

    Raises:
        Exception: whatever building or running it raises.
    """
    own = name in FAMILIES
    if own:
        config = AutoConfig.for_model(name)
    else:
        config = AutoConfig.for_model("timm_backbone", backbone=name, use_pretrained_backbone=False)
    with NoDraws(), torch.device("meta"):
        backbone = AutoBackbone.from_config(config)
    found = traits(backbone)
    return found if own else replace(found, weights=tuple(weights_of(name)))


def weights_of(architecture: str) -> list[Weights]:
    """The pretrained weights that timm lists for an architecture, its default first."""
    timm = import_timm()
    first = timm.get_pretrained_cfg(architecture)
    cfgs = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{architecture}.*")]
    cfgs += [timm.get_pretrained_cfg(name) for name in timm.list_pretrained(architecture)]
    found = {_weights(cfg): cfg.tag != first.tag for cfg in cfgs if cfg is not None}
    return sorted(found, key=lambda weights: (found[weights], weights.tag))


def _weights(cfg: Any) -> Weights:
    size = cfg.input_size
    licence = cfg.license.lower() if cfg.license and cfg.license != "unknown" else None
    where = cfg.hf_hub_id or cfg.url or None
    return Weights(cfg.tag or "", licence, size and (int(size[1]), int(size[2])), cfg.num_classes, where)


def _attempt(name: str) -> Traits | str:
    try:
        return inspect(name)
    except Exception as error:  # the table says so, and goes on
        return f"{type(error).__name__}: {error}"


def inspect_all(names: Sequence[str], processes: int = PROCESSES) -> tuple[list[Traits], dict[str, str]]:
    """The facts about many names, and the errors of those that cannot be inspected.

    Raises:
        RuntimeError: a process was killed, as happens when memory runs out.
    """
    from tqdm import tqdm

    shown: dict[str, Any] = {"total": len(names), "unit": "arch", "smoothing": 0.05}
    if min(processes, len(names)) <= 1:
        return _sorted_out(names, tqdm(map(_attempt, names), **shown))
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            return _sorted_out(names, tqdm(pool.map(_attempt, names), **shown))
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A process was killed; memory may have run out. Make the table with --processes 1."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _sorted_out(names: Sequence[str], found: Iterable[Traits | str]) -> tuple[list[Traits], dict[str, str]]:
    pairs = list(zip(names, found, strict=True))
    rows = [row for _, row in pairs if isinstance(row, Traits)]
    return rows, {name: error for name, error in pairs if isinstance(error, str)}


def rebuild(out: Path | None = None, processes: int = PROCESSES) -> tuple[Path, int, dict[str, str]]:
    """Make the table of the installed timm; the file (None: the user's cache) is replaced when all is done.

    Returns:
        The file, the number of rows, and the errors of what could not be inspected.

    Raises:
        RuntimeError: a process was killed.
        OSError: the file cannot be written.
    """
    timm = import_timm()
    path = out or cached_path(timm.__version__)
    rows, failed = inspect_all(names_of_all(), processes)
    write_table(path, timm.__version__, rows, failed)
    return path, len(rows), failed


def main(argv: Sequence[str] | None = None) -> int:
    """Make the table; returns 0 when every architecture has a row, 1 when some failed, 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m vertebra.inspection.make_table",
        description="Inspect every architecture of the installed timm on the meta device: no weights, no network.",
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, default=SHIPPED, help=f"default: {SHIPPED.name} in the package"
    )
    parser.add_argument("--processes", type=int, default=PROCESSES, metavar="N", help=f"default: {PROCESSES}")
    args = parser.parse_args(argv)
    if args.processes < 1:
        print(f"error: --processes {args.processes} must be at least 1.", file=sys.stderr)
        return 2
    try:
        path, count, failed = rebuild(args.out, args.processes)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{count} rows in {path}, {path.stat().st_size / 1000:.0f} kB")
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
