"""The configuration of Wav2Vec2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from math import prod
from typing import ClassVar

from vertebra.audio.config_checks import check_lengths, check_shares
from vertebra.config import PreTrainedConfig

NORMS = ("group", "layer")


class Wav2Vec2Config(PreTrainedConfig):
    """Configuration of Wav2Vec2; the defaults are `wav2vec2-base-960h`.

    Args:
        vocab_size: How many tokens CTC tells apart, the blank included.
        hidden_size: Channels of every state.
        num_hidden_layers: How many layers the encoder has.
        num_attention_heads: How many heads share the channels.
        intermediate_size: Channels inside the perceptrons.
        hidden_act: Name of their activation.
        hidden_dropout: Of embeddings and of each residual branch.
        activation_dropout: Inside the perceptrons.
        attention_dropout: Of attention weights.
        feat_proj_dropout: Of the projected features.
        feat_quantizer_dropout: Kept for models that are trained in advance.
        final_dropout: Before CTC's scores.
        layerdrop: Probability with which a layer of the encoder is left out while training, for the batch.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Of the norms in the encoder.
        feat_extract_norm: `"group"` norms the first convolution over time, `"layer"` every one over channels.
        feat_extract_activation: Name of the convolutions' activation.
        conv_dim: Channels of each convolution.
        conv_stride: Stride of each convolution.
        conv_kernel: Length of each convolution's kernel.
        conv_bias: Whether they have biases.
        num_conv_pos_embeddings: Length of the kernel that tells positions.
        num_conv_pos_embedding_groups: Its groups.
        do_stable_layer_norm: Whether layers norm before attention and perceptron, instead of after.
        apply_spec_augment: Whether features are masked while training (Park et al. 2019).
        mask_time_prob: Share of steps to mask.
        mask_time_length: Steps of each masked span.
        mask_time_min_masks: Spans at least.
        mask_feature_prob: Share of channels to mask.
        mask_feature_length: Channels of each masked span.
        mask_feature_min_masks: Spans at least.
        num_codevectors_per_group: Kept for models that are trained in advance, as are the next six.
        num_codevector_groups: Kept.
        contrastive_logits_temperature: Kept.
        num_negatives: Kept.
        codevector_dim: Kept.
        proj_codevector_dim: Kept.
        diversity_loss_weight: Kept.
        ctc_loss_reduction: `"sum"`, `"mean"` or `"none"` over the batch.
        ctc_zero_infinity: Whether an infinite loss (labels longer than the audio) counts as zero.
        use_weighted_layer_sum: Whether a head sees a weighted sum of all states instead of the last.
        classifier_proj_size: Channels before a classifier of recordings.
        tdnn_dim: Channels of each layer of the speaker model (x-vectors, Snyder et al. 2018).
        tdnn_kernel: Their kernels.
        tdnn_dilation: Their dilations.
        xvector_output_dim: Length of a speaker's vector.
        pad_token_id: CTC's blank.
        bos_token_id: Kept.
        eos_token_id: Kept.
        add_adapter: Whether convolutions shorten the sequence after the encoder.
        adapter_kernel_size: Their kernels.
        adapter_stride: Their strides.
        num_adapter_layers: How many.
        output_hidden_size: Channels they give; `hidden_size` when None.
        adapter_attn_dim: Channels inside a small perceptron after each layer; None for none.

    Raises:
        ValueError: the lists of the convolutions differ in length.
    """

    model_type = "wav2vec2"
    derived_keys: ClassVar[tuple[str, ...]] = ("num_feat_extract_layers",)

    vocab_size: int | None = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    activation_dropout: float = 0.1
    attention_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    feat_quantizer_dropout: float = 0.0
    final_dropout: float = 0.1
    layerdrop: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: Sequence[int] = field(default_factory=lambda: [512] * 7)
    conv_stride: Sequence[int] = field(default_factory=lambda: [5, 2, 2, 2, 2, 2, 2])
    conv_kernel: Sequence[int] = field(default_factory=lambda: [10, 3, 3, 3, 3, 2, 2])
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    contrastive_logits_temperature: float = 0.1
    num_negatives: int = 100
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    diversity_loss_weight: float = 0.1
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    tdnn_dim: Sequence[int] = field(default_factory=lambda: [512, 512, 512, 512, 1500])
    tdnn_kernel: Sequence[int] = field(default_factory=lambda: [5, 3, 3, 1, 1])
    tdnn_dilation: Sequence[int] = field(default_factory=lambda: [1, 2, 3, 1, 1])
    xvector_output_dim: int = 512
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | Sequence[int] | None = 2
    add_adapter: bool = False
    adapter_kernel_size: int = 3
    adapter_stride: int = 2
    num_adapter_layers: int = 3
    output_hidden_size: int | None = None
    adapter_attn_dim: int | None = None

    def validate(self) -> None:
        """Check that every convolution is described, and fill in what follows from other keys."""
        if self.output_hidden_size is None:
            self.output_hidden_size = self.hidden_size
        check_lengths(self, "convolution", "conv_dim", "conv_stride", "conv_kernel")

    @property
    def num_feat_extract_layers(self) -> int:
        """How many convolutions there are."""
        return len(self.conv_dim)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from one step of the states to the next."""
        return prod(self.conv_stride)

    @property
    def last_state_is_normed(self) -> bool:
        """Whether the last of a stable encoder's states has passed the final norm, as it had when the file was written.

        transformers 4 returned the normed one, and heads with `use_weighted_layer_sum` were trained with it; 5 returns the
        other. The file's `transformers_version` decides.
        """
        return str(getattr(self, "transformers_version", "")).startswith(("3.", "4."))

    def check(self) -> None:
        """Check that a model can be built.

        Raises:
            ValueError: says which key is wrong and what is allowed.
        """
        if self.feat_extract_norm not in NORMS:
            raise ValueError(f"feat_extract_norm={self.feat_extract_norm!r} must be 'group' or 'layer'.")
        check_shares(self, "num_attention_heads", "hidden_size")
        check_shares(self, "num_conv_pos_embedding_groups", "hidden_size", "groups")
