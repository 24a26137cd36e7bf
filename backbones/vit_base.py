"""Plain vision transformers: patches as tokens through equal layers, every state a map of the same stride.

A family is one file over this one. It has

- a `…Config(PlainViTConfig)` (`vit_config.py`) with the source's keys, among them `hidden_size`, `num_hidden_layers`,
  `image_size`, `patch_size`;
- a mixin `…Weights(PlainViT)` that all its classes share: `config_class`, `base_model_prefix`, where the parts stand
  (`embeddings_path`, `layers_path`, `norm_path`, `pre_norm_path`), and what they are: `make_embeddings` (an `Embeddings`,
  `patches.py`) and `make_block` (a `Block` with the family's `Spelling`, `vit_layers.py`). A family without class token gives
  `Embeddings` no tokens; positions inside attention are `layout` (for all layers) or a subclass of `Block` (for each its own);
- `…Backbone(…Weights, PlainViTBackbone)`: usually nothing more. `norm_for` says which maps the final norm is applied to;
- `…Model(…Weights, PlainViTModel)` (`vit_models.py`): what is pooled how, in `make_pooler` and `finish`;
- `…ForImageClassification(…Weights, PlainViTClassifier)`: `model_class`, and `describe` for what the classifier sees.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vertebra.backbones.base import Backbone
from vertebra.backbones.layers import one_size
from vertebra.backbones.patches import Embeddings, too_small
from vertebra.backbones.sizes import SizeError, WholeCells
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_layers import Block, Layout
from vertebra.model import PreTrainedModel
from vertebra.outputs import BackboneOutput
from vertebra.placing import place
from vertebra.stages import Grid, Stage


class PlainViT(PreTrainedModel):
    """What the classes of a family share: the parts, and how they run."""

    config: Any
    embeddings_path: ClassVar[str] = "embeddings"
    layers_path: ClassVar[str] = "encoder.layer"
    norm_path: ClassVar[str | None] = "layernorm"
    """The final norm; None where the family has none."""
    pre_norm_path: ClassVar[str | None] = None
    """A norm on the embedded tokens, where the family has one."""

    def make_embeddings(self) -> nn.Module:
        """The module from pixels to tokens; of another class than `Embeddings` it has its `patch`, `prefix` and `grid` too."""
        raise NotImplementedError(f"{type(self).__name__} must implement make_embeddings.")

    def make_block(self, index: int) -> Block:
        """The layer `index`, counted from 0."""
        raise NotImplementedError(f"{type(self).__name__} must implement make_block.")

    def make_norm(self) -> nn.Module:
        """A norm outside the layers."""
        return nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)

    def layout(self, rows: int, columns: int, x: Tensor) -> Layout:
        """How the tokens `x` `(b, t, c)` of so many patches lie."""
        return Layout(x.shape[1] - rows * columns, rows, columns)

    def build(self, depth: int, norm: bool = True) -> None:
        """Make the first `depth` layers, what comes before them, and the final norm if it is wanted."""
        place(self, self.embeddings_path, self.make_embeddings())
        if self.pre_norm_path is not None:
            place(self, self.pre_norm_path, self.make_norm())
        place(self, self.layers_path, nn.ModuleList(self.make_block(index) for index in range(depth)))
        if norm and self.norm_path is not None:
            place(self, self.norm_path, self.make_norm())

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            nn.init.trunc_normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers that are built."""
        return cast(nn.ModuleList, self.get_submodule(self.layers_path))

    def final_norm(self, x: Tensor) -> Tensor:
        """The final norm, where the family has one."""
        return x if self.norm_path is None else self.get_submodule(self.norm_path)(x)

    def embed(self, pixel_values: Tensor) -> tuple[Tensor, Layout]:
        """`(b, c, h, w)` pixels to the tokens `(b, t, c)` that enter the first layer, and how they lie.

        Raises:
            ValueError: the image is smaller than a patch; names the nearest size that runs.
        """
        pixel_values = one_size(pixel_values)
        height, width = pixel_values.shape[-2:]
        embeddings = cast(Embeddings, self.get_submodule(self.embeddings_path))
        rows, columns = embeddings.grid(height, width)
        if not (rows and columns):
            down, right = embeddings.patch
            near = f"{max(height, down)}x{max(width, right)}"
            raise SizeError(f"{too_small(height, width, embeddings.patch)} The nearest size that runs is {near}.")
        x = embeddings(pixel_values)
        if self.pre_norm_path is not None:
            x = self.get_submodule(self.pre_norm_path)(x)
        return x, self.layout(rows, columns, x)

    def run(
        self, x: Tensor, layout: Layout, depth: int, kept: Container[int], weights: bool = False
    ) -> tuple[dict[int, Tensor], tuple[Tensor, ...] | None]:
        """Run the first `depth` layers.

        Args:
            x: The embedded tokens `(b, t, c)`: the state 0.
            layout: How they lie.
            depth: How many layers.
            kept: Which states to return; the others' memory is free at once.
            weights: Also return attention weights.

        Returns:
            States by number, and on request the attention weights `(b, heads, t, t)` of all layers.
        """
        states = {0: x} if 0 in kept else {}
        attentions = []
        for number, block in enumerate(self.layers[:depth], start=1):
            x, attention = block(x, layout, weights)
            if number in kept:
                states[number] = x
            attentions.append(attention)
        return states, tuple(attentions) if weights else None

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Any, ...]:
        """The states of some blocks, as users of DINO's own code know it; blocks are counted from 0, block `i` is `stage{i + 1}`.

        Args:
            x: `(b, c, h, w)` images.
            n: How many of the last blocks, or which blocks.
            reshape: Return maps `(b, c, h, w)` instead of the patches' tokens `(b, n, c)`.
            return_class_token: Return pairs of patches and class token `(b, c)`.
            norm: Apply the final norm.

        Returns:
            One entry per block, from the first to the last; without class and register tokens.

        Raises:
            ValueError: a block that does not exist or was pruned, a class token or norm that there is none of.
        """
        count, built = self.config.num_hidden_layers, len(self.layers)
        wanted = list(range(count - n, count)) if isinstance(n, int) else sorted({index % count for index in n})
        if not wanted or wanted[0] < 0 or (not isinstance(n, int) and any(not -count <= index < count for index in n)):
            raise ValueError(
                f"n={n!r} must be how many of the last of {count} blocks, or a list of blocks from 0 to {count - 1}."
            )
        if wanted[-1] >= built:
            raise ValueError(
                f"n={n!r} asks for block {wanted[-1]} of {count}, and this pruned backbone has blocks 0 to {built - 1}. "
                f"Build it with prune=False, or with out_indices up to {wanted[-1] + 1}."
            )
        if norm and self.norm_path not in dict(self.named_modules()):
            raise ValueError("norm=True needs the final norm, which this model was built without; pass norm=False.")
        tokens, layout = self.embed(x)
        if return_class_token and not layout.prefix:
            raise ValueError(f"{type(self).__name__} has no class token; leave return_class_token out.")
        states, _ = self.run(tokens, layout, wanted[-1] + 1, [index + 1 for index in wanted])
        found = [self.final_norm(state) if norm else state for state in states.values()]
        patches = [as_map(state, layout) if reshape else state[:, layout.prefix :] for state in found]
        classes = [state[:, 0] for state in found]
        return tuple(zip(patches, classes, strict=True)) if return_class_token else tuple(patches)


def as_map(state: Tensor, layout: Layout) -> Tensor:
    """The patches among the tokens `(b, t, c)` as a map `(b, c, h, w)`, contiguous."""
    cells = state[:, layout.prefix :].transpose(1, 2)
    return cells.reshape(*cells.shape[:2], layout.rows, layout.columns).contiguous()


class PlainViTBackbone(WholeCells, PlainViT, Backbone):
    """A plain vision transformer as a backbone: stages `stem`, `stage1`, `stage2`, …, all at the stride of the patches.

    Each selected state passes the final norm (`config.apply_layernorm`); tokens without a place come apart from the map. Index 0
    is what enters the first layer; timm's `blocks.0`, its index 0, is `stage1`.
    """

    config: PlainViTConfig
    maps_keep_prefix: ClassVar[bool] = True
    """Whether maps that are no maps (`reshape_hidden_states=False`) keep the tokens before the patches."""

    def __init__(self, config: PlainViTConfig) -> None:
        super().__init__(config)
        normed = any(self.norm_for(stage.index) for stage in self.selectable_stages)
        self.build(max(self.last_built_stage, 0), normed)
        self.post_init()

    def norm_for(self, stage: int) -> bool:
        """Whether the map of a stage passes the final norm."""
        return self.norm_path is not None and self.config.apply_layernorm

    def describe_stages(self) -> Iterable[Stage]:
        """The stem and one stage per layer, all of whole patches."""
        grid = Grid().window(self.config.patch, self.config.patch)
        for index, name in enumerate(self.config.stage_names):
            yield grid.stage(name, index, self.config.hidden_size)

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        output_tokens: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Compute the selected feature maps.

        Args:
            pixel_values: `(b, c, h, w)` images, normalised as the image processor does; of any size from one patch.
            output_hidden_states: Also return the states `(b, t, c)` of all stages up to the last selected one, before the norm.
            output_attentions: Also return attention weights `(b, heads, t, t)`.
            return_dict: False returns a plain tuple of what is not None.
            output_tokens: Also return the tokens before the patches, `(b, n, c)` for each map: class token, then registers.
                `config.output_tokens` when None.

        Raises:
            ValueError: pixels of another shape, or fewer than a patch has.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        found: Any = super().forward(pixel_values, hidden, attentions, return_dict=True)
        wanted = self.config.output_tokens if output_tokens is None else output_tokens
        output = BackboneOutput(
            found.feature_maps, found.hidden_states, found.attentions, found.tokens if wanted else None
        )
        return output if as_dict else output.to_tuple()

    def forward_features(
        self, pixel_values: Tensor, *, output_hidden_states: bool, output_attentions: bool
    ) -> BackboneOutput:
        """Run the stem and the layers needed."""
        last = self.final_stage(output_hidden_states)
        self.check_cells(pixel_values.shape[2], pixel_values.shape[3], last)
        kept = range(last + 1) if output_hidden_states else self.selected
        x, layout = self.embed(pixel_values)
        states, attentions = self.run(x, layout, max(last, 0), kept, output_attentions)
        found = [self.final_norm(states[i]) if self.norm_for(i) else states[i] for i in self.selected]
        return BackboneOutput(
            feature_maps=tuple(self._shaped(state, layout) for state in found),
            hidden_states=tuple(states[i] for i in range(last + 1)) if output_hidden_states else None,
            attentions=attentions,
            tokens=tuple(state[:, : layout.prefix] for state in found),
        )

    def _shaped(self, state: Tensor, layout: Layout) -> Tensor:
        if self.config.reshape_hidden_states:
            return as_map(state, layout)
        return state if self.maps_keep_prefix else state[:, layout.prefix :]

    def _crop(self, output: BackboneOutput, height: int, width: int) -> None:
        # hidden states stay as they ran, beside their attention weights
        padded = self.map_sizes(*self._fitted(height, width))[0] if self.selected else (0, 0)
        size = self._covering(self.stages[0], height, width, padded)

        def crop(state: Tensor) -> Tensor:
            if state.ndim == 4:
                return state[..., : size[0], : size[1]]
            prefix = state.shape[1] - padded[0] * padded[1]
            cells = state[:, prefix:].reshape(state.shape[0], *padded, -1)[:, : size[0], : size[1]]
            return torch.cat([state[:, :prefix], cells.flatten(1, 2)], dim=1)

        if size != padded:  # patches that are not square
            output.feature_maps = tuple(map(crop, output.feature_maps or ()))
