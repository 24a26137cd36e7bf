"""The part of a configuration that every model of text shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar

from vertebra.config import PreTrainedConfig


class TextConfig(PreTrainedConfig, kw_only=True):
    """Adds what models of text have in common.

    Every family has the keys `vocab_size`, `hidden_size`, `num_hidden_layers`, `num_attention_heads`, `max_position_embeddings`
    and `pad_token_id`, under these names or with these as aliases.

    Args:
        bos_token_id: Number of the token that begins a text, for readers that generate.
        eos_token_id: Number of the token that ends one.
        tie_word_embeddings: Whether scores of tokens are computed with the very vectors that tokens are embedded with.
        pruned_heads: Layer to the attention heads that are left out there, by their original numbers.
        is_decoder: For models that continue texts; those here read whole texts and refuse it.
        add_cross_attention: The same for those that read other states beside.
        position_embedding_type: `"absolute"`, the only one here.
    """

    least: ClassVar[Mapping[str, int]] = {
        "vocab_size": 1,
        "hidden_size": 1,
        "num_hidden_layers": 0,
        "num_attention_heads": 1,
        "max_position_embeddings": 1,
    }
    """The least value of every key that counts something."""

    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    tie_word_embeddings: bool = True
    pruned_heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    is_decoder: bool = False
    add_cross_attention: bool = False
    position_embedding_type: str = "absolute"

    if TYPE_CHECKING:  # keys or aliases of every family
        vocab_size: int
        hidden_size: int
        num_hidden_layers: int
        num_attention_heads: int
        max_position_embeddings: int
        pad_token_id: int | None
        initializer_range: float

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "pruned_heads":
            value = heads_by_layer(value or {})
        super().__setattr__(name, value)

    def heads_left(self, layer: int) -> int:
        """How many attention heads a layer has."""
        return self.num_attention_heads - len(self.pruned_heads.get(layer, ()))

    def check(self) -> None:
        """Check that a model can be built.

        Raises:
            ValueError: says which key is wrong and what is allowed.
        """
        name = type(self).__name__
        for key in ("is_decoder", "add_cross_attention"):
            if getattr(self, key):
                raise ValueError(
                    f"{name} has {key}=True, for a model that continues texts; those of vertebra read whole texts. Load the "
                    f"checkpoint with {key}=False where it is to read them."
                )
        if self.position_embedding_type != "absolute":
            raise ValueError(
                f"position_embedding_type={self.position_embedding_type!r} is not known; vertebra's {self.model_type} models have "
                f"'absolute' positions."
            )
        for key, least in self.least.items():
            count = getattr(self, key)
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise ValueError(
                    f"{self.attribute_map.get(key, key)}={count!r} of {name} must be a whole number of at least {least}."
                )
        width, heads = (self.attribute_map.get(key, key) for key in ("hidden_size", "num_attention_heads"))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{heads}={self.num_attention_heads} attention heads cannot share {width}={self.hidden_size} channels equally; "
                f"choose a divisor of {self.hidden_size}."
            )
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id={self.pad_token_id} is no token: vocab_size={self.vocab_size} has 0 to {self.vocab_size - 1}."
            )
        check_heads(self.pruned_heads, self.num_hidden_layers, self.num_attention_heads)


def heads_by_layer(given: Any) -> dict[int, list[int]]:
    """Read which attention heads are left out: layers (in JSON text) to sorted numbers of heads.

    Raises:
        ValueError: it is something else.
    """
    try:
        return {
            int(layer) if isinstance(layer, str) else index(layer): sorted({index(head) for head in heads})
            for layer, heads in dict(given).items()
        }
    except (TypeError, ValueError) as error:
        raise ValueError(f"Heads to prune are given as lists by layer, e.g. {{0: [1, 2]}}; got {given!r}.") from error


def check_heads(pruned: Mapping[int, Sequence[int]], layers: int, heads: int) -> None:
    """Check which heads are to be left out.

    Args:
        pruned: Layer to numbers of heads.
        layers: How many layers there are.
        heads: How many heads each had at first.

    Raises:
        ValueError: a layer or a head does not exist, or none would be left.
    """
    for layer, out in pruned.items():
        if not 0 <= layer < layers:
            raise ValueError(f"There is no layer {layer} to prune heads of: the model has layers 0 to {layers - 1}.")
        if wrong := [head for head in out if not 0 <= head < heads]:
            raise ValueError(f"Layer {layer} has no attention head {wrong[0]}: its heads are 0 to {heads - 1}.")
        if len(out) == heads:
            raise ValueError(f"All {heads} heads of layer {layer} are to be pruned; at least one has to be left.")
