"""A model whose forward is computed by an engine, and which is otherwise the model it was made of."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from vertebra.model import PreTrainedModel
from vertebra.optimization.capture import ALONE, being_captured
from vertebra.optimization.graphs import Graphs
from vertebra.optimization.report import Optimization


class Optimized(PreTrainedModel):
    """Mixed into the class of a model by `optimized_copy`.

    Weights, their names, configuration, selection and files are those of the plain model. It stays in evaluation mode. What an
    engine cannot do (gradients with respect to the images, losses, being captured into a larger graph) runs as in the plain model.
    """

    plain_class: Any
    optimization: Optimization
    """How it computes, and how that was chosen."""
    _graphs: Graphs | None = None
    """None where nothing is faster than the model itself, and in a model built anew from the configuration."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As for every module, also while another thread captures, who has replaced `nn.Module.__call__`."""
        return self._wrapped_call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As in the plain model."""
        if self._graphs is None or being_captured():
            return super().forward(*args, **kwargs)
        given = _signature(self.plain_class).bind(self, *args, **kwargs).arguments
        given.pop("self")
        given = {name: value for name, value in given.items() if value is not None}
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        rest = {name: value for name, value in given.items() if name not in tensors}
        if not _for_engine(tensors, rest):
            with ALONE:
                return super().forward(*args, **kwargs)
        try:
            return self._graphs.run(self, tensors, rest, self._state())
        except (ValueError, TypeError):
            # what the model refuses it names by the sizes of these images, not by a graph's symbols
            with ALONE:
                super().forward(*args, **kwargs)
            raise

    def _state(self) -> Hashable:
        """What of the configuration may change between calls."""
        config = self.config
        indices = getattr(config, "out_indices", None)
        asked = (config.output_hidden_states, config.output_attentions, config.return_dict)
        return tuple(indices) if indices is not None else None, asked

    def train(self, mode: bool = True) -> Any:
        """Stays in evaluation mode, whatever is asked of it or of a model around it; train the plain model instead."""
        return super().train(False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        before = self._places()
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self._places() != before:
            self._forget()
        return self

    def _places(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.parameters()]

    def _forget(self) -> None:
        """Drop what was compiled, which holds the former weights."""
        if self._graphs is not None:
            self._graphs.clear()

    def optimize(self, *args: Any, **kwargs: Any) -> Any:
        """Optimize the plain model anew, with other settings."""
        return plain_copy(self).optimize(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuilt, (self.plain_class,), self.__dict__


def optimized_copy(model: PreTrainedModel, optimization: Optimization) -> Any:
    """A copy of `model` whose forward, or that of a part of it, can be computed by an engine; none computes it yet."""
    made: Any = copy.deepcopy(model)
    for part in parts_of(made).values():
        plain: Any = type(part)
        part.__class__ = _optimized_class(plain)
        part.optimization = optimization
    return made


def parts_of(model: Any) -> dict[str, Any]:
    """What an engine may compute: the whole `"model"`, or its `"backbone"`, where a head stands on one."""
    backbone = getattr(model, "backbone", None)
    return {"model": model} | ({"backbone": backbone} if isinstance(backbone, PreTrainedModel) else {})


def plain_copy(model: Optimized) -> PreTrainedModel:
    """A copy of the plain model."""
    made: Any = copy.deepcopy(model)
    for part in parts_of(made).values():
        part.__class__ = part.plain_class
        part.__dict__.pop("_graphs", None)
        del part.optimization
    return cast(PreTrainedModel, made)


def _for_engine(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> bool:
    plain = all(isinstance(value, (bool, int, float, str, list, tuple)) for value in rest.values())
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors.values())
    labels = any(name.endswith("labels") for name in (*tensors, *rest))
    full = all(tensor.ndim and tensor.shape[0] for tensor in tensors.values())
    return bool(tensors) and plain and full and not learns and not labels and not _watched()


def _watched() -> bool:
    return torch._C._len_torch_dispatch_stack() > 0 or torch.is_autocast_enabled("cpu")


@cache
def _signature(cls: Any) -> inspect.Signature:
    return inspect.signature(cls.forward)


@cache
def _optimized_class(cls: Any) -> type[Optimized]:
    facts = {"plain_class": cls, "__doc__": f"{cls.__name__}, computed by an engine.", "__module__": cls.__module__}
    return type(cls.__name__, (Optimized, cls), facts)


def _rebuilt(cls: Any) -> Any:
    made = _optimized_class(cls)
    return made.__new__(made)
