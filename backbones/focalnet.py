"""FocalNet (Yang et al. 2022): checkpoints of the `microsoft/focalnet-*` kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.layers import (
    DropPath,
    Mlp,
    add,
    drop_path_rates,
    one_size,
    pad_to_multiple,
    run_stages,
    start_normal,
)
from vertebra.backbones.models import ImageClassifier, ImageModel, linear_head
from vertebra.backbones.patches import two
from vertebra.backbones.sizes import Size
from vertebra.convolution import convolve
from vertebra.linear import Linear, runs_plainly, unwatched
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput, BaseModelOutput
from vertebra.stages import Grid, Stage

STEM, HALVING = (7, 4, 2), (3, 2, 1)
"""Kernel, stride and padding of the overlapping convolutions that `use_conv_embed` asks for."""
GROWTH = 2
"""How much wider every further context of a focal modulation is, in cells."""
HEAD = {r"^classifier\.": "a classification head"}


class FocalNetConfig(BackboneConfigMixin):
    """Configuration of a FocalNet; the defaults are FocalNet-T with small receptive fields.

    Args:
        image_size: Size the checkpoint was trained at; nothing depends on it.
        patch_size: Side of a patch, one number or `(height, width)`; images are zero-padded to whole patches.
        num_channels: Channels of the input.
        embed_dim: Channels of the stem and of the first stage's blocks; each further stage doubles them.
        use_conv_embed: Whether maps are halved by convolutions that overlap; the stem then has stride 4 whatever `patch_size` says.
        hidden_sizes: Kept for files, where it is often wrong; widths follow from `embed_dim`.
        depths: Blocks in each stage.
        focal_levels: Contexts beside the global one in each stage.
        focal_windows: Side of the first context in each stage, in cells.
        hidden_act: Name of the MLPs' activation.
        mlp_ratio: Width of the hidden layer of an MLP over that of its input.
        hidden_dropout_prob: Dropout after the embedding, the modulations and the layers of the MLPs.
        drop_path_rate: Drop path of the last block; it grows linearly from 0 at the first.
        use_layerscale: Whether the residual branches have a scale for every channel.
        layerscale_value: Initial value of these scales.
        use_post_layernorm: Whether norms stand after modulation and MLP instead of before.
        use_post_layernorm_in_modulation: Whether a norm stands before a modulation's last layer.
        normalize_modulator: Whether the sum of the contexts is divided by their number.
        initializer_range: Standard deviation of initial weights.
        layer_norm_eps: Epsilon of all norms.
        encoder_stride: Kept for masked image modelling; unused here.
    """

    model_type = "focalnet"
    no_dilation = (
        "FocalNet's blocks stand before the convolution that halves a map, and see the whole map; without the halving they would "
        "see another one."
    )

    image_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 4
    num_channels: int = 3
    embed_dim: int = 96
    use_conv_embed: bool = False
    hidden_sizes: Sequence[int] = (192, 384, 768, 768)
    depths: Sequence[int] = (2, 2, 6, 2)
    focal_levels: Sequence[int] = (2, 2, 2, 2)
    focal_windows: Sequence[int] = (3, 3, 3, 3)
    hidden_act: str = "gelu"
    mlp_ratio: float = 4.0
    hidden_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    use_layerscale: bool = False
    layerscale_value: float = 1e-4
    use_post_layernorm: bool = False
    use_post_layernorm_in_modulation: bool = False
    normalize_modulator: bool = False
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    encoder_stride: int = 32

    @property
    def stage_names(self) -> list[str]:
        """`stem`, `stage1`, `stage2`, …."""
        return ["stem", *(f"stage{number}" for number in range(1, len(self.depths) + 1))]

    @property
    def widths(self) -> list[int]:
        """Channels of each stage's blocks."""
        return [self.embed_dim * 2**index for index in range(len(self.depths))]

    @property
    def patch(self) -> tuple[int, int]:
        """`(height, width)` of a patch."""
        return two(self.patch_size)

    def validate(self) -> None:
        """Check that every stage has its levels and windows. Raises ValueError."""
        super().validate()
        for name in ("focal_levels", "focal_windows"):
            if len(getattr(self, name)) < len(self.depths):
                raise ValueError(
                    f"{name}={getattr(self, name)} and depths={self.depths} must have one entry per stage each."
                )
        if even := [side for side in self.focal_windows if side % 2 == 0]:
            raise ValueError(f"focal_windows={self.focal_windows} holds {even[0]}; windows have odd sides, such as 3.")


class FocalNetPatches(nn.Module):
    """Patches of a map, each projected to one cell; the map is zero-padded to whole patches.

    Args:
        inputs: Channels of the map.
        outputs: Channels of a cell.
        patch: `(height, width)` of a patch.
        overlapping: Kernel, stride and padding of the projection where it is not one of the patches as they are.
        eps: Of a norm on the cells; None for no norm.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        patch: tuple[int, int],
        overlapping: tuple[int, int, int] | None,
        eps: float | None,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Conv2d(inputs, outputs, *(overlapping or (patch, patch)))
        self.norm = nn.Identity() if eps is None else nn.LayerNorm(outputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, h, w, inputs)` to `(b, h / stride, w / stride, outputs)`, rounded up."""
        x = pad_to_multiple(x, self.patch).permute(0, 3, 1, 2)
        return self.norm(self.projection(x).permute(0, 2, 3, 1))


class FocalNetEmbeddings(nn.Module):
    """The stem: patches and a norm."""

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__()
        overlapping = STEM if config.use_conv_embed else None
        self.patch_embeddings = FocalNetPatches(
            config.num_channels, config.embed_dim, config.patch, overlapping, eps=None
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(b, c, h, w)` to `(b, h / patch, w / patch, embed_dim)`."""
        pixels = one_size(pixel_values).permute(0, 2, 3, 1)
        return self.dropout(self.norm(self.patch_embeddings(pixels)))


class FocalModulation(nn.Module):
    """Every cell is multiplied by a mix of what is around it: contexts of growing size, and the whole map, each behind a gate.

    Args:
        width: Channels.
        levels: Contexts beside the global one.
        window: Side of the first context in cells.
        normalize: Whether the sum of the contexts is divided by their number.
        eps: Of a norm before the last layer; None for no norm.
        dropout: Of the result.
    """

    def __init__(
        self, width: int, levels: int, window: int, normalize: bool, eps: float | None, dropout: float
    ) -> None:
        super().__init__()
        self.width, self.contexts, self.normalize = width, levels + 1, normalize
        self.projection_in = Linear(width, 2 * width + self.contexts)
        sides = [window + GROWTH * level for level in range(levels)]
        self.focal_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, side, padding=side // 2, groups=width, bias=False), nn.GELU())
            for side in sides
        )
        self.projection_context = nn.Conv2d(width, width, 1)
        self.layernorm = nn.Identity() if eps is None else nn.LayerNorm(width, eps=eps)
        self.projection_out = Linear(width, width)
        self.projection_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, h, w, c)` to the same."""
        projected = self.projection_in(x).permute(0, 3, 1, 2)
        plain = runs_plainly(x, *self.parameters())
        if not plain:  # else convolutions take the channels of a cell side by side
            projected = projected.contiguous()
        query, context, gates = projected.split([self.width, self.width, self.contexts], dim=1)
        mixed: Tensor | None = None
        layers: Any = self.focal_layers
        for level, layer in enumerate(layers):
            context = convolve(context, layer[0], act=layer[1]) if plain and unwatched(layer) else layer(context)
            gate = gates[:, level : level + 1]
            mixed = context * gate if mixed is None else add(mixed, context, gate, into=True)
        everywhere = F.gelu(context.mean(dim=(2, 3), keepdim=True)) * gates[:, -1:]
        mixed = everywhere if mixed is None else add(mixed, everywhere, into=True)
        if self.normalize:
            mixed = mixed / self.contexts
        modulated = (query * self.projection_context(mixed)).permute(0, 2, 3, 1)
        return self.projection_dropout(self.projection_out(self.layernorm(modulated)))


class FocalNetBlock(nn.Module):
    """Focal modulation and an MLP, both residual, with a norm before or after each."""

    def __init__(self, config: FocalNetConfig, stage: int, drop_path: float) -> None:
        super().__init__()
        width, eps = config.widths[stage], config.layer_norm_eps
        self.post_norm, self.initial_scale = config.use_post_layernorm, config.layerscale_value
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.modulation = FocalModulation(
            width,
            config.focal_levels[stage],
            config.focal_windows[stage],
            normalize=config.normalize_modulator,
            eps=eps if config.use_post_layernorm_in_modulation else None,
            dropout=config.hidden_dropout_prob,
        )
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), config.hidden_act, config.hidden_dropout_prob)
        self.gamma_1 = self.gamma_2 = None
        if config.use_layerscale:
            self.gamma_1 = nn.Parameter(torch.full((width,), self.initial_scale))
            self.gamma_2 = nn.Parameter(torch.full((width,), self.initial_scale))

    def reset_parameters(self) -> None:
        """Scales start at their initial value."""
        for scale in (self.gamma_1, self.gamma_2):
            if scale is not None:
                nn.init.constant_(scale, self.initial_scale)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, h, w, c)` to the same."""
        x = add(x, self._branch(x, self.modulation, self.norm1), self.gamma_1)
        return add(x, self._branch(x, self.mlp, self.norm2), self.gamma_2, into=True)

    def _branch(self, x: Tensor, part: nn.Module, norm: nn.Module) -> Tensor:
        return self.drop_path(norm(part(x)) if self.post_norm else part(norm(x)))


class FocalNetStage(nn.Module):
    """Blocks of one width, and what leads on from them to the map of the stage, of twice the width (none in the last stage)."""

    def __init__(self, config: FocalNetConfig, stage: int, drop_paths: list[float]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(FocalNetBlock(config, stage, rate) for rate in drop_paths))
        self.downsample: nn.Module = nn.Identity()
        for width, wider in list(pairwise(config.widths))[stage : stage + 1]:
            overlapping = HALVING if config.use_conv_embed else None
            self.downsample = FocalNetPatches(width, wider, (2, 2), overlapping, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, h, w, c)` to `(b, h / 2, w / 2, 2 * c)`, rounded up; in the last stage to the same."""
        return self.downsample(self.layers(x))


class FocalNetEncoder(nn.Module):
    """The first `count` stages."""

    def __init__(self, config: FocalNetConfig, count: int) -> None:
        super().__init__()
        rates = drop_path_rates(config.drop_path_rate, list(config.depths))
        self.stages = nn.ModuleList(FocalNetStage(config, stage, rates[stage]) for stage in range(count))


class FocalNetWeights(PreTrainedModel):
    """What all FocalNet classes share about their weights."""

    config_class = FocalNetConfig
    base_model_prefix: ClassVar[str] = "focalnet"
    config: FocalNetConfig
    explained_unexpected = {r"\bmask_token$|^decoder\.": "used by masked image modelling alone"}

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        start_normal(module, self.config.initializer_range)


class FocalNetBackbone(FocalNetWeights, Backbone):
    """FocalNet as a backbone: stages `stem` (stride 4), `stage1` (8), … ; the last one has the stride of the one before.

    Maps are taken after a stage has halved them, which the last does not. There is no final norm: no map passes it.
    """

    has_attentions = False
    config: FocalNetConfig
    explained_unexpected = {
        **FocalNetWeights.explained_unexpected,
        **HEAD,
        r"^(focalnet\.)?layernorm\.": "the final norm of the model without a head",
    }

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__(config)
        encoder = FocalNetEncoder(self.config, max(self.last_built_stage, 0))
        self.focalnet = nn.ModuleDict({"embeddings": FocalNetEmbeddings(self.config), "encoder": encoder})
        self.post_init()

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per depth, every map rounded up to whole cells."""
        config = self.config
        patch = (config.patch, config.patch, 0)
        stem, halving = (STEM, HALVING) if config.use_conv_embed else (patch, (2, 2, 0))
        grid = Grid().window(*stem)
        yield grid.stage("stem", 0, config.embed_dim)
        for index, width in enumerate([*config.widths[1:], config.widths[-1]], start=1):
            grid = grid.window(*halving) if index < len(config.depths) else grid
            yield grid.stage(config.stage_names[index], index, width)

    def map_sizes(self, height: int, width: int) -> list[Size]:
        """Map size of every stage up to the last selected one, rounded up at every stage.

        Raises:
            ValueError: an image too small for a cell of the stem, with `use_conv_embed` and patches smaller than 4.
        """
        rows, columns = map(self._stem_cells, (height, width), self.config.patch)
        if min(rows, columns) < 1:
            raise ValueError(f"An image of {height}x{width} is too small for a cell of the stem.")
        sizes = []
        for index in range(self.last_stage + 1):
            if 0 < index < len(self.config.depths):
                rows, columns = -(-rows // 2), -(-columns // 2)
            sizes.append((rows, columns))
        return sizes

    def _stem_cells(self, side: int, patch: int) -> int:
        """Cells of the stem along a side of so many pixels."""
        patches = -(-side // patch)
        kernel, stride, padding = STEM
        return (patches * patch + 2 * padding - kernel) // stride + 1 if self.config.use_conv_embed else patches

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the stages needed."""
        trunk: Any = self.focalnet
        height, width = pixel_values.shape[-2:]
        if self.config.use_conv_embed and min(map(self._stem_cells, (height, width), self.config.patch)) < 1:
            self.output_shapes(height, width)  # raises, with a size that works
        stages = trunk["encoder"].stages[: max(self.final_stage(output_hidden_states), 0)]
        states = [state.permute(0, 3, 1, 2) for state in run_stages(stages, trunk["embeddings"](pixel_values))]
        return BackboneOutput(
            feature_maps=tuple(states[index] for index in self.selected),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class FocalNetModel(FocalNetWeights, ImageModel):
    """FocalNet without a head."""

    explained_missing = {r"^layernorm\.": "files of backbones have no final norm"}
    explained_unexpected = {**FocalNetWeights.explained_unexpected, **HEAD}

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__(config)
        self.embeddings = FocalNetEmbeddings(config)
        self.encoder = FocalNetEncoder(config, len(config.depths))
        self.layernorm = nn.LayerNorm(config.widths[-1], eps=config.layer_norm_eps)
        self.post_init()

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the last tokens `(b, n, c)`, their mean `(b, c)` and, on request, the states after every stage."""
        states = run_stages(self.encoder.stages, self.embeddings(pixel_values))
        last = self.layernorm(states[-1]).flatten(1, 2)  # (b, n, c)
        return BaseModelOutput(
            last_hidden_state=last,
            pooler_output=last.mean(dim=1),
            hidden_states=tuple(state.flatten(1, 2) for state in states) if output_hidden_states else None,
            reshaped_hidden_states=tuple(state.permute(0, 3, 1, 2) for state in states)
            if output_hidden_states
            else None,
        )


class FocalNetForImageClassification(FocalNetWeights, ImageClassifier):
    """FocalNet with a linear classifier on the mean token."""

    explained_missing = {
        **ImageClassifier.explained_missing,
        r"^focalnet\.layernorm\.": "files of backbones of vertebra have no final norm",
    }

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__(config)
        self.focalnet = FocalNetModel(config)
        self.classifier = linear_head(config.widths[-1], config.num_labels)
        self.post_init()
