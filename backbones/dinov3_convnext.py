"""DINOv3's ConvNeXts (Siméoni et al. 2025): checkpoints of the `facebook/dinov3-convnext-*` kind."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.convnext_stages import Spelling, build_stages, describe
from vertebra.backbones.dilation import dilate
from vertebra.backbones.layers import ChannelNorm, drop_path_rates, run_stages, start_normal
from vertebra.backbones.models import ImageModel
from vertebra.backbones.sizes import WholeCells
from vertebra.backbones.staged import StagedConfig
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.placing import place
from vertebra.stages import Grid, Stage

SPELLING = Spelling("downsample_layers", "depthwise_conv", "layer_norm", "pointwise_conv1", "pointwise_conv2", "gamma")
PATCH = 4


class DINOv3ConvNextConfig(StagedConfig):
    """Configuration of one of DINOv3's ConvNeXts; the defaults are ConvNeXt-T.

    Args:
        num_channels: Channels of the input.
        hidden_sizes: Channels of each stage.
        depths: Blocks in each stage.
        hidden_act: Name of the activation.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Epsilon of all norms.
        layer_scale_init_value: Initial value of the blocks' scales.
        drop_path_rate: Drop path of the last block; it grows linearly from 0 at the first.
        image_size: Size the checkpoint was trained at; nothing depends on it.
    """

    model_type = "dinov3_convnext"
    no_dilation = None

    num_channels: int = 3
    hidden_sizes: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (3, 3, 9, 3)
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    layer_scale_init_value: float = 1e-6
    drop_path_rate: float = 0.0
    image_size: int | Sequence[int] = 224

    @property
    def num_stages(self) -> int:
        """Number of stages after the input."""
        return len(self.hidden_sizes)


class DINOv3ConvNextWeights(PreTrainedModel):
    """What the classes share: their weights, and the stages that hold all of them but the final norm."""

    config_class = DINOv3ConvNextConfig
    base_model_prefix: ClassVar[str] = "model"
    key_renames = ((r"^dinov3_convnext\.", ""),)
    config: DINOv3ConvNextConfig

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        start_normal(module, self.config.initializer_range)


def first_stages(config: DINOv3ConvNextConfig, count: int) -> nn.ModuleList:
    """The first `count` stages; what cuts the image into patches belongs to the first."""
    width, eps = config.hidden_sizes[0], config.layer_norm_eps
    stages = build_stages(
        SPELLING,
        config.hidden_sizes,
        drop_path_rates(config.drop_path_rate, list(config.depths))[:count],
        (nn.Conv2d(config.num_channels, width, PATCH, PATCH), ChannelNorm(width, eps=eps)) if count else (),
        act=config.hidden_act,
        eps=eps,
        scale=config.layer_scale_init_value,
    )
    dilate(stages, [PATCH, *(2 for _ in config.depths[1:])], config.output_stride, start=1)
    return stages


class DINOv3ConvNextBackbone(DINOv3ConvNextWeights, WholeCells, Backbone):
    """One of DINOv3's ConvNeXts as a backbone: stages `stem` (stride 1), `stage1` (4), `stage2` (8), … .

    The stem is the input itself, as in transformers, so that indices mean the same. No map has a norm of its own. Maps hold
    whole cells alone, as those of `ConvNextBackbone` do.
    """

    has_attentions = False
    config: DINOv3ConvNextConfig
    explained_unexpected = {
        r"^(model\.|dinov3_convnext\.)?layer_norm\.": "the final norm of the model without a head",
    }

    def __init__(self, config: DINOv3ConvNextConfig) -> None:
        super().__init__(config)
        # a backbone's `stages` are descriptions; in memory the modules are where transformers 5 has them
        place(self, "model.stages", first_stages(self.config, max(self.last_built_stage, 0)))
        self.post_init()

    def names_elsewhere(self) -> Mapping[str, str]:
        """Own name of every tensor to the one it has in files, where all begin with `stages`."""
        return {name: name.removeprefix("model.") for name in self.state_dict()}

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, state_dict: Mapping[str, Tensor] | None = None, **options: Any
    ) -> None:
        """As for every model, under the names that files have."""
        names = self.names_elsewhere()
        state = self.state_dict() if state_dict is None else state_dict
        state = {names.get(name, name): tensor for name, tensor in state.items()}
        super().save_pretrained(save_directory, state_dict=state, **options)

    def describe_stages(self) -> Iterable[Stage]:
        """The input and one stage per depth, every map rounded down to whole cells."""
        grid = Grid()
        return describe(self.config, grid.stage("stem", 0, self.config.num_channels), grid.window(PATCH, PATCH))

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stages needed."""
        last = self.final_stage(output_hidden_states)
        self.check_cells(pixel_values.shape[2], pixel_values.shape[3], last)
        stages: Any = self.get_submodule("model.stages")
        states = run_stages(stages[: max(last, 0)], pixel_values)
        return BackboneOutput(
            feature_maps=tuple(states[index] for index in self.selected),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class DINOv3ConvNextModel(DINOv3ConvNextWeights, ImageModel):
    """One of DINOv3's ConvNeXts without a head."""

    explained_missing = {r"^layer_norm\.": "files of backbones have no final norm"}

    def __init__(self, config: DINOv3ConvNextConfig) -> None:
        super().__init__(config)
        self.stages = first_stages(config, len(config.depths))
        self.layer_norm = nn.LayerNorm(config.hidden_sizes[-1], eps=config.layer_norm_eps)
        self.post_init()

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return tokens `(b, 1 + n, c)`, the mean of the last map before its n cells, all normed; and the first, `(b, c)`."""
        states = run_stages(self.stages, pixel_values)
        cells = states[-1].flatten(2).transpose(1, 2)  # (b, n, c)
        tokens = self.layer_norm(torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1))
        return BaseModelOutput(
            last_hidden_state=tokens,
            pooler_output=tokens[:, 0],
            hidden_states=tuple(states) if output_hidden_states else None,
        )
