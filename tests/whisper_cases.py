"""A Whisper that builds and runs in milliseconds."""

from pathlib import Path
from typing import Any

import torch
import transformers
from oracle import save_with_transformers

TINY: dict[str, Any] = {
    "vocab_size": 60,
    "num_mel_bins": 8,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "d_model": 16,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 24,
    "max_source_positions": 10,
    "max_target_positions": 24,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 4,
    "begin_suppress_tokens": [3, 5],
    "suppress_tokens": [6, 7],
}


def make(folder: Path, name: str, **settings: Any) -> Any:
    """A model of transformers with random weights, saved in `folder`."""
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.WhisperConfig(**{**TINY, **settings}))
    return save_with_transformers(model, folder, scale=0.2)
