"""The encoder in plain PyTorch: BERT with 6 layers of 384, mean pooling, unit length.

Architecture and weights: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
"""

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, POSITIONS = 30522, 512
WIDTH, HIDDEN, HEADS, LAYERS = 384, 1536, 12, 6
NORM_EPSILON = 1e-12  # as the weights were trained


class MiniLM(nn.Module):
    """Token ids and their mask, both [batch, sequence] -> embeddings [batch, 384]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = Embed()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        keep = attention_mask.bool()
        states = self.embed(input_ids)
        for layer in self.layers:
            states = layer(states, keep[:, None, None, :])  # the same for all heads and queries
        weights = keep[:, :, None].to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return {"embedding": functional.normalize(mean, dim=1)}


class Embed(nn.Module):
    """Ids -> vectors that know their place. All tokens belong to one segment."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.segments = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=NORM_EPSILON)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        return self.norm(self.words(input_ids) + self.positions(place) + self.segments.weight[0])


class Layer(nn.Module):
    """Attention, then a feed-forward net, each added to what came in and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.attention_norm = nn.LayerNorm(WIDTH, eps=NORM_EPSILON)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)
        self.output_norm = nn.LayerNorm(WIDTH, eps=NORM_EPSILON)

    def forward(self, states: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        attention = functional.scaled_dot_product_attention(
            split_heads(self.query(states)),
            split_heads(self.key(states)),
            split_heads(self.value(states)),
            attn_mask=keep,
        )
        merged = attention.transpose(1, 2).flatten(2)
        states = self.attention_norm(states + self.attended(merged))
        return self.output_norm(states + self.down(functional.gelu(self.up(states))))


def split_heads(states: torch.Tensor) -> torch.Tensor:
    """[batch, sequence, width] -> [batch, heads, sequence, width / heads]."""
    return states.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)


def make_model() -> nn.Module:
    """What `source` in sdk.toml names; the SDK loads the checkpoint into it."""
    return MiniLM()
