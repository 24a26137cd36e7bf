"""AutoBackbone: multi-scale feature maps from any checkpoint or timm architecture."""

from __future__ import annotations

import os
from typing import Any

from vertebra.auto.config import AutoConfig, as_config, refuse_remote_code
from vertebra.auto.factory import AutoModelFactory, refuse_native
from vertebra.auto.registry import model_class
from vertebra.config import PreTrainedConfig, Source
from vertebra.hub import HubOptions
from vertebra.resolve import locate

LOADING = ("variant", "use_safetensors", "ignore_mismatched_sizes", "key_mapping")
"""Options of a load, which random weights have no use for."""


class AutoBackbone(AutoModelFactory):
    """Chooses the backbone class by the checkpoint's configuration. Not constructed itself."""

    task = "backbone"

    @classmethod
    def from_pretrained(
        cls,
        source: Source,
        *args: Any,
        config: PreTrainedConfig | str | os.PathLike[str] | None = None,
        use_timm_backbone: bool = False,
        use_pretrained_backbone: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Load a backbone.

        Args:
            source: A local folder (the network is never asked), a hub id, or a timm architecture: `resnet50`,
                `timm/resnet50.a1_in1k`, `hf-hub:org/name`, `local-dir:path`.
            *args: Further positional arguments of the backbone's constructor.
            config: Use this configuration (or the one found there) instead of the checkpoint's own.
            use_timm_backbone: A bare name means a timm architecture and nothing else.
            use_pretrained_backbone: False builds with random weights, from the configuration alone; loading options change
                nothing then.
            **kwargs: `out_features`, `out_indices` or `out_strides`; `prune`, `freeze`, `size_policy`; other keys of the
                configuration; hub and loading options as in `PreTrainedModel.from_pretrained`. For a timm architecture what is
                none of these goes to timm's constructor (`output_stride=16`, `img_size=…`).

        Returns:
            A `Backbone` in evaluation mode.

        Raises:
            OSError: there is no such checkpoint, or its files are damaged.
            ValueError: no backbone is known for it, or the selection does not exist.
        """
        if use_pretrained_backbone:
            return super().from_pretrained(source, *args, config=config, use_timm=use_timm_backbone, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in LOADING}
        chosen = as_config(config)
        if chosen is None:
            refuse_remote_code(kwargs)
            options = HubOptions.pop(kwargs)
            dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
            chosen, kwargs = backbone_config(source, options, use_timm_backbone, **kwargs)
            kwargs["dtype"] = dtype
        return cls.from_config(chosen, **kwargs).eval()


def backbone_config(
    source: Source, options: HubOptions, use_timm: bool = False, **kwargs: Any
) -> tuple[Any, dict[str, Any]]:
    """The configuration that `AutoBackbone.from_pretrained(source, **kwargs)` builds with, and what of `kwargs` is left.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: no backbone is known for it.
    """
    found = locate(source, options, use_timm)
    if use_timm:
        refuse_native(found)
    content = found.content()
    model = model_class(AutoConfig.class_of(content, found.name), AutoBackbone.task, AutoBackbone.__name__)
    built_from: tuple[Any, dict[str, Any]] = model.config_from(content, use_pretrained_backbone=False, **kwargs)
    return built_from
