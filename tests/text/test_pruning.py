"""Attention heads that are left out: what they said is gone and nothing else, in memory and in files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import close, perturb, same
from text_cases import FAMILIES, Case

HEADS = [Case("Bert", "ForMaskedLM"), Case("DistilBert", "ForSequenceClassification"), *FAMILIES]
by_name = pytest.mark.parametrize("case", HEADS, ids=str)


def silenced(case: Case, model: Any, heads: dict[int, list[int]]) -> Any:
    """A copy in which these heads' values reach nobody: the oracle, since that is all a head does."""
    twin = case.ours().eval()
    twin.load_state_dict(model.state_dict())
    width = 12 // 3
    with torch.no_grad():
        for number, out in heads.items():
            context = twin.base_model.encoder_layers.layer[number].parts()[3]
            for head in out:
                context.weight[:, head * width : (head + 1) * width] = 0
    return twin


@by_name
def test_the_rest_stays(case: Case, tmp_path: Path) -> None:
    model = perturb(case.ours()).eval()
    model.tie_weights()
    expected = silenced(case, model, {0: [1], 1: [0, 2]})
    many = model.num_parameters()
    model.prune_heads({0: [1], 1: [0, 2]})
    assert model.config.pruned_heads == {0: [1], 1: [0, 2]}
    assert many - model.num_parameters() == 3 * (3 * (12 * 4 + 4) + 4 * 12)
    inputs = case.inputs()
    with torch.no_grad():
        close(model(**inputs).to_tuple(), expected(**inputs).to_tuple())
        attentions = model(**inputs, output_attentions=True).attentions
        assert [a.shape[1] for a in attentions] == [2, 1]
        close(attentions[1][:, 0], expected(**inputs, output_attentions=True).attentions[1][:, 1])

    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pruned_heads"] == {"0": [1], "1": [0, 2]}
    again, info = case.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.config.pruned_heads == model.config.pruned_heads
    with torch.no_grad():
        same(again(**inputs).to_tuple(), model(**inputs).to_tuple())
    rebuilt = case.cls(again.config)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_in_steps_the_numbers_stay_those_of_the_whole_model() -> None:
    case = HEADS[0]
    model = perturb(case.ours()).eval()
    model.tie_weights()
    expected = silenced(case, model, {0: [0, 2], 1: [1]})
    model.prune_heads({0: [0]})
    model.prune_heads({0: [0, 2], 1: []})
    model.prune_heads({1: [1]})
    assert model.config.pruned_heads == {0: [0, 2], 1: [1]}
    inputs = case.inputs()
    with torch.no_grad():
        close(model(**inputs).to_tuple(), expected(**inputs).to_tuple())


def test_training_goes_on() -> None:
    model = perturb(HEADS[2].ours()).double()
    frozen = model.encoder.layer[0].attention.self.query
    frozen.requires_grad_(False)
    model.prune_heads({0: [1], 1: [2]})
    query = model.encoder.layer[0].attention.self.query
    assert (query.weight.dtype, query.weight.requires_grad, query.out_features) == (torch.float64, False, 8)
    model(**HEADS[2].inputs()).last_hidden_state.square().sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("heads", "text"),
    [
        ({2: [0]}, r"There is no layer 2 to prune heads of: the model has layers 0 to 1\."),
        ({0: [3]}, r"Layer 0 has no attention head 3: its heads are 0 to 2\."),
        ({0: [0, 1, 2]}, r"All 3 heads of layer 0 are to be pruned; at least one has to be left\."),
        ({1: [0, 1]}, r"All 3 heads of layer 1 are to be pruned"),
        ({0: 1}, r"Heads to prune are given as lists by layer, e\.g\. \{0: \[1, 2\]\}; got \{0: 1\}\."),
        ([0], r"Heads to prune are given as lists by layer"),
        ({0: [0.5]}, r"Heads to prune are given as lists by layer"),
        ({"first": [0]}, r"Heads to prune are given as lists by layer"),
    ],
)
def test_heads_that_cannot_go(heads: Any, text: str) -> None:
    model = HEADS[3].ours()
    model.prune_heads({1: [2]})
    with pytest.raises(ValueError, match=text):
        model.prune_heads(heads)
    assert model.config.pruned_heads == {1: [2]}
    assert [layer.heads for layer in model.transformer.layer] == [3, 2]


def test_a_configuration_with_wrong_heads() -> None:
    with pytest.raises(ValueError, match="Layer 0 has no attention head 5: its heads are 0 to 2"):
        HEADS[2].ours(pruned_heads={"0": [5]})
