"""`vertebra features append`: new images into a store, computed as those that are there."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vertebra.cli.extract import AGAIN, add_work, share, tell, work_of
from vertebra.extraction.engines.server import start_early

if TYPE_CHECKING:
    from vertebra.extraction.image_table import ImageTable
    from vertebra.extraction.plan import Plan
    from vertebra.extraction.recipe import Recipe


def add_parser(below: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = below.add_parser(
        "append",
        help="compute new images with the settings that OUT has",
        description="Compute the images of SRC that OUT does not have, with the model and the settings that OUT was made with, and "
        "what is still missing of OUT. Exit code: 0 all images, 3 all but some (in quarantine), 1 failed.",
    )
    parser.add_argument("out", metavar="OUT", help="the folder or uri of a store")
    parser.add_argument(
        "source", metavar="SRC", nargs="?", help="as for `vertebra extract` (default: what OUT was first made of)"
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    parser.add_argument(
        "--max-bad", type=share, metavar="P", help="fail when more images are in quarantine: 1%% or 0.01"
    )
    parser.add_argument("--retry-quarantined", action="store_true", help="try the images in quarantine again")
    add_work(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.set_defaults(run=run, batch_size=None, again=AGAIN)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if args.engine == "local":
        start_early()
    from vertebra.environment import check_torchvision
    from vertebra.extraction.extract import extract
    from vertebra.extraction.plan import existing_plans

    check_torchvision()
    work = work_of(args)
    plans = existing_plans(args.out)
    found = _images(plans[0], args.source)
    done = extract(
        found,
        args.out,
        stored_recipe(plans[0], args),
        shard_bytes=plans[0].per_shard * plans[0].bytes_per_image,
        append=True,
        retry_quarantined=args.retry_quarantined,
        max_bad=args.max_bad,
        **work,
    )
    return tell(done, args.json)


def stored_recipe(plan: Plan, args: argparse.Namespace) -> Recipe:
    """How the images of a plan were computed; where and how fast is the arguments' affair.

    Raises:
        ValueError: a backbone in memory has computed them, which no file can name.
    """
    from vertebra.extraction.recipe import recipe_from_json

    content = plan.record.get("recipe")
    if not content:
        raise ValueError(
            f"{str(plan.storage)!r} was computed by a backbone in memory, so its plan cannot name it; append in Python: "
            f"extract(SRC, OUT, backbone, processor, append=True)."
        )
    devices = args.devices[0] if args.devices else None
    given = {"device": args.device or devices, "batch_size": args.batch_size, "decode_threads": args.decode_threads}
    return replace(recipe_from_json(content), **{name: value for name, value in given.items() if value is not None})


def _images(plan: Plan, source: str | None) -> ImageTable:
    from vertebra.extraction.image_table import image_table

    if source is not None:
        return image_table(source)
    before = str(plan.record.get("source"))
    try:
        return image_table(before)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{str(plan.storage)!r} was made of {before}, which cannot be found from here; give SRC."
        ) from error
