"""Multi-head attention, and the decoder layer of DETR (Carion et al. 2020), which norms after each residual."""

from __future__ import annotations

from torch import Tensor, nn

from vertebra.activations import activation
from vertebra.attention import attend
from vertebra.linear import Linear


class MultiHeadAttention(nn.Module):
    """Attention with separate projections of queries, keys and values.

    Args:
        width: Channels of queries, keys, values and the result.
        heads: How many heads share them.
        dropout: Probability with which an attention weight is dropped while training.

    Raises:
        ValueError: the heads cannot share the channels equally.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} attention heads cannot share {width} channels equally.")
        self.heads, self.dropout = heads, dropout
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            queries: `(b, q, width)`.
            keys: `(b, k, width)`.
            values: `(b, k, width)`.
            mask: Bool, broadcastable to `(b, heads, q, k)`, True where a query may attend to a key; every query needs one.
            weights: Also return the attention weights.

        Returns:
            `(b, q, width)`, and `(b, heads, q, k)` on request.
        """
        q, k, v = self.q_proj(queries), self.k_proj(keys), self.v_proj(values)
        context, attention = attend(q, k, v, self.heads, mask, self.dropout if self.training else 0.0, weights)
        return self.out_proj(context), attention

    def extra_repr(self) -> str:
        """Show heads and dropout."""
        return f"heads={self.heads}, dropout={self.dropout}"


class DetrDecoderLayer(nn.Module):
    """Queries attend to each other, then to a memory, then pass an MLP; each is residual with a norm after it.

    Args:
        width: Channels.
        heads: Attention heads.
        hidden: Channels inside the MLP.
        dropout: Of each residual branch.
        attention_dropout: Of attention weights.
        activation_dropout: Inside the MLP.
        act: Name of the MLP's activation.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        act: str = "relu",
    ) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(width, heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = MultiHeadAttention(width, heads, attention_dropout)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(activation_dropout)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        keys: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer.

        Args:
            x: `(b, q, width)` queries.
            positions: `(b, q, width)` or `(1, q, width)`, added to queries wherever they ask or are asked.
            keys: `(b, k, width)`, the memory with its positions.
            memory: `(b, k, width)`.
            mask: Bool, broadcastable to `(b, heads, q, k)`, True where the memory may be attended to.
            weights: Also return the weights of the attention among queries.

        Returns:
            `(b, q, width)`, and `(b, heads, q, q)` on request.
        """
        asking = x + positions
        mixed, attention = self.self_attn(asking, asking, x, weights=weights)
        x = self.self_attn_layer_norm(x + self.dropout(mixed))
        mixed, _ = self.encoder_attn(x + positions, keys, memory, mask)
        x = self.encoder_attn_layer_norm(x + self.dropout(mixed))
        mixed = self.fc2(self.activation_dropout(self.act(self.fc1(x))))
        return self.final_layer_norm(x + self.dropout(mixed)), attention
