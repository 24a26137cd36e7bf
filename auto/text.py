"""The Auto classes for tasks on text."""

from __future__ import annotations

from vertebra.auto.factory import AutoModelFactory


class AutoModelForPreTraining(AutoModelFactory):
    """Chooses the class with the heads a model is pre-trained with. Not constructed itself."""

    task = "pre_training"


class AutoModelForCausalLM(AutoModelFactory):
    """Chooses the class that continues texts. Not constructed itself."""

    task = "causal_lm"


class AutoModelForMaskedLM(AutoModelFactory):
    """Chooses the class that fills in masked tokens. Not constructed itself."""

    task = "masked_lm"


class AutoModelForSeq2SeqLM(AutoModelFactory):
    """Chooses the class that turns texts into texts. Not constructed itself."""

    task = "seq2seq_lm"


class AutoModelForSequenceClassification(AutoModelFactory):
    """Chooses the class with a classifier of whole texts. Not constructed itself."""

    task = "sequence_classification"


class AutoModelForMultipleChoice(AutoModelFactory):
    """Chooses the class that chooses among texts. Not constructed itself."""

    task = "multiple_choice"


class AutoModelForNextSentencePrediction(AutoModelFactory):
    """Chooses the class that tells whether one text follows another. Not constructed itself."""

    task = "next_sentence_prediction"


class AutoModelForTokenClassification(AutoModelFactory):
    """Chooses the class with a classifier of every token. Not constructed itself."""

    task = "token_classification"


class AutoModelForQuestionAnswering(AutoModelFactory):
    """Chooses the class that finds answers in texts. Not constructed itself."""

    task = "question_answering"


class AutoModelForTextEncoding(AutoModelFactory):
    """Chooses the class that turns texts into states. Not constructed itself."""

    task = "text_encoding"


class AutoModelForTableQuestionAnswering(AutoModelFactory):
    """Chooses the class that answers questions about tables. Not constructed itself."""

    task = "table_question_answering"
