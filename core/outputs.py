"""What models return: a dictionary, a tuple and an object at once, known to torch's pytree."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.utils import _pytree as pytree

Tensors = tuple[torch.Tensor, ...]


class ModelOutput(OrderedDict[str, Any]):
    """Base of all outputs. Fields that are None are left out of keys, of positions and of slices.

    `output.logits`, `output["logits"]`, `output[0]` and `output[:2]` all work. Subclasses are dataclasses whose fields
    default to None.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        pytree.register_pytree_node(
            cls,
            lambda output: (list(output.values()), tuple(output)),
            lambda values, names: cls(**dict(zip(names, values, strict=True))),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
            to_dumpable_context=list,
            from_dumpable_context=tuple,
            flatten_with_keys_fn=lambda output: (
                [(pytree.MappingKey(name), value) for name, value in output.items()],
                tuple(output),
            ),
        )

    def __post_init__(self) -> None:
        # code that rebuilds mappings (gathering from replicas, casting) calls type(output)(mapping or pairs)
        name = next(iter(self.__dataclass_fields__))  # type: ignore[attr-defined]
        first = getattr(self, name)
        if isinstance(first, (Mapping, Iterator)) and len(self) == 1:
            setattr(self, name, None)
            for key, value in dict(first).items():
                setattr(self, key, value)

    def __getitem__(self, key: Any) -> Any:
        return OrderedDict.__getitem__(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dataclass_fields__:  # type: ignore[attr-defined]
            names = ", ".join(self.__dataclass_fields__)  # type: ignore[attr-defined]
            raise AttributeError(f"{type(self).__name__} has no field {name!r}; its fields are {names}.")
        object.__setattr__(self, name, value)
        if value is not None:
            late = name not in self
            OrderedDict.__setitem__(self, name, value)
            for field in list(self.__dataclass_fields__) if late else ():  # type: ignore[attr-defined]
                if field in self:
                    self.move_to_end(field)
        elif name in self:
            OrderedDict.__delitem__(self, name)

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"A field of {type(self).__name__} cannot be deleted; set output.{key} = None to leave it out.")

    def _fixed(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"The fields of {type(self).__name__} are fixed; set one to None to leave it out.")

    pop = popitem = clear = setdefault = _fixed  # type: ignore[assignment]

    def __or__(self, other: Any) -> Any:
        return type(self)(**{**self, **other})

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), dict(self))

    def to_tuple(self) -> tuple[Any, ...]:
        """All fields that are not None, in order."""
        values = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        return tuple(value for value in values if value is not None)


def _rebuild(cls: type[ModelOutput], values: dict[str, Any]) -> ModelOutput:
    return cls(**values)


@dataclass(repr=False)
class BackboneOutput(ModelOutput):
    """What every backbone returns.

    Args:
        feature_maps: One `(b, c, h, w)` map per selected stage, in stage order.
        hidden_states: On request, the stages' states from the first to the last selected one, before output norms.
        attentions: On request, attention weights per stage, where the family has attention.
        tokens: On request, for token families, the tokens without a place on each map: `(b, n, c)`, the class token first, then
            registers; after the same norm as the map.
    """

    feature_maps: Tensors | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    tokens: Tensors | None = None


@dataclass(repr=False)
class BaseModelOutput(ModelOutput):
    """What a model without head returns; the last state is a map `(b, c, h, w)` or tokens `(b, n, c)` by family.

    Args:
        last_hidden_state: The final state, after the final norm where the family has one.
        pooler_output: The pooled state, `(b, c)` or `(b, c, 1, 1)` as the source family gives it.
        hidden_states: On request, all states from the embedding on.
        attentions: On request, attention weights.
        reshaped_hidden_states: For token families with a pyramid, the states as maps `(b, c, h, w)`.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    reshaped_hidden_states: Tensors | None = None


@dataclass(repr=False)
class ImageClassifierOutput(ModelOutput):
    """What an image classifier returns.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, num_labels)` scores before softmax or sigmoid.
        hidden_states: On request, as the base model gives them.
        attentions: On request, as the base model gives them.
        reshaped_hidden_states: As the base model gives them.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    reshaped_hidden_states: Tensors | None = None


@dataclass(repr=False)
class SequenceClassifierOutput(ModelOutput):
    """What a classifier of whole sequences (a text, a recording) returns.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, num_labels)` scores before softmax or sigmoid.
        hidden_states: On request, as the base model gives them.
        attentions: On request, as the base model gives them.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(repr=False)
class TokenClassifierOutput(ModelOutput):
    """What a classifier of the parts of a sequence (tokens, frames) returns.

    Args:
        loss: A scalar, when labels were given.
        logits: `(b, n, num_labels)` scores before softmax.
        hidden_states: On request, as the base model gives them.
        attentions: On request, as the base model gives them.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
