"""Wav2Vec2 (Baevski et al. 2020): states of speech from the samples themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vertebra.audio.checks import check_samples
from vertebra.audio.masking import drawn_spans
from vertebra.audio.outputs import Wav2Vec2BaseModelOutput
from vertebra.audio.wav2vec2_config import Wav2Vec2Config
from vertebra.audio.wav2vec2_features import PADDING, Adapter, FeatureEncoder, FeatureProjection
from vertebra.audio.wav2vec2_layers import Encoder, EncoderLayer, PositionalConv
from vertebra.card import CardFacts
from vertebra.checks import check_tensors
from vertebra.model import PreTrainedModel

PREPARATION = (
    "Real recordings go through the feature extractor, "
    '`AutoFeatureExtractor.from_pretrained("{repo_id}")(samples, sampling_rate=16000, return_tensors="pt")`, where this '
    "repository has its settings (`preprocessor_config.json`)."
)
SHOW = "for name, value in output.items():\n    print(name, tuple(value.shape))"


class Wav2Vec2PreTrainedModel(PreTrainedModel):
    """Base of Wav2Vec2 with and without heads: how weights start, how they are spelled in files, and lengths of sequences."""

    config_class = Wav2Vec2Config
    base_model_prefix = "wav2vec2"
    main_input_name = "input_values"
    pipeline_tag = "feature-extraction"
    key_renames: ClassVar[Sequence[tuple[str, str]]] = (
        (r"\.weight_g$", ".parametrizations.weight.original0"),
        (r"\.weight_v$", ".parametrizations.weight.original1"),
    )
    explained_missing: ClassVar[Mapping[str, str]] = {r"(^|\.)masked_spec_embed$": "used in training only"}
    explained_unexpected: ClassVar[Mapping[str, str]] = {
        r"(^|\.)masked_spec_embed$": "used in training with masks only",
        r"^(quantizer|project_hid|project_q)\.": "used where models are trained in advance",
        r"^(lm_head|projector|classifier|layer_weights|tdnn|objective|feature_extractor\.(weight|bias))": "another head",
    }
    gives: ClassVar[str] = "a state of every step"
    """What comes out, for model cards."""
    config: Wav2Vec2Config

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        config.check()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, FeatureProjection):
            module.projection.reset_parameters()
        elif isinstance(module, Wav2Vec2Model) and module.masked_spec_embed is not None:
            nn.init.uniform_(module.masked_spec_embed)

    def freeze_feature_encoder(self) -> None:
        """Keep the convolutions over samples as they are while training."""
        self.base_model.feature_extractor.requires_grad_(False)

    def freeze_base_model(self) -> None:
        """Keep everything but the head as it is while training."""
        self.base_model.requires_grad_(False)

    def state_lengths(self, lengths: Any, adapted: bool | None = None) -> Any:
        """Steps of the states for so many samples: a number, or a tensor of them.

        Args:
            lengths: Samples of each clip.
            adapted: Count the adapter too; None where the model has one.
        """
        config = self.config
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
        if config.add_adapter if adapted is None else adapted:
            for _ in range(config.num_adapter_layers):
                lengths = (lengths + 2 * PADDING - config.adapter_kernel_size) // config.adapter_stride + 1
        return lengths

    def real_steps(self, steps: int, attention_mask: Tensor, adapted: bool | None = None) -> Tensor:
        """Bool `(b, steps)`, True at states whose samples are not all padding, from a mask `(b, n)` of samples."""
        lengths = self.state_lengths(attention_mask.sum(-1), adapted)
        return torch.arange(steps, device=lengths.device) < lengths[:, None]

    def shortest(self) -> int:
        """Samples that make one step."""
        least = 1
        for kernel, stride in zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True):
            least = (least - 1) * stride + kernel
        return least

    def card_facts(self) -> CardFacts:
        """What a model card says about a model of speech."""
        facts, config = super().card_facts(), self.config
        return replace(
            facts,
            summary=f"recordings (samples at 16 kHz) in, {self.gives} out.",
            facts={**facts.facts, "layers": str(config.num_hidden_layers), "width": str(config.hidden_size)},
            example="torch.randn(1, 16000)",
            show=SHOW,
            preparation=PREPARATION,
        )


class Wav2Vec2Model(Wav2Vec2PreTrainedModel):
    """Wav2Vec2 without a head.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        width, stable = config.hidden_size, config.do_stable_layer_norm
        self.feature_extractor = FeatureEncoder(
            config.conv_dim,
            config.conv_kernel,
            config.conv_stride,
            config.conv_bias,
            config.feat_extract_norm,
            config.feat_extract_activation,
        )
        self.feature_projection = FeatureProjection(
            config.conv_dim[-1], width, config.layer_norm_eps, config.feat_proj_dropout
        )
        masked = config.mask_time_prob > 0 or config.mask_feature_prob > 0
        self.masked_spec_embed = nn.Parameter(torch.empty(width)) if masked else None
        self.encoder = Encoder(
            [
                EncoderLayer(
                    width,
                    config.num_attention_heads,
                    config.intermediate_size,
                    config.hidden_act,
                    stable,
                    config.hidden_dropout,
                    config.attention_dropout,
                    config.activation_dropout,
                    config.layer_norm_eps,
                    config.adapter_attn_dim,
                )
                for _ in range(config.num_hidden_layers)
            ],
            PositionalConv(
                width,
                config.num_conv_pos_embeddings,
                config.num_conv_pos_embedding_groups,
                config.feat_extract_activation,
            ),
            width,
            config.layer_norm_eps,
            config.hidden_dropout,
            config.layerdrop,
            stable,
            config.last_state_is_normed,
        )
        self.adapter = None
        if config.add_adapter:
            self.adapter = Adapter(
                width,
                config.output_hidden_size or width,
                config.num_adapter_layers,
                config.adapter_kernel_size,
                config.adapter_stride,
            )
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode recordings.

        Args:
            input_values: `(b, n)` float, as `Wav2Vec2FeatureExtractor` makes them.
            attention_mask: `(b, n)`, 1 at samples and 0 at padding on the right; for models with `feat_extract_norm="layer"`.
            mask_time_indices: Bool `(b, steps)`, steps to mask instead of drawn ones; also outside training, but not with
                `apply_spec_augment=False`.
            output_attentions: Also return the attention weights.
            output_hidden_states: Also return all states.
            return_dict: False returns a plain tuple of what is not None.

        Returns:
            `Wav2Vec2BaseModelOutput`.

        Raises:
            TypeError: the recordings are no tensor of floats.
            ValueError: an argument that does not fit; says which and what to do.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        check_samples(input_values, attention_mask, self.dtype, self.shortest())
        features = self.feature_extractor(input_values).transpose(1, 2)  # (b, steps, width)
        steps = features.shape[1]
        real = None if attention_mask is None else self.real_steps(steps, attention_mask, adapted=False)
        x, features = self.feature_projection(features)
        x = self._masked(x, mask_time_indices, real)
        x, states, shares = self.encoder(x, real, hidden, attentions)
        x = x if self.adapter is None else self.adapter(x)
        output = Wav2Vec2BaseModelOutput(x, features, states, shares)
        return output if as_dict else output.to_tuple()

    def _masked(self, x: Tensor, chosen: Tensor | None, real: Tensor | None) -> Tensor:
        """States `(b, steps, width)` with steps and channels masked, as the configuration says."""
        config = self.config
        if not config.apply_spec_augment:
            return x
        rows, steps, width = x.shape
        if chosen is None and self.training:
            chosen = drawn_spans(config, "time", rows, steps, x.device, real)
        if chosen is not None:
            if self.masked_spec_embed is None:
                raise ValueError(
                    "mask_time_indices needs what masked steps are replaced with, and this model has none: build it with "
                    "mask_time_prob or mask_feature_prob above 0."
                )
            check_tensors({"mask_time_indices": chosen})
            if chosen.shape != (rows, steps):
                raise ValueError(
                    f"mask_time_indices of shape {tuple(chosen.shape)} must have the shape {(rows, steps)}: clips, and steps of "
                    f"the states, of which state_lengths(samples) tells the number."
                )
            x = torch.where(chosen.bool()[..., None], self.masked_spec_embed.to(x.dtype), x)
        if self.training and (channels := drawn_spans(config, "feature", rows, width, x.device)) is not None:
            x = x.masked_fill(channels[:, None], 0.0)
        return x
