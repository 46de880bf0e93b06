"""The demo's pictures: a short diffusion fine-tuning, photos drawn with it, and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from flip.config import SAMPLE, ReadConfig, worker_count
from flip.data.dataset import Dataset
from flip.data.open import open_dataset
from flip.device import place
from flip.diffusion import augment as augmenting
from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.copies import PhotoHashes
from flip.diffusion.judge import ClipFilter, Judge, Verdict
from flip.diffusion.painter import DrawSettings, Painter
from flip.diffusion.pictures import contact_sheet, save_sheet
from flip.diffusion.texts import drawing_prompts
from flip.embed.extractor import FeatureExtractor
from flip.training.diffusion import finetune as tuning
from flip.training.diffusion.trainer import DiffusionTraining

PER_SPECIES = 5
_STEPS, _GUIDANCE, _DRAWS = 15, 5.0, 2
_COLUMNS = 6


def finetune(dataset: Dataset, folder: Path, config: ReadConfig, *, overwrite: bool) -> None:
    """Train the sample's diffusion model on a few photos for a short while.

    Parameters
    ----------
    dataset : Dataset
        Its training split is what is learned from.
    folder : Path
        Gets the model.
    config : ReadConfig
    """
    settings = DiffusionTraining(epochs=25, batch_size=24, lr=3e-4, ema=0.99, seed=config.seed, save_every=1000)
    start = load_pipeline(SAMPLE, cache=config.cache)
    workers = worker_count(config.workers)
    tuning.finetune(dataset, folder, settings, start=start, device=config.device, workers=workers, overwrite=overwrite)


def draw(
    dataset: Dataset, folder: Path, model: Path, extractor: FeatureExtractor, config: ReadConfig, *, overwrite: bool
) -> Dataset:
    """Draw labelled photos of every species, keep those that CLIP takes for their species, and open them as data.

    Parameters
    ----------
    dataset : Dataset
        Its training split gives prompts, and what the filter compares with.
    folder, model : Path
        Where the pictures go, and the diffusion model.
    extractor : FeatureExtractor
    config : ReadConfig
    """
    train = dataset.select("train")
    prompts = drawing_prompts(train, "auto")
    loaded = load_pipeline(model, cache=config.cache)
    settings = DrawSettings("dpm++", _STEPS, _GUIDANCE)
    painter = Painter(loaded.pipeline, place(config.device), settings, batch_size=24)
    clip = ClipFilter(extractor, extractor.features(train), None)
    hashes = [
        PhotoHashes([dataset.file(r) for r in part.records], painter.size, workers=worker_count(config.workers))
        for part in (train, dataset.select("test"))
    ]
    how = augmenting.decides(
        train, settings, fingerprint=loaded.fingerprint, seed=config.seed, prompts=prompts, filter="label"
    )
    augmenting.begin(folder, how, overwrite=overwrite)
    slots = augmenting.plan_slots(train, prompts, PER_SPECIES, seed=config.seed, from_photos=False)
    about = {"ckpt": loaded.name, "fingerprint": loaded.fingerprint, "filter": "label"}

    def ignore(slot: augmenting.Slot, verdict: Verdict, kept: bool) -> None:
        pass

    augmenting.augment(painter, Judge(clip, *hashes), slots, folder, about, ignore, draws=_DRAWS)
    augmenting.finish(folder, slots, how)
    return open_dataset(folder)


def save_species(dataset: Dataset, file: Path) -> None:
    """Write a contact sheet with one training photo of every species."""
    first = {record.label: record for record in reversed(dataset.select("train").records)}
    photos = [_open(dataset.file(first[label])) for label in sorted(first)]
    save_sheet(contact_sheet(_in_rows(photos)), file)


def save_drawn(folder: Path, raw_names: Sequence[str], file: Path) -> None:
    """Write a contact sheet of drawn photos, a row for each species that has any."""
    rows = []
    for name in raw_names:
        files = sorted((folder / "train" / augmenting.class_folder(name)).glob("*.png"))
        if files:
            rows.append([_open(picture) for picture in files])
    if rows:
        save_sheet(contact_sheet(rows), file)


def _in_rows(photos: Sequence[Image.Image]) -> list[Sequence[Image.Image]]:
    return [photos[i : i + _COLUMNS] for i in range(0, len(photos), _COLUMNS)]


def _open(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")
