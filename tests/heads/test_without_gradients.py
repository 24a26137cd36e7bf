"""Without gradients decoders go other ways (channels-last, Winograd, sums in place): to the same numbers, inputs untouched."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from oracle import close
from torch import Tensor, nn

from vertebra import winograd
from vertebra.heads.initial import normal
from vertebra.heads.mask2former.pixel_decoder import Mask2FormerPixelDecoder
from vertebra.heads.maskformer.pixel_decoder import MaskFormerPixelDecoder
from vertebra.heads.upernet.model import UperNetHead

CHANNELS = [8, 12, 16, 20]
START = normal(0.05)
DECODERS: dict[str, Callable[[], nn.Module]] = {
    "maskformer": lambda: MaskFormerPixelDecoder(CHANNELS, 192, 192, START, START),
    "mask2former": lambda: Mask2FormerPixelDecoder(CHANNELS, 192, 64, 1, 2, 4, 48, 0.0, START),
    "upernet": lambda: UperNetHead(CHANNELS, 192, (1, 2, 3, 6), 5),
}


def tensors(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [tensor for part in output for tensor in tensors(part)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", DECODERS)
def test_numbers_are_those_with_gradients(name: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    decoder = DECODERS[name]().eval()
    maps = [
        torch.randn(2, channels, 48 >> level, 56 >> level).contiguous(memory_format=layout)
        for level, channels in enumerate(CHANNELS)
    ]
    kept = [x.clone() for x in maps]
    expected = tensors(decoder(maps))
    assert all(x.requires_grad for x in expected)
    with torch.no_grad(), mock.patch.object(winograd, "winograd", wraps=winograd.winograd) as taken:
        actual = tensors(decoder(maps))
    assert taken.called
    close(actual, [x.detach() for x in expected], tol=1e-5)
    assert all(map(torch.equal, maps, kept))
