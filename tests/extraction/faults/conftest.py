"""Two thousand small JPEGs, six of them broken, and a tiny model; made once."""

from pathlib import Path

import pytest
import torch
from fault_runs import Job, Store
from hostile import png_claiming
from real import tiny_backbone, tiny_processor
from tiny_store import jpeg

IMAGES = 2000


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ResNet of 1,280 stored bytes an image of 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tiny_backbone(out_features=["stem", "stage1", "stage2"]).save_pretrained(folder)
    tiny_processor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 files of 32 x 32 pixels, six of them broken, each in its own way. Tests do not write into it."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(IMAGES - 6):
        (folder / f"{index:04d}.jpg").write_bytes(jpeg(index, (32, 32)))
    whole = jpeg(0, (400, 300))
    (folder / "0100-cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "0300-empty.jpg").touch()
    (folder / "0500-noise.jpg").write_bytes(bytes(range(256)) * 8)
    (folder / "0700-page.jpg").write_text("<!DOCTYPE html><html></html>")
    (folder / "0900-none.jpg").write_bytes(png_claiming(0, 0))
    (folder / "1100-gone.jpg").symlink_to(folder / "deleted.jpg")
    return folder


@pytest.fixture(scope="session")
def undisturbed(images: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of a run that nobody disturbs, in one process."""
    job = Job(images, model, tmp_path_factory.mktemp("undisturbed") / "out", ("--engine", "inline"))
    assert job.run() == 3, job.said
    return job.files()
