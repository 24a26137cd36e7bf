"""What every class around a timm model shares: timm's own parameter names, and loading through our files and its filters."""

from __future__ import annotations

import copy
import inspect
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import nn

from vertebra.backbones import timm_models
from vertebra.bands import input_layers
from vertebra.card import CardFacts
from vertebra.config import PreTrainedConfig
from vertebra.hub import CheckpointFiles, HubOptions
from vertebra.loading import LoadReport, load_into, match_keys
from vertebra.model import PreTrainedModel
from vertebra.resolve import locate
from vertebra.weights import WeightFiles

UNUSABLE = (AssertionError, AttributeError, KeyError, RuntimeError, ValueError)
"""What timm's loader and filters raise on weights of another architecture."""
SHARED = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
LOADING = {*inspect.signature(PreTrainedModel.from_pretrained).parameters, "torch_dtype", "attn_implementation"}


def outline(module: nn.Module, seen: dict[int, nn.Module] | None = None) -> nn.Module:
    """A copy of a module tree that shares all tensors: what is cut off it stays in the original."""
    seen = {} if seen is None else seen
    if id(module) not in seen:
        seen[id(module)] = drawn = module.__new__(type(module))
        for name, value in vars(module).items():
            drawn.__dict__[name] = copy.copy(value) if name in SHARED or isinstance(value, list) else value
        for name, child in module._modules.items():
            drawn._modules[name] = child and outline(child, seen)
    return seen[id(module)]


class TimmModule(PreTrainedModel):
    """A module that stands in for a timm model: it owns the very same parameters and children, under the same names.

    The timm model itself is kept as `self.timm_model`, outside the module tree, so no prefix enters any name.
    """

    key_renames = timm_models.WRAPPER_SPELLINGS
    timm_model: Any

    def adopt(self, model: nn.Module) -> None:
        """Share the parameters, buffers and children of `model`."""
        for name in SHARED:
            self.__dict__[name] = model.__dict__[name]
        self.__dict__["timm_model"] = model
        self.__dict__["_bias_caches"] = [m for m in model.modules() if hasattr(m, "attention_bias_cache")]

    def train(self, mode: bool = True) -> Any:
        """Set training mode, here and in the timm model."""
        self.timm_model.training = mode
        return super().train(mode)

    def get_submodule(self, target: str) -> nn.Module:
        """Return a child by its path; timm's names win over attributes of this class such as `stages`."""
        return self.timm_model.get_submodule(target) if target else self

    @property
    def input_channels(self) -> int:
        """Channels of the images."""
        return int(self.timm_arguments()["in_chans"])

    @property
    def flat_channels_last(self) -> bool:
        """Whether a linear layer on flattened patches takes them pixel by pixel."""
        return type(self.timm_model).__name__ in timm_models.FLAT_CHANNELS_LAST

    def init_non_persistent_buffers(self) -> None:
        """Compute the timm model's own buffers that no file holds."""
        self.timm_model.init_non_persistent_buffers()

    def _replicate_for_data_parallel(self) -> Any:
        replica = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        twin = copy.copy(self.timm_model)
        for name in SHARED[:3]:
            twin.__dict__[name] = replica.__dict__[name]
        replica.__dict__["timm_model"] = twin
        return replica

    def forget_attention_biases(self) -> None:
        """Drop the biases that some classes keep in evaluation: they go stale when weights change, and carry no gradient."""
        for module in self.__dict__["_bias_caches"]:
            module.attention_bias_cache.clear()

    @abstractmethod
    def timm_arguments(self) -> dict[str, Any]:
        """Name, input channels, constructor arguments and cfg of the timm model."""

    def card_facts(self) -> CardFacts:
        """What a model card says, the name of the architecture first."""
        facts = super().card_facts()
        return replace(facts, facts={"timm architecture": f"`{self.timm_arguments()['name']}`", **facts.facts})

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Load a timm checkpoint, or what vertebra or transformers saved of one.

        Args:
            source: Architecture name (with or without a tag), `hf-hub:org/name`, `local-dir:path`, a folder or a hub id.
            *args: Further positional arguments of the constructor.
            config: Use this configuration instead of the checkpoint's own.
            **kwargs: As in `PreTrainedModel.from_pretrained`; what is no key of the configuration goes to timm's constructor.

        Raises:
            ValueError: timm has no such architecture, weights, or arguments.
            OSError: there is no such checkpoint, or its files are damaged.
        """
        options = HubOptions.pop(kwargs)
        found = locate(source, options, use_timm=True)
        loading = {name: kwargs.pop(name) for name in list(kwargs) if name in LOADING}
        if config is None:
            config, kwargs = cls.config_from(found.content(), **kwargs)
        config = cls.own_config(config)
        files = found.files or timm_models.pretrained_files(str(found.architecture), options)
        return super().from_pretrained(files, *args, config=config, **loading, **kwargs)

    @classmethod
    def config_from(cls, content: Mapping[str, Any], **kwargs: Any) -> tuple[PreTrainedConfig, dict[str, Any]]:
        """Read the content of a `config.json`; what is no key of the configuration goes to timm's constructor."""
        config: Any
        config, rest = cls.config_class.from_dict(content, return_unused_kwargs=True, **kwargs)
        if "num_channels" in rest:  # a model with its head: the number goes to timm, which calls it in_chans
            rest["in_chans"] = rest.pop("num_channels")
        config.model_args = {**(config.model_args or {}), **rest} or None
        return config, {}

    @classmethod
    def own_config(cls, config: Any) -> Any:
        """The configuration this class is built from; the same one unless a class converts others."""
        return config

    @classmethod
    def find_weights(cls, files: CheckpointFiles, variant: str | None, use_safetensors: bool | None) -> WeightFiles:
        """The weights of a folder or repository, or the single file that timm lists by URL."""
        if files.source.startswith("https://"):
            return WeightFiles([timm_models.download(files.source, files.options)])
        return super().find_weights(files, variant, use_safetensors)

    def load_weights(self, weights: WeightFiles, **options: Any) -> LoadReport:
        """Read just the tensors needed where names and shapes fit; otherwise let timm's own loader convert them first.

        Another number of image channels is no reason to ask timm: `vertebra.bands` adapts the filters afterwards.
        """
        wanted = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        matched = match_keys(weights.shapes, wanted, "", self.key_renames)
        shapes = {target: weights.shapes[name] for name, target in matched.items()}
        bands = input_layers(self, shapes)
        unfit = [name for name, shape in wanted.items() if shapes.get(name) != shape and name not in bands.names]
        if unfit and not options.get("renames"):
            whole = match_keys(weights.shapes, self.unpruned_names(), "", self.key_renames)
            tensors = {whole[name]: tensor for name, tensor in weights.read(weights.shapes).items()}
            with suppress(*UNUSABLE):  # timm cannot use them either: the report below says what does not fit
                arguments = self.timm_arguments()
                weights = timm_models.filtered(tensors, **{**arguments, "in_chans": bands.old or _channels(arguments)})
        return load_into(self, weights, **options)


def _channels(arguments: Mapping[str, Any]) -> int:
    """Image channels of a checkpoint whose tensors do not say, by timm's description of it."""
    cfg = {**timm_models.default_cfg(arguments["name"]), **arguments["cfg"]}
    return int((cfg.get("input_size") or (3,))[0])
