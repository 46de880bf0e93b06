"""The text tower, which computes no further than the token that becomes the embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import nn

if TYPE_CHECKING:
    from flip.clip.network import ClipNetwork


def encode_text(network: ClipNetwork, tokens: torch.Tensor, *, normalize: bool = True) -> torch.Tensor:
    """Return text embeddings (n, d) of tokens (n, context_length), as the network's own ``encode_text`` does.

    In a causal tower no token sees a later one, so that nothing behind the token that is pooled matters: tokens,
    positions and mask are cut to the longest text of the batch, with the same result but for rounding. Towers that
    look both ways, or pool the last position, get the full context.
    """
    pooled = pooled_positions(network, tokens)
    if pooled is None:
        return network.encode_text(tokens, normalize=normalize)
    n = int(pooled.max()) + 1 if len(tokens) else 1
    prefix = "network." if isinstance(network, open_clip.CLIP) else "network.text."
    side = _text_side(network)
    cut = {
        f"{prefix}positional_embedding": side.get_parameter("positional_embedding")[:n],
        f"{prefix}attn_mask": side.get_buffer("attn_mask")[:n, :n],
    }
    features: torch.Tensor = torch.func.functional_call(_TextSide(network), cut, (tokens[:, :n], normalize))
    return features


def pooled_positions(network: ClipNetwork, tokens: torch.Tensor) -> torch.Tensor | None:
    """Return the position (n,) of the token that becomes each text's embedding, or None if later tokens matter too."""
    if _causal_mask(network) is None:
        return None
    side, prefix = _text_side(network), "text_" if isinstance(network, open_clip.CLIP) else ""
    pool, end = (getattr(side, f"{prefix}{name}") for name in ("pool_type", "eos_id"))
    if pool == "argmax":
        return tokens.argmax(dim=-1)
    return torch.eq(tokens, end).int().argmax(dim=-1) if pool == "eos" else None


def _text_side(network: ClipNetwork) -> nn.Module:
    """Return the module that holds positions and mask: ``CLIP`` has its text tower's parts as its own."""
    return network if isinstance(network, open_clip.CLIP) else network.get_submodule("text")


def _causal_mask(network: ClipNetwork) -> torch.Tensor | None:
    """Return the mask (context, context) of a tower of open_clip in which no token sees a later one, else None."""
    side = network if isinstance(network, open_clip.CLIP) else getattr(network, "text", None)
    # CoCa's class token stands behind the padding, at the last position.
    causal = side is network or (isinstance(side, TextTransformer) and side.cls_emb is None)
    mask: torch.Tensor | None = getattr(side, "attn_mask", None) if causal else None
    return mask


class _TextSide(nn.Module):
    """``encode_text`` as a module's call, whose parameters can be replaced for one call."""

    def __init__(self, network: ClipNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor, normalize: bool) -> torch.Tensor:
        return self.network.encode_text(tokens, normalize=normalize)
