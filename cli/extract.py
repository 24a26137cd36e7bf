"""`vertebra extract`: the feature maps of a folder of images, as files."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from vertebra.cli.arguments import add_model, byte_count, names, positive, selection
from vertebra.extraction.engines.server import start_early

if TYPE_CHECKING:
    from vertebra.extraction.estimate import Estimate
    from vertebra.extraction.extract import Extraction
    from vertebra.extraction.recipe import Recipe
    from vertebra.extraction.reduction import Reduction

SHOWN = 5
AGAIN = "; what is done stays, and the same command goes on"
"""What is said to whoever interrupts an extraction."""
DTYPES = ("bfloat16", "float16", "float32")
SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Short names of dtypes."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "extract",
        help="feature maps of a folder of images, as safetensors files",
        description="Compute the feature maps of all images of SRC and store them in the folder OUT. The same command again goes "
        "on where it stopped. Exit code: 0 all images, 3 all but some (in quarantine, with the reason), 1 failed.",
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a folder (with subfolders), a quoted pattern, an image, a .txt list of paths, a .csv or .parquet table with the "
        "columns id and uri, or webdataset's .tar files",
    )
    parser.add_argument("out", metavar="OUT", help="a new or empty folder, or one with this very job")
    add_model(parser, "the deepest stage of each stride")
    _add_maps(parser)
    _add_images(parser)
    add_work(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="compute a sample, say what all will take, and write nothing"
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(run=run, again=AGAIN)


def _add_maps(parser: argparse.ArgumentParser) -> None:
    maps = parser.add_argument_group(
        "maps", "what is stored; each of the last three may be given for one LEVEL, or all"
    )
    maps.add_argument(
        "--dtype",
        type=dtype,
        choices=DTYPES,
        metavar="T",
        help="bfloat16, float16 or float32 (default: OUT's; else bfloat16 on a GPU, float16)",
    )
    maps.add_argument(
        "--compute-dtype",
        type=dtype,
        choices=DTYPES,
        metavar="T",
        help="of the forward pass (default: --dtype on a GPU, the weights' on a CPU)",
    )
    maps.add_argument(
        "--optimize",
        metavar="ENGINE",
        help="compute with openvino, onnxruntime or inductor, or auto: the fastest of them, once measured",
    )
    maps.add_argument("--allow-nonfinite", action="store_true", help="store infinities and NaN too")
    maps.add_argument(
        "--pool",
        action="append",
        default=[],
        metavar="[LEVEL=]P",
        help="2: means of 2 x 2 cells; max2; mean, max: one cell",
    )
    maps.add_argument("--cell-stride", action="append", default=[], metavar="[LEVEL=]N", help="every N-th cell")
    maps.add_argument(
        "--channels", action="append", default=[], metavar="[LEVEL=]C", help="some channels: 0:64, ::4 or 0,5,9"
    )
    maps.add_argument(
        "--shard-bytes", type=byte_count, metavar="N", help="size of a shard, such as 256MiB (the default)"
    )


def _add_images(parser: argparse.ArgumentParser) -> None:
    images = parser.add_argument_group("images")
    images.add_argument(
        "--decode",
        choices=("pillow", "fast"),
        default="pillow",
        help="fast: JPEG through simplejpeg, for the same values sooner; refuses damage that Pillow lets pass (default: pillow)",
    )
    images.add_argument("--no-upright", action="store_true", help="leave images as they lie, whatever EXIF says")
    images.add_argument(
        "--max-pixels", type=positive, metavar="N", help="images of more go into quarantine (default: 2**27)"
    )
    images.add_argument(
        "--max-bytes", type=byte_count, metavar="N", help="image files of more go into quarantine (default: 1GiB)"
    )
    images.add_argument(
        "--max-bad",
        type=share,
        metavar="P",
        help="fail when more images are in quarantine: 1%% or 0.01 (default: all may)",
    )
    images.add_argument("--append", action="store_true", help="take in images that came after OUT was planned")
    images.add_argument("--retry-quarantined", action="store_true", help="try the images in quarantine again")


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add what computes, and how much of it; `work_of` reads that."""
    work = parser.add_argument_group("work")
    work.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="images that run together (default: 8)"
    )
    work.add_argument("--decode-threads", type=positive, metavar="N", help="a process (default: the cores, up to 8)")
    work.add_argument(
        "--engine",
        choices=("local", "inline", "ray"),
        default="local",
        help="processes of this machine, which an image that kills them does not stop (default: local); this process; or a Ray "
        "cluster",
    )
    work.add_argument("--workers", type=positive, metavar="N", help="processes (default: one for each device)")
    work.add_argument("--devices", type=names, metavar="D,E", help="what they run on: 0,1 or cuda:0,cuda:1")
    work.add_argument(
        "--stall",
        type=float,
        metavar="S",
        help="local: end a process that finishes no batch for so many seconds, as on a dead network drive (default: 600)",
    )
    work.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="ray: of a running cluster, or auto (default: $RAY_ADDRESS, or a new one)",
    )
    work.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="G",
        help="ray: GPUs of a process, such as 0.5 (default: 1 where there are any)",
    )
    work.add_argument(
        "--shard-index", type=int, default=0, metavar="I", help="which share of the shards this command computes"
    )
    work.add_argument(
        "--shard-count", type=positive, default=1, metavar="N", help="of how many, on machines that share OUT"
    )


def dtype(text: str) -> str:
    """Spell `bf16` out."""
    return SHORT.get(text, text)


def share(text: str) -> float:
    """Read `1%` or `0.01`.

    Raises:
        argparse.ArgumentTypeError: it is no share, or not within 0..1.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; write 1% or 0.01")
    return value


def reductions(args: argparse.Namespace) -> dict[str, Reduction]:
    """What is kept of which level; `"*"` stands for those that are not named.

    Raises:
        ValueError: a value that cannot be read.
    """
    from vertebra.extraction.reduction import Reduction

    given: dict[str, dict[str, Any]] = {}
    for option, values in (("pool", args.pool), ("stride", args.cell_stride), ("channels", args.channels)):
        for text in values:
            level, _, value = text.rpartition("=")
            given.setdefault(level or "*", {})[option] = _read(option, value)
    return {level: Reduction(**{**given.get("*", {}), **settings}) for level, settings in given.items()}


def _read(option: str, value: str) -> Any:
    if option == "pool":
        return f"mean{value}" if value.isdigit() else value
    if option == "stride" and not value.isdigit():
        raise ValueError(f"--cell-stride {value!r} is not a whole number; write 2, or layer1=2 for one level.")
    return int(value) if option == "stride" else value


def recipe(args: argparse.Namespace) -> Recipe:
    """The recipe that the arguments describe; the model is named, so that every process loads it for itself."""
    from vertebra.environment import check_torchvision
    from vertebra.extraction.recipe import Recipe

    check_torchvision()
    where = {"revision": args.revision, "local_files_only": args.local_files_only}
    given = {
        "size": args.size,
        "dtype": args.dtype,
        "compute_dtype": args.compute_dtype,
        "max_pixels": args.max_pixels,
        "max_bytes": args.max_bytes,
        "device": args.device or (args.devices[0] if args.devices else None),
        "decode_threads": args.decode_threads,
        "backend": args.optimize,
    }
    return Recipe(
        args.model,
        {**(selection(args) or _pyramid(args.model, where)), **where},
        reductions=reductions(args),
        decoder=args.decode,
        upright=not args.no_upright,
        allow_nonfinite=args.allow_nonfinite,
        batch_size=args.batch_size,
        **{name: value for name, value in given.items() if value is not None},
    )


def _pyramid(model: str, where: dict[str, Any]) -> dict[str, Any]:
    """The selection of the deepest stage of each stride."""
    import torch

    from vertebra import AutoBackbone
    from vertebra.cli.models import deepest_of_each_stride

    with torch.device("meta"):
        outline = AutoBackbone.from_pretrained(model, use_pretrained_backbone=False, **where)
    return {"out_indices": list(deepest_of_each_stride(outline))}


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if args.engine == "local" and not args.dry_run:
        start_early()
    from vertebra.extraction.estimate import estimate
    from vertebra.extraction.extract import extract
    from vertebra.extraction.image_table import image_table
    from vertebra.extraction.memory import keep_memory
    from vertebra.extraction.plan import SHARD_BYTES

    keep_memory()
    work = work_of(args)
    found = image_table(args.source)  # a wrong path should not wait for a model to load
    how = recipe(args)
    if args.dry_run:
        expected = estimate(found, args.out, how)
        print(_estimate_json(expected) if args.json else _estimate_text(expected))
        return 0 if expected.fits else 1
    done = extract(
        found,
        args.out,
        how,
        shard_bytes=args.shard_bytes or SHARD_BYTES,
        append=args.append,
        retry_quarantined=args.retry_quarantined,
        max_bad=args.max_bad,
        **work,
    )
    return tell(done, args.json)


def work_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments of `add_work` say, as keywords of `extract`.

    Raises:
        ValueError: they do not go together.
    """
    from vertebra.extraction.engines import check_engine

    if args.devices:
        args.devices = [f"cuda:{name}" if name.isdigit() else name for name in args.devices]
    options = {"stall": args.stall, "address": args.ray_address, "gpus": args.gpus_per_worker}
    options = {name: value for name, value in options.items() if value is not None}
    check_engine(args.engine, args.workers, args.devices, options)
    names = ("engine", "workers", "devices", "shard_index", "shard_count")
    return {**{name: getattr(args, name) for name in names}, "engine_options": options}


def tell(done: Extraction, as_json: bool) -> int:
    """Print what an extraction did, and return the exit code."""
    print(_as_json(done) if as_json else _as_text(done))
    for id_, reason in list(done.failed.items())[:SHOWN]:
        print(f"failed: {id_}: {reason}", file=sys.stderr)
    if len(done.failed) > SHOWN:
        print(f"… and {len(done.failed) - SHOWN} more; --json lists them under 'failed'.", file=sys.stderr)
    if done.unplanned:
        print(f"{done.unplanned} images of SRC came after OUT was planned; --append takes them in.", file=sys.stderr)
    return done.exit_code


def _as_text(done: Extraction) -> str:
    from vertebra import FeatureStore

    meaning = FeatureStore(done.out).meaning
    rows = [
        f"  {level['name']:<12} {level['channels']:>5} channels  "
        + (f"stride {_stride(level['stride'])}" if level["stride"] else "one cell an image")
        for level in meaning["levels"]
    ]
    shards = f"{done.shards} shard{'s' if done.shards > 1 else ''}"
    summary = (
        f"{done.extracted} of {done.planned} images, {meaning['dtype']}, {done.size_bytes / 2**20:.1f} MiB in {shards}, "
        f"{done.seconds:.1f} s on {done.device} -> {done.out}"
    )
    speed = f"{done.computed / done.seconds:.1f} images/s" if done.computed else "nothing was left to do"
    others = f"; {done.missing} shards are left to other runs" if done.missing else ""
    return "\n".join([summary, *rows, f"{speed}{others}"])


def _stride(pair: list[Any]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def _as_json(done: Extraction) -> str:
    from vertebra import FeatureStore

    levels = FeatureStore(done.out).meaning["levels"]
    content = {
        "out": str(done.out),
        "planned": done.planned,
        "extracted": done.extracted,
        "computed": done.computed,
        "failed": dict(done.failed),
        "unplanned": done.unplanned,
        "levels": {
            level["name"]: {
                "channels": level["channels"],
                "stride": level["stride"] and list(map(str, level["stride"])),
            }
            for level in levels
        },
        "shards": done.shards,
        "missing": done.missing,
        "bytes": done.size_bytes,
        "seconds": round(done.seconds, 3),
        "device": done.device,
    }
    return json.dumps(content, indent=1)


def _estimate_text(expected: Estimate) -> str:
    from vertebra.extraction.extract import size_text

    return (
        f"{expected.images} images to compute, {expected.done} done; {size_text(expected.size_bytes)} of maps, "
        f"{_free(expected)}\n"
        f"{expected.images_per_second:.1f} images/s on {expected.device} over a sample of {expected.sample} "
        f"({expected.bad} of them bad): about {_duration(expected.seconds)} in one process"
    )


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _free(expected: Estimate) -> str:
    if expected.free_bytes is None:
        return "nobody knows how much is free"
    from vertebra.extraction.extract import size_text

    return f"{size_text(expected.free_bytes)} free{'' if expected.fits else ': not enough'}"


def _estimate_json(expected: Estimate) -> str:
    content = {
        "images": expected.images,
        "done": expected.done,
        "bytes": expected.size_bytes,
        "free_bytes": expected.free_bytes,
        "fits": expected.fits,
        "sample": expected.sample,
        "bad": expected.bad,
        "images_per_second": round(expected.images_per_second, 2),
        "seconds": round(expected.seconds, 1),
        "device": expected.device,
    }
    return json.dumps(content, indent=1)
