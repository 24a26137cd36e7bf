"""Small checkpoints of text models in folders, each with its tokenizer, for the pipelines here and in transformers."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from oracle import perturb
from tiny_vocab import WORDS, write_vocab

SIZES: dict[str, dict[str, Any]] = {
    "Bert": {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20},
    "DistilBert": {"dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20},
}
LONGEST = 24


def write_text_model(
    folder: Path, family: str, head: str, labels: list[str], padding_side: str = "right", **more: Any
) -> Path:
    """Write a model whose weights are far from their initial values, so that its answers differ, and return the folder."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: at for at, name in enumerate(labels)}}
    shared = {"vocab_size": len(WORDS), "max_position_embeddings": 2 * LONGEST, **names, **more}
    config = getattr(transformers, f"{family}Config")(**SIZES[family], **shared)
    model = perturb(getattr(transformers, family + head)(config).eval(), scale=0.2)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(6)  # so that words matter more than what all of them share
        for name in ("classifier", "qa_outputs"):
            if hasattr(model, name):
                getattr(model, name).weight.mul_(3)
    model.save_pretrained(folder)
    write_vocab(folder)
    settings = {"tokenizer_class": f"{family}Tokenizer", "do_lower_case": True, "model_max_length": LONGEST}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": padding_side}))
    return folder
