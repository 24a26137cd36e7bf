"""Model cards of models of speech: the code in them runs, and they name the feature extractor."""

import re
from pathlib import Path
from typing import Any

import pytest
from hub_writes import WritableHubServer
from oracle import same
from wav2vec2_cases import TINY
from whisper_cases import TINY as WHISPER

from vertebra import (
    AutoModelForSpeechSeq2Seq,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

MODELS = {
    "automatic-speech-recognition": lambda: Wav2Vec2ForCTC(Wav2Vec2Config(**TINY)),
    "feature-extraction": lambda: Wav2Vec2Model(Wav2Vec2Config(**TINY)),
    "writes": lambda: WhisperForConditionalGeneration(WhisperConfig(**WHISPER)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_code_runs(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = MODELS[kind]()
    card = model.model_card("somebody/a-model")
    assert 'the feature extractor, `AutoFeatureExtractor.from_pretrained("somebody/a-model")(samples' in card
    assert "image" not in card
    assert f"pipeline_tag: {model.pipeline_tag}" in card
    model.save_pretrained(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(code.replace("somebody/a-model", str(tmp_path)), {})
    assert re.search(r"^(logits|last_hidden_state) \(1, ", capsys.readouterr().out)


# the hub client's own use of its HTTP library
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
def test_pushed_with_how_it_writes(hub: WritableHubServer) -> None:
    hub.account("hf_writer", "somebody")
    model = MODELS["writes"]()
    model.generation_config.max_length = 7
    model.push_to_hub("somebody/a-whisper", token="hf_writer")
    again = AutoModelForSpeechSeq2Seq.from_pretrained("somebody/a-whisper", token="hf_writer")
    assert again.generation_config == model.generation_config
    same(tuple(again.state_dict().values()), tuple(model.state_dict().values()))
