"""The tensor backend's parts, against torchvision, PIL and plain indexing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from vertebra.image_processing.pil_resize import pil_resize
from vertebra.image_processing.sizes import output_size
from vertebra.image_processing.transforms import center_crop, map_batches, resize

Noise = Callable[..., np.ndarray]
MODES = {
    Resampling.NEAREST: InterpolationMode.NEAREST_EXACT,
    Resampling.BILINEAR: InterpolationMode.BILINEAR,
    Resampling.BICUBIC: InterpolationMode.BICUBIC,
    Resampling.LANCZOS: InterpolationMode.LANCZOS,
}
SIX = [
    Resampling.NEAREST,
    Resampling.BOX,
    Resampling.BILINEAR,
    Resampling.HAMMING,
    Resampling.BICUBIC,
    Resampling.LANCZOS,
]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16, torch.int32])
@pytest.mark.parametrize("resample", MODES)
def test_resize_equals_torchvision_in_every_memory_format(
    noise: Noise, resample: Resampling, dtype: torch.dtype, channels: int
) -> None:
    for height, width, size in [(30, 41, (17, 19)), (9, 50, (33, 20)), (1, 20, (5, 5)), (20, 1, (40, 7))]:
        last = torch.from_numpy(noise(height, width, channels)).to(dtype).permute(2, 0, 1)[None]
        expected = tv.resize(last.contiguous(), list(size), interpolation=MODES[resample], antialias=True)
        for image in (last, last.contiguous()):
            resized = resize(image, size, resample)
            assert resized.dtype == dtype
            assert torch.equal(resized, expected)


@pytest.mark.parametrize("resample", SIX)
def test_pil_resize_equals_pil(noise: Noise, resample: Resampling) -> None:
    array = noise(23, 31)
    expected = np.array(Image.fromarray(array).resize((15, 40), resample))
    batch = torch.from_numpy(np.stack([array, array[::-1]])).permute(0, 3, 1, 2)
    assert torch.equal(pil_resize(batch, (40, 15), resample)[0], torch.from_numpy(expected).permute(2, 0, 1))
    as_float = pil_resize(batch.to(torch.float64), (40, 15), resample)
    assert as_float.dtype == torch.float64
    assert (as_float[0].clamp(0, 255) - torch.from_numpy(expected).permute(2, 0, 1)).abs().mean() < 1
    fourth = torch.cat([batch, torch.zeros_like(batch[:, :1])], 1)
    assert torch.equal(pil_resize(fourth, (40, 15), resample)[:, :3], pil_resize(batch, (40, 15), resample))


@pytest.mark.parametrize("size", [(5, 5), (8, 4), (12, 3), (2, 12), (11, 13), (7, 8)])
def test_center_crop_equals_torchvision(noise: Noise, size: tuple[int, int]) -> None:
    image = torch.from_numpy(noise(7, 8)).permute(2, 0, 1)[None]
    assert torch.equal(center_crop(image, size, round_offset=True), tv.center_crop(image, list(size)))


def test_center_crop_fills_each_channel() -> None:
    filled = center_crop(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), (4, 2), fill=(1, 2, 3))
    assert filled[0, :, 0, 0].tolist() == [1, 2, 3]
    assert filled[0, :, 1, 0].tolist() == [0, 0, 0]


def test_map_batches_groups_and_keeps_the_order() -> None:
    shapes = [(3, 2, 2), (3, 4, 4), (3, 2, 2), (3, 2, 2)]
    images = [torch.full(shape, float(i)) for i, shape in enumerate(shapes)]
    seen: list[int] = []

    def double(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return batch * 2

    for group, batches in ((True, [3, 1]), (False, [1, 1, 1, 1])):
        seen.clear()
        results = map_batches(double, images, group)
        assert seen == batches
        assert [(tuple(result.shape), float(result.max())) for result in results] == [
            (shape, 2.0 * i) for i, shape in enumerate(shapes)
        ]


def test_no_edge_vanishes() -> None:
    assert output_size(1, 1000, {"max_height": 10, "max_width": 10}) == (1, 10)
    assert output_size(1000, 1, {"shortest_edge": 10, "longest_edge": 20}) == (20, 1)
