"""Which layers of a published backbone others build on: facts that are in no configuration, as data.

`AutoBackbone.from_pretrained("facebook/dinov2-large", out_indices="dense")` selects by such a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

from vertebra.errors import did_you_mean, listing

QUARTERS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 32: (7, 15, 23, 31), 40: (9, 19, 29, 39)}
"""DINO's own dense heads (depth, segmentation): ends of quarters, but for the 24 layers of the large models."""

DENSE: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "dinov2": QUARTERS,
    "dinov2_with_registers": QUARTERS,
    "dinov3_vit": QUARTERS,
    "beit": {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)},  # BEiT's UperNet
    "vit": {12: (2, 5, 8, 11), 24: (5, 11, 17, 23)},  # DPT
    "deit": {12: (2, 5, 8, 11)},  # DPT
}
"""Family and number of layers to the blocks that heads for dense prediction read, counted from 0."""

RECIPES = {"dense": DENSE}


def recipe(name: str, model_type: str, depth: int) -> list[int]:
    """The stages of a recipe, as `out_indices`: block `i` is stage `i + 1`, after the stem.

    Args:
        name: `"dense"`.
        model_type: The family.
        depth: Layers of the checkpoint.

    Raises:
        ValueError: no recipe of that name, or none for the family or the number of layers.
    """
    if name not in RECIPES:
        raise ValueError(
            f"out_indices={name!r} is no recipe.{did_you_mean(name, RECIPES)} Recipes are {listing(RECIPES)}; otherwise give a "
            f"list of indices such as out_indices=[-1]."
        )
    depths = RECIPES[name].get(model_type, {})
    if depth not in depths:
        known = f"{listing(map(str, depths))} layers" if depths else f"the families {listing(RECIPES[name])}"
        raise ValueError(
            f"out_indices={name!r} is not known for {model_type!r} with {depth} layers, only for {known}. Give a list of indices "
            f"such as out_indices=[-1]."
        )
    return [block + 1 for block in depths[depth]]
