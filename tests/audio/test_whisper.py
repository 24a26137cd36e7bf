"""Whisper against transformers: outputs, losses, gradients, files both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from oracle import close, gradients_as_saved, saved_keys
from whisper_cases import TINY, make

from vertebra import (
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    BaseModelOutput,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperModel,
)

OUTPUTS = ["last_hidden_state", "encoder_last_hidden_state"]
LISTS = [
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "encoder_hidden_states",
    "encoder_attentions",
]


def load(auto: Any, folder: Path) -> Any:
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert all(not keys for keys in info.values()), info
    return model


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spectrograms, tokens, and which of the tokens are none."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(3, 8, 20, generator=generator, dtype=torch.float64).to(dtype)
    tokens = torch.randint(8, 60, (3, 7), generator=generator)
    mask = torch.ones(3, 7).long()
    mask[1, 5:] = mask[2, 3:] = 0
    return features, tokens.masked_fill(mask == 0, 1), mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("settings", [{}, {"activation_function": "relu", "pad_token_id": 0}], ids=["gelu", "relu"])
def test_model(settings: dict[str, Any], masked: bool, tmp_path: Path) -> None:
    theirs = make(tmp_path, "WhisperModel", **settings)
    ours = load(AutoModel, tmp_path)
    features, tokens, mask = inputs()
    call: dict[str, Any] = {"decoder_input_ids": tokens, "output_hidden_states": True, "output_attentions": True}
    call |= {"decoder_attention_mask": mask} if masked else {}
    with torch.no_grad():
        expected, found = theirs(features, **call), ours(features, **call)
        fast = ours(features, decoder_input_ids=tokens, decoder_attention_mask=mask if masked else None)
    assert found.keys() == expected.keys()
    for name in OUTPUTS:
        close(found[name], expected[name], name=name)
        close(fast[name], expected[name], name=name)
    for name in LISTS:
        close(found[name], expected[name], name=name)
    ours.save_pretrained(tmp_path / "ours")
    assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path)
    _, info = transformers.WhisperModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info


@pytest.mark.parametrize("tied", [True, False])
def test_scores_losses_and_gradients(tied: bool, tmp_path: Path) -> None:
    theirs = make(tmp_path, "WhisperForConditionalGeneration", tie_word_embeddings=tied).double()
    ours = load(AutoModelForSpeechSeq2Seq, tmp_path).double()
    features, tokens, mask = inputs(torch.float64)
    labels = tokens.masked_fill(mask == 0, -100)
    expected, found = theirs(features, labels=labels), ours(features, labels=labels)
    close(found.logits, expected.logits, tol=1e-9)
    close(found.loss, expected.loss, tol=1e-9)
    expected.loss.backward()
    found.loss.backward()
    gradients = gradients_as_saved(theirs, tmp_path / "gradients")
    for name, parameter in ours.named_parameters():
        if parameter.grad is None:
            assert name == "model.encoder.embed_positions.weight"
        else:
            close(parameter.grad, gradients[name], tol=1e-8, name=name)
    assert (ours.proj_out.weight is ours.model.decoder.embed_tokens.weight) == tied
    ours.float().save_pretrained(tmp_path / "ours")
    assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path)
    assert ("proj_out.weight" in saved_keys(tmp_path)) != tied
    again, info = transformers.WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    with torch.no_grad():
        close(again(features.float(), labels=labels).logits, expected.logits.float())


def test_what_the_decoder_keeps_gives_the_same(tmp_path: Path) -> None:
    make(tmp_path, "WhisperForConditionalGeneration")
    ours = load(AutoModelForSpeechSeq2Seq, tmp_path)
    features, tokens, _ = inputs()
    with torch.no_grad():
        whole = ours(features, decoder_input_ids=tokens)
        first = ours(features, decoder_input_ids=tokens[:, :3])
        states = BaseModelOutput(last_hidden_state=first.encoder_last_hidden_state)
        parts = [first.logits]
        past = first.past_key_values
        for at in (slice(3, 4), slice(4, 7)):
            step = ours(encoder_outputs=states, decoder_input_ids=tokens[:, at], past_key_values=past)
            past = step.past_key_values
            parts.append(step.logits)
    close(torch.cat(parts, dim=1), whole.logits)
    assert past[0].length == 7
    assert ours(features, decoder_input_ids=tokens, use_cache=False).past_key_values is None
    other = (first.encoder_last_hidden_state,)
    close(ours(encoder_outputs=other, decoder_input_ids=tokens).logits, whole.logits)
    embeds = ours.get_input_embeddings()(tokens)
    places = torch.arange(7)[None].expand(3, -1)
    close(ours(features, decoder_inputs_embeds=embeds, decoder_position_ids=places).logits, whole.logits)


def test_spectrograms_are_masked_as_transformers_masks_them(tmp_path: Path) -> None:
    settings = {"apply_spec_augment": True, "mask_time_prob": 0.4, "mask_time_length": 4, "mask_feature_prob": 0.4}
    theirs = make(tmp_path, "WhisperModel", **settings, mask_feature_length=2).train()
    ours = load(AutoModel, tmp_path).train()
    features, tokens, _ = inputs()
    before = features.clone()
    mask = torch.ones(3, 20).long()
    mask[0, 12:] = 0
    for seed in range(4):
        outputs = []
        for model in (theirs, ours):
            np.random.seed(seed)
            outputs.append(model(before.clone(), attention_mask=mask, decoder_input_ids=tokens).last_hidden_state)
        close(outputs[1], outputs[0])
    ours(features, decoder_input_ids=tokens)
    assert torch.equal(features, before)


def test_layerdrop_leaves_out_the_same_layers(tmp_path: Path) -> None:
    theirs = make(tmp_path, "WhisperModel", encoder_layerdrop=0.5, decoder_layerdrop=0.5).train()
    ours = load(AutoModel, tmp_path).train()
    features, tokens, _ = inputs()
    for seed in range(6):
        outputs = []
        for model in (theirs, ours):
            torch.manual_seed(seed)
            outputs.append(model(features, decoder_input_ids=tokens, use_cache=False).last_hidden_state)
        close(outputs[1], outputs[0])


def test_initial_weights_are_spread_as_in_transformers() -> None:
    ours = WhisperForConditionalGeneration(WhisperConfig(**{**TINY, "d_model": 64}))
    theirs = dict(
        transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(**{**TINY, "d_model": 64})
        ).named_parameters()
    )
    for name, found in ours.named_parameters():
        expected = theirs[name]
        assert found.requires_grad == expected.requires_grad
        if "encoder.embed_positions" in name:
            close(found, expected, tol=1e-6)
        elif found.numel() > 400:
            assert abs(found.std() / expected.std() - 1) < 0.3, name
    assert not ours.model.decoder.embed_tokens.weight[1].any()


def test_config_both_ways(tmp_path: Path) -> None:
    theirs = transformers.WhisperConfig()
    theirs.save_pretrained(tmp_path)
    ours = WhisperConfig.from_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    there = {key: value for key, value in written.items() if key != "transformers_version"}
    assert there.items() <= WhisperConfig().to_dict().items()
    ours.save_pretrained(tmp_path / "ours")
    assert transformers.WhisperConfig.from_pretrained(tmp_path / "ours").to_dict() == theirs.to_dict()
    assert (ours.hidden_size, ours.num_attention_heads, ours.num_hidden_layers) == (384, 6, 4)
    assert WhisperConfig(hidden_size=64).d_model == 64
    written["num_hidden_layers"] = 4  # transformers 4 writes both
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert WhisperConfig.from_pretrained(tmp_path, encoder_layers=2).num_hidden_layers == 2
    assert WhisperConfig.from_pretrained(tmp_path, num_hidden_layers=3).encoder_layers == 3


def test_a_model_without_a_head_becomes_one_with(tmp_path: Path) -> None:
    make(tmp_path, "WhisperModel")
    ours, info = WhisperForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == []
    assert ours.proj_out.weight is ours.model.decoder.embed_tokens.weight


def test_tuples_and_freezing() -> None:
    model = WhisperForConditionalGeneration(WhisperConfig(**TINY)).eval()
    features, tokens, _ = inputs()
    output = model(features, labels=tokens, return_dict=False)
    assert isinstance(output, tuple)
    assert (output[0].shape, output[1].shape) == ((), (3, 7, 60))
    model.freeze_encoder()
    assert all(not parameter.requires_grad for parameter in model.get_encoder().parameters())
    assert all(parameter.requires_grad for parameter in model.get_decoder().parameters())


class TestBadInput:
    model = WhisperForConditionalGeneration(WhisperConfig(**TINY)).eval()
    start = torch.tensor([[4]])

    @pytest.mark.parametrize(
        ("call", "error", "text"),
        [
            ({}, ValueError, "Give input_features, or encoder_outputs of an earlier call"),
            (
                {"input_features": [[0.1]]},
                TypeError,
                r"input_features is a list; .*return_tensors='pt'\)\.input_features",
            ),
            (
                {"input_features": torch.zeros(1, 80, 20)},
                ValueError,
                r"must have the shape \(clips, 8, 20\); a feature extractor",
            ),
            (
                {"input_features": torch.zeros(8, 20)},
                ValueError,
                r"shape \(8, 20\) must have the shape \(clips, 8, 20\)",
            ),
            ({"input_features": torch.zeros(1, 8, 12)}, ValueError, "has 12 steps, and the model takes 20; pad clips"),
            ({"input_features": torch.zeros(1, 8, 400)}, ValueError, r"has 400 steps, .*Cut audio into pieces"),
        ],
    )
    def test_spectrograms(self, call: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            self.model(**call, decoder_input_ids=self.start)
        if call:
            with pytest.raises(error, match=text):
                self.model.generate(**call)

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            ({}, "Give either decoder_input_ids or decoder_inputs_embeds, got neither. A text begins with"),
            (
                {"decoder_input_ids": torch.tensor([[60]])},
                "decoder_input_ids holds 60; allowed are 0 to 59. The model knows 60",
            ),
            (
                {"decoder_input_ids": torch.tensor([4])},
                r"shape \(1,\) and dtype torch.int64 must be tokens of shape \(b, n\)",
            ),
            ({"decoder_input_ids": torch.ones(1, 25).long()}, "has 25 tokens, and the model takes 24 at most"),
            ({"labels": torch.tensor([[60]])}, "labels holds 60; allowed are 0 to 59, or -100"),
            ({"labels": torch.tensor([1])}, r"labels of shape \(1,\) .* padded with -100"),
            (
                {"decoder_input_ids": torch.ones(1, 3).long(), "decoder_attention_mask": torch.ones(1, 2)},
                r"decoder_attention_mask of shape \(1, 2\) must tell of all 3 tokens",
            ),
            (
                {"decoder_input_ids": torch.ones(3, 2).long()},
                r"The encoder's states have the shape \(1, 10, 16\), and 3 texts need \(3, steps, 16\)",
            ),
            ({"labels": torch.ones(2, 2).long()}, "one text for each clip"),
        ],
    )
    def test_texts(self, call: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            self.model(torch.zeros(1, 8, 20), **call)

    def test_states_that_do_not_fit(self) -> None:
        states = torch.zeros(1, 10, 12)
        with pytest.raises(ValueError, match=r"\(1, 10, 12\), and 1 texts need \(1, steps, 16\)"):
            self.model(encoder_outputs=(states,), decoder_input_ids=self.start)
        with pytest.raises(TypeError, match="encoder_outputs is a Tensor"):
            self.model(encoder_outputs=torch.zeros(1, 10, 16), decoder_input_ids=self.start)

    @pytest.mark.parametrize("name", ["labels", "decoder_input_ids"])
    def test_lists(self, name: str) -> None:
        with pytest.raises(TypeError, match=rf"{name} must be a tensor, got list: wrap it as torch\.tensor"):
            self.model(torch.zeros(1, 8, 20), **{name: [[4]]})

    def test_configurations(self) -> None:
        with pytest.raises(ValueError, match="decoder_attention_heads=3 attention heads cannot share d_model=16"):
            WhisperModel(WhisperConfig(**{**TINY, "decoder_attention_heads": 3}))
        with pytest.raises(ValueError, match="decoder_start_token_id=60 is no token: vocab_size=60 has 0 to 59"):
            WhisperModel(WhisperConfig(**{**TINY, "decoder_start_token_id": 60}))
