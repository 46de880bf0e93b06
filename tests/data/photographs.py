"""Pictures with the statistics of photos, structure at every scale and all grey levels, and folders of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("001.Red_Wren", "002.Sea_Gull", "003.Jay")


def photograph(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Return noise whose amplitude falls with its frequency, as that of photos does; each seed is another picture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(rows, columns) + 1 / max(width, height)
    spectrum = rng.normal(size=(2, *frequency.shape, 3)) / frequency[..., None]
    pixels = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], (height, width), axes=(0, 1))
    pixels = 128 + 50 * pixels / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_photographs(root: Path, splits: Iterable[tuple[str, int]] = (("train", 6), ("test", 3))) -> Path:
    """Write ``<split>/<class>/<n>.jpg``, each another picture."""
    seed = 0
    for split, photos in splits:
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for n in range(photos):
                photograph(seed).save(root / split / name / f"{n}.jpg", quality=92)
                seed += 1
    return root
