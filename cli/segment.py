"""`vertebra segment`: what is where in images, as pictures, masks and COCO JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from vertebra.cli.arguments import add_running, fraction

if TYPE_CHECKING:
    from vertebra.extraction.segmentation import Segmentation


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "segment",
        help="segments of images: pictures, masks and COCO JSON",
        description="Segment images with MaskFormer, Mask2Former, UperNet or another segmentation model. OUT gets overlays/ (the "
        "photo under colours and names), masks/ (PNGs of ids) and annotations.json (COCO). "
        "Exit code: 0 all images, 3 all but some, 1 failed.",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or one folder or quoted pattern")
    parser.add_argument("--model", required=True, metavar="M", help="a local folder or a Hugging Face id (org/name)")
    parser.add_argument("--out", required=True, metavar="OUT", help="the folder written")
    parser.add_argument(
        "--task",
        choices=("semantic", "instance", "panoptic"),
        help="a class for every pixel, a mask for every object, or both in one (default: panoptic where the model can)",
    )
    for name, text in (
        ("--threshold", "lowest score of a segment (default: 0.5)"),
        ("--mask-threshold", "lowest probability of a mask's pixels (default: 0.5)"),
        ("--overlap", "share of a segment that others must leave visible (default: 0.8)"),
    ):
        parser.add_argument(name, type=fraction, metavar="T", help=f"{text}; not for semantic")
    parser.add_argument("--alpha", type=fraction, default=0.55, metavar="A", help="how strong the colours are (0.55)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    add_running(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from vertebra import AutoImageProcessor, AutoModelForImageSegmentation
    from vertebra.environment import check_torchvision
    from vertebra.extraction.segmentation import segment
    from vertebra.extraction.sources import find_images

    given = {
        "threshold": args.threshold,
        "mask_threshold": args.mask_threshold,
        "overlap_mask_area_threshold": args.overlap,
    }
    thresholds = {name: value for name, value in given.items() if value is not None}
    if args.task == "semantic" and thresholds:
        raise ValueError("--threshold, --mask-threshold and --overlap are for instance and panoptic; leave them out.")
    check_torchvision()
    source = args.images[0] if len(args.images) == 1 else args.images
    find_images(source)  # a wrong path should not wait for a model to load
    where: dict[str, Any] = {"revision": args.revision, "local_files_only": args.local_files_only}
    processor = AutoImageProcessor.from_pretrained(args.model, **where)
    model = AutoModelForImageSegmentation.from_pretrained(args.model, **where)
    done = segment(
        source, args.out, model, processor, task=args.task, alpha=args.alpha, device=args.device, **thresholds
    )
    print(_as_json(done) if args.json else _as_text(done))
    for id_, reason in done.failed.items():
        print(f"failed: {id_}: {reason}", file=sys.stderr)
    return done.exit_code


def _as_text(done: Segmentation) -> str:
    total = len(done.images) + len(done.failed)
    head = (
        f"{len(done.images)} of {total} images, {done.task}, {done.seconds:.1f} s on {done.device} -> {done.out} "
        f"(overlays/, masks/, annotations.json)"
    )
    rows = [f"  {id_}: {_counted(names) or 'nothing'}" for id_, names in done.images.items()]
    return "\n".join([head, *rows])


def _counted(names: Any) -> str:
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in names.items())


def _as_json(done: Segmentation) -> str:
    content = {
        "out": str(done.out),
        "task": done.task,
        "images": done.images,
        "failed": dict(done.failed),
        "seconds": round(done.seconds, 3),
        "device": done.device,
    }
    return json.dumps(content, indent=1)
