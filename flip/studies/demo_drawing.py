"""The demo's generated images: a short diffusion fine-tuning, a training set drawn with it, and what was refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from flip.data.dataset import Dataset
from flip.diffusion.augment import Rejected, augment
from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.judge import ClipFilter
from flip.diffusion.pictures import save_picture
from flip.diffusion.settings import AugmentSettings
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from flip.names import SAMPLE
from flip.settings import Progress, settings_from
from flip.training.diffusion.finetune import RESULT_FILE, finetune
from flip.training.listener import Listener
from flip.training.settings import DiffusionSettings, Hardware

#: Folders of the diffusion model, of the images that were kept, and of those that were refused.
MODEL, GENERATED, REFUSED = "diffusion", "augmented", "refused"
TUNING = DiffusionSettings(epochs=10, batch_size=24, weight_decay=0.01, lr=3e-4, ema=0.99, save_every=25)
DRAWING = AugmentSettings(steps=10, guidance=5.0, draws=2, per_class=5)


@dataclass(frozen=True)
class Drawing:
    """The demo's diffusion model, and the training images that it draws.

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

    def finetune(self, listener: Listener) -> None:
        """Train the sample's diffusion model on a few photos for a short while."""
        folder = self.folder / MODEL
        finetune(
            self.dataset,
            load_pipeline(SAMPLE, cache=self.cache),
            folder,
            replace(TUNING, seed=self.seed),
            hardware=settings_from(self.settings, Hardware, precision="auto"),
            resume=(folder / RESULT_FILE).is_file() and not self.overwrite,
            overwrite=self.overwrite,
            listener=listener,
        )

    def draw(self, extractor: FeatureExtractor, progress: Progress) -> dict[str, int]:
        """Draw labelled images of every species, and keep those that CLIP takes for their species.

        Returns
        -------
        dict
            How many were kept, and how many were drawn.
        """
        tally = augment(
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
            progress=progress,
            on_rejected=self._save_refused,
        )
        return {"kept": tally.kept, "drawn": tally.drawn}

    def _save_refused(self, image: Rejected) -> None:
        """Write an image that was refused beside the others, as ``refused/<class>/<name>-<attempt>.png``."""
        folder = self.folder / REFUSED / image.path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(image.image, folder / f"{image.path.stem}-{image.metadata.attempt}.png", image.metadata)
