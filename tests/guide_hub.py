"""The repositories that transformers' guides load, on the loopback hub: the same architectures, small and with random weights.

A vocabulary has the guide's words at the numbers that they have in the real one, so that a guide's printed ids hold.
"""

import json
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from processor_cases import LETTERS
from safetensors.torch import save_file
from wav2vec2_cases import TINY as WAV2VEC2

UNCASED = {
    "[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "in": 1999, "a": 1037, "hole": 4920,
    "the": 1996, "ground": 2598, "there": 2045, "lived": 2973, "ho": 7570, "##bb": 10322, "##it": 4183,
}  # fmt: skip
MULTILINGUAL = {
    "[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, "'": 112, ".": 119, "t": 162, "you": 10855, "we": 11312,
    "are": 10320, "very": 12495, "happy": 19308, "to": 10114, "show": 11391, "the": 10103, "transformers": 58263, "library": 13299,
    "hope": 18763, "don": 30939, "hate": 39487, "it": 10197,
}  # fmt: skip
DISTILBERT = {"dim": 24, "n_heads": 12, "hidden_dim": 32, "n_layers": 2, "max_position_embeddings": 32}
BERT = {
    "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 32,
}  # fmt: skip
WORDS = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
STARS = ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"]


def write_words(path: Path, numbers: dict[str, int], size: int) -> Path:
    """Write a vocabulary of `size` lines with the words at their numbers."""
    lines = [f"[unused{number}]" for number in range(size)]
    for word, number in numbers.items():
        lines[number] = word
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _write(folder: Path, **files: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def _distilbert(folder: Path) -> None:
    transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**DISTILBERT)).save_pretrained(folder)
    write_words(folder / "vocab.txt", UNCASED, 30522)
    _write(folder, tokenizer_config={"do_lower_case": True, "model_max_length": 512})


def _bert(folder: Path) -> None:
    transformers.BertForPreTraining(transformers.BertConfig(**BERT)).save_pretrained(folder)
    write_words(folder / "vocab.txt", UNCASED, 30522)
    _write(folder, tokenizer_config={"do_lower_case": True, "model_max_length": 512})


def _reviews(folder: Path) -> None:
    names = dict(enumerate(STARS))
    config = transformers.BertConfig(
        **BERT, vocab_size=58264, id2label=names, label2id={b: a for a, b in names.items()}
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    write_words(folder / "vocab.txt", MULTILINGUAL, 58264)
    _write(folder, tokenizer_config=WORDS)


def _vit(folder: Path) -> None:
    settings = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}
    _write(folder, preprocessor_config={**settings, "feature_extractor_type": "ViTFeatureExtractor"})


def _swin(folder: Path) -> None:
    config = transformers.SwinConfig(embed_dim=96, depths=[1], num_heads=[3])
    transformers.SwinForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]).save_pretrained(
        folder
    )


def _resnet(folder: Path) -> None:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic"
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)


def _timm(folder: Path) -> None:
    model = timm.create_model("resnet18")
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    _write(folder, config={"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": model.pretrained_cfg})


def _speech(folder: Path) -> None:
    config = transformers.Wav2Vec2Config(**{**WAV2VEC2, "vocab_size": len(LETTERS)})
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    _write(
        folder,
        vocab={letter: number for number, letter in enumerate(LETTERS)},
        tokenizer_config={
            "do_lower_case": False,
            "word_delimiter_token": "|",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
        preprocessor_config={"feature_size": 1, "sampling_rate": 16000, "do_normalize": True, "padding_value": 0.0},
    )


def _emotion(folder: Path) -> None:
    settings = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "return_attention_mask": True,
        "sampling_rate": 16000,
    }
    _write(folder, preprocessor_config=settings, config={"model_type": "wav2vec2"})


def _pages(folder: Path) -> None:
    settings = {
        "apply_ocr": True,
        "do_resize": True,
        "feature_extractor_type": "LayoutLMv2FeatureExtractor",
        "size": 224,
    }
    _write(folder, preprocessor_config={**settings, "resample": 2}, config={"model_type": "layoutlmv2"})
    write_words(folder / "vocab.txt", UNCASED, 30522)


REPOSITORIES = {
    "distilbert/distilbert-base-uncased": _distilbert,
    "google-bert/bert-base-uncased": _bert,
    "nlptown/bert-base-multilingual-uncased-sentiment": _reviews,
    "google/vit-base-patch16-224": _vit,
    "microsoft/swin-tiny-patch4-window7-224": _swin,
    "microsoft/resnet-50": _resnet,
    "timm/resnet18.a1_in1k": _timm,
    "facebook/wav2vec2-base-960h": _speech,
    "ehcalabres/wav2vec2-lg-xlsr-en-speech-emotion-recognition": _emotion,
    "microsoft/layoutlmv2-base-uncased": _pages,
}


def write_repositories(root: Path) -> None:
    """Write all repositories into folders of their names."""
    for name, write in REPOSITORIES.items():
        torch.manual_seed(0)
        write(root / name)
