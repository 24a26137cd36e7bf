"""The code of transformers' quick tour, of its guide to custom architectures and of its guide to Auto classes, run here.

The calls are the guides'; the import is vertebra. Where a guide prints a result that does not hang on trained weights, that is
what is expected; outputs of models are compared with transformers' on the same files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from guide_hub import REPOSITORIES, STARS, UNCASED, write_repositories, write_words
from hub_server import HubServer
from oracle import close
from processor_cases import BOXES, LETTERS, PAGE, clips, picture
from safetensors.torch import load_file
from torch import nn

REVIEWS = "nlptown/bert-base-multilingual-uncased-sentiment"
DISTILBERT = "distilbert/distilbert-base-uncased"
HAPPY = "We are very happy to show you the 🤗 Transformers library."
HAPPY_IDS = [101, 11312, 10320, 12495, 19308, 10114, 11391, 10855, 10103, 100, 58263, 13299, 119, 102]
HOBBIT = "In a hole in the ground there lived a hobbit."
HOBBIT_IDS = [101, 1999, 1037, 4920, 1999, 1996, 2598, 2045, 2973, 1037, 7570, 10322, 4183, 1012, 102]
IMAGES = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
AUDIO = {"do_normalize": True, "feature_size": 1, "padding_side": "right", "padding_value": 0.0, "sampling_rate": 16000}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("guides")
    write_repositories(root)
    return root


@pytest.fixture(autouse=True)
def at_work(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    """A working folder of its own, and the hub with the repositories that guides load."""
    monkeypatch.chdir(tmp_path)
    for name in REPOSITORIES:
        hub.add(name, repositories / name)


def printed(value: Any) -> dict[str, Any]:
    """The JSON that a configuration or a processor prints."""
    text = str(value)
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found


# quick tour


def test_quick_tour_texts() -> None:
    from vertebra import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REVIEWS)
    encoding = tokenizer(HAPPY)
    assert dict(encoding) == {
        "input_ids": HAPPY_IDS,
        "token_type_ids": [0] * 14,
        "attention_mask": [1] * 14,
    }

    pt_batch = tokenizer(
        [HAPPY, "We hope you don't hate it."],
        padding=True,
        truncation=True,
        max_length=512,
        return_tensors="pt",
    )
    assert {name: tuple(value.shape) for name, value in pt_batch.items()} == dict.fromkeys(encoding, (2, 14))
    assert pt_batch["attention_mask"].sum(1).tolist() == [14, 11]

    pt_model = AutoModelForSequenceClassification.from_pretrained(REVIEWS)
    pt_outputs = pt_model(**pt_batch)
    pt_predictions = nn.functional.softmax(pt_outputs.logits, dim=-1)
    assert pt_predictions.shape == (2, 5)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(REVIEWS)
    close(pt_predictions, nn.functional.softmax(theirs(**pt_batch).logits, dim=-1))
    assert [pt_model.config.id2label[star] for star in range(5)] == STARS

    pt_save_directory = "./pt_save_pretrained"
    tokenizer.save_pretrained(pt_save_directory)
    pt_model.save_pretrained(pt_save_directory)

    pt_model = AutoModelForSequenceClassification.from_pretrained("./pt_save_pretrained")
    tokenizer = AutoTokenizer.from_pretrained(pt_save_directory)
    assert tokenizer(HAPPY)["input_ids"] == HAPPY_IDS
    assert torch.equal(pt_model(**pt_batch).logits, pt_outputs.logits)


def test_quick_tour_own_architecture() -> None:
    from vertebra import AutoConfig, AutoModel

    my_config = AutoConfig.from_pretrained(DISTILBERT, n_heads=12)
    my_model = AutoModel.from_config(my_config)
    assert type(my_model).__name__ == "DistilBertModel"
    assert my_model.config.n_heads == my_model.config.num_attention_heads == 12


def test_quick_tour_training() -> None:
    from vertebra import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(DISTILBERT, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(DISTILBERT)
    rows = [tokenizer(text) for text in (HOBBIT, "a hole")]
    batch = tokenizer.pad(rows, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(**batch, labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


# create a custom architecture


def test_architecture_configuration() -> None:
    from vertebra import DistilBertConfig

    config = DistilBertConfig()
    expected = {
        "activation": "gelu",
        "attention_dropout": 0.1,
        "dim": 768,
        "dropout": 0.1,
        "hidden_dim": 3072,
        "initializer_range": 0.02,
        "max_position_embeddings": 512,
        "model_type": "distilbert",
        "n_heads": 12,
        "n_layers": 6,
        "pad_token_id": 0,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "vocab_size": 30522,
    }
    assert expected.items() <= printed(config).items()

    my_config = DistilBertConfig(activation="relu", attention_dropout=0.4)
    assert {**expected, "activation": "relu", "attention_dropout": 0.4}.items() <= printed(my_config).items()

    my_config = DistilBertConfig.from_pretrained(DISTILBERT, activation="relu", attention_dropout=0.4)
    my_config.save_pretrained(save_directory="./your_model_save_path")
    my_config = DistilBertConfig.from_pretrained("./your_model_save_path/config.json")
    assert (my_config.activation, my_config.attention_dropout, my_config.dim) == ("relu", 0.4, 24)


def test_architecture_model() -> None:
    from vertebra import DistilBertConfig, DistilBertModel

    my_config = DistilBertConfig.from_pretrained(DISTILBERT, activation="relu", attention_dropout=0.4)
    my_config.save_pretrained(save_directory="./your_model_save_path")
    my_config = DistilBertConfig.from_pretrained("./your_model_save_path/config.json")
    model = DistilBertModel(my_config)
    assert model.config.activation == "relu"

    ids = torch.tensor([HOBBIT_IDS])
    for options in ({}, {"config": my_config}):
        model = DistilBertModel.from_pretrained(DISTILBERT, **options)
        theirs = transformers.DistilBertModel.from_pretrained(DISTILBERT)
        theirs_config = transformers.DistilBertConfig.from_pretrained("./your_model_save_path/config.json")
        if options:
            theirs = transformers.DistilBertModel.from_pretrained(DISTILBERT, config=theirs_config)
        close(model(ids).last_hidden_state, theirs(ids).last_hidden_state)


def test_architecture_heads() -> None:
    from vertebra import DistilBertForQuestionAnswering, DistilBertForSequenceClassification

    ids = torch.tensor([HOBBIT_IDS])
    model = DistilBertForSequenceClassification.from_pretrained(DISTILBERT)
    assert model(ids).logits.shape == (1, 2)
    answers = DistilBertForQuestionAnswering.from_pretrained(DISTILBERT)
    assert answers(ids).start_logits.shape == answers(ids).end_logits.shape == (1, 15)
    states = [found.distilbert(ids).last_hidden_state for found in (model, answers)]
    assert torch.equal(*states)


def test_architecture_tokenizer() -> None:
    from vertebra import DistilBertTokenizer, DistilBertTokenizerFast

    write_words(Path("my_vocab_file.txt"), UNCASED, 30522)
    my_tokenizer = DistilBertTokenizer(vocab_file="my_vocab_file.txt", do_lower_case=False, padding_side="left")
    batch = my_tokenizer(["a hole", "a"], padding=True)
    assert batch["input_ids"] == [[101, 1037, 4920, 102], [0, 101, 1037, 102]]
    assert my_tokenizer.tokenize("In the") == ["[UNK]", "the"]

    slow_tokenizer = DistilBertTokenizer.from_pretrained(DISTILBERT)
    fast_tokenizer = DistilBertTokenizerFast.from_pretrained(DISTILBERT)
    assert (slow_tokenizer.is_fast, fast_tokenizer.is_fast) == (False, True)
    assert slow_tokenizer(HOBBIT)["input_ids"] == fast_tokenizer(HOBBIT)["input_ids"] == HOBBIT_IDS


def test_architecture_image_processor() -> None:
    from vertebra import ViTImageProcessor

    vit_extractor = ViTImageProcessor()
    kind = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}
    assert {**IMAGES, **kind}.items() <= printed(vit_extractor).items()

    my_vit_extractor = ViTImageProcessor(resample="PIL.Image.BOX", do_normalize=False, image_mean=[0.3, 0.3, 0.3])
    changed = {"resample": 4, "do_normalize": False, "image_mean": [0.3, 0.3, 0.3]}
    assert {**IMAGES, **kind, **changed}.items() <= printed(my_vit_extractor).items()


def test_architecture_backbone() -> None:
    from vertebra import MaskFormerConfig, MaskFormerForInstanceSegmentation, ResNetConfig

    config = MaskFormerConfig(backbone="microsoft/resnet-50", use_pretrained_backbone=True)
    model = MaskFormerForInstanceSegmentation(config)
    theirs = transformers.ResNetModel.from_pretrained("microsoft/resnet-50").state_dict()
    name = "embedder.embedder.convolution.weight"
    (ours,) = [value for key, value in model.state_dict().items() if key.endswith(name)]
    assert torch.equal(ours, theirs[name])

    config = MaskFormerConfig(backbone="microsoft/resnet-50", use_pretrained_backbone=False)
    model = MaskFormerForInstanceSegmentation(config)
    (ours,) = [value for key, value in model.state_dict().items() if key.endswith(name)]
    assert not torch.equal(ours, theirs[name])

    backbone_config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic")
    config = MaskFormerConfig(backbone_config=backbone_config)
    model = MaskFormerForInstanceSegmentation(config)
    assert model(torch.randn(1, 3, 64, 64)).class_queries_logits.shape == (1, 100, config.num_labels + 1)


def test_architecture_timm_backbone(repositories: Path) -> None:
    from vertebra import (
        AutoBackbone,
        MaskFormerConfig,
        MaskFormerForInstanceSegmentation,
        TimmBackbone,
        TimmBackboneConfig,
    )

    config = MaskFormerConfig(backbone="resnet18", use_timm_backbone=True, use_pretrained_backbone=False)
    model = MaskFormerForInstanceSegmentation(config)
    assert model(torch.randn(1, 3, 64, 64)).class_queries_logits.shape == (1, 100, config.num_labels + 1)

    config = MaskFormerConfig(backbone="resnet18", use_pretrained_backbone=True, use_timm_backbone=True)
    model = MaskFormerForInstanceSegmentation(config)
    weights = load_file(repositories / "timm/resnet18.a1_in1k/model.safetensors")
    (ours,) = [value for key, value in model.state_dict().items() if key.endswith("layer1.0.conv1.weight")]
    assert torch.equal(ours, weights["layer1.0.conv1.weight"])

    backbone_config = TimmBackboneConfig("resnet18", use_pretrained_backbone=False)
    model = TimmBackbone(config=backbone_config)
    assert list(model.channels) == [512]
    model = MaskFormerForInstanceSegmentation(MaskFormerConfig(backbone_config=backbone_config))
    assert model(torch.randn(1, 3, 64, 64)).class_queries_logits.shape == (1, 100, config.num_labels + 1)
    model = AutoBackbone.from_config(backbone_config)
    assert [tuple(found.shape) for found in model(torch.randn(1, 3, 64, 64)).feature_maps] == [(1, 512, 2, 2)]


def test_architecture_feature_extractor() -> None:
    from vertebra import Wav2Vec2FeatureExtractor

    w2v2_extractor = Wav2Vec2FeatureExtractor()
    kind = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "return_attention_mask": False}
    assert printed(w2v2_extractor) == {**AUDIO, **kind}

    w2v2_extractor = Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=False)
    assert printed(w2v2_extractor) == {**AUDIO, **kind, "sampling_rate": 8000, "do_normalize": False}


def test_architecture_processor() -> None:
    from vertebra import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

    feature_extractor = Wav2Vec2FeatureExtractor(padding_value=1.0, do_normalize=True)
    Path("my_vocab_file.txt").write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    tokenizer = Wav2Vec2CTCTokenizer(vocab_file="my_vocab_file.txt")
    processor = Wav2Vec2Processor(feature_extractor=feature_extractor, tokenizer=tokenizer)
    batch = processor(audio=clips(), text=["AB", "C"], sampling_rate=16000, padding=True, return_tensors="pt")
    assert batch["input_values"].shape == (2, 900)
    assert batch["labels"].tolist() == [[5, 6], [7, 0]]


# AutoClass


def test_auto_tokenizer() -> None:
    from vertebra import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
    sequence = HOBBIT
    assert dict(tokenizer(sequence)) == {
        "input_ids": HOBBIT_IDS,
        "token_type_ids": [0] * 15,
        "attention_mask": [1] * 15,
    }


def test_auto_image_processor() -> None:
    from vertebra import AutoImageProcessor

    image_processor = AutoImageProcessor.from_pretrained("google/vit-base-patch16-224")
    pixels = image_processor(picture(), return_tensors="pt").pixel_values
    theirs = transformers.AutoImageProcessor.from_pretrained("google/vit-base-patch16-224")
    assert pixels.shape == (1, 3, 224, 224)
    assert torch.equal(pixels, theirs(picture(), return_tensors="pt").pixel_values)


def test_auto_backbone() -> None:
    from vertebra import AutoBackbone, AutoImageProcessor

    image = picture(480, 640)
    processor = AutoImageProcessor.from_pretrained("microsoft/swin-tiny-patch4-window7-224")
    model = AutoBackbone.from_pretrained("microsoft/swin-tiny-patch4-window7-224", out_indices=(1,))

    inputs = processor(image, return_tensors="pt")
    outputs = model(**inputs)
    feature_maps = outputs.feature_maps
    assert list(feature_maps[0].shape) == [1, 96, 56, 56]
    theirs = transformers.AutoBackbone.from_pretrained("microsoft/swin-tiny-patch4-window7-224", out_indices=(1,))
    close(feature_maps, theirs(**inputs).feature_maps)


def test_auto_feature_extractor() -> None:
    from vertebra import AutoFeatureExtractor

    feature_extractor = AutoFeatureExtractor.from_pretrained(
        "ehcalabres/wav2vec2-lg-xlsr-en-speech-emotion-recognition"
    )
    batch = feature_extractor(clips(), sampling_rate=16000, padding=True, return_tensors="pt")
    assert batch["attention_mask"].sum(1).tolist() == [900, 700]


def test_auto_processor() -> None:
    from vertebra import AutoProcessor

    processor = AutoProcessor.from_pretrained("microsoft/layoutlmv2-base-uncased")
    assert type(processor).__name__ == "LayoutLMv2Processor"
    assert type(processor.tokenizer).__name__ == "LayoutLMv2TokenizerFast"
    assert processor.image_processor.apply_ocr is True

    processor = AutoProcessor.from_pretrained("microsoft/layoutlmv2-base-uncased", apply_ocr=False)
    theirs = transformers.AutoProcessor.from_pretrained("microsoft/layoutlmv2-base-uncased", apply_ocr=False)
    words = HOBBIT.removesuffix(".").split()[: len(BOXES)]
    ours = processor(picture(), words, boxes=BOXES, return_tensors="pt")
    expected = theirs(picture(), words, boxes=BOXES, return_tensors="pt")
    assert list(ours) == list(expected)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert len(words) == len(PAGE)


def test_auto_processor_of_speech() -> None:
    from vertebra import AutoModelForCTC, AutoProcessor

    processor = AutoProcessor.from_pretrained("facebook/wav2vec2-base-960h")
    model = AutoModelForCTC.from_pretrained("facebook/wav2vec2-base-960h")
    inputs = processor(clips()[0], sampling_rate=processor.feature_extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    theirs = transformers.AutoModelForCTC.from_pretrained("facebook/wav2vec2-base-960h")
    close(logits, theirs(**inputs).logits.detach())
    predicted_ids = torch.argmax(logits, dim=-1)
    transcription = processor.batch_decode(predicted_ids)
    expected = transformers.AutoProcessor.from_pretrained("facebook/wav2vec2-base-960h").batch_decode(predicted_ids)
    assert transcription == expected
    inputs["labels"] = processor(text="AB", return_tensors="pt").input_ids
    assert model(**inputs).loss.item() > 0


def test_auto_models() -> None:
    from vertebra import AutoModelForSequenceClassification, AutoModelForTokenClassification

    ids = torch.tensor([HOBBIT_IDS])
    model = AutoModelForSequenceClassification.from_pretrained(DISTILBERT)
    assert type(model).__name__ == "DistilBertForSequenceClassification"
    assert model(ids).logits.shape == (1, 2)
    model = AutoModelForTokenClassification.from_pretrained(DISTILBERT)
    assert type(model).__name__ == "DistilBertForTokenClassification"
    assert model(ids).logits.shape == (1, 15, 2)
