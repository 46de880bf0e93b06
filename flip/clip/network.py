"""A loaded dual encoder: the network with its own preprocessing and tokenizer, never guessed apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    class ClipNetwork(torch.nn.Module):
        """An open_clip model, as far as flip uses it; open_clip is published without type information."""

        visual: torch.nn.Module
        logit_scale: torch.nn.Parameter

        def encode_image(self, image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
            """Return image embeddings (n, d) of pixels (n, 3, h, w)."""

        def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
            """Return text embeddings (n, d) of tokens (n, context_length)."""

        def set_grad_checkpointing(self, enable: bool = True) -> None:
            """Compute activations again in the backward pass."""


@dataclass(frozen=True)
class LoadedModel:
    """A network on the CPU in fp32 and in ``eval()``, with all that belongs to it.

    Attributes
    ----------
    network : torch.nn.Module
        The open_clip model; its parameters need no gradient.
    preprocess : callable
        PIL image in RGB → float32 tensor (3, height, width), open_clip's own validation transform.
    tokenize : callable
        List of n texts → int64 tensor (n, context_length); longer texts are cut.
    context_length : int
        In tokens.
    """

    network: ClipNetwork
    preprocess: Callable[[Image], torch.Tensor]
    tokenize: Callable[..., torch.Tensor]
    context_length: int
