"""What all models of text share: their vocabulary, their heads of attention, how weights start; and the encoder without a head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from vertebra.card import CardFacts
from vertebra.model import PreTrainedModel
from vertebra.outputs import BaseModelOutput
from vertebra.text.config import TextConfig, check_heads
from vertebra.text.inputs import TextInputs, attention_mask, check_texts
from vertebra.text.layers import Embeddings, Encoder, place
from vertebra.text.vocabulary import Resizing, resized

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
    explained_unexpected = {r"(^|\.)embeddings\.(position_ids|token_type_ids)$": "counted, not read"}
    config: TextConfig

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        config.check()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw linear layers and embeddings from a normal distribution; everything else starts as it says itself."""
        if type(module) not in (nn.Linear, nn.Embedding):
            super()._init_weights(module)
            return
        nn.init.normal_(module.weight, std=self.config.initializer_range)  # type: ignore[arg-type]
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    @property
    def base_model(self) -> TextEncoder:
        """The model without its head; itself where it has none."""
        base: Any = getattr(self, self.base_model_prefix, self)
        return base

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
        """Replace the embedding of tokens; what is tied to it follows."""
        self.base_model.embeddings.word_embeddings = embeddings
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Linear | None:
        """Return the linear layer that scores tokens, or None."""
        found: Any = self.get_submodule(self.output_path) if self.output_path else None
        return found

    def set_output_embeddings(self, linear: nn.Linear) -> None:
        """Replace the linear layer that scores tokens; its weights become the embedding's where they are tied.

        Raises:
            ValueError: the model does not score tokens.
        """
        if not self.output_path:
            raise ValueError(f"{type(self).__name__} scores no tokens, so it has no output embeddings to replace.")
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
            ValueError: a number below 1, or one that would cut off `pad_token_id`.
        """
        old = self.get_input_embeddings()
        resizing = Resizing.plan(
            old.num_embeddings, new_num_tokens, pad_to_multiple_of, mean_resizing, self.config.initializer_range
        )
        if self.config.pad_token_id is not None and self.config.pad_token_id >= resizing.tokens:
            raise ValueError(
                f"{resizing.tokens} tokens would cut off pad_token_id={self.config.pad_token_id}; keep at least "
                f"{self.config.pad_token_id + 1}."
            )
        if resizing.tokens != old.num_embeddings:
            scoring = self.get_output_embeddings()
            self.base_model.embeddings.word_embeddings = resized(old, resizing)
            if scoring is not None:
                place(self, self.output_path, resized(scoring, resizing))
            self.config.vocab_size = resizing.tokens
            self.tie_weights()
        return self.get_input_embeddings()

    # Heads of attention

    def prune_heads(self, heads_to_prune: Mapping[int, Sequence[int]]) -> None:
        """Leave out attention heads: the layers become narrower, and `config.pruned_heads` says which heads are gone.

        Args:
            heads_to_prune: Layer to numbers of heads, counted as in the whole model; those gone already may be among them.

        Raises:
            ValueError: a layer or a head does not exist, or none would be left.
        """
        config, layers = self.config, self.base_model.encoder_layers.layer
        gone = {layer: set(heads) for layer, heads in config.pruned_heads.items()}
        out = {int(layer): gone.get(int(layer), set()) | {*map(int, heads)} for layer, heads in heads_to_prune.items()}
        check_heads({layer: sorted(heads) for layer, heads in out.items()}, len(layers), config.num_attention_heads)
        for layer, heads in out.items():
            here = [head for head in range(config.num_attention_heads) if head not in gone.get(layer, set())]
            if kept := [place for place, head in enumerate(here) if head not in heads]:
                layers[layer].keep_heads(kept)  # type: ignore[operator]
        config.pruned_heads = {layer: sorted(heads) for layer, heads in sorted({**gone, **out}.items()) if heads}

    def card_facts(self) -> CardFacts:
        """What a model card says about a model of text."""
        facts, config = super().card_facts(), self.config
        return replace(
            facts,
            summary="texts to a state of every token.",
            facts={
                **facts.facts,
                "vocabulary": f"{config.vocab_size:,} tokens",
                "longest text": f"{config.max_position_embeddings} tokens",
            },
            example=f"torch.randint({config.vocab_size}, (1, 8))",
            show="for name, value in output.items():\n    print(name, tuple(value.shape))",
            preparation=PREPARATION,
        )


class TextEncoder(TextModel):
    """A model without a head. A family's constructor makes `self.embeddings` and the layers."""

    embeddings: Embeddings

    @property
    @abstractmethod
    def encoder_layers(self) -> Encoder:
        """The layers."""

    def pool(self, states: Tensor) -> Tensor | None:
        """Make one state `(b, width)` of a text's `(b, n, width)`, where the family does."""
        return None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Encode texts.

        Args:
            input_ids: `(b, n)` tokens, as a tokenizer makes them.
            attention_mask: `(b, n)`, 1 for tokens and 0 for padding, which no token attends to; or `(b, n, n)`, 1 where the first
                token may attend to the second. A token that may attend to none gets nothing from attention.
            token_type_ids: `(b, n)` kinds of token: 0 in the first sentence, 1 in the second. All 0 when None.
            position_ids: `(b, n)`, `(1, n)` or `(n)` places; counted when None.
            inputs_embeds: `(b, n, hidden_size)` vectors in place of `input_ids`.
            output_attentions: Also return the attention weights.
            output_hidden_states: Also return all states, from the embeddings on.
            return_dict: False returns a plain tuple of what is not None.

        Returns:
            `last_hidden_state` `(b, n, hidden_size)`, and `pooler_output` `(b, hidden_size)` where the model pools.

        Raises:
            TypeError: the texts are no tensor.
            ValueError: an argument that does not fit; says which and what to do.
        """
        hidden, attentions, as_dict = self.asked_for(output_hidden_states, output_attentions, return_dict)
        inputs = TextInputs(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        output = self.encode(inputs, hidden, attentions)
        return output if as_dict else output.to_tuple()

    def encode(self, inputs: TextInputs, hidden: bool, attentions: bool) -> BaseModelOutput:
        """Compute the last state, its pooled form, and what else is asked for."""
        config, embeddings = self.config, self.embeddings
        words = embeddings.word_embeddings.num_embeddings
        content, places = check_texts(
            inputs, words, config.hidden_size, config.max_position_embeddings, embeddings.kinds
        )
        mask = attention_mask(inputs.attention_mask, content)
        embedded = embeddings(content, places, inputs.token_type_ids)
        last, states, weights = self.encoder_layers(embedded, mask, hidden, attentions)
        return BaseModelOutput(
            last_hidden_state=last, pooler_output=self.pool(last), hidden_states=states, attentions=weights
        )
