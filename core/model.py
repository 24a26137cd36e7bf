"""The base of every model: built from a configuration, loaded from and saved to the files of the Hugging Face hub."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vertebra.config import PreTrainedConfig
from vertebra.errors import did_you_mean, listing
from vertebra.hub import CheckpointFiles, HubOptions
from vertebra.loading import LoadReport, load_into, loading_info
from vertebra.weights import WeightFiles, save_weights

if TYPE_CHECKING:
    from typing_extensions import Self

ATTENTION = ("sdpa", "eager")


class PreTrainedModel(nn.Module):
    """Base of all models.

    A subclass sets `config_class`, builds its modules in `__init__(self, config)` and calls `self.post_init()` last.

    Args:
        config: The model's configuration.
    """

    config_class: ClassVar[type[PreTrainedConfig]] = PreTrainedConfig
    base_model_prefix: ClassVar[str] = ""
    """Name under which a model with a head holds the model without one; stripped or added when files are read."""
    main_input_name: ClassVar[str] = "pixel_values"
    key_renames: ClassVar[Sequence[tuple[str, str]]] = ()
    """Spellings found in files: regular expression and replacement."""
    explained_missing: ClassVar[Mapping[str, str]] = {}
    """Keys a file may lack: regular expression and reason."""
    explained_unexpected: ClassVar[Mapping[str, str]] = {}
    """Keys a file may have too many: regular expression and reason."""

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        if not isinstance(config, PreTrainedConfig):
            raise TypeError(
                f"{type(self).__name__}(config) takes a configuration, got {type(config).__name__}. "
                f"For a checkpoint use {type(self).__name__}.from_pretrained(…)."
            )
        self.config = config
        self.name_or_path = config.name_or_path

    def post_init(self) -> None:
        """Initialise the weights; the last line of every constructor."""
        if any(not parameter.is_meta for parameter in self.parameters()):
            self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        """Give a module's own parameters their initial values; families extend it."""
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()

    def unpruned_names(self) -> set[str]:
        """Names of all tensors of the model with nothing pruned."""
        return set(self.state_dict())

    def asked_for(
        self, output_hidden_states: bool | None, output_attentions: bool | None, return_dict: bool | None
    ) -> tuple[bool, bool, bool]:
        """What a forward is to return: its arguments, and the configuration's answer for those that are None."""
        given = (output_hidden_states, output_attentions, return_dict)
        usual = (self.config.output_hidden_states, self.config.output_attentions, self.config.return_dict)
        hidden, attentions, as_dict = (
            default if here is None else here for here, default in zip(given, usual, strict=True)
        )
        return hidden, attentions, as_dict

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the floating-point weights."""
        return next((p.dtype for p in [*self.parameters(), *self.buffers()] if p.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next((tensor.device for tensor in [*self.parameters(), *self.buffers()]), torch.device("cpu"))

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Return the number of parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    @classmethod
    def from_config(cls, config: PreTrainedConfig, *, dtype: torch.dtype | str | None = None, **kwargs: Any) -> Self:
        """Build with random weights. `kwargs` go to the constructor."""
        _check_attention(kwargs.pop("attn_implementation", None))
        model = cls(config, **kwargs)
        return model if dtype in (None, "auto") else model.to(parse_dtype(dtype))

    _from_config = from_config

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | CheckpointFiles,
        *args: Any,
        config: PreTrainedConfig | str | os.PathLike[str] | None = None,
        dtype: torch.dtype | str | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        ignore_mismatched_sizes: bool = False,
        key_mapping: Mapping[str, str] | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint: a local folder (the network is never asked) or a hub id.

        Args:
            source: Folder or hub id.
            *args: Further positional arguments of the constructor.
            config: Use this configuration (or the one found there) instead of the checkpoint's own.
            dtype: Dtype of the weights, e.g. `torch.bfloat16` or `"bfloat16"`; as in the file when None or `"auto"`.
            variant: Read `model.<variant>.safetensors`.
            use_safetensors: True refuses `.bin` files, False reads only these.
            ignore_mismatched_sizes: Initialise tensors anew whose shapes differ, instead of refusing.
            key_mapping: Regular expressions and replacements for the names in the file.
            output_loading_info: Also return what became of every key.
            **kwargs: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`, `subfolder`; keys of the
                configuration (`out_indices=…`, `prune=False`, …) win over the file; the rest goes to the constructor.

        Returns:
            The model in evaluation mode, or `(model, info)`.

        Raises:
            OSError: there is no such checkpoint, or its files are damaged.
            RuntimeError: the weights do not fit the architecture.
            TypeError: a keyword that nobody takes.
        """
        older_name = kwargs.pop("torch_dtype", None)
        dtype = older_name if dtype is None else dtype
        if kwargs.pop("trust_remote_code", False):
            raise ValueError("trust_remote_code=True is refused: vertebra runs no code from a checkpoint.")
        _check_attention(kwargs.pop("attn_implementation", None))
        files = CheckpointFiles.open(source, HubOptions.pop(kwargs))
        config, kwargs = cls._configure(files, config, kwargs)
        with torch.device("meta"):
            model = cls(config, *args, **kwargs)
        report = model.load_weights(
            cls.find_weights(files, variant, use_safetensors),
            dtype=None if dtype in (None, "auto") else parse_dtype(dtype),
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            renames=tuple((key_mapping or {}).items()),
        )
        model.name_or_path = files.source
        model.config.dtype = str(model.dtype)
        model.eval()
        return (model, loading_info(report)) if output_loading_info else model

    @classmethod
    def config_from(cls, content: Mapping[str, Any], **kwargs: Any) -> tuple[PreTrainedConfig, dict[str, Any]]:
        """Read the content of a `config.json` with `kwargs` laid over it; returns the configuration and what is left."""
        kwargs.pop("use_pretrained_backbone", None)
        config, rest = cls.config_class.from_dict(content, return_unused_kwargs=True, **kwargs)
        return config, rest

    @classmethod
    def find_weights(cls, files: CheckpointFiles, variant: str | None, use_safetensors: bool | None) -> WeightFiles:
        """The weights of a checkpoint; families whose files have other names extend it."""
        return WeightFiles.find(files, variant, use_safetensors)

    def load_weights(self, weights: WeightFiles, **options: Any) -> LoadReport:
        """Give the model, built on the meta device, the tensors of `weights`; `options` as in `load_into`."""
        return load_into(self, weights, **options)

    @classmethod
    def _configure(
        cls, files: CheckpointFiles, config: PreTrainedConfig | str | os.PathLike[str] | None, kwargs: dict[str, Any]
    ) -> tuple[PreTrainedConfig, dict[str, Any]]:
        """The configuration to build with, and the keywords left for the constructor."""
        chosen: PreTrainedConfig
        if isinstance(config, PreTrainedConfig):
            chosen = copy.deepcopy(config)
            chosen._settle({name: kwargs.pop(name) for name in list(kwargs) if name in chosen._settable()})
        else:
            source = files if config is None else config
            chosen, kwargs = cls.config_class.from_pretrained(source, return_unused_kwargs=True, **kwargs)
        for name in kwargs:
            _check_keyword(cls, chosen, name)
        return chosen, kwargs

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        variant: str | None = None,
    ) -> None:
        """Write `config.json` and safetensors into `folder`; a kill at any moment leaves the old or the new weights.

        Args:
            folder: Made when it does not exist.
            state_dict: Save these tensors instead of the model's own.
            max_shard_size: Largest size of one file, in bytes or as `"500MB"`.
            variant: Write `model.<variant>.safetensors`.
        """
        folder = Path(folder)
        if folder.is_file():
            raise NotADirectoryError(f"{str(folder)!r} is a file; save_pretrained takes a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__]
        config.dtype = str(self.dtype)
        save_weights(folder, self.state_dict() if state_dict is None else state_dict, max_shard_size, variant)
        config.save_pretrained(folder)


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """Return the torch dtype called `dtype`, e.g. `"bfloat16"` or `torch.bfloat16`.

    Raises:
        ValueError: it is no floating-point dtype of torch.
    """
    kind = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(f"dtype={dtype!r} must be a floating-point dtype such as torch.bfloat16, 'float16' or 'auto'.")
    return kind


def _check_attention(name: str | None) -> None:
    if name is not None and name not in ATTENTION:
        raise ValueError(
            f"attn_implementation={name!r} must be one of {listing(ATTENTION)}. Either may be asked for attentions: they are "
            f"computed whenever output_attentions=True."
        )


def _check_keyword(cls: type[PreTrainedModel], config: PreTrainedConfig, name: str) -> None:
    import inspect

    parameters = inspect.signature(cls.__init__).parameters
    if name not in parameters and not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        known = {*config._settable(), *parameters} - {"self", "config"}
        raise TypeError(f"{cls.__name__}.from_pretrained has no argument {name!r}.{did_you_mean(name, known)}")
