"""A labelled, balanced, filtered training set generated for a dataset: ``train/<class>/*.png``, ``metadata.jsonl``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.dataset import Dataset
from flip.diffusion.augment_folder import Tally, append_rejected, begin, finish, read_rejected, resume_key
from flip.diffusion.background import in_the_background
from flip.diffusion.checkpoint import Loaded
from flip.diffusion.generate import log_cut_prompts, open_painter, report
from flip.diffusion.judge import ClipFilter, ImageJudge, Verdict, make_judge, open_filter
from flip.diffusion.metadata import ImageMetadata
from flip.diffusion.painter import Painter, Picture
from flip.diffusion.pictures import read_metadata, save_picture
from flip.diffusion.settings import AugmentSettings, DrawSettings
from flip.diffusion.slots import Slot, plan_slots
from flip.diffusion.texts import drawing_prompts
from flip.errors import DataError
from flip.settings import Progress, settings_from

if TYPE_CHECKING:
    from PIL.Image import Image

    from flip.embed.extractor import FeatureExtractor

log = logging.getLogger(__name__)

_JUDGED_TOGETHER = 16


@dataclass(frozen=True)
class Kept:
    """An image of the training set, its metadata, and whether it was drawn now or found."""

    path: Path
    metadata: ImageMetadata
    drawn: bool

    def to_row(self) -> dict[str, object]:
        """Return the row that ``flip augment`` prints."""
        m = self.metadata
        own = {"path": str(self.path), "label": m.classname, "prompt": m.prompt, "seed": m.seed, "source": m.source}
        return {**own, "clip_similarity": m.similarity, "near_test": m.near_test, "drawn": self.drawn}


@dataclass(frozen=True)
class Rejected:
    """An image that the judge does not keep: the file that it would have been, its metadata, and the reason."""

    path: Path
    image: Image
    metadata: ImageMetadata
    reason: str


@dataclass(frozen=True)
class Callbacks:
    """Called with each image that a slot holds, and with each that is not kept."""

    kept: Callable[[Kept], None]
    rejected: Callable[[Rejected], None] | None = None


def augment(
    dataset: Dataset,
    ckpt: str | Path | Loaded,
    folder: str | Path = "augmented",
    settings: AugmentSettings | None = None,
    *,
    model: str | FeatureExtractor | ClipFilter | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 4,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_image: Callable[[Kept], None] | None = None,
    on_rejected: Callable[[Rejected], None] | None = None,
) -> Tally:
    """Generate a training set for a dataset, and keep the images that are worth training on.

    Prompts and source photos come from the training split only. Images are drawn until every class has
    ``settings.per_class`` that the filter keeps, or each has had ``settings.draws`` attempts. The same call resumes an
    interrupted run. Under ``accelerate launch`` each process draws its share.

    Parameters
    ----------
    dataset : Dataset
    ckpt : str, Path or Loaded
        A diffusion model, or what :func:`flip.diffusion.checkpoint.load_pipeline` takes.
    folder : str or Path
        Becomes a dataset: ``train/<class>/*.png`` and ``metadata.jsonl``; ``augment.json`` has the counts.
    settings : AugmentSettings, optional
    model : str, FeatureExtractor or ClipFilter, optional
        The CLIP model of the filter.
    seed : int
        The seed from which each image's own seed is derived.
    device : {"auto", "cpu", "cuda", "mps"}
    precision : {"auto", "fp32", "bf16", "fp16"}
        Of drawing.
    batch_size : int
        Images drawn together; halved when out of memory.
    workers : int, optional
        Threads that decode photos.
    overwrite : bool
        Replace what an earlier run drew, and write into a folder that holds other work.
    progress : callable, optional
        Called with 1 for each image kept.
    on_image : callable, optional
        Called with each image as soon as its file is whole, from another thread.
    on_rejected : callable, optional
        Called with each image that is not kept, from another thread.

    Raises
    ------
    DataError
        If the dataset has no photos, or no image was kept.
    ConfigError, CheckpointError, ModelError
    """
    require_photos(dataset)
    settings, train, folder = settings or AugmentSettings(), dataset.select("train"), Path(folder)
    drawing, prompts = settings_from(settings, DrawSettings), drawing_prompts(train, settings.prompts)
    clip = model if isinstance(model, ClipFilter) else _open_filter(train, settings, model, device, workers)
    loaded, painter = open_painter(ckpt, drawing, device=device, precision=precision, batch_size=batch_size)
    placement = painter.placement
    log_cut_prompts(painter, [text for texts in prompts for text in texts])
    judge, name = make_judge(dataset, clip, painter.size, workers=workers), clip.name if clip else "none"
    key = resume_key(train, drawing, fingerprint=loaded.fingerprint, seed=seed, prompts=prompts, filter=name)
    if placement.is_main:
        begin(folder, key, overwrite=overwrite)
    placement.wait_for_everyone()
    slots = plan_slots(train, prompts, settings.per_class, seed=seed, from_photos=settings.strength is not None)
    mine = [slots[i] for i in placement.share(len(slots))]
    origin = ImageMetadata(ckpt=loaded.name, fingerprint=loaded.fingerprint, filter=name)
    done = Callbacks(lambda image: report(image, on_image, progress), on_rejected)
    fill_slots(painter, judge, mine, folder, origin, done, settings.draws)
    placement.wait_for_everyone()
    return finish(folder, slots, key, write=placement.is_main)


def require_photos(dataset: Dataset) -> None:
    """Raise a DataError if a dataset is a table of embeddings without photos."""
    if dataset.embeddings is not None:
        raise DataError(f"{dataset.embeddings} is a table of embeddings; pass --data with the photos")


def _open_filter(
    train: Dataset, settings: AugmentSettings, model: str | FeatureExtractor | None, device: str, workers: int | None
) -> ClipFilter | None:
    def extractor() -> FeatureExtractor:
        from flip.clip.model import load_model
        from flip.embed.extractor import FeatureExtractor
        from flip.embed.settings import EmbedSettings
        from flip.names import DEFAULT_MODEL

        if model is not None and not isinstance(model, str):
            return model
        return FeatureExtractor(load_model(model or DEFAULT_MODEL), EmbedSettings(device=device, workers=workers))

    return open_filter(train, settings.filter, extractor, required=model is not None)


def fill_slots(
    painter: Painter,
    judge: ImageJudge,
    slots: Sequence[Slot],
    folder: Path,
    origin: ImageMetadata,
    done: Callbacks,
    draws: int = 5,
) -> None:
    """Draw until every slot holds an image that the judge keeps, or has had its number of attempts.

    Slots that hold an image stay; attempts that an earlier run rejected are not repeated. ``done.kept`` is called for
    each slot that holds an image: found ones first, then each as soon as its file is whole, from another thread.
    """
    rejected = read_rejected(folder)
    for slot in slots:
        if metadata := _found(folder / slot.file):
            done.kept(Kept(folder / slot.file, metadata, False))
    for attempt in range(draws):
        todo = [s for s in slots if not (folder / s.file).is_file() and (s.file, attempt) not in rejected]
        drawn = painter.draw(slot.picture(attempt) for slot in todo)

        def settle(slot: Slot, picture: Picture, image: Image, verdict: Verdict, attempt: int = attempt) -> None:
            metadata = _metadata(painter, slot, picture, verdict, attempt, origin)
            if verdict.dropped is not None:
                if done.rejected:
                    done.rejected(Rejected(folder / slot.file, image, metadata, verdict.dropped))
                append_rejected(folder, slot, picture, verdict, attempt)
                return
            save_picture(image, folder / slot.file, metadata)
            done.kept(Kept(folder / slot.file, metadata, True))

        in_the_background(settle, _judged(judge, todo, drawn))


def _found(file: Path) -> ImageMetadata | None:
    """Read the metadata of a slot's file; one that was cut short is removed, so that it is drawn again."""
    if not file.is_file():
        return None
    try:
        return read_metadata(file)
    except DataError:
        log.warning("%s cannot be read as an image, and is drawn again", file)
        file.unlink()
        return None


def _judged(
    judge: ImageJudge, slots: Sequence[Slot], drawn: Iterator[tuple[Picture, Image]]
) -> Iterator[tuple[Slot, Picture, Image, Verdict]]:
    waiting = iter(slots)
    while pictures := list(islice(drawn, _JUDGED_TOGETHER)):
        own = list(islice(waiting, len(pictures)))
        verdicts = judge.judge([image for _, image in pictures], [slot.label for slot in own])
        for slot, (picture, image), verdict in zip(own, pictures, verdicts, strict=True):
            yield slot, picture, image, verdict


def _metadata(
    painter: Painter, slot: Slot, picture: Picture, verdict: Verdict, attempt: int, origin: ImageMetadata
) -> ImageMetadata:
    return replace(
        painter.metadata(picture),
        ckpt=origin.ckpt,
        fingerprint=origin.fingerprint,
        filter=origin.filter,
        label=slot.raw_name,
        classname=slot.classname,
        source=str(picture.source.file) if picture.source else None,
        attempt=attempt,
        clip_label=verdict.clip_label,
        similarity=verdict.similarity,
        threshold=verdict.threshold,
        near_test=str(verdict.near_test) if verdict.near_test else None,
    )
