"""The parts of a diffusers pipeline that flip uses, as types: diffusers itself carries none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

from flip.files import JsonObject

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL.Image import Image

#: A network, tokenizer or noise schedule of a pipeline: diffusers and transformers publish theirs without types.
Component = Any


class Drawn(Protocol):
    """The images of a batch."""

    images: list[Image]


class Scheduler(Protocol):
    """A noise schedule with the steps of a sampler."""

    config: JsonObject


class Pipeline(Protocol):
    """A text-to-image pipeline: ``StableDiffusionPipeline``, ``StableDiffusionXLPipeline``, or like them."""

    unet: Component
    vae: Component
    text_encoder: Component
    tokenizer: Component
    scheduler: Component
    vae_scale_factor: int

    @property
    def components(self) -> dict[str, Component]:
        """The networks and tokenizers by name."""
        ...

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the networks to a device, in a number format."""
        ...

    def save_pretrained(self, folder: str | Path, *, safe_serialization: bool = True) -> None:
        """Write a diffusers folder."""
        ...

    def set_progress_bar_config(self, **options: object) -> None:
        """Set how its own progress bar looks."""
        ...

    def __call__(self, **options: object) -> Drawn:
        """Draw the images of a batch of prompts."""
        ...
