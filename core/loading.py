"""From weight files to a model: which tensor goes where, what is missing and why, and nothing left without a value."""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from vertebra.bands import InputLayers, input_layers
from vertebra.weights import WeightFiles

if TYPE_CHECKING:
    from vertebra.model import PreTrainedModel

logger = logging.getLogger("vertebra")
FEW = 4
UNTRACKED = {r"(^|\.)num_batches_tracked$": "older files do not count batches"}
PLAIN = (nn.Module._load_from_state_dict, _NormBase._load_from_state_dict)
"""What assigns tensors and nothing else; norms also make a count of batches where a file has none, which `initialise` has done."""
LEGACY = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))


@dataclass
class LoadReport:
    """What became of every key, in the names of transformers' loading info. Prints as a table, explained keys counted.

    Args:
        missing_keys: In the model, not in the file; initialised anew. `explained` says which are expected.
        unexpected_keys: In the file, not in the model; not read.
        mismatched_keys: `(key, shape in the file, shape in the model)`.
        adapted_keys: The same of filters that were made for another number of image channels (see `vertebra.bands`).
        explained: The keys among these that the architecture accounts for, with the reason.
    """

    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    adapted_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    explained: dict[str, str] = field(default_factory=dict)

    def unexplained(self, keys: Iterable[str]) -> list[str]:
        """The keys that nothing accounts for."""
        return [key for key in keys if key not in self.explained]

    def __str__(self) -> str:
        rows = [("mismatched", key, f"file {there}, model {here}") for key, there, here in self.mismatched_keys]
        rows += [("adapted", key, f"file {there}, model {here}") for key, there, here in self.adapted_keys]
        for kind, keys in (("missing", self.missing_keys), ("unexpected", self.unexpected_keys)):
            rows += [(kind, key, "") for key in self.unexplained(keys)]
            for reason in dict.fromkeys(self.explained[key] for key in keys if key in self.explained):
                alike = [key for key in keys if self.explained.get(key) == reason]
                rows += [(kind, what, reason) for what in (alike if len(alike) <= FEW else [f"{len(alike)} keys"])]
        width = max((len(what) for _, what, _ in rows), default=0)
        return "\n".join(f"  {kind:<10}  {what:<{width}}  {why}".rstrip() for kind, what, why in rows)


def match_keys(
    names: Iterable[str], targets: Iterable[str], prefix: str, renames: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
    """Map file names to model names, key by key: as it is, then renamed, then by the spelling of old files.

    Each is also tried with the base model's prefix stripped and added.
    """
    targets = set(targets)
    return {name: _match(name, targets, prefix, renames) or name for name in names}


def _match(name: str, targets: Container[str], prefix: str, renames: Sequence[tuple[str, str]]) -> str | None:
    if name in targets:
        return name
    return next((spelling for spelling in _spellings(name, prefix, renames) if spelling in targets), None)


def _spellings(name: str, prefix: str, renames: Sequence[tuple[str, str]]) -> Iterator[str]:
    spelling = name
    for pattern, replacement in (("", ""), *renames, *LEGACY):
        spelling = re.sub(pattern, replacement, spelling) if pattern else spelling
        yield from (spelling, spelling.removeprefix(f"{prefix}."), f"{prefix}.{spelling}")


def match_model(
    model: PreTrainedModel, names: Iterable[str], targets: Iterable[str], renames: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
    """`match_keys` by the rules of a model, and by those of the models inside it for what is theirs."""
    targets, rules = set(targets), (*renames, *model.key_renames)
    inner = [(path, part, _under(path, targets)) for path, part in parts_of(model)]

    def match(name: str) -> str:
        if found := _match(name, targets, model.base_model_prefix, rules):
            return found
        for path, part, theirs in inner:
            for spelling in _spellings(name, model.base_model_prefix, rules):
                below = spelling.removeprefix(f"{path}.")
                if below != spelling and (found := _match(below, theirs, part.base_model_prefix, part.key_renames)):
                    return f"{path}.{found}"
        return name

    return {name: match(name) for name in names}


def parts_of(model: PreTrainedModel) -> list[tuple[str, PreTrainedModel]]:
    """The models inside a model with their paths, the innermost first."""
    from vertebra.model import PreTrainedModel as Model

    found: dict[PreTrainedModel, str] = {}
    for name, part in modules_of(model):
        if name and isinstance(part, Model):
            found.setdefault(part, name)
    return sorted(((name, part) for part, name in found.items()), key=lambda part: -len(part[0]))


def models_in(model: PreTrainedModel) -> list[tuple[str, PreTrainedModel]]:
    """The models inside a model, the innermost first, and itself, each with what the names of its tensors begin with."""
    return [*((f"{path}.", part) for path, part in parts_of(model)), ("", model)]


def modules_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All modules with their paths, parents first, as `named_modules` gives them; one that stands in two places has two."""
    found: list[tuple[str, nn.Module]] = []
    _visit(model, "", found)
    return found


def _visit(module: nn.Module, path: str, found: list[tuple[str, nn.Module]]) -> None:
    # no inner function: one that calls itself would keep the model alive until garbage is collected
    found.append((path, module))
    for name, child in module._modules.items():
        if child is not None:
            _visit(child, f"{path}.{name}" if path else name, found)


def _under(path: str, names: Iterable[str]) -> set[str]:
    return {name.removeprefix(f"{path}.") for name in names if name.startswith(f"{path}.")}


def load_into(
    model: PreTrainedModel,
    weights: WeightFiles,
    *,
    dtype: torch.dtype | None = None,
    ignore_mismatched_sizes: bool = False,
    renames: Sequence[tuple[str, str]] = (),
) -> LoadReport:
    """Give `model` (built on the meta device) the tensors of `weights`; only those that the model has are read.

    Raises:
        RuntimeError: keys are missing that the architecture does not explain, or shapes differ.
    """
    wanted = own = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    matched = match_model(model, weights.shapes, wanted, renames)
    models = models_in(model)
    ties = {path + name: path + kept for path, part in models for name, kept in part.tied_weights.items()}
    wanted = {name: shape for name, shape in wanted.items() if name not in ties}
    tied = {name: ties[target] for name, target in matched.items() if target in ties}
    # a tensor under several spellings: the model's own wins, that of what is tied to it comes last, and the others are reported
    source = {target: name for name, target in tied.items()}
    source |= {target: name for name, target in matched.items() if target in wanted}
    source |= {name: name for name in matched if name in wanted}
    report = LoadReport(missing_keys=[name for name in wanted if name not in source])
    report.unexpected_keys = [name for name, target in (matched | tied).items() if source.get(target) != name]
    report.explained |= {name: f"tied: {tied[name]}" for name in report.unexpected_keys if name in tied}
    there = {target: weights.shapes[name] for target, name in source.items()}
    fits = all(own[target] == shape for target, shape in there.items())
    bands = InputLayers() if fits else input_layers(model, there)
    for target, shape in wanted.items():
        if target in source and (found := weights.shapes[source[target]]) != shape:
            if target in bands.names:
                report.adapted_keys.append((target, found, shape))
                continue
            report.mismatched_keys.append((target, found, shape))
            del source[target]
    _explain(model, report, matched)
    _refuse(model, report, ignore_mismatched_sizes)
    fresh = [*report.missing_keys, *(name for name, _, _ in report.mismatched_keys)]
    tensors = weights.read(source.values())
    state = {target: _cast(tensors[name], dtype) for target, name in source.items()}
    state |= {target: _cast(bands.adapt(tensors[source[target]]), dtype) for target in bands.names}
    if fresh:
        initialise(model, fresh, dtype or next((t.dtype for t in state.values() if t.is_floating_point()), None))
    assign(model, state)
    for _, part in models:
        part.tie_weights()
    rebuild_buffers(model)
    if report.adapted_keys:
        _tell_adapted(model, bands, report)
    if open_questions := [*report.unexplained(report.missing_keys + report.unexpected_keys), *report.mismatched_keys]:
        logger.warning(
            "%s: %d keys of the checkpoint need a look.\n%s", type(model).__name__, len(open_questions), report
        )
    elif fresh:
        logger.info("%s: initialised anew.\n%s", type(model).__name__, report)
    return report


def assign(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make tensors of the right shapes a model's own, like `load_state_dict(state, strict=False, assign=True)`.

    That is what loads where a module reads its tensors in a way of its own; otherwise this takes a fifth of the time.
    """
    modules = modules_of(model)
    if type(model).load_state_dict is not nn.Module.load_state_dict or not all(_loads_plainly(m) for _, m in modules):
        model.load_state_dict(state, strict=False, assign=True)
        return
    for path, module in modules:
        start = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None and (tensor := state.get(start + name)) is not None:
                if type(tensor) is Tensor:
                    module._parameters[name] = nn.Parameter(tensor, parameter.requires_grad)
                else:
                    module._parameters[name] = tensor.requires_grad_(parameter.requires_grad)  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = state.get(start + name, buffer)


def _loads_plainly(module: nn.Module) -> bool:
    """Whether nothing but assignment happens when a module is given its tensors."""
    kind = type(module)
    own_ways = kind.__setattr__ is not nn.Module.__setattr__ or kind._load_from_state_dict not in PLAIN
    return not (own_ways or module._load_state_dict_pre_hooks or module._load_state_dict_post_hooks)


def _tell_adapted(model: PreTrainedModel, bands: InputLayers, report: LoadReport) -> None:
    rule = "the sum of the old filters" if bands.new == 1 else f"the old ones in turn, times {bands.old}/{bands.new}"
    keys = ", ".join(key for key, _, _ in report.adapted_keys)
    logger.info(
        "%s: filters for %d image channels from those for %d: %s (%s). Give the image processor num_channels=%d as well.",
        type(model).__name__,
        bands.new,
        bands.old,
        rule,
        keys,
        bands.new,
    )


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _explain(model: PreTrainedModel, report: LoadReport, matched: Mapping[str, str]) -> None:
    if not report.missing_keys and not report.unexplained(report.unexpected_keys):
        return
    parts = [("", model), *parts_of(model)]
    for key in report.missing_keys:
        if reason := _reason(key, [(path, {**UNTRACKED, **part.explained_missing}) for path, part in parts]):
            report.explained[key] = reason
    open_keys = []
    for key in report.unexplained(report.unexpected_keys):
        if reason := _reason(key, [(path, part.explained_unexpected) for path, part in parts]):
            report.explained[key] = reason
        else:
            open_keys.append(key)
    if open_keys:
        whole = model.unpruned_names() - set(model.state_dict())
        full = match_model(model, open_keys, whole)
        report.explained |= {key: "pruned: after the last selected stage" for key in open_keys if full[key] in whole}


def _reason(key: str, rules: Iterable[tuple[str, Mapping[str, str]]]) -> str | None:
    """Why a key is missing or too many, by rules for names below a path each."""
    for path, patterns in rules:
        name = key.removeprefix(f"{path}.")
        if name != key or not path:
            for pattern, reason in patterns.items():
                if re.search(pattern, name):
                    return reason
    return None


def _refuse(model: PreTrainedModel, report: LoadReport, ignore_mismatched_sizes: bool) -> None:
    name = type(model).__name__
    if unexplained := report.unexplained(report.missing_keys):
        raise RuntimeError(
            f"The checkpoint lacks {len(unexplained)} tensors that {name} needs; it is of another architecture, was "
            f"saved from a pruned backbone, or the configuration does not fit it.\n{report}"
        )
    if report.mismatched_keys and not ignore_mismatched_sizes:
        raise RuntimeError(
            f"Shapes in the checkpoint differ from {name}'s. Correct the configuration, or pass "
            f"ignore_mismatched_sizes=True to initialise these anew.\n{report}"
        )


def initialise(model: PreTrainedModel, names: Iterable[str], dtype: torch.dtype | None) -> None:
    """Give the parameters and buffers called `names` memory and their initial values."""
    modules: dict[str, list[str]] = {}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        modules.setdefault(owner, []).append(leaf)
    parts = [*parts_of(model), ("", model)]
    for owner, leaves in modules.items():
        path, part = next((path, part) for path, part in parts if not path or f"{owner}.".startswith(f"{path}."))
        module = part.get_submodule(owner[len(path) :].removeprefix("."))
        _materialise(module, torch.device("cpu"), dtype)
        part._init_weights(module)
        for leaf in leaves:
            if torch.isnan(getattr(module, leaf)).any():
                raise RuntimeError(
                    f"{type(module).__name__} gives {leaf!r} its initial value in the constructor alone, which a load does not "
                    f"keep, and the checkpoint lacks it. Set it in a method reset_parameters(), or in the model's "
                    f"_init_weights(module)."
                )


def _materialise(module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
    """Give the module's own meta tensors memory, filled with NaN; its children are left alone."""

    def empty(tensor: Tensor) -> Tensor:
        fill = torch.nan if tensor.is_floating_point() else 0
        return _cast(torch.full_like(tensor, fill, device=device), dtype)

    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta:
            module._parameters[name] = nn.Parameter(empty(parameter), requires_grad=parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta and name not in module._non_persistent_buffers_set:
            module._buffers[name] = empty(buffer)


def rebuild_buffers(model: nn.Module) -> None:
    """Compute the buffers that no file holds, after a build on the meta device.

    Raises:
        RuntimeError: a module that owns such buffers lacks `init_non_persistent_buffers()` (timm's convention), or
            something is still on the meta device afterwards.
    """
    modules = modules_of(model)
    for _, module in modules:
        meta = [name for name in module._non_persistent_buffers_set if _is_meta(module._buffers.get(name))]
        for name in meta:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")  # type: ignore[arg-type]
        if meta and hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # type: ignore[operator]
        elif meta:
            raise RuntimeError(
                f"{type(module).__name__} holds non-persistent buffers ({', '.join(meta)}) that a checkpoint cannot restore. "
                f"Give it a method init_non_persistent_buffers() that computes them."
            )
    left = [
        f"{path}.{name}" if path else name
        for tensors in ("_parameters", "_buffers")
        for path, module in modules
        for name, tensor in getattr(module, tensors).items()
        if _is_meta(tensor)
    ]
    if left:
        raise RuntimeError(f"{type(model).__name__} has no values for {', '.join(dict.fromkeys(left))} after loading.")


def _is_meta(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.is_meta


def loading_info(report: LoadReport) -> dict[str, Any]:
    """The report as the dictionary that `output_loading_info=True` returns."""
    return {
        "missing_keys": report.missing_keys,
        "unexpected_keys": report.unexpected_keys,
        "mismatched_keys": report.mismatched_keys,
        "adapted_keys": report.adapted_keys,
        "explained": report.explained,
    }
