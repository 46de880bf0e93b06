"""Prompts in, image files out: existing files stay, the rest is drawn in order and written as it comes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flip.data.images import decode_image
from flip.device import resolve_device, resolve_precision
from flip.diffusion.background import in_the_background
from flip.diffusion.checkpoint import Loaded, load_pipeline
from flip.diffusion.metadata import ImageMetadata
from flip.diffusion.painter import Painter, Picture, picture_seed
from flip.diffusion.pictures import contact_sheet, save_picture, save_sheet, slug
from flip.diffusion.settings import DrawSettings, SamplerSettings
from flip.errors import ConfigError, DataError
from flip.files import claim_folder, write_json
from flip.results import FORMAT
from flip.settings import Progress, at_least, settings_from

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

Done = TypeVar("Done")

#: In a folder of generated images: the settings of the last run, and the mark of such a folder.
MARK_FILE = "generate.json"


@dataclass(frozen=True)
class Planned:
    """An image and the file it goes to; ``index`` counts the images of one prompt."""

    picture: Picture
    file: Path
    index: int


@dataclass(frozen=True)
class GeneratedImage:
    """An image file, its metadata, and whether it was drawn now or found."""

    path: Path
    metadata: ImageMetadata
    drawn: bool

    def to_row(self) -> dict[str, object]:
        """Return the row that ``flip generate`` prints."""
        own = {"path": str(self.path), "prompt": self.metadata.prompt, "index": self.metadata.index}
        settings = {key: value for key, value in self.metadata.settings.items() if key != "strength"}
        return {**own, "drawn": self.drawn, **settings, "seed": self.metadata.seed}


def generate(
    prompts: Sequence[str],
    ckpt: str | Path | Loaded,
    folder: str | Path = "generated",
    *,
    n: int = 1,
    settings: SamplerSettings | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 4,
    overwrite: bool = False,
    grid: Path | None = None,
    progress: Progress | None = None,
    on_image: Callable[[GeneratedImage], None] | None = None,
) -> list[GeneratedImage]:
    """Draw images from prompts; what an earlier run with the same settings drew is found and not drawn again.

    Under ``accelerate launch`` each process draws and returns its share.

    Parameters
    ----------
    prompts : sequence of str
    ckpt : str, Path or Loaded
        A diffusion model, or what :func:`flip.diffusion.checkpoint.load_pipeline` takes.
    folder : str or Path
        Gets the images, and ``generate.json``.
    n : int
        Images of each prompt.
    settings : SamplerSettings, optional
    seed : int
        The seed from which each image's own seed is derived.
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"auto", "fp32", "bf16", "fp16"}
    batch_size : int
        Images drawn together; halved when out of memory.
    overwrite : bool
        Draw existing images again, and write into a folder that holds other work.
    grid : Path, optional
        Also write all images on one sheet, a row per prompt.
    progress : callable, optional
        Called with 1 for each image.
    on_image : callable, optional
        Called with each image in order as soon as its file is whole, from another thread.

    Raises
    ------
    ConfigError, CheckpointError
    """
    at_least("-n", n, 1)
    drawing, folder = settings_from(settings or DrawSettings(), DrawSettings), Path(folder)
    if drawing.strength is not None:
        raise ConfigError("generate draws from noise; for images that begin from photos use augment with --strength")
    loaded, painter = open_painter(ckpt, drawing, device=device, precision=precision, batch_size=batch_size)
    placement = painter.placement
    if placement.is_main:
        prepare_folder(folder, loaded, drawing, overwrite=overwrite)
    placement.wait_for_everyone()
    log_cut_prompts(painter, prompts)
    planned = plan_pictures(prompts, n, folder, seed=seed, settings=drawing, fingerprint=loaded.fingerprint)
    images: list[GeneratedImage] = []

    def done(image: GeneratedImage) -> None:
        images.append(image)
        report(image, on_image, progress)

    origin = ImageMetadata(ckpt=loaded.name, fingerprint=loaded.fingerprint)
    draw_planned(painter, [planned[i] for i in placement.share(len(planned))], origin, done, overwrite=overwrite)
    placement.wait_for_everyone()
    if grid is not None and placement.is_main:
        save_grid(grid, planned)
    return images


def open_painter(
    ckpt: str | Path | Loaded, settings: DrawSettings, *, device: str, precision: str, batch_size: int
) -> tuple[Loaded, Painter]:
    """Load a model, if it is not yet, and put it on a device."""
    at_least("--batch-size", batch_size, 1)
    loaded, placement = ckpt if isinstance(ckpt, Loaded) else load_pipeline(ckpt), resolve_device(device)
    number_format = resolve_precision(precision, placement, "draw")
    return loaded, Painter(loaded.pipeline, placement, settings, precision=number_format, batch_size=batch_size)


def report(image: Done, on_image: Callable[[Done], None] | None, progress: Progress | None) -> None:
    """Tell the caller of a finished image."""
    if on_image:
        on_image(image)
    if progress:
        progress(1)


def plan_pictures(
    prompts: Sequence[str], n: int, folder: Path, *, seed: int, settings: DrawSettings, fingerprint: str
) -> list[Planned]:
    """Plan ``n`` images of each prompt with their seeds and files.

    A file's name begins with the prompt's words and ends in a hash of everything that decides the image: another model,
    seed or setting draws into other files, and the same ones find what is there.
    """
    planned = []
    for prompt in prompts:
        decided = json.dumps([prompt, seed, fingerprint, settings.to_dict()])
        key = hashlib.sha256(decided.encode("utf-8", "surrogatepass")).hexdigest()[:10]
        for index in range(n):
            picture = Picture(prompt, picture_seed(seed, prompt, index))
            planned.append(Planned(picture, folder / f"{slug(prompt)}-{key}-{index:03d}.png", index))
    return planned


def draw_planned(
    painter: Painter,
    planned: Sequence[Planned],
    origin: ImageMetadata,
    done: Callable[[GeneratedImage], None],
    *,
    overwrite: bool = False,
) -> None:
    """Draw what is missing, write each file, and call ``done`` for every image in the order planned.

    Parameters
    ----------
    painter : Painter
    planned : sequence of Planned
    origin : ImageMetadata
        What every file says of its origin beside its own prompt, seed and settings.
    done : callable
        Called with the image as soon as its file is whole, from another thread.
    overwrite : bool
        Draw existing images again.
    """
    missing = _missing(planned, overwrite=overwrite)
    drawn = painter.draw(planned[i].picture for i in missing)

    def write(p: Planned, image: Image | None) -> None:
        metadata = _metadata(painter, p, origin)
        if image is not None:
            save_picture(image, p.file, metadata)
        done(GeneratedImage(p.file, metadata, image is not None))

    wanted = set(missing)
    in_the_background(write, ((p, next(drawn)[1] if i in wanted else None) for i, p in enumerate(planned)))


def _metadata(painter: Painter, planned: Planned, origin: ImageMetadata) -> ImageMetadata:
    own = painter.metadata(planned.picture)
    return replace(origin, prompt=own.prompt, seed=own.seed, settings=own.settings, index=planned.index)


def _missing(planned: Sequence[Planned], *, overwrite: bool) -> list[int]:
    """Return the positions of the images to draw; one that is planned twice is drawn once."""
    seen: set[Path] = set()
    missing = []
    for i, p in enumerate(planned):
        if p.file not in seen and (overwrite or not p.file.is_file()):
            missing.append(i)
        seen.add(p.file)
    return missing


def prepare_folder(folder: Path, loaded: Loaded, settings: DrawSettings, *, overwrite: bool) -> None:
    """Make a folder for generated images, or check that it is one.

    Raises
    ------
    ConfigError
        If the folder holds other work.
    """
    claim_folder(folder, MARK_FILE, overwrite=overwrite)
    model = {"ckpt": loaded.name, "fingerprint": loaded.fingerprint}
    write_json(folder / MARK_FILE, {"command": "generate", "format": FORMAT, **model, **settings.to_dict()})


def log_cut_prompts(painter: Painter, prompts: Iterable[str]) -> None:
    """Say how many prompts are longer than the model reads."""
    unique = set(prompts)
    cut, most = painter.count_cut(unique)
    if cut:
        log.info(
            "%d of %d prompts are longer than the %d tokens the model reads; the rest is cut", cut, len(unique), most
        )


def save_grid(file: Path, planned: Sequence[Planned]) -> None:
    """Write all images on one sheet, a row per prompt.

    Raises
    ------
    DataError
        If an image cannot be read.
    """
    rows: list[list[Image]] = []
    for p in planned:
        if p.index == 0:
            rows.append([])
        try:
            rows[-1].append(decode_image(p.file))
        except DataError as e:
            raise DataError(f"{p.file} cannot be read as an image; delete it, and it is drawn again") from e
    save_sheet(contact_sheet(rows), file)
