"""How transformers spells the parameters of a timm architecture inside other models: as timm's feature extractors do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from vertebra.backbones.timm_models import WRAPPER_SPELLINGS
from vertebra.environment import import_timm
from vertebra.loading import match_keys
from vertebra.no_draws import NoDraws

WRAPPER = "_backbone."


def wrapped_spelling(
    architecture: str, names: Iterable[str], indices: Sequence[int], args: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Spell timm's own names as transformers' `TimmBackbone` does, `stages.0.…` as `_backbone.stages_0.…` for a ConvNeXt.

    Args:
        architecture: Name in timm.
        names: Names of tensors of the architecture.
        indices: The levels that are selected.
        args: Further arguments of timm's constructor.

    Returns:
        Own name to the other one.
    """
    timm = import_timm()
    own = set(names)
    with torch.device("meta"), NoDraws():
        wrapper = timm.create_model(architecture, features_only=True, out_indices=tuple(indices), **(args or {}))
    theirs = [WRAPPER + name for name in wrapper.state_dict()]
    found = {name: spelling for spelling, name in match_keys(theirs, own, "", WRAPPER_SPELLINGS).items()}
    return {name: found.get(name, WRAPPER + name) for name in own}
