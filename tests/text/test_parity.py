"""Every model and head of text against transformers: outputs, losses, gradients and files, in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import close, perturb, save_with_transformers, saved_keys
from text_cases import CASES, FAMILIES, LENGTH, Case, labels_of

TIGHT = 1e-9
by_name = pytest.mark.parametrize("case", CASES, ids=str)


def both(case: Case, folder: Path, **more: Any) -> tuple[Any, Any]:
    """The same weights in transformers and here, in float64; every key arrives."""
    theirs = save_with_transformers(case.theirs(**more), folder)
    ours, info = case.cls.from_pretrained(folder, output_loading_info=True)
    assert all(not keys for keys in info.values()), info
    return theirs.double(), ours.double()


def fields_of(output: Any) -> dict[str, Any]:
    """What transformers returns, without the attention to other states, which an encoder has not (an empty tuple there)."""
    return {name: value for name, value in output.items() if value is not None and name != "cross_attentions"}


@by_name
def test_outputs_losses_and_gradients(case: Case, tmp_path: Path) -> None:
    theirs, ours = both(case, tmp_path)
    inputs = {**case.inputs(), **labels_of(case.task), "output_hidden_states": True, "output_attentions": True}
    expected, actual = theirs(**inputs), ours(**inputs)
    assert list(actual) == list(fields_of(expected))
    for name in actual:
        close(actual[name], expected[name], TIGHT, name)
    for output in (expected, actual):
        states = [output[name] for name in ("last_hidden_state", "pooler_output") if name in output]
        (output.loss if "loss" in output else sum(state.square().sum() for state in states)).backward()
    reached = 0
    for name, parameter in theirs.named_parameters():
        mine = ours.get_parameter(name).grad
        assert (mine is None) == (parameter.grad is None), name
        if mine is not None:
            close(mine, parameter.grad, TIGHT, name)
            reached += 1
    assert reached == len(list(ours.parameters())) == len(list(theirs.parameters()))


@by_name
def test_without_attentions_the_fused_kernel_gives_the_same(case: Case, tmp_path: Path) -> None:
    theirs, ours = both(case, tmp_path)
    inputs = case.inputs()
    with torch.no_grad():
        close(ours(**inputs).to_tuple(), tuple(fields_of(theirs(**inputs)).values()), TIGHT)
        close(ours(**inputs, return_dict=False), theirs(**inputs, return_dict=False), TIGHT)
        assert list(ours(**inputs)) == list(fields_of(theirs(**inputs)))


@by_name
def test_dropout_in_training_draws_the_same(case: Case, tmp_path: Path) -> None:
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.4}
    other = {"dropout": 0.3, "attention_dropout": 0.2, "qa_dropout": 0.4, "seq_classif_dropout": 0.35}
    theirs, ours = both(case, tmp_path, **(rates if case.family == "Bert" else other))
    inputs = {**case.inputs(), "output_attentions": True}
    results = []
    for model in (theirs.train(), ours.train()):
        torch.manual_seed(3)
        results.append(tuple(fields_of(model(**inputs)).values()))
    close(results[1], results[0], TIGHT)
    torch.manual_seed(4)
    with pytest.raises(AssertionError):
        close(ours(**inputs).to_tuple(), results[0], 1e-3)


@by_name
def test_transformers_reads_what_we_save(case: Case, tmp_path: Path) -> None:
    theirs, ours = both(case, tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path / "theirs")
    back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {name: set(keys) for name, keys in info.items() if keys} == {}
    inputs = case.inputs()
    with torch.no_grad():
        close(tuple(fields_of(back.double()(**inputs)).values()), ours(**inputs).to_tuple(), TIGHT)
    mine = case.cls.config_class.from_pretrained(tmp_path / "ours").to_dict()
    kept = {k: v for k, v in theirs.config.to_diff_dict().items() if k not in ("dtype", "id2label", "label2id")}
    assert {key: mine.get(key) for key in kept} == kept
    assert ours.config.num_labels == theirs.config.num_labels


@by_name
def test_transformers_reads_a_model_built_here(case: Case, tmp_path: Path) -> None:
    ours = perturb(case.ours()).eval()
    ours.tie_weights()
    ours.save_pretrained(tmp_path)
    theirs, info = type(case.theirs()).from_pretrained(tmp_path, output_loading_info=True)
    assert {name: set(keys) for name, keys in info.items() if keys} == {}
    inputs = {**case.inputs(), **labels_of(case.task)}
    with torch.no_grad():
        close(ours(**inputs).to_tuple(), tuple(fields_of(theirs.eval()(**inputs)).values()))


@pytest.mark.parametrize("case", FAMILIES, ids=str)
class TestInputs:
    def test_positions(self, case: Case, tmp_path: Path) -> None:
        theirs, ours = both(case, tmp_path)
        inputs = case.inputs()
        places = torch.tensor([[8, 2, 0, 1, 1, 4, 7]])
        with torch.no_grad():
            for given in (places, places.expand(3, -1)):
                expected = theirs(**inputs, position_ids=given).last_hidden_state
                close(ours(**inputs, position_ids=given).last_hidden_state, expected, TIGHT)
            close(ours(**inputs, position_ids=places[0]).last_hidden_state, expected, TIGHT)

    def test_embedded_texts(self, case: Case, tmp_path: Path) -> None:
        theirs, ours = both(case, tmp_path)
        inputs = case.inputs()
        vectors = torch.randn(3, LENGTH, 12, dtype=torch.float64)
        del inputs["input_ids"]
        expected = theirs(**inputs, inputs_embeds=vectors).last_hidden_state
        close(ours(**inputs, inputs_embeds=vectors).last_hidden_state, expected, TIGHT)

    @pytest.mark.parametrize("weights", [False, True])
    def test_a_mask_for_every_pair(self, case: Case, weights: bool, tmp_path: Path) -> None:
        theirs, ours = both(case, tmp_path)
        inputs = case.inputs()
        pairs = torch.rand(3, LENGTH, LENGTH) < 0.5
        pairs |= torch.eye(LENGTH, dtype=torch.bool)
        added = torch.zeros(3, 1, LENGTH, LENGTH, dtype=torch.float64).masked_fill(~pairs[:, None], -1e30)
        expected = theirs(**{**inputs, "attention_mask": added}).last_hidden_state
        for mask in (pairs, pairs.long(), pairs.double()):
            actual = ours(**{**inputs, "attention_mask": mask}, output_attentions=weights)
            close(actual.last_hidden_state, expected, TIGHT)

    def test_padding_changes_nothing(self, case: Case) -> None:
        model = perturb(case.ours()).eval().double()
        short = torch.randint(1, 31, (2, 4))
        long = torch.cat([short, torch.zeros(2, 3, dtype=torch.long)], 1)
        mask = (long > 0).long()
        close(model(long, attention_mask=mask).last_hidden_state[:, :4], model(short).last_hidden_state, TIGHT)

    def test_a_text_of_padding_alone_stays_finite(self, case: Case) -> None:
        model = perturb(case.ours()).eval()
        mask = torch.tensor([[1] * 5, [0] * 5])
        ids = torch.randint(1, 31, (2, 5))
        plain, with_weights = model(ids, mask), model(ids, mask, output_attentions=True)
        close(with_weights.last_hidden_state, plain.last_hidden_state)
        for output in (plain, with_weights):
            model.zero_grad()
            output.last_hidden_state.square().sum().backward()
            assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


class TestProblemTypes:
    """The loss of a classifier of texts, by the labels and by `problem_type`."""

    @pytest.mark.parametrize("family", ["Bert", "DistilBert"])
    @pytest.mark.parametrize(
        ("count", "kind", "labels"),
        [
            (1, None, torch.tensor([0.5, -1.0, 2.0])),
            (1, "regression", torch.tensor([[0.5], [-1.0], [2.0]])),
            (4, "regression", torch.arange(12.0).view(3, 4)),
            (4, None, torch.tensor([3, 0, 1])),
            (4, None, torch.tensor([3, 0, 1], dtype=torch.int32)),
            (4, "single_label_classification", torch.tensor([3, 0, -100])),
            (4, None, torch.tensor([[0.0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])),
            (4, "multi_label_classification", torch.tensor([[0.0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])),
        ],
    )
    def test_losses(self, family: str, count: int, kind: str | None, labels: torch.Tensor, tmp_path: Path) -> None:
        case = Case(family, "ForSequenceClassification", {"num_labels": count, "problem_type": kind})
        theirs, ours = both(case, tmp_path)
        given = labels.long() if labels.dtype == torch.int32 else labels  # their loss takes int64 alone
        given = given.double() if given.is_floating_point() else given
        inputs = case.inputs()
        expected = theirs(**inputs, labels=given)
        actual = ours(**inputs, labels=labels)
        close(actual.loss, expected.loss, TIGHT)
        assert ours.config.problem_type == kind
