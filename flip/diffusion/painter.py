"""A diffusion model on its device; draws images in batches, each from a seed of its own."""

from __future__ import annotations

import gc
import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from flip.data.dataset import Photo
from flip.data.text import utf8
from flip.device import Placement
from flip.diffusion.metadata import ImageMetadata
from flip.diffusion.settings import DrawSettings
from flip.errors import ConfigError
from flip.files import JsonObject

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from flip.diffusion.pipeline import Pipeline, Scheduler

log = logging.getLogger(__name__)

#: Class and step spacing of each sampler of ``flip.names.SAMPLERS``; a model's file has the spacing of another sampler.
SCHEDULERS = {
    "ddim": ("DDIMScheduler", "leading"),
    "dpm++": ("DPMSolverMultistepScheduler", "linspace"),
    "euler": ("EulerDiscreteScheduler", "linspace"),
}


@dataclass(frozen=True)
class Picture:
    """An image to draw.

    Attributes
    ----------
    prompt : str
    seed : int
        Of this image alone: the same seed draws it again, in whatever batch.
    source : Photo, optional
        What to begin from, instead of noise alone.
    """

    prompt: str
    seed: int
    source: Photo | None = None


def picture_seed(seed: int, prompt: str, index: int) -> int:
    """Return the seed of one image, 0 to 2**48 - 1, from the run's seed, the prompt and the image's number."""
    digest = hashlib.sha256(f"{seed}\0{index}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big")


class Painter:
    """A pipeline on its device.

    Parameters
    ----------
    pipeline : diffusers pipeline
        Moved to the device; its noise schedule is replaced by the sampler's.
    placement : Placement
    settings : DrawSettings
    precision : {"fp32", "bf16", "fp16"}
    batch_size : int
        Halved for good when out of memory.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        placement: Placement,
        settings: DrawSettings,
        *,
        precision: str = "fp32",
        batch_size: int = 4,
    ) -> None:
        import torch

        from flip.diffusion.diffusers_api import diffusers

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.settings = settings
        self.placement = placement
        self.batch_size = batch_size
        self._pipeline: Pipeline = pipeline.to(placement.device, dtype)
        self._pipeline.scheduler = _scheduler(settings.sampler, pipeline.scheduler.config)
        if settings.strength is not None:
            self._pipeline = diffusers.AutoPipelineForImage2Image.from_pipe(self._pipeline)
        self._pipeline.set_progress_bar_config(disable=True)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of an image."""
        latents, scale = self._pipeline.unet.config.sample_size, self._pipeline.vae_scale_factor
        height, width = latents if isinstance(latents, (list, tuple)) else (latents, latents)
        return self.settings.width or width * scale, self.settings.height or height * scale

    def count_cut(self, prompts: Iterable[str]) -> tuple[int, int]:
        """Count the prompts that are longer than the model reads; returns (count, tokens that it reads)."""
        tokenizer = self._pipeline.tokenizer
        most = int(tokenizer.model_max_length)
        return sum(len(tokenizer(utf8(prompt)).input_ids) > most for prompt in set(prompts)), most

    def draw(self, pictures: Iterable[Picture]) -> Iterator[tuple[Picture, Image]]:
        """Yield each image, in the order given.

        Raises
        ------
        ConfigError
            If a single image is out of memory.
        """
        todo = iter(pictures)
        while batch := list(islice(todo, self.batch_size)):
            yield from zip(batch, self._draw_within_memory(batch), strict=True)

    def _draw_within_memory(self, batch: Sequence[Picture]) -> list[Image]:
        drawn: list[Image] = []
        while len(drawn) < len(batch):
            part = batch[len(drawn) : len(drawn) + self.batch_size]
            images = self._try(part)
            if images is None:
                self._halve(len(part))
            else:
                drawn += images
        return drawn

    def _try(self, batch: Sequence[Picture]) -> list[Image] | None:
        """Draw, or return None when out of memory; nothing of the attempt is held on to."""
        try:
            return self._call(batch)
        except RuntimeError as e:
            if not is_out_of_memory(e):
                raise
        return None

    def _halve(self, size: int) -> None:
        free_memory()
        if size == 1:
            width, height = self.size
            raise ConfigError(
                f"out of memory for one image of {width}x{height}; pass a smaller --size, --precision bf16 or fp16, "
                "or --device cpu"
            )
        self.batch_size = size // 2
        log.info("out of memory for %d images at once; continuing with --batch-size %d", size, self.batch_size)

    def _call(self, batch: Sequence[Picture]) -> list[Image]:
        import torch

        width, height = self.size
        # On the CPU, so that every device begins from the same noise.
        generators = [torch.Generator("cpu").manual_seed(picture.seed) for picture in batch]
        where: JsonObject = {"width": width, "height": height, "latents": self._noise(generators)}
        if self.settings.strength is not None:
            photos = [fit_photo(picture.source, (width, height)) for picture in batch if picture.source]
            where = {"image": photos, "strength": self.settings.strength}
        result = self._pipeline(
            prompt=[utf8(picture.prompt) for picture in batch],
            # Without one, XL takes zeros rather than the embedding of an empty text.
            negative_prompt=[utf8(self.settings.negative)] * len(batch) if self.settings.negative else None,
            num_inference_steps=self.settings.steps,
            guidance_scale=self.settings.guidance,
            generator=generators,
            **where,
        )
        return result.images

    def _noise(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Return the noise that images begin from, (b, channels, height, width) of the latents.

        It is drawn in fp32: in half precision torch draws other numbers, and an image would depend on the precision.
        """
        import torch

        unet, scale = self._pipeline.unet, self._pipeline.vae_scale_factor
        width, height = self.size
        shape = (1, unet.config.in_channels, height // scale, width // scale)
        return torch.cat([torch.randn(shape, generator=generator) for generator in generators]).to(unet.dtype)

    def metadata(self, picture: Picture) -> ImageMetadata:
        """Return the prompt, seed and settings of an image, as its file carries them."""
        width, height = self.size
        settings = {**self.settings.to_dict(), "width": width, "height": height}
        return ImageMetadata(prompt=picture.prompt, seed=picture.seed, settings=settings)


def _scheduler(sampler: str, config: JsonObject) -> Scheduler:
    from flip.diffusion.diffusers_api import diffusers

    kind, spacing = SCHEDULERS[sampler]
    # Models whose noise schedule ends in pure noise ask for trailing steps, which is no sampler's default.
    trailing = config.get("timestep_spacing") == "trailing"
    made: Scheduler = getattr(diffusers, kind).from_config(config, timestep_spacing="trailing" if trailing else spacing)
    return made


def fit_photo(photo: Photo, size: tuple[int, int]) -> Image:
    """Scale and centre-crop a photo to (width, height)."""
    from PIL import Image, ImageOps

    from flip.data.images import decode_photo

    return ImageOps.fit(decode_photo(photo), size, Image.Resampling.LANCZOS)


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error of running out of memory, on a GPU or on the computer."""
    import torch

    signs = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in signs)


def free_memory() -> None:
    """Free memory that nothing refers to, on the GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
