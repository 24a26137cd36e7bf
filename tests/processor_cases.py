"""Processors of transformers with small vocabularies, saved in folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers
from PIL import Image
from tiny_vocab import write_vocab

LETTERS = "<pad> <s> </s> <unk> | A B C D E".split()
PAGE = "hello world the cat unaffable".split()
BOXES = [[10 * i, 20, 10 * i + 9, 40] for i in range(len(PAGE))]


def picture(height: int = 40, width: int = 30, seed: int = 0) -> Image.Image:
    """A picture of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def clips() -> list[Any]:
    """Two short clips of noise."""
    noise = np.random.default_rng(0)
    return [noise.standard_normal(length).astype(np.float32) * 0.1 for length in (900, 700)]


def ctc_vocabulary(folder: Path) -> Path:
    """Write `vocab.json` of letters, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.json"
    path.write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    return path


def wav2vec2(folder: Path) -> Any:
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(ctc_vocabulary(folder)))
    return transformers.Wav2Vec2Processor(transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer)


def bytes_vocabulary(folder: Path, more: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level vocabulary with two merges."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "th", "the</w>", *more]
    folder.mkdir(parents=True, exist_ok=True)
    return {word: number for number, word in enumerate(words)}, [("t", "h"), ("th", "e</w>")]


def whisper(folder: Path) -> Any:
    more = "<|endoftext|> <|startoftranscript|> <|en|> <|de|> <|translate|> <|transcribe|> <|startofprev|> <|notimestamps|>"
    vocabulary, _ = bytes_vocabulary(folder, more.split())
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[("t", "h")])
    return transformers.WhisperProcessor(
        transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1), tokenizer
    )


def clip(folder: Path) -> Any:
    vocabulary, merges = bytes_vocabulary(folder, ["<|startoftext|>", "<|endoftext|>"])
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 20, "width": 20})
    return transformers.CLIPProcessor(processor, tokenizer)


def layoutlmv2(folder: Path) -> Any:
    tokenizer = transformers.LayoutLMv2Tokenizer(str(write_vocab(folder) / "vocab.txt"))
    return transformers.LayoutLMv2Processor(transformers.LayoutLMv2ImageProcessor(apply_ocr=False), tokenizer)
