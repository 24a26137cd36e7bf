"""ConvNeXt (Liu et al. 2022): checkpoints of the `facebook/convnext-*` kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.convnext_stages import Spelling, build_stages, describe
from vertebra.backbones.dilation import dilate
from vertebra.backbones.layers import ChannelNorm, drop_path_rates, run_stages, start_normal
from vertebra.backbones.models import ImageClassifier, ImageModel, linear_head
from vertebra.backbones.patches import two
from vertebra.backbones.sizes import WholeCells
from vertebra.backbones.staged import StagedConfig
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.stages import Grid, Stage

SPELLING = Spelling("downsampling_layer", "dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter")
EPS = 1e-6
"""Of all norms but the final one, whatever the configuration says."""
HEAD = {r"^classifier\.": "a classification head"}
MAP_NORMS = {r"^hidden_states_norms\.": "norms on a backbone's maps"}
FINAL_NORM = r"^(convnext(v2)?\.)?layernorm\."
NO_FINAL_NORM = {FINAL_NORM: "files of backbones have no final norm"}


class ConvNextShape(StagedConfig):
    """The keys that ConvNeXt and ConvNeXt V2 share.

    Args:
        num_channels: Channels of the input.
        patch_size: Side of a patch, one number or `(height, width)`.
        num_stages: Number of stages; None counts the depths.
        hidden_sizes: Channels of each stage.
        depths: Blocks in each stage.
        hidden_act: Name of the activation.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Epsilon of the final norm; all others have 1e-6.
        apply_layernorm: Whether a backbone's maps pass norms of their own, which only its own files hold.
    """

    no_dilation: ClassVar[str | None] = None
    attribute_map = {"num_hidden_layers": "num_stages"}
    own_keys = (*StagedConfig.own_keys, "apply_layernorm")
    response_norm: ClassVar[bool] = False

    num_channels: int = 3
    patch_size: int | Sequence[int] = 4
    num_stages: int | None = None
    hidden_sizes: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (3, 3, 9, 3)
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    apply_layernorm: bool = True

    if TYPE_CHECKING:
        drop_path_rate: float

    def _settle(self, given: dict[str, Any]) -> None:
        super()._settle(given)
        if self.num_stages is None:
            self.num_stages = len(self.depths)

    @property
    def patch(self) -> tuple[int, int]:
        """`(height, width)` of a patch."""
        return two(self.patch_size)

    @property
    def scale(self) -> float | None:
        """Initial value of the blocks' scales; None where they have none."""
        return None

    def validate(self) -> None:
        """Check that stages are counted rightly, and that what is to be dilated has square patches. Raises ValueError."""
        super().validate()
        if self.num_stages not in (None, len(self.depths)):
            raise ValueError(
                f"num_stages={self.num_stages} and depths={self.depths} do not agree: give num_stages={len(self.depths)}, "
                f"or leave it out."
            )
        if self.output_stride is not None and self.patch[0] != self.patch[1]:
            raise ValueError(
                f"output_stride={self.output_stride} needs square patches, and patch_size is {self.patch_size}."
            )


class ConvNextConfig(ConvNextShape):
    """Configuration of a ConvNeXt; the defaults are ConvNeXt-T.

    Args:
        layer_scale_init_value: Initial value of the blocks' scales; they have none where it is 0.
        drop_path_rate: Drop path of the last block; it grows linearly from 0 at the first.
        image_size: Size the checkpoint was trained at; nothing depends on it.

    The others are those of `ConvNextShape`.
    """

    model_type = "convnext"

    layer_scale_init_value: float = 1e-6
    drop_path_rate: float = 0.0
    image_size: int | Sequence[int] = 224

    @property
    def scale(self) -> float | None:
        """Initial value of the blocks' scales; None where they have none."""
        return self.layer_scale_init_value if self.layer_scale_init_value > 0 else None


class ConvNextEmbeddings(nn.Module):
    """The stem: patches that do not overlap, and a norm."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv2d(channels, width, patch, patch)
        self.layernorm = ChannelNorm(width, eps=EPS)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, width, h / patch, w / patch)`, rounded down."""
        return self.layernorm(self.patch_embeddings(pixel_values))


class ConvNextEncoder(nn.Module):
    """The first `count` stages."""

    def __init__(self, config: ConvNextShape, count: int) -> None:
        super().__init__()
        self.stages = build_stages(
            SPELLING,
            config.hidden_sizes,
            drop_path_rates(config.drop_path_rate, list(config.depths))[:count],
            act=config.hidden_act,
            eps=EPS,
            scale=config.scale,
            response_norm=config.response_norm,
        )
        strides = [1, *(2 for _ in config.depths[1:])]
        dilate(self.stages, strides, config.output_stride, start=config.patch[0])


class ConvNextWeights(PreTrainedModel):
    """What all ConvNeXt classes share about their weights."""

    config_class: ClassVar[type[ConvNextShape]] = ConvNextConfig
    base_model_prefix: ClassVar[str] = "convnext"
    config: ConvNextShape

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        start_normal(module, self.config.initializer_range)


class ConvNextBackbone(ConvNextWeights, WholeCells, Backbone):
    """ConvNeXt as a backbone: stages `stem` and `stage1` (stride 4), `stage2` (8), … . Each selected map passes a norm of its own.

    Maps hold whole cells alone: of a side that is no multiple of the stride the rest is left out, and images need at least one
    cell of the last stage. timm's `stages.0`, its index 0, is `stage1`.
    """

    has_attentions = False
    config: ConvNextShape
    explained_missing = {r"^hidden_states_norms\.": "only backbones have norms on their maps"}
    explained_unexpected = {
        **HEAD,
        FINAL_NORM: "the final norm of the model without a head",
        r"^hidden_states_norms\.": "the norm of a stage that is not selected",
    }

    def __init__(self, config: ConvNextShape) -> None:
        super().__init__(config)
        config = self.config
        self.embeddings = ConvNextEmbeddings(config.num_channels, config.hidden_sizes[0], config.patch)
        self.encoder = ConvNextEncoder(config, max(self.last_built_stage, 0))
        if self.config.apply_layernorm:
            norms = {stage.name: ChannelNorm(stage.channels, eps=EPS) for stage in self.selectable_stages}
            self.hidden_states_norms = nn.ModuleDict(norms)
        self.post_init()

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per depth, every map rounded down to whole cells."""
        grid = Grid().window(self.config.patch, self.config.patch)
        return describe(self.config, grid.stage("stem", 0, self.config.hidden_sizes[0]), grid)

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the stages needed."""
        last = self.final_stage(output_hidden_states)
        self.check_cells(pixel_values.shape[2], pixel_values.shape[3], last)
        states = run_stages(self.encoder.stages[: max(last, 0)], self.embeddings(pixel_values))
        maps = [states[index] for index in self.selected]
        if self.config.apply_layernorm:
            maps = [self.hidden_states_norms[s.name](x) for s, x in zip(self.output_stages, maps, strict=True)]
        return BackboneOutput(feature_maps=tuple(maps), hidden_states=tuple(states) if output_hidden_states else None)


class ConvNextModel(ConvNextWeights, ImageModel):
    """ConvNeXt without a head."""

    explained_missing = NO_FINAL_NORM
    explained_unexpected = {**HEAD, **MAP_NORMS}

    def __init__(self, config: ConvNextShape) -> None:
        super().__init__(config)
        width = config.hidden_sizes[-1]
        self.embeddings = ConvNextEmbeddings(config.num_channels, config.hidden_sizes[0], config.patch)
        self.encoder = ConvNextEncoder(config, len(config.depths))
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.post_init()

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the last map `(b, c, h, w)`, its normed mean `(b, c)` and, on request, the states of all stages."""
        states = run_stages(self.encoder.stages, self.embeddings(pixel_values))
        return BaseModelOutput(
            last_hidden_state=states[-1],
            pooler_output=self.layernorm(states[-1].mean(dim=(2, 3))),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class ConvNextForImageClassification(ConvNextWeights, ImageClassifier):
    """ConvNeXt with a linear classifier on the normed mean of the last map."""

    base_class: ClassVar[type[ConvNextModel]] = ConvNextModel
    explained_missing = {**ImageClassifier.explained_missing, **NO_FINAL_NORM}
    explained_unexpected = MAP_NORMS

    def __init__(self, config: ConvNextShape) -> None:
        super().__init__(config)
        self.add_module(self.base_model_prefix, self.base_class(config))
        self.classifier = linear_head(config.hidden_sizes[-1], config.num_labels)
        self.post_init()
