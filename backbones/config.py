"""The part of a configuration that every backbone shares: which stages are selected, and vertebra's own state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

from vertebra.backbones.dilation import check_output_stride
from vertebra.config import PreTrainedConfig, plain
from vertebra.errors import listing
from vertebra.stages import select_stages

FORMAT = 1
_OWN_DEFAULTS = {"prune": True, "freeze": None, "size_policy": None, "output_stride": None, "out_strides": None} | {
    "apply_layernorm": True,
    "always_shift": True,
}
SELECTION = ("out_features", "out_indices", "out_strides")
SIZE_POLICIES = ("floor", "pad")


class BackboneConfigMixin(PreTrainedConfig, kw_only=True):
    """Adds the selection of stages to a configuration.

    Args:
        out_features: Names of the stages whose maps are returned, in stage order.
        out_indices: Their indices; negative ones count from the end. Either may be given and the other follows; with
            neither the last stage is selected. Assigning one later moves the other.
        out_strides: Takes the deepest stage of each stride instead; resolved when the backbone is built.
        prune: Whether what lies after the last selected stage is neither built nor loaded.
        freeze: Name of the stage up to which the backbone is frozen, or None.
        size_policy: `"floor"` crops the input to a multiple of `size_divisor`, `"pad"` pads it and crops the maps, None
            leaves the rule to the architecture.
        output_stride: Largest stride of maps, 8, 16 or 32: later strides become dilation. None for the architecture's own.
        in_chans: timm's name for `num_channels`.

    Raises:
        ValueError: a selection of stages that do not exist, repeat, are out of order or disagree; an `output_stride` that
            the family cannot have, with the reason.
    """

    knows_stages: ClassVar[bool] = True
    """Whether `stage_names` is known from the keys alone, so that a selection is checked when it is made."""

    no_dilation: ClassVar[str | None] = "this family has no dilated form."
    """Why `output_stride` cannot be had; None for families whose stages `dilate` or whose maker knows how to."""
    own_keys: ClassVar[tuple[str, ...]] = ("prune", "freeze", "size_policy", "output_stride")
    """Keys that stand under `vertebra` in files; a family whose files have one of them at the top leaves it out."""
    held_by: ClassVar[Mapping[str, str]] = {}
    """`model_type` of larger models whose files are read too, to the key of this family's configuration in theirs."""

    prune: bool = True
    freeze: str | None = None
    size_policy: str | None = None
    output_stride: int | None = None

    def _settle(self, given: dict[str, Any]) -> None:
        selection = {name: given.pop(name) for name in SELECTION if given.get(name) is not None}
        for name in SELECTION:
            given.pop(name, None)
        if "_selection" not in vars(self):
            self._selection: dict[str, Any] = {}
            self._stage_names: list[str] | None = vars(self).get("_stage_names")
            self.selection_is_chosen = False
        if selection:
            self._select(selection)
        super()._settle(given)

    def _select(self, selection: Mapping[str, Any]) -> None:
        selection = {name: list(value) if isinstance(value, tuple) else value for name, value in selection.items()}
        if isinstance(selection.get("out_strides"), Real):
            selection["out_strides"] = [selection["out_strides"]]
        if "out_strides" in selection and len(selection) > 1:
            raise ValueError(
                f"out_strides and {listing(set(selection) - {'out_strides'})} exclude each other; give one."
            )
        if self.knows_stages and self.stage_names is not None and "out_strides" not in selection:
            select_stages(self.stage_names, **selection)
        self._selection = selection
        self.selection_is_chosen = True

    def _resolve(self) -> tuple[list[str], list[int]]:
        if self.out_strides is not None:
            raise ValueError(
                f"out_strides={self.out_strides} is resolved when the backbone is built; until then the selection has no "
                f"names or indices. Read backbone.out_features instead."
            )
        if self.stage_names is None:
            raise ValueError(
                f"{type(self).__name__} does not say what its stages are: assign self.stage_names in its constructor, "
                f"before the selection is read."
            )
        return select_stages(self.stage_names, **self._selection)

    @property
    def stage_names(self) -> list[str] | None:
        """All stages in order. Families compute them; a subclass in transformers' style assigns them."""
        return self._stage_names

    if not TYPE_CHECKING:  # families override the property with a read-only one

        @stage_names.setter
        def stage_names(self, names: Sequence[str]) -> None:
            self._stage_names = list(names)

    @property
    def out_features(self) -> list[str]:
        """Names of the selected stages. Assigning moves `out_indices` along; None selects the last stage."""
        return self._resolve()[0]

    @out_features.setter
    def out_features(self, names: Sequence[str] | None) -> None:
        self._select({} if names is None else {"out_features": names})

    @property
    def out_indices(self) -> list[int]:
        """Indices of the selected stages, as given. Assigning moves `out_features` along; None selects the last stage."""
        return self._resolve()[1]

    @out_indices.setter
    def out_indices(self, indices: Iterable[int] | None) -> None:
        self._select({} if indices is None else {"out_indices": indices})

    @property
    def out_strides(self) -> list[Any] | None:
        """Strides asked for and not resolved yet, or None."""
        return self._selection.get("out_strides")

    @out_strides.setter
    def out_strides(self, strides: Iterable[Any] | None) -> None:
        self._select({} if strides is None else {"out_strides": strides})

    @property
    def in_chans(self) -> int:
        """The same as `num_channels`, under timm's name."""
        return self.num_channels  # type: ignore[no-any-return]

    @in_chans.setter
    def in_chans(self, channels: int) -> None:
        self.num_channels = channels

    def set_output_features_output_indices(
        self, out_features: Sequence[str] | None, out_indices: Iterable[int] | None
    ) -> None:
        """Select stages by name, by index, or by both where they agree; None for both selects the last stage."""
        given = {"out_features": out_features, "out_indices": out_indices}
        self._select({name: value for name, value in given.items() if value is not None})

    def validate(self) -> None:
        """Check the size policy and the output stride. Raises ValueError."""
        super().validate()
        check_output_stride(self.output_stride, self.no_dilation)
        if self.size_policy is not None and self.size_policy not in SIZE_POLICIES:
            raise ValueError(f"size_policy={self.size_policy!r} must be one of {listing(SIZE_POLICIES)}, or None.")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary; vertebra's own state stands under the key `vertebra`."""
        content = super().to_dict()
        content.pop("selection_is_chosen", None)
        own = {name: content.pop(name) for name in self.own_keys} | {"out_strides": self.out_strides}
        own = {name: value for name, value in own.items() if value != _OWN_DEFAULTS[name]}
        if own:
            content["vertebra"] = plain({"format": FORMAT, **own})
        return content | self._selection_keys()

    def _selection_keys(self) -> dict[str, Any]:
        """The three keys that Hugging Face writes, where the stages are known."""
        if self.out_strides is not None or self.stage_names is None:
            return {}
        names, indices = self._resolve()
        return {"stage_names": list(self.stage_names), "out_features": names, "out_indices": indices}

    @classmethod
    def _merge(cls, content: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
        own = dict(content.pop("vertebra", None) or {})
        if (written := own.pop("format", FORMAT)) != FORMAT:
            raise ValueError(
                f"This configuration was written in format {written} of vertebra's own keys; this version reads format "
                f"{FORMAT}. Update vertebra to load it."
            )
        overrides = {k: value for k, value in overrides.items() if value is not None or k not in SELECTION}
        if "in_chans" in overrides:
            channels = overrides.pop("in_chans")
            if overrides.setdefault("num_channels", channels) != channels:
                raise ValueError(
                    f"num_channels={overrides['num_channels']} and in_chans={channels} are two names of one number; give one."
                )
        if any(name in overrides for name in SELECTION):
            content = {name: value for name, value in content.items() if name not in SELECTION}
            own.pop("out_strides", None)
        return {**content, **own, **overrides}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any) -> Any:
        """As for every configuration; a selection that stands in `content` does not count as chosen, an override does."""
        part = content.get(cls.held_by.get(content.get("model_type", ""), ""))
        content = part if isinstance(part, Mapping) else content
        loaded = super().from_dict(content, return_unused_kwargs=return_unused_kwargs, **overrides)
        config = loaded[0] if return_unused_kwargs else loaded
        config.selection_is_chosen = any(overrides.get(name) is not None for name in SELECTION)
        return loaded
