"""Wav2Vec2 and its heads against transformers: outputs, losses, gradients, files both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from oracle import close, gradients_as_saved, save_with_transformers, saved_keys
from safetensors.torch import load_file, save_file
from wav2vec2_cases import STABLE, TINY

import vertebra
from vertebra import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector,
    AutoModelForCTC,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2ForXVector,
    Wav2Vec2Model,
)

STYLES: dict[str, dict[str, Any]] = {
    "group, norms after": {},
    "layer, norms before": STABLE,
    "odd positions": {"num_conv_pos_embeddings": 7, "hidden_act": "relu", "feat_extract_activation": "silu"},
    "small perceptrons": {**STABLE, "adapter_attn_dim": 5},
}
SHORTENED: dict[str, dict[str, Any]] = {
    "shortened": {**STABLE, "add_adapter": True, "num_adapter_layers": 2},
    "shortened and narrowed": {"add_adapter": True, "num_adapter_layers": 1, "output_hidden_size": 12},
}
HEADS: dict[str, tuple[Any, list[str]]] = {
    "Wav2Vec2ForCTC": (AutoModelForCTC, ["logits"]),
    "Wav2Vec2ForSequenceClassification": (AutoModelForAudioClassification, ["logits"]),
    "Wav2Vec2ForAudioFrameClassification": (AutoModelForAudioFrameClassification, ["logits"]),
    "Wav2Vec2ForXVector": (AutoModelForAudioXVector, ["logits", "embeddings"]),
}
LENGTHS = (900, 1311, 640)
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout", "layerdrop"),
    0.0,
)


def clips(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded clips and their mask."""
    generator = torch.Generator().manual_seed(5)
    values, mask = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=dtype), torch.zeros(len(LENGTHS), max(LENGTHS)).long()
    for row, length in enumerate(LENGTHS):
        values[row, :length] = torch.randn(length, generator=generator, dtype=torch.float64).to(dtype)
        mask[row, :length] = 1
    return values, mask


def labels_for(head: str, steps: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    if head == "Wav2Vec2ForCTC":
        return torch.tensor([[1, 2, 2, 3], [4, 9, -100, -100], [5, 0, 0, 0]])  # 0 is the blank: padding
    if head == "Wav2Vec2ForAudioFrameClassification":
        chosen = torch.randint(4, (len(LENGTHS), steps), generator=generator)
        return torch.nn.functional.one_hot(chosen, 4)
    return torch.tensor([3, 0, 1])


def make(folder: Path, name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.Wav2Vec2Config(**{**TINY, **settings}))
    return save_with_transformers(model, folder, scale=0.05)


def load(auto: Any, folder: Path) -> Any:
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert all(not keys for keys in info.values()), info
    return model


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("style", [*STYLES, *SHORTENED])
def test_model(style: str, masked: bool, tmp_path: Path) -> None:
    theirs = make(tmp_path, "Wav2Vec2Model", **{**STYLES, **SHORTENED}[style])
    ours = load(AutoModel, tmp_path)
    values, mask = clips()
    call = {"attention_mask": mask} if masked else {}
    with torch.no_grad():
        expected = theirs(values, **call, output_hidden_states=True, output_attentions=True)
        found = ours(values, **call, output_hidden_states=True, output_attentions=True)
        fast = ours(values, **call)
    assert found.keys() == expected.keys()
    close(found.last_hidden_state, expected.last_hidden_state)
    close(found.extract_features, expected.extract_features)
    close(found.hidden_states, expected.hidden_states, name="hidden_states")
    close(found.attentions, expected.attentions, name="attentions")
    close(fast.last_hidden_state, expected.last_hidden_state)
    ours.save_pretrained(tmp_path / "ours")
    assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path)
    again, info = transformers.Wav2Vec2Model.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        close(again(values, **call).last_hidden_state, expected.last_hidden_state)


@pytest.mark.parametrize("style", [*STYLES, "weighted sum", "weighted sum, norms before"])
@pytest.mark.parametrize("head", HEADS)
def test_heads(head: str, style: str, tmp_path: Path) -> None:
    weighted = {"use_weighted_layer_sum": True, **(STABLE if "before" in style else {})}
    theirs = make(tmp_path, head, **STYLES.get(style, weighted), **NO_DROPOUT).double()
    auto, fields = HEADS[head]
    ours = load(auto, tmp_path).double()
    assert type(ours).__name__ == head
    values, mask = clips(torch.float64)
    steps = theirs._get_feat_extract_output_lengths(torch.tensor(values.shape[1])).item()
    for call in ({}, {"attention_mask": mask}):
        theirs.zero_grad()
        ours.zero_grad()
        labels = labels_for(head, steps)
        expected = theirs(values, labels=labels, output_hidden_states=True, **call)
        found = ours(values, labels=labels, output_hidden_states=True, **call)
        for field in fields:
            close(found[field], expected[field], tol=1e-9, name=field)
        close(found.hidden_states, expected.hidden_states, tol=1e-9, name="hidden_states")
        tolerance = 1e-6 if head == "Wav2Vec2ForCTC" else 1e-9  # transformers computes this loss in 32 bits
        close(found.loss.float(), expected.loss.float(), tol=1e-6, name="loss")
        close(found.loss, expected.loss.double(), tol=tolerance, name="loss")
        expected.loss.backward()
        found.loss.backward()
        gradients = gradients_as_saved(theirs, tmp_path / "gradients")
        for name, parameter in ours.named_parameters():
            if parameter.grad is None:
                assert gradients[name].isnan().all(), f"{name} has no gradient here"
            else:
                scale = max(gradients[name].abs().max().item(), 1e-3)
                error = (parameter.grad - gradients[name]).abs().max().item()
                assert error <= 100 * tolerance * scale, f"{name} is off by {error:.3g} of {scale:.3g}"
    ours.float().save_pretrained(tmp_path / "ours")
    assert saved_keys(tmp_path / "ours") == saved_keys(tmp_path)
    again, info = getattr(transformers, head).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert again.config.num_labels == 4


@pytest.mark.parametrize("style", SHORTENED)
def test_ctc_of_shortened_sequences(style: str, tmp_path: Path) -> None:
    theirs = make(tmp_path, "Wav2Vec2ForCTC", **SHORTENED[style])
    ours = load(AutoModelForCTC, tmp_path)
    values, mask = clips()
    labels = torch.tensor([[1], [4], [5]])
    with torch.no_grad():
        expected, found = (model(values, mask, labels=labels) for model in (theirs, ours))
    close(found.logits, expected.logits)
    close(found.loss, expected.loss)
    with pytest.raises(ValueError, match=r"Wav2Vec2ForSequenceClassification works on the encoder's own steps"):
        Wav2Vec2ForSequenceClassification(ours.config)


@pytest.mark.parametrize("kernel", [1, 3, 4, 5])
def test_shortened_steps_are_counted_as_there_are(kernel: int) -> None:
    """Where transformers counts as if the kernel were 3, and fails for longer ones."""
    settings = {"add_adapter": True, "adapter_kernel_size": kernel, "num_adapter_layers": 2}
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**TINY, **settings)).eval()
    for samples in range(300, 400, 7):
        values = torch.zeros(1, samples)
        assert model(values).logits.shape[1] == model.state_lengths(samples)
    values, mask = clips()
    assert model(values, mask, labels=torch.tensor([[1], [4], [5]])).loss.isfinite()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_ctc_reductions_and_text_without_room(reduction: str, tmp_path: Path) -> None:
    settings = {"ctc_loss_reduction": reduction}
    theirs = make(tmp_path, "Wav2Vec2ForCTC", **settings)
    values, labels = torch.randn(1, 100), torch.tensor([[1, 1, 1, 1, 1]])
    for zero in (False, True):
        ours = Wav2Vec2ForCTC.from_pretrained(tmp_path, ctc_zero_infinity=zero)
        theirs.config.ctc_zero_infinity = zero
        expected, found = theirs(values, labels=labels).loss.item(), ours(values, labels=labels).loss.item()
        assert found == expected == (0 if zero else float("inf"))
    values, mask = clips()
    labels = labels_for("Wav2Vec2ForCTC", 0)
    close(ours(values, mask, labels=labels).loss, theirs(values, mask, labels=labels).loss)


class TestTraining:
    @pytest.mark.parametrize(
        "settings",
        [
            {"mask_time_prob": 0.3, "mask_time_length": 4},
            {"mask_time_prob": 0.3, "mask_time_length": 40, "mask_time_min_masks": 1},
            {"mask_time_prob": 0.0, "mask_feature_prob": 0.5, "mask_feature_length": 3, "mask_feature_min_masks": 1},
            {"mask_time_prob": 0.2, "mask_time_length": 3, "mask_feature_prob": 0.4, "mask_feature_length": 2},
            {"apply_spec_augment": False, "mask_time_prob": 0.9, "mask_time_length": 2},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("masked", [False, True])
    def test_masks_are_drawn_as_transformers_draws_them(
        self, settings: dict[str, Any], masked: bool, tmp_path: Path
    ) -> None:
        theirs = make(tmp_path, "Wav2Vec2Model", **settings, **NO_DROPOUT).train()
        ours = load(AutoModel, tmp_path).train()
        values, mask = clips()
        for seed in range(4):
            outputs = []
            for model in (theirs, ours):
                np.random.seed(seed)
                outputs.append(model(values, mask if masked else None).last_hidden_state)
            close(outputs[1], outputs[0])

    def test_masks_that_are_given(self, tmp_path: Path) -> None:
        theirs = make(tmp_path, "Wav2Vec2Model")
        ours = load(AutoModel, tmp_path)
        values, _ = clips()
        steps = ours(values).last_hidden_state.shape[1]
        chosen = torch.rand(len(LENGTHS), steps) < 0.3
        close(
            ours(values, mask_time_indices=chosen).last_hidden_state,
            theirs(values, mask_time_indices=chosen).last_hidden_state,
        )
        without = Wav2Vec2Model(Wav2Vec2Config(**TINY, mask_time_prob=0.0))
        with pytest.raises(ValueError, match="this model has none: build it with mask_time_prob"):
            without(values, mask_time_indices=chosen)
        with pytest.raises(ValueError, match=r"mask_time_indices of shape \(3, 1311\) must have the shape \(3, 65\)"):
            ours(values, mask_time_indices=torch.ones_like(values).bool())

    def test_layerdrop_leaves_out_the_same_layers(self, tmp_path: Path) -> None:
        settings = {**NO_DROPOUT, "layerdrop": 0.5, "num_hidden_layers": 4, "apply_spec_augment": False}
        theirs = make(tmp_path, "Wav2Vec2Model", **settings).train()
        ours = load(AutoModel, tmp_path).train()
        values, _ = clips()
        seen = set()
        for seed in range(6):
            outputs = []
            for model in (theirs, ours):
                torch.manual_seed(seed)
                outputs.append(model(values).last_hidden_state)
            close(outputs[1], outputs[0])
            seen.add(round(outputs[0].sum().item(), 3))
        assert len(seen) > 2
        ours(values).last_hidden_state.sum().backward()
        assert all(p.grad is not None for name, p in ours.named_parameters() if name != "masked_spec_embed")

    def test_short_audio_cannot_be_masked(self) -> None:
        model = Wav2Vec2Model(Wav2Vec2Config(**TINY, mask_time_length=200)).train()
        with pytest.raises(
            ValueError, match=r"Spans of 200 steps cannot be masked in sequences of 65 steps\. Give longer"
        ):
            model(clips()[0])

    def test_what_is_frozen(self) -> None:
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**TINY))
        model.freeze_feature_encoder()
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        assert frozen == {name for name, _ in model.named_parameters() if "feature_extractor" in name}
        model.freeze_base_model()
        assert {name for name, p in model.named_parameters() if p.requires_grad} == {"lm_head.weight", "lm_head.bias"}

    def test_initial_weights_are_spread_as_in_transformers(self) -> None:
        settings = {**TINY, "hidden_size": 128, "num_attention_heads": 4, "conv_dim": [64, 64, 64]}
        ours = Wav2Vec2ForXVector(Wav2Vec2Config(**settings, use_weighted_layer_sum=True))
        theirs = transformers.Wav2Vec2ForXVector(transformers.Wav2Vec2Config(**settings, use_weighted_layer_sum=True))
        expected = dict(theirs.named_parameters())
        for name, found in ours.named_parameters():
            there = expected[name]
            assert found.shape == there.shape
            if "pos_conv_embed" in name:  # which transformers draws into a copy; ours has the width of the paper's code
                continue
            if found.numel() > 200:
                assert abs(found.std() / there.std() - 1) < 0.25, name
            elif not there.any():
                assert not found.any(), name


class TestFiles:
    def test_the_older_spelling_of_the_normed_kernel(self, tmp_path: Path) -> None:
        theirs = make(tmp_path, "Wav2Vec2ForCTC")
        file = tmp_path / "model.safetensors"
        tensors = load_file(file)
        for new, old in (
            ("parametrizations.weight.original0", "weight_g"),
            ("parametrizations.weight.original1", "weight_v"),
        ):
            name = next(key for key in tensors if key.endswith(new))
            tensors[name.replace(new, old)] = tensors.pop(name)
        save_file(tensors, file)
        ours = load(AutoModelForCTC, tmp_path)
        values, _ = clips()
        with torch.no_grad():
            close(ours(values).logits, theirs(values).logits)
        ours.save_pretrained(tmp_path / "ours")
        assert any(key.endswith("conv.parametrizations.weight.original0") for key in saved_keys(tmp_path / "ours"))

    def test_a_head_on_a_model_without(self, tmp_path: Path) -> None:
        make(tmp_path, "Wav2Vec2Model")
        ours, info = Wav2Vec2ForCTC.from_pretrained(tmp_path, vocab_size=40, output_loading_info=True)
        assert info["missing_keys"] == ["lm_head.weight", "lm_head.bias"]
        assert set(info["explained"].values()) == {"trained on the new task"}
        assert ours.lm_head.out_features == 40

    def test_of_a_model_trained_in_advance(self, tmp_path: Path) -> None:
        settings = {"codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 4}
        theirs = make(tmp_path, "Wav2Vec2ForPreTraining", **settings)
        ours, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert info["missing_keys"] == []
        assert {key.split(".")[0] for key in info["unexpected_keys"]} == {"quantizer", "project_hid", "project_q"}
        assert set(info["unexpected_keys"]) == set(info["explained"])
        values, _ = clips()
        with torch.no_grad():
            close(ours(values).last_hidden_state, theirs.wav2vec2(values).last_hidden_state)

    def test_the_mask_is_missing_or_too_many(self, tmp_path: Path) -> None:
        make(tmp_path, "Wav2Vec2Model", mask_time_prob=0.0)
        ours, info = Wav2Vec2Model.from_pretrained(tmp_path, mask_time_prob=0.1, output_loading_info=True)
        assert info["explained"] == {"masked_spec_embed": "used in training only"}
        assert ours.masked_spec_embed.min() >= 0
        ours.save_pretrained(tmp_path)
        _, info = Wav2Vec2Model.from_pretrained(tmp_path, mask_time_prob=0.0, output_loading_info=True)
        assert info["explained"] == {"masked_spec_embed": "used in training with masks only"}

    def test_config_both_ways(self, tmp_path: Path) -> None:
        theirs = transformers.Wav2Vec2Config()
        theirs.save_pretrained(tmp_path)
        ours = Wav2Vec2Config.from_pretrained(tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        there = {key: value for key, value in written.items() if key not in ("transformers_version",)}
        assert there.items() <= Wav2Vec2Config().to_dict().items()
        assert ours.inputs_to_logits_ratio == theirs.inputs_to_logits_ratio == 320
        assert ours.num_feat_extract_layers == 7
        ours.save_pretrained(tmp_path / "ours")
        assert transformers.Wav2Vec2Config.from_pretrained(tmp_path / "ours").to_dict() == theirs.to_dict()
        assert Wav2Vec2Config(hidden_size=24).output_hidden_size == 24


class TestBadInput:
    model = Wav2Vec2Model(Wav2Vec2Config(**TINY)).eval()

    @pytest.mark.parametrize(
        ("call", "error", "text"),
        [
            (([0.1, 0.2],), TypeError, r"input_values is a list; .* return_tensors='pt'\)\.input_values"),
            ((torch.zeros(1, 900).long(),), TypeError, "input_values is a tensor of torch.int64"),
            (
                (torch.zeros(1, 900).half(),),
                TypeError,
                r"is torch.float16, and the model's weights are torch.float32: pass input",
            ),
            ((torch.zeros(900),), ValueError, r"shape \(900,\) must have the shape \(clips, samples\)"),
            ((torch.zeros(1, 2, 900),), ValueError, "of one channel"),
            (
                (torch.zeros(1, 20),),
                ValueError,
                r"has 20 samples, and one step of the model's states needs 30; pad clips",
            ),
            ((torch.zeros(2, 900), torch.ones(2, 90)), ValueError, r"attention_mask of shape \(2, 90\) must have that"),
            (
                (torch.zeros(1, 900), [1]),
                TypeError,
                r"attention_mask must be a tensor, got list: wrap it as torch\.tensor",
            ),
            (
                (torch.zeros(2, 90), torch.tensor([[1] * 90, [1] * 9 + [0] * 81])),
                ValueError,
                "Clip 1 has 9 samples under",
            ),
            (
                (torch.zeros(2, 90), torch.tensor([[1] * 90, [0] * 9 + [1] * 81])),
                ValueError,
                "Clip 1 has padding before samples under attention_mask, .*padding_side='right'",
            ),
        ],
    )
    def test_forward(self, call: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            self.model(*call)

    def test_shortest(self) -> None:
        assert self.model(torch.zeros(1, self.model.shortest())).last_hidden_state.shape[1] == 1
        assert Wav2Vec2Model.shortest(type("Any", (), {"config": Wav2Vec2Config()})()) == 400  # type: ignore[arg-type]

    def test_labels(self) -> None:
        ctc = Wav2Vec2ForCTC(Wav2Vec2Config(**TINY))
        values = torch.zeros(2, 900)
        with pytest.raises(
            ValueError, match=r"labels holds 11; allowed are 0 to 10, or -100 .* vocab_size=len\(tokenizer\)"
        ):
            ctc(values, labels=torch.tensor([[1], [11]]))
        with pytest.raises(ValueError, match=r"labels of shape \(2,\) .* must be tokens of shape \(2, n\)"):
            ctc(values, labels=torch.tensor([1, 2]))
        with pytest.raises(ValueError, match="ctc_loss_reduction='avg' must be"):
            Wav2Vec2ForCTC(Wav2Vec2Config(**TINY, ctc_loss_reduction="avg"))(values, labels=torch.tensor([[1], [2]]))
        with pytest.raises(TypeError, match=r"labels must be a tensor, got list: wrap it as torch\.tensor"):
            ctc(values, labels=[[1], [2]])
        vectors = Wav2Vec2ForXVector(Wav2Vec2Config(**TINY)).eval()
        with pytest.raises(ValueError, match=r"labels holds 4; allowed are 0 to 3\. The model has 4 speakers"):
            vectors(values, labels=torch.tensor([1, 4]))
        with pytest.raises(ValueError, match="The clips make 5 steps, and a vector needs 6; pass longer clips"):
            vectors(values[:, :115])
        mask = torch.ones(2, 900).long()
        mask[1, 90:] = 0
        with pytest.raises(ValueError, match="Clip 1 makes 4 steps that are not padding, and a vector needs 5"):
            vectors(values, mask)
        mask[1, :110] = 1
        assert vectors(values, mask).embeddings.isfinite().all()

    def test_configurations(self) -> None:
        with pytest.raises(ValueError, match="got conv_dim 7, conv_stride 2, conv_kernel 7"):
            Wav2Vec2Config(conv_stride=[5, 2])
        with pytest.raises(ValueError, match="feat_extract_norm='batch' must be 'group' or 'layer'"):
            Wav2Vec2Model(Wav2Vec2Config(**TINY, feat_extract_norm="batch"))
        with pytest.raises(ValueError, match="num_attention_heads=3 attention heads cannot share hidden_size=16"):
            Wav2Vec2Model(Wav2Vec2Config(**{**TINY, "num_attention_heads": 3}))
        with pytest.raises(ValueError, match="num_conv_pos_embedding_groups=3 groups cannot share"):
            Wav2Vec2Model(Wav2Vec2Config(**{**TINY, "num_conv_pos_embedding_groups": 3}))
        with pytest.raises(ValueError, match=r"vocab_size=len\(tokenizer\)"):
            Wav2Vec2ForCTC(Wav2Vec2Config(**{**TINY, "vocab_size": None}))
        with pytest.raises(ValueError, match="num_conv_pos_embedding_groups=0 groups cannot share"):
            Wav2Vec2Model(Wav2Vec2Config(**{**TINY, "num_conv_pos_embedding_groups": 0}))
        with pytest.raises(ValueError, match="got tdnn_dim 2, tdnn_kernel 3, tdnn_dilation 3"):
            Wav2Vec2ForXVector(Wav2Vec2Config(**{**TINY, "tdnn_dim": [8, 8]}))


def test_tuples() -> None:
    model = vertebra.Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**TINY))
    output = model(clips()[0], labels=torch.tensor([1, 2, 3]), return_dict=False)
    assert isinstance(output, tuple)
    assert [tuple(part.shape) for part in output] == [(), (3, 4)]


def test_half_precision_stays_near() -> None:
    model = Wav2Vec2Model(Wav2Vec2Config(**TINY)).eval()
    values, mask = clips()
    with torch.no_grad():
        whole = model(values, mask).last_hidden_state
        half = model.bfloat16()(values.bfloat16(), mask).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16):
            assert model.float()(values, mask).last_hidden_state.dtype in (torch.bfloat16, torch.float32)
    assert half.dtype == torch.bfloat16
    assert (half.float() - whole).abs().max() < 0.2
