"""Model cards of text models: the code in them runs, and they name the tokenizer."""

import re

import pytest
import torch
from hub_writes import WritableHubServer
from oracle import perturb, same
from text_cases import CASES, Case

LABELS = {0: "calm", 1: "glad", 2: "sad", 3: "angry"}


SUMMARIES = {
    "Model": "texts to a state of every token.",
    "ForMaskedLM": "texts to scores of all tokens of the vocabulary at every place.",
    "ForPreTraining": "pairs of texts to scores of all tokens at every place, and to whether the second text follows the first.",
    "ForNextSentencePrediction": "pairs of texts to whether the second follows the first.",
    "ForSequenceClassification": "texts to scores of 4 labels.",
    "ForTokenClassification": "tokens to scores of 4 labels.",
    "ForQuestionAnswering": "questions and texts to scores of the answer's first and last token.",
    "ForMultipleChoice": "choices, each a text, to a score of each.",
}
SHAPES = {
    "Model": "last_hidden_state (1, 8, 12)",
    "ForMaskedLM": "logits (1, 8, 31)",
    "ForPreTraining": "prediction_logits (1, 8, 31)",
    "ForNextSentencePrediction": "logits (1, 2)",
    "ForSequenceClassification": "logits (1, 4)",
    "ForTokenClassification": "logits (1, 8, 4)",
    "ForQuestionAnswering": "start_logits (1, 8)",
    "ForMultipleChoice": "logits (1, 2)",
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_code_runs(case: Case, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    model = case.ours() if case.task == "ForQuestionAnswering" else case.ours(id2label=LABELS)
    card = model.model_card("somebody/a-model")
    assert 'the tokenizer, `AutoTokenizer.from_pretrained("somebody/a-model")`' in card
    assert "image" not in card
    assert f"of vertebra: {SUMMARIES[case.task]}\n" in card
    assert "| vocabulary | 31 tokens |" in card
    assert f"pipeline_tag: {model.pipeline_tag}" in card
    model.save_pretrained(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    torch.manual_seed(0)
    exec(code.replace("somebody/a-model", str(tmp_path)), {})
    assert capsys.readouterr().out.startswith(f"{SHAPES[case.task]}\n")


def test_the_example_is_no_longer_than_texts_may_be() -> None:
    assert "torch.randint(31, (1, 5))" in CASES[0].ours(max_position_embeddings=5).model_card("somebody/a-model")


def test_labels_are_on_it() -> None:
    card = CASES[2].ours(id2label=LABELS).model_card("somebody/a-model")
    assert "texts to scores of 4 labels." in card
    assert "| labels | 4: calm, glad, sad, angry |" in card


# the hub client's own use of its HTTP library
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
def test_pushed_and_loaded_again(hub: WritableHubServer) -> None:
    hub.account("hf_writer", "somebody")
    model = perturb(CASES[1].ours()).eval()
    model.tie_weights()
    model.push_to_hub("somebody/a-model", token="hf_writer")
    again = CASES[1].cls.from_pretrained("somebody/a-model", token="hf_writer")
    same(tuple(again.state_dict().values()), tuple(model.state_dict().values()))
