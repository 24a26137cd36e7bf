"""The examples of what a store is for: labelled images, probes of every level, and a detector trained on stored maps."""

import gzip
import json
import math
import re
import runpy
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real import ROOT, lite0, tiny_backbone, tiny_processor
from torch.utils.data import DataLoader

from vertebra import AutoBackbone, FeatureStore, ResNetConfig, ViTImageProcessor
from vertebra.extraction.extract import extract
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.reduction import Reduction


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples import their neighbours."""
    monkeypatch.syspath_prepend(ROOT / "examples")


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


class TestLabelledPhotos:
    def test_digits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        run(monkeypatch, "labelled_photos", tmp_path / "digits", "--train", 30, "--test", 20)
        assert capsys.readouterr().out.splitlines() == [
            f"{tmp_path}/digits/train: 30 images of 10 classes",
            f"{tmp_path}/digits/test: 20 images of 10 classes",
        ]
        from sklearn.datasets import load_digits

        digits = load_digits()
        found = sorted((tmp_path / "digits").glob("*/*/*.png"))
        assert len(found) == 50
        for path in found:
            split, label, name = path.relative_to(tmp_path / "digits").parts
            number = int(Path(name).stem) + (1198 if split == "test" else 0)
            assert digits.target[number] == int(label)
            assert np.array_equal(np.asarray(Image.open(path)), np.round(digits.images[number] * 255 / 16))

    def test_fashion(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
        labels = np.arange(12, dtype=np.uint8) % 10
        for file in ("train", "t10k"):
            pixels = struct.pack(">HBBIII", 0, 8, 3, *images.shape) + images.tobytes()
            (tmp_path / f"{file}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
            classes = struct.pack(">HBBI", 0, 8, 1, 12) + labels.tobytes()
            (tmp_path / f"{file}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(classes))
        run(monkeypatch, "labelled_photos", tmp_path / "out", "--fashion", tmp_path, "--train", 99)
        assert len(list((tmp_path / "out").glob("train/*/*.png"))) == 12
        assert {path.name for path in (tmp_path / "out/test/trouser").iterdir()} == {"00001.png", "00011.png"}
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out/test/ankle-boot/00009.png")), images[9])

    def test_wrong_folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SystemExit, match=r"There is no .*train-images-idx3-ubyte.gz; --fashion takes the folder"):
            run(monkeypatch, "labelled_photos", tmp_path / "out", "--fashion", tmp_path)
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine.png").touch()
        with pytest.raises(SystemExit, match="is not empty"):
            run(monkeypatch, "labelled_photos", tmp_path / "out")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Features of 160 digits to train on and 80 to test on: real weights, and a ResNet with random ones, whole maps of it."""
    folder = tmp_path_factory.mktemp("probe")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, "labelled_photos", folder / "digits", "--train", 160, "--test", 80)
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_indices=(1, 2)
    )
    random = AutoBackbone.from_config(config).eval()
    small = ViTImageProcessor(size={"height": 32, "width": 32})
    real = Recipe(
        lite0(), {"out_features": ["blocks.2", "blocks.4"]}, size=(64, 64), reductions={"*": Reduction("mean")}
    )
    extract(folder / "digits", folder / "real", real, batch_size=32)
    extract(folder / "digits", folder / "random", random, small, batch_size=32)
    return [folder / "real", folder / "random"]


class TestProbeFeatures:
    def test_real_weights_beat_random_ones_and_chance(
        self,
        stores: list[Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        run(monkeypatch, "probe_features", *stores, "--out", tmp_path / "table.png", "--json")
        rows = json.loads(capsys.readouterr().out)
        found = {(row["store"], row["level"]): row for row in rows}
        assert found.keys() == {
            ("real", "blocks.2"), ("real", "blocks.4"), ("random", "stage1"), ("random", "stage2")
        }  # fmt: skip
        assert [row["linear"] for row in rows] == sorted((row["linear"] for row in rows), reverse=True)
        best, other = found["real", "blocks.4"], found["random", "stage2"]
        assert best["channels"] == 112
        assert min(best["linear"], best["knn"]) > 0.6
        assert best["linear"] > other["linear"] + 0.05
        assert min(min(row["linear"], row["knn"]) for row in rows) > 0.2
        picture = Image.open(tmp_path / "table.png").convert("RGB")
        assert len(picture.getcolors(2**20)) > 8
        run(monkeypatch, "probe_features", *stores)
        task, header, *lines = capsys.readouterr().out.splitlines()
        assert task == "10 classes, 160 images to train on, 80 to test on (± 5.6 %)"
        assert header.split() == ["store", "level", "channels", "kNN", "linear"]
        assert lines[0].split()[:3] == [rows[0]["store"], rows[0]["level"], str(rows[0]["channels"])]

    def test_vectors_are_the_means_of_maps(self, stores: list[Path]) -> None:
        from probe_features import read_labels, read_vectors

        store = FeatureStore(stores[1])
        vectors, (train, labels, names) = read_vectors(store, "stage1"), read_labels(store)
        assert vectors.shape == (240, 16)
        for row in (0, 17, 239):
            assert torch.allclose(vectors[row], store["stage1"][row].float().mean((1, 2)), atol=1e-6)
            split, label, _ = store.ids[row].split("/")
            assert (split == "train", label) == (bool(train[row]), names[labels[row]])

    def test_stores_of_other_images_do_not_compare(
        self, stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backbone = AutoBackbone.from_config(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])).eval()
        images = [(f"{split}/a/0.png", np.zeros((32, 32, 3), np.uint8)) for split in ("train", "test")]
        extract(images, tmp_path / "other", backbone, ViTImageProcessor())
        with pytest.raises(SystemExit, match=r"differ in 242 images, first 'test/0/"):
            run(monkeypatch, "probe_features", stores[0], tmp_path / "other")
        extract([("one.png", images[0][1])], tmp_path / "unlabelled", backbone, ViTImageProcessor())
        with pytest.raises(SystemExit, match=r"'one.png' in .* is no id of the form train/<class>/<file>"):
            run(monkeypatch, "probe_features", tmp_path / "unlabelled")


class TestProbes:
    """Against scikit-learn."""

    @pytest.fixture
    def data(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        from probe_features import standardised

        generator = torch.Generator().manual_seed(0)
        labels, centres = torch.arange(90) % 3, torch.randn(3, 12, generator=generator)
        vectors = centres[labels] + 1.5 * torch.randn(90, 12, generator=generator)
        return (*standardised(vectors[:60], vectors[60:]), labels[:60])

    def test_neighbours(self, data: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        from probe_features import NEIGHBOURS, TEMPERATURE, nearest_neighbours
        from sklearn.neighbors import KNeighborsClassifier

        def weights(distances: np.ndarray) -> np.ndarray:
            return np.exp((1 - distances) / TEMPERATURE)

        train, test, labels = data
        oracle = KNeighborsClassifier(NEIGHBOURS, metric="cosine", weights=weights).fit(train.numpy(), labels.numpy())
        assert nearest_neighbours(train, labels, test, 3).tolist() == oracle.predict(test.numpy()).tolist()

    def test_ridge(self, data: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        from probe_features import PENALTIES, linear_probe
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import LeaveOneOut, cross_val_predict

        train, test, labels = data[0].double().numpy(), data[1].double().numpy(), data[2]
        targets = torch.nn.functional.one_hot(labels, 3).double().numpy()
        right = []
        for penalty in PENALTIES:
            scores = cross_val_predict(Ridge(len(train) * penalty), train, targets, cv=LeaveOneOut())
            right.append((scores.argmax(1) == labels.numpy()).sum())
        assert min(right) < max(right)  # the penalty matters
        oracle = Ridge(len(train) * PENALTIES[int(np.argmax(right))]).fit(train, targets)
        assert linear_probe(*data[:1], labels, data[1], 3).tolist() == oracle.predict(test).argmax(1).tolist()


class TestDetectorFromStore:
    def test_learns_and_detects_the_same_with_the_real_backbone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--model", lite0(), "--out", tmp_path / "maps", "--size", "128x192", "--steps", 40, "--lr", 8e-3)
        run(monkeypatch, "train_detector_from_store", *arguments)
        lines = capsys.readouterr().out.splitlines()
        losses = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("step ")]
        assert losses[-1] < 0.55 * losses[0]
        trained, kept_back, same, speed = lines[-4:]
        for line, photos, objects, least in ((trained, 18, 308, 0.6), (kept_back, 2, 36, 0.5)):
            found = re.fullmatch(r"(\d+) photos [a-z ]+: (\d+) of (\d+) objects found, with (\d+) boxes", line)
            assert (int(found[1]), int(found[3])) == (photos, objects)
            assert int(found[2]) >= least * objects
            assert int(found[2]) <= int(found[4]) < 8 * objects
        scores, corners = map(float, re.findall(r"within ([\d.]+)", same))
        assert scores < 0.01
        assert corners < 3
        assert re.fullmatch(r"[\d.]+ steps/s from the store, [\d.]+ with the backbone .*: [\d.]+ times as many", speed)

    def test_size_that_detectors_would_pad(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SystemExit, match=r"must be multiples of 64, to which detectors pad"):
            run(monkeypatch, "train_detector_from_store", "--model", lite0(), "--out", tmp_path, "--size", "64x96")

    def test_stored_maps_keep_the_contract(self, tmp_path: Path) -> None:
        from stored_maps import StoredMaps

        real = tiny_backbone(out_features=["stem", "stage1", "stage2"])
        photos = {f"{number}": np.full((32, 48, 3), 9 * number, np.uint8) for number in range(3)}
        extract(photos, tmp_path / "maps", real, tiny_processor(), dtype="float32")
        store = FeatureStore(tmp_path / "maps")
        stored = StoredMaps(store)
        assert (stored.out_features, stored.channels, stored.strides) == (
            real.out_features,
            real.channels,
            real.strides,
        )
        assert [stage.offset for stage in stored.stages] == [stage.offset for stage in real.output_stages]
        stored.maps = next(iter(DataLoader(store.dataset(), 3)))
        pixels = tiny_processor()(list(photos.values()), return_tensors="pt").pixel_values
        with torch.inference_mode():
            for expected, given in zip(real(pixels).feature_maps, stored(pixels).feature_maps, strict=True):
                torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match=r"stem is \(3, 4, 8, 12\), not that of \(2, 3, 32, 48\) pixels"):
            stored(pixels[:2])


class TestLabelledBoxes:
    def test_crops_show_their_objects(self) -> None:
        """Where a box is in a crop, the pixels are those of the box in the photo."""
        from labelled_boxes import cut

        pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
        boxes, labels = torch.tensor([[20.0, 10, 40, 30], [0, 0, 15, 15], [50, 30, 80, 60]]), torch.tensor([1, 2, 3])
        image = Image.fromarray(pixels)
        part = cut(image, boxes, labels, (12, 4, 68, 46), mirrored=False)
        assert part.labels.tolist() == [1]  # of the others 3 x 11 of 225 and 18 x 16 of 900 pixels are left
        x0, y0, x1, y1 = (part.boxes[0] * torch.tensor([56, 42, 56, 42])).round().int().tolist()
        assert np.array_equal(np.asarray(part.image)[y0:y1, x0:x1], pixels[10:30, 20:40])
        part = cut(image, boxes, labels, (12, 4, 68, 46), mirrored=True)
        x0, y0, x1, y1 = (part.boxes[0] * torch.tensor([56, 42, 56, 42])).round().int().tolist()
        assert np.array_equal(np.asarray(part.image)[y0:y1, x0:x1][:, ::-1], pixels[10:30, 20:40])
        assert cut(image, boxes, labels, (0, 0, 80, 60), mirrored=True).labels.tolist() == [1, 2, 3]

    def test_coco(self, tmp_path: Path) -> None:
        from labelled_boxes import coco_photos, to_pixels

        size = {"width": 50, "height": 40}
        content = {
            "images": [{"id": 7, "file_name": "a.png", **size}, {"id": 3, "file_name": "b.png", **size}],
            "categories": [{"id": 90, "name": "cat"}, {"id": 4, "name": "dog"}],
            "annotations": [
                {"image_id": 7, "bbox": [5, 4, 20, 10], "category_id": 4, "iscrowd": 0},
                {"image_id": 7, "bbox": [0, 0, 50, 40], "category_id": 90, "iscrowd": 1},
            ],
        }
        (tmp_path / "boxes.json").write_text(json.dumps(content))
        photos, names = coco_photos(tmp_path, tmp_path / "boxes.json")
        assert names == ["cat", "dog"]
        assert photos["a.png"].image == tmp_path / "a.png"
        found = to_pixels(photos["a.png"], (80, 50))
        assert torch.allclose(found["boxes"], torch.tensor([[5.0, 8, 25, 28]]))
        assert found["labels"].tolist() == [2]
        assert photos["b.png"].boxes.shape == (0, 4)
        assert photos["b.png"].labels.dtype == torch.long

    def test_what_is_found(self) -> None:
        from labelled_boxes import count_found, largest_difference

        boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
        objects = {"boxes": boxes, "labels": torch.tensor([1, 2])}
        found = {**objects, "boxes": boxes + 0.5, "scores": torch.tensor([0.9, 0.3])}
        assert count_found(objects, found, 0.5) == (1, 1, 2)
        assert count_found(objects, found, 0.2) == (2, 2, 2)
        assert count_found(objects, {**found, "labels": torch.tensor([2, 2])}, 0.2) == (1, 2, 2)
        none = {name: value[:0] for name, value in found.items()}
        assert count_found(objects, none, 0.2) == (0, 0, 2)
        again = {**found, "boxes": boxes, "scores": torch.tensor([0.88, 0.1])}
        assert largest_difference(found, again, 0.5) == pytest.approx((0.02, 0.5))
        assert largest_difference(found, again, 0.2) == pytest.approx((0.2, 0.5))
        assert largest_difference(none, none, 0.2) == (0, 0)
        assert largest_difference(none, again, 0.2) == largest_difference(again, none, 0.2) == (math.inf, math.inf)
