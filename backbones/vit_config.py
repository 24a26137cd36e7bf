"""What configurations of plain vision transformers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vertebra.backbones.config import BackboneConfigMixin
from vertebra.backbones.patches import two
from vertebra.backbones.recipes import recipe


class PlainViTConfig(BackboneConfigMixin, kw_only=True):
    """What configurations of plain vision transformers share.

    Args:
        apply_layernorm: Whether a backbone's maps pass the final norm.
        reshape_hidden_states: Whether a backbone's maps are `(b, c, h, w)`; else they are tokens `(b, n, c)`.
        output_tokens: Whether backbones return class and register tokens beside the maps unless the call says otherwise.
        out_indices: Also the name of a recipe, such as `"dense"`; see `vertebra.backbones.recipes`.
    """

    no_dilation = (
        "every map of a plain vision transformer has the stride of its patches; there is no later stride to dilate."
    )

    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    output_tokens: bool = False

    if TYPE_CHECKING:  # families declare them, in the order of their arguments
        hidden_size: int
        num_hidden_layers: int
        num_attention_heads: int
        image_size: int | Sequence[int]
        patch_size: int | Sequence[int]
        num_channels: int
        initializer_range: float

    @property
    def stage_names(self) -> list[str]:
        """`stem` and one stage per layer: `stage1`, `stage2`, …."""
        return ["stem", *(f"stage{number}" for number in range(1, self.num_hidden_layers + 1))]

    @property
    def patch(self) -> tuple[int, int]:
        """`(height, width)` of a patch."""
        return two(self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """`(rows, columns)` of patches in an image of `image_size`."""
        height, width = two(self.image_size)
        return height // self.patch[0], width // self.patch[1]

    def validate(self) -> None:
        """Check that the heads share the channels equally. Raises ValueError."""
        super().validate()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} channels cannot be shared equally by "
                f"num_attention_heads={self.num_attention_heads}."
            )

    def _select(self, selection: Any) -> None:
        if isinstance(name := selection.get("out_indices"), str):
            selection = {**selection, "out_indices": recipe(name, self.model_type, self.num_hidden_layers)}
        super()._select(selection)
