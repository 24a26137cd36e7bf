"""AutoFeatureExtractor: by name, by model type, registered, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers
from hub_server import HubServer

from vertebra import (
    AutoConfig,
    AutoFeatureExtractor,
    FeatureExtractionMixin,
    PreTrainedConfig,
    ResNetConfig,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)


class BeatsConfig(PreTrainedConfig):
    model_type = "beats"


class BeatsFeatureExtractor(FeatureExtractionMixin):
    """Settings of one's own."""

    def __init__(self, tempo: int = 120, **settings: Any) -> None:
        super().__init__(tempo=tempo, **settings)


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from vertebra.auto import preparers, registry

    monkeypatch.setattr(registry, "_configs", {})
    monkeypatch.setattr(preparers, "_registered", {})


def write(folder: Path, **files: Mapping[str, Any]) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("theirs", [transformers.Wav2Vec2FeatureExtractor, transformers.WhisperFeatureExtractor])
def test_files_of_transformers(theirs: Any, tmp_path: Path, hub: HubServer) -> None:
    theirs(padding_value=0.5).save_pretrained(tmp_path)
    ours = AutoFeatureExtractor.from_pretrained(tmp_path, padding_side="left")
    assert type(ours).__name__ == theirs.__name__
    assert (ours.padding_value, ours.padding_side) == (0.5, "left")
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "preprocessor_config.json").sampling_rate == 16000
    assert hub.requests == []
    ours.save_pretrained(tmp_path / "ours")
    assert type(transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "ours")) is theirs


def test_from_the_hub(tmp_path: Path, hub: HubServer, cache: Path) -> None:
    WhisperFeatureExtractor(chunk_length=7).save_pretrained(tmp_path / "speech")
    hub.add("someone/speech", tmp_path / "speech")
    ours = AutoFeatureExtractor.from_pretrained("someone/speech", cache_dir=cache)
    assert (type(ours), ours.chunk_length) == (WhisperFeatureExtractor, 7)
    again = AutoFeatureExtractor.from_pretrained("someone/speech", cache_dir=cache, local_files_only=True)
    assert again.to_dict() == ours.to_dict()


def test_by_model_type_and_nested(tmp_path: Path) -> None:
    write(tmp_path, preprocessor_config={"feature_size": 128}, config={"model_type": "whisper"})
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is WhisperFeatureExtractor
    nested = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False}
    write(tmp_path, processor_config={"feature_extractor": nested})
    ours = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert (type(ours), ours.do_normalize) == (Wav2Vec2FeatureExtractor, False)


@pytest.mark.usefixtures("clean_registry")
def test_register(tmp_path: Path) -> None:
    AutoConfig.register("beats", BeatsConfig)
    with pytest.raises(ValueError, match=r"must be a class that derives from vertebra\.FeatureExtractionMixin"):
        AutoFeatureExtractor.register(BeatsConfig, ViTImageProcessor)
    AutoFeatureExtractor.register(BeatsConfig, BeatsFeatureExtractor)
    with pytest.raises(ValueError, match="BeatsConfig has a feature extractor already; pass exist_ok=True"):
        AutoFeatureExtractor.register(BeatsConfig, BeatsFeatureExtractor)
    BeatsFeatureExtractor(tempo=90).save_pretrained(tmp_path)
    ours, unused = AutoFeatureExtractor.from_pretrained(tmp_path, other=1, return_unused_kwargs=True)
    assert (type(ours), ours.tempo, unused) == (BeatsFeatureExtractor, 90, {"other": 1})
    write(tmp_path, preprocessor_config={"tempo": 60}, config={"model_type": "beats"})
    assert AutoFeatureExtractor.from_pretrained(tmp_path).tempo == 60


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"call AutoFeatureExtractor\.from_pretrained\(name or folder\)"):
        AutoFeatureExtractor()
    with pytest.raises(FileNotFoundError, match=r"has no 'preprocessor_config\.json', so how its audio is prepared"):
        AutoFeatureExtractor.from_pretrained(tmp_path)
    write(tmp_path, preprocessor_config={"feature_extractor_type": "Wav2VecFeatureExtractor"})
    with pytest.raises(ValueError, match=r"is not known\. Did you mean 'Wav2Vec2FeatureExtractor'"):
        AutoFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True is refused"):
        AutoFeatureExtractor.from_pretrained(tmp_path, trust_remote_code=True)
    for stored in ({"image_processor_type": "X"}, {"feature_extractor_type": "ViTFeatureExtractor"}):
        write(tmp_path, preprocessor_config=stored)
        with pytest.raises(ValueError, match=r"prepares images, not audio: AutoImageProcessor\.from_pretrained"):
            AutoFeatureExtractor.from_pretrained(tmp_path)
    ResNetConfig().save_pretrained(tmp_path)
    write(tmp_path, preprocessor_config={"sampling_rate": 16000})
    with pytest.raises(ValueError, match=r"Feature extractor None \(model_type 'resnet'\) is not known"):
        AutoFeatureExtractor.from_pretrained(tmp_path)
