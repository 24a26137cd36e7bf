"""What the tests of text models share: tiny configurations, every model with its labels, and batches with padding."""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor

import vertebra

WORDS, LENGTH, CHOICES = 31, 7, 3
BERT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 9,
    "type_vocab_size": 2,
    "num_labels": 4,
}
DISTILBERT: dict[str, Any] = {
    "vocab_size": WORDS,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 20,
    "max_position_embeddings": 9,
    "num_labels": 4,
}


def labels_of(task: str, batch: int = 3) -> dict[str, Tensor]:
    """Labels that a model with a head takes: some tokens that do not count, an answer beyond the text."""
    words = torch.randint(WORDS, (batch, LENGTH))
    words[0, 3:] = -100
    return {
        "Model": {},
        "ForMaskedLM": {"labels": words},
        "ForPreTraining": {"labels": words, "next_sentence_label": torch.tensor([0, 1, 1])[:batch]},
        "ForNextSentencePrediction": {"labels": torch.tensor([0, 1, 1])[:batch]},
        "ForSequenceClassification": {"labels": torch.tensor([3, 0, 2])[:batch]},
        "ForTokenClassification": {"labels": torch.where(words < 0, words, words % 4)},
        "ForQuestionAnswering": {
            "start_positions": torch.tensor([1, LENGTH + 2, 0])[:batch],
            "end_positions": torch.tensor([2, LENGTH, 6])[:batch],
        },
        "ForMultipleChoice": {"labels": torch.tensor([2, 0, 1])[:batch]},
    }[task]


@dataclass(frozen=True)
class Case:
    """One model here and in transformers."""

    family: str
    task: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, Any]:
        """The configuration's."""
        keys = {**(BERT if self.family == "Bert" else DISTILBERT), **self.more}
        return {**keys, "num_labels": 2} if self.task == "ForQuestionAnswering" else keys

    def theirs(self, **more: Any) -> Any:
        config = getattr(transformers, f"{self.family}Config")(**{**self.keys, **more})
        return getattr(transformers, self.family + self.task)(config)

    @property
    def cls(self) -> Any:
        return getattr(vertebra, self.family + self.task)

    def ours(self, **more: Any) -> Any:
        return self.cls(self.cls.config_class(**{**self.keys, **more}))

    def inputs(self, batch: int = 3) -> dict[str, Tensor]:
        """Texts of several lengths, padded."""
        shape = (batch, CHOICES, LENGTH) if self.task == "ForMultipleChoice" else (batch, LENGTH)
        inputs = {"input_ids": torch.randint(1, WORDS, shape), "attention_mask": torch.ones(shape, dtype=torch.long)}
        inputs["attention_mask"][1, ..., 4:] = 0
        inputs["input_ids"][inputs["attention_mask"] == 0] = 0
        if self.family == "Bert":
            inputs["token_type_ids"] = torch.randint(2, shape)
        return inputs

    def __str__(self) -> str:
        return self.family + self.task


SHARED = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
CASES = [
    *(Case(family, task) for family in ("Bert", "DistilBert") for task in (*SHARED, "ForMultipleChoice")),
    *(Case("Bert", task) for task in ("ForPreTraining", "ForNextSentencePrediction")),
]
FAMILIES = [Case("Bert", "Model"), Case("DistilBert", "Model")]
