"""A diffusion model on its device, drawing pictures a batch at a time, each from a seed of its own."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.device import Placement, bf16_in_hardware
from flip.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

# A sampler's class and the spacing of its steps; named here, since a model's file has the default of another sampler.
_SCHEDULERS = {
    "ddim": ("DDIMScheduler", "leading"),
    "dpm++": ("DPMSolverMultistepScheduler", "linspace"),
    "euler": ("EulerDiscreteScheduler", "linspace"),
}


@dataclass(frozen=True)
class Picture:
    """One picture to draw.

    Attributes
    ----------
    prompt : str
    seed : int
        Of this picture alone: the same seed draws it again, in whatever batch.
    source : Path, optional
        A photo to begin from, instead of noise alone.
    """

    prompt: str
    seed: int
    source: Path | None = None


@dataclass(frozen=True)
class DrawSettings:
    """How pictures are drawn; ``width`` and ``height`` in pixels, None for the model's own.

    ``strength`` is the share of noise over a source photo (Meng et al., SDEdit, ICLR 2022).
    """

    sampler: str = "dpm++"
    steps: int = 25
    guidance: float = 7.5
    width: int | None = None
    height: int | None = None
    negative: str = ""
    strength: float | None = None


def picture_seed(seed: int, prompt: str, index: int) -> int:
    """Return the seed of one picture, 0 to 2**48 - 1, from the run's seed, the prompt and the picture's number."""
    digest = hashlib.sha256(f"{seed}\0{index}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big")


def resolve_precision(precision: str, placement: Placement) -> str:
    """Return the number format that ``--precision`` means for drawing here.

    Raises
    ------
    ConfigError
        For fp16 on a processor.
    """
    if precision == "fp16" and placement.device.type == "cpu":
        raise ConfigError("--precision fp16 needs a GPU; on a processor pass fp32, bf16 or auto")
    if precision != "auto":
        return precision
    return "bf16" if placement.device.type == "cuda" and bf16_in_hardware(placement.device) else "fp32"


class Painter:
    """A pipeline on its device.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
        Moved to the device; its noise schedule is replaced by the sampler's.
    placement : Placement
    settings : DrawSettings
    precision : {"fp32", "bf16", "fp16"}
    batch_size : int
        Halved for good when memory does not suffice.
    say : callable, optional
        Called with one line when that happens.
    """

    def __init__(
        self,
        pipeline: Any,
        placement: Placement,
        settings: DrawSettings,
        *,
        precision: str = "fp32",
        batch_size: int = 4,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        import torch

        from flip.diffusion.diffusers_api import diffusers

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.settings = settings
        self.batch_size = batch_size
        self._say = say
        self._pipeline = pipeline.to(placement.device, dtype)
        self._pipeline.scheduler = _scheduler(settings.sampler, pipeline.scheduler.config)
        if settings.strength is not None:
            self._pipeline = diffusers.AutoPipelineForImage2Image.from_pipe(self._pipeline)
        self._pipeline.set_progress_bar_config(disable=True)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of what is drawn."""
        side = self._pipeline.unet.config.sample_size * self._pipeline.vae_scale_factor
        return self.settings.width or side, self.settings.height or side

    def count_cut(self, prompts: Iterable[str]) -> tuple[int, int]:
        """Return how many prompts are longer than the model reads, and the number of tokens it reads."""
        tokenizer = self._pipeline.tokenizer
        most = int(tokenizer.model_max_length)
        return sum(len(tokenizer(prompt).input_ids) > most for prompt in set(prompts)), most

    def draw(self, pictures: Iterable[Picture]) -> Iterator[tuple[Picture, Image]]:
        """Yield each picture, in the order given.

        Raises
        ------
        ConfigError
            If memory does not suffice for a single picture.
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
        """Draw, or return None when memory did not suffice; nothing of the attempt is held on to."""
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
                f"memory does not suffice for one picture of {width}x{height}; pass a smaller --size, "
                "--precision bf16 or fp16, or --device cpu"
            )
        self.batch_size = size // 2
        self._say(f"memory does not suffice for {size} pictures at once; going on with --batch-size {self.batch_size}")

    def _call(self, batch: Sequence[Picture]) -> list[Image]:
        import torch

        width, height = self.size
        where: dict[str, Any] = {"width": width, "height": height}
        if self.settings.strength is not None:
            photos = [square(picture.source, (width, height)) for picture in batch if picture.source]
            where = {"image": photos, "strength": self.settings.strength}
        result = self._pipeline(
            prompt=[picture.prompt for picture in batch],
            negative_prompt=[self.settings.negative] * len(batch),
            num_inference_steps=self.settings.steps,
            guidance_scale=self.settings.guidance,
            # On the CPU, so that every device begins from the same noise.
            generator=[torch.Generator("cpu").manual_seed(picture.seed) for picture in batch],
            **where,
        )
        images: list[Image] = result.images
        return images

    def about(self, picture: Picture) -> dict[str, Any]:
        """Return what a file says of how it was drawn."""
        width, height = self.size
        return {**asdict(self.settings), "width": width, "height": height, "seed": picture.seed}


def _scheduler(sampler: str, config: Any) -> Any:
    from flip.diffusion.diffusers_api import diffusers

    kind, spacing = _SCHEDULERS[sampler]
    # Models whose noise schedule ends in pure noise ask for trailing steps, which is no sampler's default.
    trailing = config.get("timestep_spacing") == "trailing"
    return getattr(diffusers, kind).from_config(config, timestep_spacing="trailing" if trailing else spacing)


def square(photo: Path | None, size: tuple[int, int]) -> Image:
    """Return a photo scaled and centre-cropped to (width, height)."""
    from PIL import Image, ImageOps

    from flip.data.images import decode_image

    assert photo is not None
    return ImageOps.fit(decode_image(photo), size, Image.Resampling.LANCZOS)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a GPU's or the computer's memory is used up."""
    import torch

    signs = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in signs)


def free_memory() -> None:
    """Give memory that nothing refers to back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
