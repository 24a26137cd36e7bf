"""Every native family of backbones at tiny shape, and what is true of it: the oracle of all shared tests.

A new family is one file, `tests/families/<model_type>.py`, with `ROWS`: name to `Row`, the plainest first. Nothing lists the
files, and `pytest tests/backbones tests/test_compile.py -k NAME` runs all that is shared on them:

- `kwargs`: four stages, widths of 8 to 32, everything random switched on (dropout and drop path 0.5), nothing at a default
  that could hide a mistake. `stages` says what comes out: name, channels and stride of each.
- `bare` keeps a cell from seeing more than it is made of, for the test of positions: `silent("pattern")` zeroes the last
  layer of every residual branch (attention's output in ViTs), `all_positive` lets every path of a convolutional net count.
- `sizes`: all run in both libraries; the first is tiny, the second odd. `cells=math.floor` where maps are rounded down, and then
  `refused`, a size that does not run.
- `attentions`: how many weights each stage returns, None for none. `tokens`: leading tokens, where hidden states are tokens.
- Where transformers has no Backbone, `oracle` says how its Model gives the maps (`normed_states`).
- `missing` and `unexpected` are patterns of what a classifier's file lacks and has too much for the Backbone, `dead` of what
  transformers' Backbone holds in vain, `only_in_model` of what its Model has and its classifier has not, or the reverse.
- `default`: what the default configuration is, measured with transformers. Claims that do not hold: `exceptions`, with the
  reason; those tests must then fail. `Row(…, parity_only=True)` is a variant that is compared with transformers and no more.
"""

import importlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from oracle import perturb
from torch import Tensor, nn

from vertebra.backbones.base import Backbone

Size = tuple[int, int]
RANDOM = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "drop_path_rate": 0.5}
SIZES: tuple[Size, ...] = ((64, 64), (37, 51), (33, 70), (17, 16), (5, 90))


@dataclass(frozen=True)
class Default:
    """The default configuration's backbone with all stages selected: channels, strides, parameters, and where it runs."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    parameters: int
    sizes: tuple[Size, ...] = ((64, 64), (75, 91))
    variants: tuple[dict[str, Any], ...] = ()
    """Further published shapes, for the slow test of real ones."""


@dataclass(frozen=True)
class Row:
    """A backbone of tiny shape and what is true of it; the module's docstring says how to write one.

    Args:
        module: File of the family in `backbones/`.
        family: What the names of its classes begin with, here and in transformers.
        kwargs: Its configuration, with everything random switched on as far as the family has it.
        stages: Name, channels and stride of each stage.
        bare: Makes each cell see all of its pixels and no others.
        first: Index of the first stage that can be selected.
        attentions: Number of attention weights that each stage returns; None for a family without attention.
        sizes: Image sizes that run, the second odd.
        theirs: Those of them at which transformers can be asked; all when None.
        cells: How a side over the stride is rounded to cells.
        refused: A size that does not run.
        divisor: What sides must be multiples of, whatever the selection, beside the strides.
        tokens: Leading tokens of the hidden states `(b, n, c)`; None where these are maps.
        states: Whether the hidden states are those of transformers.
        kinds: What classes there are beside the Backbone.
        names: Kind to the name of the class where it does not begin with `family`.
        call: Arguments with which transformers' Model takes images of any size.
        oracle: From transformers' Model and pixels to what its Backbone would return, where it has none.
        missing: Patterns of what a classifier's file lacks for the Backbone.
        unexpected: Patterns of what it has too much.
        dead: Pattern of what transformers' Backbone keeps in vain.
        only_in_model: Pattern of what only one of Model and classifier has, the head aside.
        head: Pattern of the head.
        spelled: What our names on disk begin with, where transformers 5 leaves it out and 4 needs it.
        default: What the default configuration is.
        corrected: Keys whose values follow from others, and are wrong in transformers' defaults.
        exceptions: Name of a test to the reason why it must fail.
        parity_only: Whether it is compared with transformers and no more.
        name: Its key in `ROWS`.
    """

    module: str
    family: str
    kwargs: dict[str, Any]
    stages: tuple[tuple[str, int, Any], ...]
    bare: Callable[[nn.Module], None]
    first: int = 0
    attentions: tuple[int, ...] | None = None
    sizes: tuple[Size, ...] = SIZES
    theirs: tuple[Size, ...] | None = None
    cells: Callable[[float], int] = math.ceil
    refused: Size | None = None
    divisor: int = 1
    tokens: int | None = None
    states: bool = True
    kinds: tuple[str, ...] = ("Model", "ForImageClassification")
    names: dict[str, str] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    oracle: Callable[..., Any] | None = None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = (r"^classifier\.",)
    dead: str = r"^$"
    only_in_model: str = r"^$"
    head: str = r"^classifier\."
    spelled: str = ""
    default: Default | None = None
    corrected: tuple[str, ...] = ()
    exceptions: dict[str, str] = field(default_factory=dict)
    parity_only: bool = False
    name: str = ""

    # Ours

    def ours(self, kind: str) -> Any:
        """The class of a kind: `Backbone`, `Model`, …."""
        return getattr(importlib.import_module(f"vertebra.backbones.{self.module}"), self._class(kind))

    def _class(self, kind: str) -> str:
        return self.names.get(kind, f"{self.family}{kind}")

    @property
    def backbone(self) -> type[Backbone]:
        return self.ours("Backbone")

    def config(self, **kwargs: Any) -> Any:
        return self.backbone.config_class(**{**self.kwargs, **kwargs})

    def build(self, **kwargs: Any) -> Backbone:
        """A backbone in evaluation mode; the same weights for the same selection. All stages are the default."""
        if not {"out_indices", "out_features", "out_strides"} & kwargs.keys():
            kwargs["out_indices"] = list(self.indices)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return perturb(self.backbone(self.config(**kwargs))).eval()

    def describe(self, **kwargs: Any) -> Backbone:
        """The same without weights, on the meta device."""
        with torch.device("meta"):
            return self.backbone(self.config(**kwargs)).eval()

    @property
    def indices(self) -> range:
        return range(self.first, len(self.stages))

    @property
    def selections(self) -> Iterator[list[int]]:
        """All selections, every second index counted from the end."""
        for size in range(1, len(self.indices) + 1):
            for chosen in combinations(self.indices, size):
                yield [index - len(self.stages) if place % 2 else index for place, index in enumerate(chosen)]

    @property
    def few_selections(self) -> list[list[int]]:
        """Every stage alone, the two ends, two neighbours, and all."""
        every = list(self.indices)
        return [*([index] for index in every), [self.first, -1], every[1:3], every]

    def widths(self, states: Iterable[Tensor]) -> list[int]:
        """Channels of hidden states."""
        return [state.shape[1 if self.tokens is None else -1] for state in states]

    def pixels(self, batch: int = 2) -> Tensor:
        """Images of an odd size."""
        return torch.randn(batch, 3, *self.sizes[1])

    # Theirs

    @property
    def their_sizes(self) -> tuple[Size, ...]:
        return self.sizes if self.theirs is None else self.theirs

    def their_class(self, kind: str) -> Any:
        import transformers

        kind = "Model" if kind == "Backbone" and self.oracle else kind
        return getattr(transformers, self._class(kind))

    def their_model(self, kind: str, **kwargs: Any) -> Any:
        """A model of transformers, the same at every call; a Backbone selects all stages unless told otherwise."""
        cls = self.their_class(kind)
        if kind == "Backbone" and not self.oracle:
            kwargs.setdefault("out_indices", list(self.indices))
        kwargs = json.loads(json.dumps({**self.kwargs, **kwargs}))  # some default tuples cannot be built otherwise
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return cls(cls.config_class(**kwargs))

    def expect(self, model: Any, x: Tensor, indices: Iterable[int] | None = None, **asked: bool) -> Any:
        """What transformers' Backbone returns, whether it is one or not; `indices` are those it was built with."""
        if self.oracle is None:
            return model(x, **asked)
        output = self.oracle(model, x, **asked)
        output.feature_maps = [output.feature_maps[index] for index in (self.indices if indices is None else indices)]
        return output

    @property
    def asked(self) -> dict[str, bool]:
        """All that can be asked for."""
        return {"output_hidden_states": True} | ({"output_attentions": True} if self.attentions else {})


# Oracles


def normed_states(norm: str, prefix: int, **call: Any) -> Callable[..., Any]:
    """The maps of a ViT that transformers has no Backbone for: hidden states through its Model's final norm.

    Args:
        norm: Path of the norm in the Model.
        prefix: Leading tokens, which no map has.
        **call: Arguments with which the Model takes images of any size.
    """

    def oracle(model: Any, x: Tensor, **asked: bool) -> Any:
        output = model(x, **{**asked, "output_hidden_states": True}, **call)
        patch = pair(model.config.patch_size)
        grid = (x.shape[-2] // patch[0], x.shape[-1] // patch[1])
        normed = [model.get_submodule(norm)(state)[:, prefix:].mT.unflatten(2, grid) for state in output.hidden_states]
        states, attentions = output.hidden_states, getattr(output, "attentions", None)
        return SimpleNamespace(feature_maps=normed, hidden_states=states, attentions=attentions)

    return oracle


# Bare nets


def silent(pattern: str) -> Callable[[nn.Module], None]:
    """Zero every parameter whose name the pattern finds: the last layers of residual branches, which then add nothing."""

    def bare(model: nn.Module) -> None:
        found = [parameter for name, parameter in model.named_parameters() if re.search(pattern, name)]
        assert found, f"{pattern} finds no parameter of {type(model).__name__}"
        for parameter in found:
            parameter.data.zero_()

    return bare


def all_positive(model: nn.Module) -> None:
    """Make a convolutional net let every pixel through that a cell can see."""
    for name, child in list(model.named_modules()):
        if isinstance(child, nn.Conv2d):
            child.weight.data.fill_(1.0 / child.weight[0].numel())
        elif isinstance(child, nn.MaxPool2d):
            mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
            model.get_submodule(name.rpartition(".")[0]).add_module(name.rpartition(".")[2], mean)


# What the tests share


def pair(stride: Any) -> tuple[int, int]:
    return tuple(stride) if isinstance(stride, tuple | list) else (stride, stride)


def shown(stride: Any) -> str:
    return "x".join(map(str, stride)) if isinstance(stride, tuple) else str(stride)


def pixels(size: Size = (37, 51), batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size)


def run(model: nn.Module, x: Tensor, **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(x, **kwargs)


def backward(tensors: Iterable[Tensor]) -> None:
    """Differentiate a random weighting of tensors, where they depend on anything."""
    found = [(tensor * torch.randn_like(tensor)).sum() for tensor in tensors if tensor.requires_grad]
    if found:
        sum(found).backward()


def everywhere(model: nn.Module) -> None:
    """Put every single module into training mode, one by one."""
    for module in model.modules():
        module.train()


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@dataclass(frozen=True)
class Checkpoint:
    """A model of transformers and the folder it was saved to; tests copy both before they change anything."""

    folder: Path
    model: Any


def _collected() -> dict[str, dict[str, Row]]:
    folder = Path(__file__).parent / "families"
    modules = {path.stem: importlib.import_module(f"families.{path.stem}") for path in sorted(folder.glob("*.py"))}
    return {
        stem: {name: replace(row, name=name) for name, row in module.ROWS.items()} for stem, module in modules.items()
    }


FAMILIES = _collected()
ALL = {name: row for rows in FAMILIES.values() for name, row in rows.items()}
ROWS = {name: row for name, row in ALL.items() if not row.parity_only}
MAIN = {name: row for rows in FAMILIES.values() for name, row in list(rows.items())[:1]}
