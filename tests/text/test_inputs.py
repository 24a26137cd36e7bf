"""What text models refuse: the argument is named, and what to do is said."""

from typing import Any

import numpy as np
import pytest
import torch
from text_cases import CASES, FAMILIES, Case, labels_of

IDS = torch.tensor([[2, 5, 7, 3]])
ONES = torch.ones(1, 4, dtype=torch.long)


def refused(case: Case, text: str, error: type[Exception] = ValueError, **inputs: Any) -> None:
    with pytest.raises(error, match=text):
        case.ours()(**inputs)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({}, r"Give either input_ids, .* or inputs_embeds in place of them; got neither\."),
    "both": ({"input_ids": IDS, "inputs_embeds": torch.zeros(1, 4, 12)}, r"got both\."),
    "float ids": (
        {"input_ids": IDS.float()},
        r"input_ids of shape \(1, 4\) and dtype torch\.float32 must be whole numbers",
    ),
    "bool ids": ({"input_ids": IDS.bool()}, r"dtype torch\.bool must be whole numbers"),
    "bytes": ({"input_ids": IDS.byte()}, r"dtype torch\.uint8 must be whole numbers \(torch\.int64\)"),
    "one axis": ({"input_ids": IDS[0]}, r"input_ids of shape \(4,\) .* of shape \(batch, tokens\)"),
    "four axes": ({"input_ids": IDS[None, None]}, r"input_ids of shape \(1, 1, 1, 4\)"),
    "beyond the vocabulary": (
        {"input_ids": IDS + 26},
        r"input_ids holds 31; allowed are 0 to 30\. Either the tokenizer",
    ),
    "below": ({"input_ids": IDS - 3}, r"input_ids holds -1; allowed are 0 to 30"),
    "too long": (
        {"input_ids": torch.ones(1, 10, dtype=torch.long)},
        r"The texts have 10 tokens, and the model knows 9 places \(max_position_embeddings\): cut them with tokenizer\(…, "
        r"truncation=True, max_length=9\)",
    ),
    "no tokens": ({"input_ids": IDS[:, :0]}, r"The texts have no tokens"),
    "vectors of another width": (
        {"inputs_embeds": torch.zeros(1, 4, 8)},
        r"inputs_embeds of shape \(1, 4, 8\) .* \(batch, tokens, 12\)",
    ),
    "whole vectors": ({"inputs_embeds": torch.zeros(1, 4, 12, dtype=torch.long)}, r"must be floating-point vectors"),
    "mask of another length": (
        {"input_ids": IDS, "attention_mask": ONES[:, :3]},
        r"attention_mask of shape \(1, 3\) must be \(1, 4\), 1 for tokens and 0 for padding, or \(1, 4, 4\)",
    ),
    "mask with a head axis": (
        {"input_ids": IDS, "attention_mask": ONES[:, None, None]},
        r"attention_mask of shape \(1, 1, 1, 4\)",
    ),
    "mask that is added": (
        {"input_ids": IDS, "attention_mask": (1.0 - ONES) - 10000.0},
        r"attention_mask must be 1 where a token may be attended to and 0 where not; .* becomes that with mask == 0\.",
    ),
    "places of another length": (
        {"input_ids": IDS, "position_ids": ONES[:, :3]},
        r"position_ids of shape \(1, 3\) .* of shape \(1, 4\)",
    ),
    "one place": (
        {"input_ids": IDS, "position_ids": torch.tensor(3)},
        r"position_ids of shape \(\) .* of shape \(1, 4\)",
    ),
    "places beyond": (
        {"input_ids": IDS, "position_ids": ONES * 9},
        r"position_ids holds 9; allowed are 0 to 8\. The model has max_pos",
    ),
    "places of another batch": (
        {"input_ids": IDS, "position_ids": ONES.expand(3, -1)},
        r"position_ids of shape \(3, 4\)",
    ),
}


@pytest.mark.parametrize("case", FAMILIES, ids=str)
@pytest.mark.parametrize("name", BAD)
def test_texts(case: Case, name: str) -> None:
    inputs, text = BAD[name]
    refused(case, text, **inputs)


@pytest.mark.parametrize("given", [[[2, 5]], np.array([[2, 5]]), "a text"])
def test_no_tensors(given: Any) -> None:
    refused(CASES[0], rf"input_ids must be a tensor, got {type(given).__name__}: give the", TypeError, input_ids=given)


@pytest.mark.parametrize("name", ["attention_mask", "token_type_ids", "position_ids"])
def test_what_describes_texts_is_a_tensor(name: str) -> None:
    text = rf"^{name} must be a tensor, got list: give the tokenizer return_tensors='pt', or wrap it as torch\.tensor\(…\)\.$"
    refused(CASES[0], text, TypeError, input_ids=IDS, **{name: [[1, 1, 1, 1]]})
    refused(Case("Bert", "ForMultipleChoice"), text, TypeError, input_ids=IDS[None], **{name: [[[1, 1, 1, 1]]]})


@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("ForSequenceClassification", "labels"),
        ("ForMaskedLM", "labels"),
        ("ForQuestionAnswering", "start_positions"),
        ("ForQuestionAnswering", "end_positions"),
        ("ForPreTraining", "labels"),
        ("ForPreTraining", "next_sentence_label"),
    ],
)
def test_labels_are_tensors(family: str, task: str, name: str) -> None:
    case = Case("Bert" if task == "ForPreTraining" else family, task)
    text = rf"^{name} must be a tensor, got list: wrap it as torch\.tensor\(…\)\.$"
    refused(case, text, TypeError, input_ids=IDS, **{name: [1]})


def test_kinds_of_token() -> None:
    bert, distilbert = FAMILIES
    refused(
        bert,
        r"token_type_ids holds 2; allowed are 0 to 1\. The model has type_vocab_size=2 kinds",
        input_ids=IDS,
        token_type_ids=ONES * 2,
    )
    refused(bert, r"token_type_ids of shape \(1, 2\)", input_ids=IDS, token_type_ids=ONES[:, :2])
    refused(
        distilbert,
        r"has no token types: leave token_type_ids out, e\.g\. with tokenizer\(…, return_token_type_ids=False\)",
        input_ids=IDS,
        token_type_ids=ONES,
    )


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_of_either_size(dtype: torch.dtype) -> None:
    model = CASES[0].ours().eval()
    assert model(IDS.to(dtype), position_ids=ONES[0].to(dtype)).last_hidden_state.shape == (1, 4, 12)


LABELS: dict[str, tuple[str, dict[str, torch.Tensor], str]] = {
    "a class beyond": (
        "ForSequenceClassification",
        {"labels": torch.tensor([4])},
        r"labels holds 4; allowed are 0 to 3, or -100 for what counts in no loss\. The model has 4 classes; "
        "num_labels=… builds it with more",
    ),
    "two classes for one text": (
        "ForSequenceClassification",
        {"labels": torch.tensor([1, 2])},
        r"labels of shape \(2,\) and dtype torch\.int64 do not fit logits of shape \(1, 4\)",
    ),
    "a tag beyond": ("ForTokenClassification", {"labels": ONES * 4}, r"labels holds 4; allowed are 0 to 3, or -100"),
    "tags of another length": (
        "ForTokenClassification",
        {"labels": ONES[:, :3]},
        r"labels of shape \(1, 3\) and dtype torch\.int64 must be class indices of shape \(1, 4\)",
    ),
    "tags that are not whole": (
        "ForTokenClassification",
        {"labels": ONES.float()},
        r"dtype torch\.float32 must be class indices",
    ),
    "a token beyond": (
        "ForMaskedLM",
        {"labels": ONES * 31},
        r"labels holds 31; allowed are 0 to 30, or -100 .* a token of the model's vocabulary",
    ),
    "a start alone": (
        "ForQuestionAnswering",
        {"start_positions": torch.tensor([1])},
        r"start_positions and end_positions belong together",
    ),
    "a start below": (
        "ForQuestionAnswering",
        {"start_positions": torch.tensor([-1]), "end_positions": torch.tensor([2])},
        r"start_positions holds -1; tokens are numbered from 0\. For a text without an answer give the first "
        r"token, 0, or 4",
    ),
    "starts of another batch": (
        "ForQuestionAnswering",
        {"start_positions": torch.tensor([1, 1]), "end_positions": torch.tensor([2, 2])},
        r"start_positions of shape \(2,\)",
    ),
}


@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
@pytest.mark.parametrize("name", LABELS)
def test_labels(family: str, name: str) -> None:
    task, labels, text = LABELS[name]
    refused(Case(family, task), text, input_ids=IDS, **labels)


def test_an_unknown_problem() -> None:
    case = Case("Bert", "ForSequenceClassification", {"problem_type": "ranking"})
    refused(case, r"problem_type='ranking' must be 'regression'", input_ids=IDS, labels=torch.tensor([1]))


def test_pairs() -> None:
    refused(
        Case("Bert", "ForNextSentencePrediction"),
        r"labels holds 2; allowed are 0 to 1.* 0 says that the second text follows",
        input_ids=IDS,
        labels=torch.tensor([2]),
    )
    refused(
        Case("Bert", "ForPreTraining"),
        r"next_sentence_label holds 3",
        input_ids=IDS,
        next_sentence_label=torch.tensor([3]),
    )


def test_choices() -> None:
    case = Case("Bert", "ForMultipleChoice")
    refused(case, r"BertForMultipleChoice takes \(batch, choices, tokens\), got texts of shape \(1, 4\)", input_ids=IDS)
    refused(case, r"got texts of shape \(1, 4, 12\)", inputs_embeds=torch.zeros(1, 4, 12))
    refused(case, r"got texts of shape \(2, 0, 4\)", input_ids=torch.zeros(2, 0, 4, dtype=torch.long))
    refused(
        case,
        r"labels holds 3; allowed are 0 to 2.*There are 3 choices\.",
        **case.inputs(),
        labels=torch.tensor([0, 3, 1]),
    )


def test_choices_take_what_texts_take() -> None:
    case = Case("DistilBert", "ForMultipleChoice")
    model, inputs = case.ours().eval(), case.inputs()
    expected = model(**inputs, labels=torch.tensor([2, 0, 1]))
    vectors = model.get_input_embeddings()(inputs.pop("input_ids"))
    output = model(**inputs, inputs_embeds=vectors, position_ids=torch.arange(7), labels=torch.tensor([2, 0, 1]))
    assert torch.allclose(output.loss, expected.loss)
    assert torch.allclose(output.logits, expected.logits)


def test_only_one_of_the_losses_of_pre_training() -> None:
    case = Case("Bert", "ForPreTraining")
    model, inputs, labels = case.ours().eval(), case.inputs(), labels_of("ForPreTraining")
    both = model(**inputs, **labels).loss
    single = [model(**inputs, **{name: label}).loss for name, label in labels.items()]
    assert torch.allclose(both, sum(single))


@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
def test_a_batch_in_which_nothing_counts_has_no_loss(family: str) -> None:
    """The loss of transformers is not a number then, and so is every weight after the next step."""
    for task, labels in (
        ("ForMaskedLM", {"labels": ONES * -100}),
        ("ForTokenClassification", {"labels": ONES * -100}),
        ("ForQuestionAnswering", {"start_positions": torch.tensor([9]), "end_positions": torch.tensor([9])}),
    ):
        model = Case(family, task).ours()
        loss = model(IDS, **labels).loss
        loss.backward()
        assert loss.item() == 0
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())
