"""Several images at once: the results of one after the other, and the first error."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import BitImageProcessor, MaskFormerImageProcessor, ViTImageProcessor
from vertebra.image_processing import base, transforms
from vertebra.image_processing.decode import decode_image, decode_images
from vertebra.image_processing.threads import each


@pytest.mark.parametrize("threads", [1, 2, 5, 50])
def test_results_are_in_order_and_the_first_error_is_raised(threads: int) -> None:
    assert each(lambda number: number**2, iter(range(20)), threads) == [number**2 for number in range(20)]
    assert each(len, [], threads) == []
    with pytest.raises(ValueError, match=r"^3$"):
        each(lambda number: int("x") if number == 9 else _fail(number), range(20), threads)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images-")]


def _fail(number: int) -> int:
    if number == 3:
        raise ValueError(number)
    return number


def test_all_threads_work(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = threading.Barrier(3, timeout=20)  # passes when three are at it at once
    each(lambda _: meeting.wait(), range(3), 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert set(each(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int16"])
@pytest.mark.parametrize(
    "processor", [ViTImageProcessor(), BitImageProcessor(size=40, crop_size=36), MaskFormerImageProcessor(size=64)]
)
def test_images_at_once_are_those_alone(
    processor: base.BaseImageProcessor, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for module in (base, transforms):
        monkeypatch.setattr(module, "MUCH_WORK", 0)
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (50, 60 + 4 * (index % 2), 3)).astype(dtype) for index in range(7)]
    together = processor(images)["pixel_values"]
    for image, found in zip(images, together, strict=True):
        (alone,) = processor(image)["pixel_values"]
        height, width = alone.shape[-2:]
        assert torch.equal(found[:, :height, :width], alone)
        assert not found[:, height:].any()
        assert not found[:, :, width:].any()


def test_many_small_images_are_normalised_in_pieces() -> None:
    images = list(torch.randint(0, 256, (700, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    expected = torch.stack(images).float().sub(0.5 * 255).div(0.25 * 255)
    found = transforms.normalized_batch(images, 0.5, 0.25, 1 / 255)
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decoder", ["pillow", "fast"])
def test_files_are_decoded_in_order_and_a_broken_one_is_named(decoder: str, tmp_path: Path) -> None:
    files = []
    for index in range(6):
        path = tmp_path / f"{index}.jpg"
        Image.effect_noise((40 + index, 30), 50).convert("RGB").save(path)
        files.append(path.read_bytes())
    for found, data in zip(decode_images(files, decoder, threads=3), files, strict=True):
        assert torch.equal(found, decode_image(data, decoder))
    files[4] = files[4][:200]
    with pytest.raises(ValueError, match=r"^files\[4\]: The image cannot be decoded: "):
        decode_images(files, decoder, threads=3)
    with pytest.raises(ValueError, match=r"decoder='fst' must be one of"):
        decode_images([], "fst")
