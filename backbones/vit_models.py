"""Plain vision transformers without a head, and with a classifier; see `vit_base.py`."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor, nn

from vertebra.backbones.models import ImageClassifier, ImageModel, linear_head
from vertebra.backbones.vit_base import PlainViT
from vertebra.backbones.vit_config import PlainViTConfig
from vertebra.backbones.vit_layers import Layout
from vertebra.outputs import BaseModelOutput
from vertebra.placing import place


class PlainViTModel(PlainViT, ImageModel):
    """A plain vision transformer without a head.

    Args:
        config: The configuration.
        add_pooling_layer: Whether the family's pooler is made, where it has one; without it there is no pooled output.
    """

    pooler_path: ClassVar[str] = "pooler"

    def __init__(self, config: PlainViTConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.build(config.num_hidden_layers)
        pooler = self.make_pooler() if add_pooling_layer else None
        if pooler is not None:
            place(self, self.pooler_path, pooler)
        self.post_init()

    def make_pooler(self) -> nn.Module | None:
        """The module that pools the final state, where the family has one."""
        return None

    def finish(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """From the last layer's state to the final one `(b, t, c)` and its pooled form: the class token, unless overridden."""
        x = self.final_norm(x)
        return x, x[:, 0]

    def encode(self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool) -> BaseModelOutput:
        """Return the final tokens `(b, t, c)`, their pooled form and, on request, states and attention weights of all layers."""
        depth = self.config.num_hidden_layers
        x, layout = self.embed(pixel_values)
        kept = range(depth + 1) if output_hidden_states else (depth,)
        states, attentions = self.run(x, layout, depth, kept, output_attentions)
        last, pooled = self.finish(states[depth], layout)
        return BaseModelOutput(
            last_hidden_state=last,
            pooler_output=pooled,
            hidden_states=tuple(states.values()) if output_hidden_states else None,
            attentions=attentions,
        )


class PlainViTClassifier(PlainViT, ImageClassifier):
    """A plain vision transformer with a linear classifier."""

    model_class: ClassVar[type[PlainViTModel]]
    """The model without a head; the classifier holds it under `base_model_prefix`."""
    described: ClassVar[int] = 1
    """What `describe` returns, in widths."""
    pooled: ClassVar[bool] = False
    """Whether the model without a head has its pooler here."""

    def __init__(self, config: PlainViTConfig) -> None:
        super().__init__(config)
        self.add_module(self.base_model_prefix, self.model_class(config, add_pooling_layer=self.pooled))
        self.make_head(self.described * config.hidden_size, config.num_labels)
        self.post_init()

    def make_head(self, width: int, labels: int) -> None:
        """Make the classifier on what `describe` returns."""
        self.classifier = linear_head(width, labels)

    def describe(self, base: BaseModelOutput, prefix: int) -> Tensor:
        """What the classifier sees, `(b, described * c)`: the final class token, unless overridden.

        Args:
            base: The base model's output.
            prefix: Tokens before those of the patches.
        """
        return cast(Tensor, base.last_hidden_state)[:, 0]

    def classify(
        self, pixel_values: Tensor, output_hidden_states: bool, output_attentions: bool
    ) -> tuple[Tensor, BaseModelOutput]:
        """Compute the logits `(b, num_labels)`, and the base model's output."""
        model: Any = self.get_submodule(self.base_model_prefix)
        base = model(pixel_values, output_hidden_states, output_attentions, return_dict=True)
        prefix = model.get_submodule(model.embeddings_path).prefix
        return self.classifier(self.describe(base, prefix)), base
