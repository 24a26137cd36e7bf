"""Freezing by structure: frozen modules change their class, so no `.train()` anywhere can wake them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class FrozenReport:
    """What is frozen. Prints as one line.

    Args:
        upto: Stage up to which `freeze` was asked for, or None: what is frozen all the same is so by other means.
        parameters: Names of the frozen parameters.
        modules: Names of the modules that stay in evaluation mode.
        frozen: Number of frozen parameter values.
        total: Number of all parameter values.
    """

    upto: str | None
    parameters: tuple[str, ...]
    modules: tuple[str, ...]
    frozen: int
    total: int

    def __str__(self) -> str:
        share = self.frozen / self.total if self.total else 0.0
        upto = "" if self.upto is None else f" up to {self.upto}"
        return f"frozen{upto}: {self.frozen:,} of {self.total:,} parameters ({share:.1%}), {len(self.modules)} modules"


class FrozenModule:
    """Mixed into the class of a frozen module: it is always in evaluation mode."""

    unfrozen_class: type[nn.Module]

    @property
    def training(self) -> bool:
        """Always False."""
        return False

    @training.setter
    def training(self, mode: bool) -> None:
        pass

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restore, (self.unfrozen_class,), self.__dict__


_frozen_classes: dict[type[nn.Module], type[Any]] = {}


def frozen_class(cls: type[nn.Module]) -> type[Any]:
    """The frozen form of a module class; the same class for the same class, and for a frozen one itself."""
    if issubclass(cls, FrozenModule):
        return cls
    if cls not in _frozen_classes:
        members = {"unfrozen_class": cls, "__module__": cls.__module__}
        _frozen_classes[cls] = type(f"Frozen{cls.__name__}", (FrozenModule, cls), members)
    return _frozen_classes[cls]


def _restore(cls: type[nn.Module]) -> nn.Module:
    return nn.Module.__new__(frozen_class(cls))


def freeze_modules(model: nn.Module, frozen_part: nn.Module) -> set[str]:
    """Freeze the modules and parameters of `model` that `frozen_part`, a pruned twin of it, has as well.

    Returns:
        Names of the parameters that were trainable before.
    """
    parameters = dict(frozen_part.named_parameters())
    kept = {name: type(module) for name, module in frozen_part.named_modules()}
    changed = {name for name, parameter in model.named_parameters() if name in parameters and parameter.requires_grad}
    for name in changed:
        model.get_parameter(name).requires_grad_(False)
    whole = {
        name
        for name, module in model.named_modules()
        if kept.get(name) is getattr(module, "unfrozen_class", type(module))
    }
    module: Any
    for name, module in list(model.named_modules()):
        below = (f"{name}.{child}" for child, _ in module.named_modules() if child)
        if name and name in whole and all(child in whole for child in below):
            module.__class__ = frozen_class(type(module))
    return changed


def unfreeze_modules(model: nn.Module, names: set[str]) -> None:
    """Undo `freeze_modules`: the parameters `names` become trainable, modules come back in the mode the model is in."""
    for module in model.modules():
        if isinstance(module, FrozenModule):
            module.__class__ = module.unfrozen_class  # type: ignore[assignment]
            module.training = model.training
    for name in names:
        model.get_parameter(name).requires_grad_(True)


def report_frozen(model: nn.Module, upto: str | None) -> FrozenReport:
    """Read off `model` what is frozen."""
    frozen = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}
    modules = tuple(name for name, module in model.named_modules() if isinstance(module, FrozenModule))
    return FrozenReport(upto, tuple(frozen), modules, sum(frozen.values()), sum(p.numel() for p in model.parameters()))
