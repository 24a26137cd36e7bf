"""The base of every model: built from a configuration, loaded from and saved to the files of the Hugging Face hub."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vertebra.card import CardFacts, write_card
from vertebra.change import changing
from vertebra.config import CONFIG_NAME, PreTrainedConfig
from vertebra.errors import did_you_mean, listing
from vertebra.hub import CheckpointFiles, HubOptions
from vertebra.loading import LoadReport, load_into, loading_info, models_in
from vertebra.no_draws import OnMeta, values_come_later
from vertebra.push import PushToHubMixin
from vertebra.weights import WeightFiles, add_weights, weight_names

if TYPE_CHECKING:
    from typing_extensions import Self

ATTENTION = ("sdpa", "eager")


class PreTrainedModel(nn.Module, PushToHubMixin):
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
    pipeline_tag: ClassVar[str] = "image-feature-extraction"
    """What the hub calls the task."""
    hub_id: str | None = None
    """Hub repository the weights were loaded from, where they were."""
    optimization: Any = None
    """How an engine computes the model, where `optimize()` made it; None in a plain one."""

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
        """Initialise and tie the weights; the last line of every constructor. Models inside this one have initialised theirs."""
        if not values_come_later() and any(not parameter.is_meta for parameter in self.parameters()):
            for module in _own_modules(self):
                self._init_weights(module)
        self.tie_weights()

    def _init_weights(self, module: nn.Module) -> None:
        """Give a module's own parameters their initial values; families extend it."""
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()

    @property
    def tied_weights(self) -> Mapping[str, str]:
        """Parameters that are one: name to the name under which it is read. Families that share weights extend it."""
        return {}

    @property
    def unsaved_names(self) -> Collection[str]:
        """Names of parameters that files leave out, since they hold them under another name."""
        return self.tied_weights.keys()

    def tie_weights(self) -> None:
        """Make parameters that are tied one again, after either was replaced."""
        for name, source in self.tied_weights.items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, self.get_parameter(source))

    def unpruned_names(self) -> set[str]:
        """Names of all tensors of the model with nothing pruned."""
        return set(self.state_dict())

    @property
    def input_channels(self) -> int | None:
        """Channels of the images; None where the configuration has no `num_channels`."""
        return getattr(self.config, "num_channels", None)

    @property
    def flat_channels_last(self) -> bool:
        """Whether a linear layer on flattened patches takes them pixel by pixel, instead of channel by channel."""
        return False

    def shapes_with(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, if images had this many channels."""
        config = copy.deepcopy(self.config)
        config.num_channels = channels  # type: ignore[attr-defined]
        with OnMeta():
            twin = type(self)(config)
        return {name: tuple(tensor.shape) for name, tensor in twin.state_dict().items()}

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

    def optimize(
        self,
        backend: str | Sequence[str] = "auto",
        *,
        dtype: torch.dtype | str | None = None,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 1,
        verbose: bool = True,
    ) -> Any:
        """Return a copy for inference whose forward is computed by an engine; this model stays as it is.

        The copy is a model of the same class: the same outputs, selection, sizes, weights, names and files. Every further size of
        image is compiled when it first comes, which takes seconds, and once more when images of that size come in another number.
        Of a model with a backbone and a head the engine computes all, or the backbone alone if that is faster, also when it is
        asked for by name; what was faster is remembered. What an engine cannot do runs as it does here: gradients with respect to
        the images, losses. The copy stays in evaluation mode. `copy.optimization` says how it computes.

        Args:
            backend: `"openvino"`, `"onnxruntime"`, `"inductor"`, or `"eager"`, this model as it is; or several of these, as in
                `["eager", "openvino"]`: measure them on images of the size given, take the fastest, and remember it for the next
                time (in `VERTEBRA_CACHE`, else in the user's cache). `"auto"` is all that are installed.
            dtype: What is computed in: `"float32"` (when None) or `"bfloat16"`, which processors with units for it do in half the
                time; outputs are float32 either way.
            image_size: Side of the images, or `(height, width)`, in pixels, that it is compiled for at once; by default the size
                that the model is made for.
            batch_size: Number of these images.
            verbose: Print to stderr what is tried, the times, and the largest difference from this model's outputs.

        Raises:
            ImportError: an engine that is named is not installed.
            ValueError: the model is in training mode, takes no images, is not in float32; an engine does not exist or not for
                this device or dtype; images of this size do not run.
            RuntimeError: the model cannot be captured as a graph, or no engine computes it right.
        """
        from vertebra.optimization.optimize import optimize

        return optimize(self, backend, dtype=dtype, image_size=image_size, batch_size=batch_size, verbose=verbose)

    @property
    def base_model(self) -> Any:
        """The model without its head; itself where it has none."""
        found = getattr(self, self.base_model_prefix, self)
        return found if isinstance(found, PreTrainedModel) else self  # a step on the paths of files is no model

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the floating-point weights."""
        tensors = chain(self.parameters(), self.buffers())
        return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))

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
        optimize: bool | str | Mapping[str, Any] = False,
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
            optimize: Return what `optimize()` makes of the model: True, the name of a backend, or a mapping of its arguments, e.g.
                `{"backend": "openvino", "batch_size": 8}`.
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
        with OnMeta():
            model = cls(config, *args, **kwargs)
        report = model.load_weights(
            cls.find_weights(files, variant, use_safetensors),
            dtype=None if dtype in (None, "auto") else parse_dtype(dtype),
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            renames=tuple((key_mapping or {}).items()),
        )
        model.name_or_path = files.source
        model.hub_id = files.source if files.folder is None and "://" not in files.source else None
        model.config.dtype = str(model.dtype)
        model.eval()
        if optimize is not False:
            model = model.optimize(**_optimize_arguments(optimize))
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
        save_directory: str | os.PathLike[str],
        *,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        variant: str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> None:
        """Write `config.json` and safetensors into a folder; a kill at any moment leaves the old or the new model.

        `vertebra.change` says how, and what other readers see.

        Args:
            save_directory: The folder; made when it does not exist.
            state_dict: Save these tensors instead of the model's own.
            max_shard_size: Largest size of one file, in bytes or as `"500MB"`.
            variant: Write `model.<variant>.safetensors`.
            push_to_hub: Push as well, to `repo_id` or to the name of the folder.
            **hub: Arguments of `push_to_hub`.

        Raises:
            NotADirectoryError: it is a file.
            OSError: a file cannot be written, e.g. on a full disk; what was there before is intact.
        """
        self._check_saving(push_to_hub, hub)
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"{str(folder)!r} is a file; save_pretrained takes a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__]
        config.dtype = str(self.dtype)
        state = self.state_dict() if state_dict is None else state_dict
        unsaved = {f"{path}{name}" for path, part in models_in(self) for name in part.unsaved_names}
        state = {name: tensor for name, tensor in state.items() if name not in unsaved}
        with changing(folder) as change:
            add_weights(change, state, max_shard_size, variant)
            change.write_text(CONFIG_NAME, config.to_json_string())
            for name, text in self.further_files().items():
                change.write_text(name, text)
        if push_to_hub:
            self._push_saved(folder, hub, state_dict=state_dict, max_shard_size=max_shard_size, variant=variant)

    def further_files(self) -> Mapping[str, str]:
        """Name and text of what is saved beside the configuration; families extend it."""
        return {}

    def _files_replaced(self, files: CheckpointFiles, *, variant: str | None = None, **saving: Any) -> set[str]:
        """Names of the former weights of the same variant, shards included."""
        return weight_names(files, variant)

    def card_facts(self) -> CardFacts:
        """What a model card says about the model; families add what they know."""
        size = getattr(self.config, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else size
        return CardFacts(
            summary=f"a model of type `{self.config.model_type}`.",
            facts={"parameters": f"{self.num_parameters():,}", "dtype": str(self.dtype).removeprefix("torch.")},
            pixels=(getattr(self.config, "num_channels", 3), height, width),
            base_model=self.hub_id,
            upstream_license=(getattr(self.config, "pretrained_cfg", None) or {}).get("license"),
        )

    def model_card(self, repo_id: str, *, tags: Sequence[str] = (), license: str | None = None) -> str:
        """Return the model card that `push_to_hub` writes: YAML front matter and Markdown.

        Args:
            repo_id: Where the model will be.
            tags: Further tags, beside `vertebra` and the model type.
            license: License of the weights as the hub spells it; it stays out of the card when nobody says.
        """
        return write_card(
            self.card_facts(),
            repo_id=repo_id,
            model_class=type(self),
            pipeline_tag=self.pipeline_tag,
            tags=[tag for tag in (self.config.model_type, *tags) if tag],
            license=license,
        )

    def _card(self, repo_id: str, tags: Sequence[str], license: str | None) -> str:
        return self.model_card(repo_id, tags=tags, license=license)


def _own_modules(module: nn.Module) -> Iterator[nn.Module]:
    """A module and what is inside it, children first, without the models inside it."""
    for child in module.children():
        if not isinstance(child, PreTrainedModel):
            yield from _own_modules(child)
    yield module


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """Return the torch dtype called `dtype`, e.g. `"bfloat16"` or `torch.bfloat16`.

    Raises:
        ValueError: it is no floating-point dtype of torch.
    """
    kind = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(f"dtype={dtype!r} must be a floating-point dtype such as torch.bfloat16, 'float16' or 'auto'.")
    return kind


def _optimize_arguments(given: bool | str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments of `PreTrainedModel.optimize` out of what `from_pretrained(optimize=…)` takes."""
    if given is True:
        return {}
    if isinstance(given, (str, Mapping)):
        return {"backend": given} if isinstance(given, str) else given
    raise TypeError(
        f"optimize={given!r} must be True, the name of a backend such as 'openvino', or a mapping of arguments of optimize()."
    )


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
