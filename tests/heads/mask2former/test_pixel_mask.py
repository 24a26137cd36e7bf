"""Padding: an image in a padded batch is decoded as if the padding were not there; transformers ignores the mask."""

from pathlib import Path

import pytest
import torch
from mask2former_cases import SIZE, both, images, tiny
from oracle import close, perturb, same
from torch import Tensor

from vertebra.heads.mask2former.pixel_decoder import Pixels
from vertebra.heads.padding import real_cells

PADDED = [(2, 3), (4, 6), (8, 12)]
"""Levels of a batch, the coarsest first."""
REAL = [(1, 2), (2, 4), (4, 8)]
"""What the first image fills of them; the second fills all."""


def mask() -> Tensor:
    pixel_mask = torch.zeros(2, *SIZE, dtype=torch.int64)
    pixel_mask[0, :32, :64] = pixel_mask[1] = 1
    return pixel_mask


def real() -> list[Tensor]:
    cells = [real_cells(mask(), *size) for size in PADDED]
    assert [tuple(each[0].nonzero().amax(0).add(1).tolist()) for each in cells] == REAL
    return cells


def flat(maps: list[Tensor]) -> Tensor:
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)


def cropped(maps: list[Tensor]) -> list[Tensor]:
    return [x[:1, :, :height, :width] for x, (height, width) in zip(maps, REAL, strict=True)]


@pytest.mark.parametrize("backbone", ["swin", "resnet", "timm"])
def test_a_mask_of_ones_changes_nothing(backbone: str, tmp_path: Path) -> None:
    model, ours = both(tmp_path, backbone)
    ones = torch.ones(3, *SIZE, dtype=torch.int64)
    with torch.no_grad():
        actual, expected = ours(images(), pixel_mask=ones), model(images(), pixel_mask=ones)
    close(actual.to_tuple(), expected.to_tuple(), 1e-9)


def test_the_encoder_works_as_if_there_were_no_padding() -> None:
    decoder = perturb(tiny().double()).model.pixel_level_module.decoder
    maps = [torch.randn(2, 64, *size, dtype=torch.float64) for size in PADDED]

    def positions(maps: list[Tensor], cells: list[Tensor] | None) -> Tensor:
        return flat([decoder.position_embedding(x, cells[i] if cells else None) for i, x in enumerate(maps)])

    with torch.no_grad():
        both_images = decoder.encoder(flat(maps), positions(maps, real()), PADDED, real())
        first = decoder.encoder(flat(cropped(maps)), positions(cropped(maps), None), REAL)
        second = decoder.encoder(flat(maps)[1:], positions(maps, None), PADDED)
    inside = torch.cat([each.flatten(1) for each in real()], 1)
    close(both_images[0, inside[0]], first[0], 1e-9)
    close(both_images[1:], second, 1e-9)


def test_queries_look_past_padding() -> None:
    transformer = perturb(tiny().double()).model.transformer_module
    levels = [torch.randn(2, 64, *size, dtype=torch.float64) for size in PADDED]
    masks = torch.randn(2, 20, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        padded = transformer(Pixels(tuple(levels), masks), real())
        alone = transformer(Pixels(tuple(cropped(levels)), masks[:1, :, :8, :16]))
        full = transformer(Pixels(tuple(x[1:] for x in levels), masks[1:]))
    close([state[:1] for state in padded.states], alone.states, 1e-9)
    close([state[1:] for state in padded.states], full.states, 1e-9)


def test_the_whole_model_and_transformers(tmp_path: Path) -> None:
    model, ours = both(tmp_path)
    x = images(2)
    with torch.no_grad():
        masked, plain = ours(x, pixel_mask=mask()).class_queries_logits, ours(x).class_queries_logits
        assert (masked[0] - plain[0]).abs().max() > 1e-3
        close(masked[1], plain[1], 1e-9)
        same(model(x, pixel_mask=mask()).class_queries_logits, model(x).class_queries_logits)


def test_dtypes_of_masks_and_images_of_nothing_but_padding() -> None:
    model = perturb(tiny()).eval()
    x = images(2, torch.float32)
    with torch.no_grad():
        expected = model(x, pixel_mask=mask()).class_queries_logits
        for dtype in (torch.bool, torch.float32):
            same(model(x, pixel_mask=mask().to(dtype)).class_queries_logits, expected)
        assert model(x, pixel_mask=torch.zeros_like(mask())).class_queries_logits.isfinite().all()
        thin = torch.zeros_like(mask())
        thin[:, :1] = 1
        assert model(x, pixel_mask=thin).class_queries_logits.isfinite().all()
