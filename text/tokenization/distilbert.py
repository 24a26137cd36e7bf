"""DistilBERT's tokenizers: BERT's, for a model without segments."""

from __future__ import annotations

from collections.abc import Sequence

from vertebra.text.tokenization.bert import BertTokenizer, BertTokenizerFast


class DistilBertTokenizer(BertTokenizer):
    """DistilBERT's tokenizer in plain Python; the arguments are those of `BertTokenizer`."""

    model_input_names: Sequence[str] = ("input_ids", "attention_mask")


class DistilBertTokenizerFast(BertTokenizerFast):
    """DistilBERT's tokenizer, run by the `tokenizers` library; the arguments are those of `BertTokenizerFast`."""

    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    slow_tokenizer_class = DistilBertTokenizer
