"""The demo's images: a short diffusion fine-tuning, photos drawn with it, and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from flip.data.classnames import folder_names
from flip.data.dataset import Dataset
from flip.diffusion.augment import augment
from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.judge import ClipFilter
from flip.diffusion.pictures import contact_sheet, save_sheet
from flip.diffusion.settings import AugmentSettings
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from flip.names import SAMPLE
from flip.settings import settings_from
from flip.training.diffusion.finetune import finetune
from flip.training.settings import DiffusionSettings, Hardware

#: Folders of the diffusion model and of what it drew.
MODEL, GENERATED = "diffusion", "augmented"
DRAWING = AugmentSettings(steps=15, guidance=5.0, draws=2, per_class=5)
_COLUMNS = 6


@dataclass(frozen=True)
class Drawing:
    """The demo's diffusion model, and the training photos that it draws.

    Attributes
    ----------
    dataset : Dataset
        Its training split is what is learned from.
    folder : Path
        Of the demo.
    settings : EmbedSettings
        Device and workers.
    cache : Path or None
    seed : int
    overwrite : bool
    """

    dataset: Dataset
    folder: Path
    settings: EmbedSettings
    cache: Path | None
    seed: int
    overwrite: bool

    def finetune(self) -> None:
        """Train the sample's diffusion model on a few photos for a short while."""
        settings = DiffusionSettings(
            epochs=25, batch_size=24, weight_decay=0.01, lr=3e-4, ema=0.99, seed=self.seed, save_every=1000
        )
        start = load_pipeline(SAMPLE, cache=self.cache)
        hardware = settings_from(self.settings, Hardware, precision="auto")
        finetune(self.dataset, start, self.folder / MODEL, settings, hardware=hardware, overwrite=self.overwrite)

    def draw(self, extractor: FeatureExtractor) -> None:
        """Draw labelled photos of every species, and keep those that CLIP takes for their species."""
        augment(
            self.dataset,
            load_pipeline(self.folder / MODEL, cache=self.cache),
            self.folder / GENERATED,
            DRAWING,
            model=ClipFilter(extractor, extractor.features(self.dataset.select("train")), None),
            seed=self.seed,
            device=self.settings.device,
            batch_size=24,
            workers=self.settings.workers,
            overwrite=self.overwrite,
        )


def save_species(dataset: Dataset, file: Path) -> None:
    """Write a contact sheet with one training photo of every species."""
    first = {record.label: record for record in reversed(dataset.select("train").records)}
    photos = [_open(dataset.file(first[label])) for label in sorted(first)]
    save_sheet(contact_sheet(_in_rows(photos)), file)


def save_drawn(folder: Path, raw_names: Sequence[str], file: Path) -> None:
    """Write a contact sheet of drawn photos, a row for each species that has any."""
    rows = []
    for name in folder_names(raw_names):
        files = sorted((folder / "train" / name).glob("*.png"))
        if files:
            rows.append([_open(image) for image in files])
    if rows:
        save_sheet(contact_sheet(rows), file)


def _in_rows(photos: Sequence[Image.Image]) -> list[Sequence[Image.Image]]:
    return [photos[i : i + _COLUMNS] for i in range(0, len(photos), _COLUMNS)]


def _open(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")
