"""Native classes read timm's checkpoints where timm has the same network, and give their weights back under timm's names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vertebra.backbones import timm_models
from vertebra.backbones.timm_families import TABLES
from vertebra.backbones.timm_family import Joint, Table, UnfitError
from vertebra.config import CONFIG_NAME, PreTrainedConfig
from vertebra.errors import listing
from vertebra.hub import CheckpointFiles, HubOptions, read_json
from vertebra.loading import LoadReport, match_model
from vertebra.model import PreTrainedModel
from vertebra.resolve import is_timm_file, locate
from vertebra.weights import WeightFiles


class Source(NamedTuple):
    """From which tensors of the other side one of this side is made: the `part` of what `make` returns for them."""

    names: tuple[str, ...]
    joint: Joint | None = None
    part: int = 0

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Its shape, from those of the tensors it is made of."""
        return tuple(self.apart([torch.empty(shapes[name], device="meta") for name in self.names])[self.part].shape)

    def apart(self, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Our tensors from timm's."""
        return tuple(tensors) if self.joint is None else tuple(self.joint.apart(*tensors))


def sources(table: Table, network: nn.Module, names: Iterable[str]) -> dict[str, Source]:
    """Our names, each with the tensors of a timm model among `names` that it is made of."""
    found: dict[str, Source] = {}
    renames = table.names(network)
    renamed = {_renamed(name, renames): name for name in names}
    for name, own in renamed.items():
        joint = next((joint for joint in table.joints if joint.timm[0] in name), None)
        if joint is None:
            if not any(part in name for joint in table.joints for part in joint.timm):
                found[name] = Source((own,))
            continue
        group = tuple(renamed[name.replace(joint.timm[0], part)] for part in joint.timm)
        for index, part in enumerate(joint.native):
            found[name.replace(joint.timm[0], part)] = Source(group, joint, index)
    return found


def _renamed(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


class TimmWeights(WeightFiles):
    """The tensors of one of timm's checkpoints under the names of a family's files; each is made when it is read.

    Args:
        weights: timm's tensors, under the names of timm's model.
        table: The family's.
        network: timm's model.
    """

    def __init__(self, weights: WeightFiles, table: Table, network: nn.Module) -> None:
        super().__init__([])
        self.files, self.weights = weights.files, weights
        self.sources = sources(table, network, weights.shapes)
        self.shapes = {name: source.shape(weights.shapes) for name, source in self.sources.items()}

    def fit(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Give tensors the shape that is wanted where only axes of length 1 differ: 1x1 convolutions and linear layers."""
        self.shapes |= {name: shape for name, shape in shapes.items() if _same_but_for_ones(shape, self.shapes[name])}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """As in `WeightFiles.read`."""
        names = list(names)
        tensors = self.weights.read(dict.fromkeys(name for own in names for name in self.sources[own].names))
        made: dict[str, Tensor] = {}
        for name in names:
            source = self.sources[name]
            part = source.apart([tensors[other] for other in source.names])[source.part]
            # parts of one tensor do not stay views of it: libraries that save tensors refuse those that share memory
            made[name] = (part if source.joint is None else part.clone()).reshape(self.shapes[name])
        return made


def _same_but_for_ones(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    return [side for side in one if side != 1] == [side for side in two if side != 1]


class ReadsTimm(PreTrainedModel):
    """A native class that reads timm's checkpoints of its family's networks (`timm_families.TABLES`) beside its own files.

    What the maps are is the family's business wherever weights come from: indices count the stem, where there is one, as 0, while
    timm's first level is mostly the first stage; and maps pass the norms that they pass in this family, which for some timm's
    checkpoints do not have (`apply_layernorm=False` gives timm's own maps). Maps equal timm's at the size that its model was
    built for; at other sizes each side has its own way to resize positions and to fill up windows.
    """

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint; see `PreTrainedModel.from_pretrained`.

        Args:
            source: As there: a folder or a hub repository; also one in timm's format, or the name of a timm architecture
                (`swin_tiny_patch4_window7_224`, with or without a tag), where the family has the same network.
            *args: As there.
            **kwargs: As there.

        Raises:
            ValueError: timm's network is not one of this family; says why, and what reads it.
        """
        if _reads_itself(cls) or isinstance(source, CheckpointFiles):
            return super().from_pretrained(source, *args, **kwargs)
        options = HubOptions.pop(kwargs)
        found = locate(source, options)
        files = found.files or timm_models.pretrained_files(str(found.architecture), options)
        if files.source.startswith("https://"):
            raise ValueError(
                f"timm has the weights of {found.name!r} as a single file, {files.source}; AutoBackbone.from_pretrained("
                f"{found.name!r}) loads it."
            )
        return super().from_pretrained(files, *args, **kwargs)

    @classmethod
    def _configure(
        cls, files: CheckpointFiles, config: PreTrainedConfig | str | os.PathLike[str] | None, kwargs: dict[str, Any]
    ) -> tuple[PreTrainedConfig, dict[str, Any]]:
        content = timm_content(files)
        if config is None and content is not None and not _reads_itself(cls):
            config = native_config(cls, content, files.source)
        return super()._configure(files, config, kwargs)

    @classmethod
    def find_weights(cls, files: CheckpointFiles, variant: str | None, use_safetensors: bool | None) -> WeightFiles:
        """The weights of a checkpoint, timm's under the names of this family."""
        weights = super().find_weights(files, variant, use_safetensors)
        if _reads_itself(cls) or (content := timm_content(files)) is None:
            return weights
        network = build(content)
        table, _ = choose(cls, network, content["architecture"])
        return TimmWeights(_in_timm_names(weights, content, network), table, network)

    def load_weights(self, weights: WeightFiles, **options: Any) -> LoadReport:
        """As for every model.

        Raises:
            ValueError: they are timm's, and have tensors that this family has nothing for.
        """
        if not isinstance(weights, TimmWeights):
            return super().load_weights(weights, **options)
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        matched = match_model(self, weights.shapes, shapes)
        weights.fit({name: shapes[target] for name, target in matched.items() if target in shapes})
        report = super().load_weights(weights, **options)
        if foreign := report.unexplained(report.unexpected_keys):
            raise ValueError(
                f"{type(self).__name__} has nothing for {len(foreign)} tensors of this timm network, {foreign[0]!r} first: it is "
                f"another one. AutoBackbone loads it as a TimmBackbone."
            )
        return report

    def timm_state_dict(self, architecture: str, **arguments: Any) -> dict[str, Tensor]:
        """The weights under timm's names and in timm's shapes, for `load_state_dict` of `timm.create_model(architecture, …)`.

        Of a classifier they are all that timm's model with `num_classes=model.config.num_labels` has, of a model without a head all
        of one with `num_classes=0`. A backbone gives what it was built with: not what was pruned, nor a final norm where the
        family's backbones have none; norms on its maps have no place in timm. Epsilons are no tensors: timm's model keeps its own.

        Args:
            architecture: Name in timm, without or with a tag.
            **arguments: Further ones of timm's constructor that the network was made with, e.g. `img_size=384`.

        Raises:
            ValueError: timm's network is not this one; names the first key of the configuration that differs.
        """
        if _reads_itself(type(self)):
            return dict(self.state_dict())
        classes = self.config.num_labels if any(name.endswith("classifier") for name in self._modules) else 0
        arguments = {"num_classes": classes, "in_chans": self.input_channels, **arguments}
        with torch.device("meta"):
            model = timm_models.build(architecture, in_chans=arguments.pop("in_chans"), args=arguments)
        table, keys = choose(type(self), model, architecture)
        own = self.config.to_dict() | vars(self.config)
        for name, value in keys.items():
            if name not in FREE and _plain(own.get(name)) != _plain(value):
                raise ValueError(
                    f"timm's {architecture} is another network than this {type(self).__name__}: {name} is {value!r} there and "
                    f"{own.get(name)!r} here. Name the architecture, and further arguments of timm's constructor, that it was "
                    f"made with."
                )
        return _backwards(self, table, model)


FREE = ("always_shift", "layer_norm_eps", "layerscale_value", "layer_scale_init_value", "use_mask_token")
"""Keys that change no tensor that timm has, or only how one starts."""


def _plain(value: Any) -> Any:
    """A value as it compares: a side stands for two, lists are tuples."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 2 and value[0] == value[1] else tuple(value)
    return value


def _backwards(model: PreTrainedModel, table: Table, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a timm model that a native one has."""
    state = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = sources(table, network, shapes)
    matched = {name: state[target] for name, target in match_model(model, found, state).items() if target in state}
    back: dict[str, Tensor] = {}
    for name, source in found.items():
        joint = source.joint
        if joint is None and name in matched:
            back[source.names[0]] = matched[name].reshape(shapes[source.names[0]])
        elif joint is not None and source.part == 0:
            group = [name.replace(joint.native[0], part) for part in joint.native]
            if matched.keys() >= set(group):
                made = joint.together(*(matched[part] for part in group))
                back |= {own: tensor.reshape(shapes[own]) for own, tensor in zip(source.names, made, strict=True)}
    return back


def timm_content(files: CheckpointFiles) -> dict[str, Any] | None:
    """The content of the `config.json` of a checkpoint in timm's format; None for others."""
    path = None if files.source.startswith("https://") else files.find(CONFIG_NAME)
    content = None if path is None else read_json(path)
    return content if content is not None and is_timm_file(content) else None


def native_config(model: type[PreTrainedModel], content: Mapping[str, Any], name: str) -> PreTrainedConfig:
    """The configuration of a native class from timm's `config.json`.

    Raises:
        ValueError: the network is none of this family; says why, which families it is of, and what reads it.
    """
    from vertebra.backbones.timm_wrapper import TimmWrapperConfig

    _, keys = choose(model, build(content), str(content["architecture"]))
    labels = TimmWrapperConfig.from_dict(content)
    if labels.num_labels:
        keys["id2label"] = labels.id2label
    config: PreTrainedConfig = model.config_class.from_dict(keys)
    config.name_or_path = name
    return config


def build(content: Mapping[str, Any]) -> nn.Module:
    """The timm model of a `config.json`, on the meta device."""
    args = {"num_classes": content.get("num_classes"), **(content.get("model_args") or {})}
    channels = int(args.pop("in_chans", 3))
    with torch.device("meta"):
        return timm_models.build(str(content["architecture"]), in_chans=channels, args=args)


def _in_timm_names(weights: WeightFiles, content: Mapping[str, Any], network: nn.Module) -> WeightFiles:
    """The weights under the names of timm's model; files of older layouts go through timm's own loader."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    there = {name: shape for name, shape in weights.shapes.items() if name in wanted}
    if all(there.get(name) == shape or name.endswith("num_batches_tracked") for name, shape in wanted.items()):
        return weights
    args = {"num_classes": content.get("num_classes"), **(content.get("model_args") or {})}
    cfg = dict(content.get("pretrained_cfg") or {})
    tensors = weights.read(weights.shapes)
    return timm_models.filtered(
        tensors, str(content["architecture"]), in_chans=int(args.pop("in_chans", 3)), args=args, cfg=cfg
    )


def _reads_itself(model: type[PreTrainedModel]) -> bool:
    """Whether a class is timm's own models in a wrapping."""
    return str(model.config_class.model_type).startswith("timm_")


def choose(model: type[PreTrainedModel], network: nn.Module, architecture: str) -> tuple[Table, dict[str, Any]]:
    """The table by which a native class reads a network of timm, and the keys of its configuration.

    Raises:
        ValueError: it is none of this family; says why, which families it is of, and what reads it.
    """
    reasons = []
    for table in TABLES.get(str(model.config_class.model_type), ()):
        try:
            return table, table.keys(network)
        except UnfitError as error:
            reasons.append(str(error))
    why = reasons[0] if reasons else "this family has no table of timm's names"
    others = listing(families_of(network))
    raise ValueError(
        f"timm's {architecture} is no network that {model.__name__} can be: {why}. "
        + (f"Classes of the model_type {others} can, and " if others else "")
        + "AutoBackbone.from_pretrained loads it as a TimmBackbone."
    )


def families_of(network: nn.Module) -> list[str]:
    """The `model_type` of every family that has a network of timm, by its class and facts."""
    return [family for family, tables in TABLES.items() if any(_fits(table, network) for table in tables)]


def _fits(table: Table, network: nn.Module) -> bool:
    try:
        table.keys(network)
    except UnfitError:
        return False
    return True
