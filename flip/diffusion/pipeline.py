"""The parts of a diffusers pipeline that flip uses, as types: diffusers itself carries none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class Drawn(Protocol):
    """The images of a batch."""

    images: list[Image]


class Scheduler(Protocol):
    """A noise schedule with the steps of a sampler."""

    config: Mapping[str, Any]


class Pipeline(Protocol):
    """A text-to-image pipeline: ``StableDiffusionPipeline``, ``StableDiffusionXLPipeline``, or like them."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    vae_scale_factor: int

    @property
    def components(self) -> dict[str, Any]:
        """The networks and tokenizers by name."""
        ...

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the networks to a device, in a number format."""
        ...

    def save_pretrained(self, folder: Any, *, safe_serialization: bool = True) -> None:
        """Write a diffusers folder."""
        ...

    def set_progress_bar_config(self, **options: Any) -> None:
        """Set how its own progress bar looks."""
        ...

    def __call__(self, **options: Any) -> Drawn:
        """Draw the images of a batch of prompts."""
        ...
