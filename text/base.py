"""What all models of text share: their vocabulary, their heads of attention, and how weights start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from vertebra.card import CardFacts
from vertebra.linear import Linear
from vertebra.model import PreTrainedModel
from vertebra.placing import place
from vertebra.text.config import TextConfig, check_heads, heads_by_layer
from vertebra.text.vocabulary import Resizing, resized

if TYPE_CHECKING:
    pass

PREPARATION = (
    'Real texts go through the tokenizer, `AutoTokenizer.from_pretrained("{repo_id}")`, where this repository has its files '
    "(`tokenizer.json` or `vocab.txt`)."
)


class TextModel(PreTrainedModel):
    """Base of models of text, with a head or without.

    A family sets `config_class` and `base_model_prefix`; a class whose head scores tokens sets `output_path`.
    """

    main_input_name = "input_ids"
    pipeline_tag = "feature-extraction"
    output_path: ClassVar[str] = ""
    """Path of the linear layer that scores tokens; empty where there is none."""
    card_summary: ClassVar[str] = "texts to a state of every token."
    """What goes in and what comes out, for the model card."""
    explained_unexpected = {r"(^|\.)embeddings\.(position_ids|token_type_ids)$": "counted, not read"}
    config: TextConfig

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        config.check()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw linear layers and embeddings from a normal distribution; everything else starts as it says itself."""
        if type(module) not in (Linear, nn.Linear, nn.Embedding):
            super()._init_weights(module)
            return
        nn.init.normal_(module.weight, std=self.config.initializer_range)  # type: ignore[arg-type]
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    # Vocabulary

    @property
    def tied_weights(self) -> Mapping[str, str]:
        """The scores of tokens are computed with their embeddings, unless the configuration says otherwise."""
        if not self.output_path or not self.config.tie_word_embeddings:
            return {}
        return {f"{self.output_path}.weight": f"{self.base_model_prefix}.embeddings.word_embeddings.weight"}

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embedding of tokens."""
        return self.base_model.embeddings.word_embeddings

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        """Replace the embedding of tokens; `config.vocab_size` and what is tied to it follow.

        Raises:
            TypeError: it is no embedding.
            ValueError: it has other channels than the model, no token for padding, or other tokens than the model scores.
        """
        if not isinstance(embeddings, nn.Embedding):
            raise TypeError(f"The embedding of tokens is an nn.Embedding, got {type(embeddings).__name__}.")
        (words, width), scoring = embeddings.weight.shape, self.get_output_embeddings()
        if width != self.config.hidden_size:
            raise ValueError(f"The embedding has {width} channels; the model has {self.config.hidden_size}.")
        if scoring is not None and words != scoring.out_features:
            raise ValueError(
                f"The embedding has {words} tokens, and the model scores {scoring.out_features}; call "
                f"resize_token_embeddings({words}) first."
            )
        self._check_padding(words)
        self.config.vocab_size = words
        self.base_model.embeddings.word_embeddings = embeddings
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Linear | None:
        """Return the linear layer that scores tokens, or None."""
        found: Any = self.get_submodule(self.output_path) if self.output_path else None
        return found

    def set_output_embeddings(self, linear: nn.Linear) -> None:
        """Replace the linear layer that scores tokens; its weights become the embedding's where they are tied.

        Raises:
            ValueError: the model does not score tokens, or scores others, or from other channels, or with a bias.
        """
        present = self.get_output_embeddings()
        if present is None:
            raise ValueError(f"{type(self).__name__} scores no tokens, so it has no output embeddings to replace.")
        if linear.weight.shape != present.weight.shape or linear.bias is None:
            words, width = present.weight.shape
            raise ValueError(
                f"The model scores tokens with nn.Linear({width}, {words}) and its bias, got {linear}; for other numbers of tokens "
                f"call resize_token_embeddings first."
            )
        place(self, self.output_path, linear)
        self.tie_weights()

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Change how many tokens the model knows, e.g. to `len(tokenizer)` after tokens were added to it.

        Tokens are added or cut off at the end, in the embedding and where tokens are scored.

        Args:
            new_num_tokens: How many; the present number when None.
            pad_to_multiple_of: Round up to a multiple of this, e.g. 8 or 64 for fast matrix products.
            mean_resizing: Let new tokens start near the mean of the old ones; otherwise they are drawn as in a new model.

        Returns:
            The embedding of tokens.

        Raises:
            ValueError: no whole number, one below 1, or one that would cut off `pad_token_id`.
        """
        old = self.get_input_embeddings()
        resizing = Resizing.plan(
            old.num_embeddings, new_num_tokens, pad_to_multiple_of, mean_resizing, self.config.initializer_range
        )
        self._check_padding(resizing.tokens)
        if resizing.tokens != old.num_embeddings:
            scoring = self.get_output_embeddings()
            self.base_model.embeddings.word_embeddings = resized(old, resizing)
            if scoring is not None:
                place(self, self.output_path, resized(scoring, resizing))
            self.config.vocab_size = resizing.tokens
            self.tie_weights()
        return self.get_input_embeddings()

    def _check_padding(self, words: int) -> None:
        padding = self.config.pad_token_id
        if padding is not None and padding >= words:
            raise ValueError(f"{words} tokens would cut off pad_token_id={padding}; keep at least {padding + 1}.")

    # Heads of attention

    def prune_heads(self, heads_to_prune: Mapping[int, Sequence[int]]) -> None:
        """Leave out attention heads: the layers become narrower, and `config.pruned_heads` says which heads are gone.

        Args:
            heads_to_prune: Layer to numbers of heads, counted as in the whole model; those gone already may be among them.

        Raises:
            ValueError: a layer or a head does not exist, none would be left, or it is no such mapping.
        """
        config, layers = self.config, self.base_model.encoder_layers.layer
        gone = {layer: set(heads) for layer, heads in config.pruned_heads.items()}
        out = {layer: gone.get(layer, set()) | set(heads) for layer, heads in heads_by_layer(heads_to_prune).items()}
        check_heads({layer: sorted(heads) for layer, heads in out.items()}, len(layers), config.num_attention_heads)
        for layer, heads in out.items():
            here = [head for head in range(config.num_attention_heads) if head not in gone.get(layer, set())]
            if kept := [number for number, head in enumerate(here) if head not in heads]:
                layers[layer].keep_heads(kept)  # type: ignore[operator]
        config.pruned_heads = {layer: sorted(heads) for layer, heads in sorted({**gone, **out}.items()) if heads}

    def card_facts(self) -> CardFacts:
        """What a model card says about a model of text."""
        facts, config = super().card_facts(), self.config
        return replace(
            facts,
            summary=self.card_summary,
            facts={
                **facts.facts,
                "vocabulary": f"{config.vocab_size:,} tokens",
                "longest text": f"{config.max_position_embeddings} tokens",
            },
            example=f"torch.randint({config.vocab_size}, (1, {min(8, config.max_position_embeddings)}))",
            show="for name, value in output.items():\n    print(name, tuple(value.shape))",
            preparation=PREPARATION,
        )
