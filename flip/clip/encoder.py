"""Pixels and texts meet the network here, and nowhere else."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flip.clip.model import ClipModel
from flip.device import Placement, bf16_in_hardware, processor_name
from flip.errors import ConfigError
from flip.files import write_json

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

FloatMatrix = npt.NDArray[np.float32]


class ImageEncoder:
    """The image tower on its device, in its number format, channels last.

    Parameters
    ----------
    model : ClipModel
        Left as it is; in another format than fp32 the tower is a copy.
    placement : Placement
    precision : {"fp32", "bf16", "fp16"}
    flip : bool
        Encode each photo as the mean of itself and its mirror image.
    """

    def __init__(self, model: ClipModel, placement: Placement, precision: str, *, flip: bool = False) -> None:
        import torch

        self._device = placement.device
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._flip = flip
        visual: Any = model.network.visual
        self._visual = visual if precision == "fp32" else copy.deepcopy(visual)
        self._visual.to(device=self._device, dtype=self._dtype).to(memory_format=torch.channels_last)
        self.prepare, self._mean, self._std = _split_preprocess(model.preprocess)

    def encode(self, prepared: Sequence[npt.NDArray[Any]]) -> FloatMatrix:
        """Return unit embeddings (n, d) of n photos that ``prepare`` returned."""
        import torch

        pixels = torch.from_numpy(np.stack(prepared)).to(self._device, non_blocking=True)
        if self._mean is not None and self._std is not None:
            # Rows, columns, channels in memory is what channels last means: no copy.
            pixels = pixels.permute(0, 3, 1, 2).float().div_(255)
            pixels = pixels.sub_(self._mean.to(self._device)).div_(self._std.to(self._device))
        with torch.inference_mode():
            features = self._unit(pixels)
            if self._flip:
                features = torch.nn.functional.normalize(features + self._unit(pixels.flip(-1)), dim=-1)
        return features.cpu().numpy()

    def _unit(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        features = self._visual(pixels.to(self._dtype).contiguous(memory_format=torch.channels_last))
        # CoCa's tower returns its pooled embedding first and its tokens second.
        features = features[0] if isinstance(features, tuple) else features
        return torch.nn.functional.normalize(features.float(), dim=-1)


def encode_texts(
    model: ClipModel,
    texts: Sequence[str],
    placement: Placement,
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> FloatMatrix:
    """Return unit embeddings (n, d) of n texts, always in fp32. Texts longer than the model's context are cut."""
    import torch

    model.network.to(placement.device)
    rows = [np.zeros((0, model.dim), np.float32)]
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        with torch.inference_mode():
            tokens = model.tokenize(batch).to(placement.device)
            rows.append(model.network.encode_text(tokens, normalize=True).float().cpu().numpy())  # type: ignore[operator]
        if progress:
            progress(len(batch))
    return np.concatenate(rows)


#: bf16 moves single photos, and two timings of the same work differ by some percent: it has to gain more than that.
_WORTH_IT = 0.85


def resolve_precision(precision: str, model: ClipModel, placement: Placement, memory: Path | None = None) -> str:
    """Return the number format that ``--precision`` means here: "fp32", "bf16" or "fp16".

    ``auto`` is bf16 on a GPU that has it; on a processor that has it, bf16 where it was clearly faster than fp32 when
    both were first timed with this model. The choice is remembered, since another would mean other embeddings.

    Parameters
    ----------
    memory : Path, optional
        Folder in which the choice is remembered.

    Raises
    ------
    ConfigError
        For fp16 on a processor.
    """
    if precision == "fp16" and placement.device.type == "cpu":
        raise ConfigError("--precision fp16 needs a GPU; on a processor pass bf16, fp32 or auto")
    if precision != "auto":
        return precision
    if not bf16_in_hardware(placement.device):
        return "fp32"
    if placement.device.type != "cpu":
        return "bf16"
    name = f"{model.fingerprint}-{processor_name(placement.device)}".replace(" ", "-")
    file = memory / "precision" / f"{name}.json" if memory else None
    if file and file.is_file():
        import json

        return str(json.loads(file.read_text(encoding="utf-8"))["precision"])
    seconds = {name: _seconds_a_batch(model, placement, name) for name in ("fp32", "bf16")}
    chosen = "bf16" if seconds["bf16"] < _WORTH_IT * seconds["fp32"] else "fp32"
    if file:
        write_json(file, {"precision": chosen, "seconds_for_8_photos": seconds})
    return chosen


def _seconds_a_batch(model: ClipModel, placement: Placement, precision: str) -> float:
    from PIL import Image

    encoder = ImageEncoder(model, placement, precision)
    batch = [encoder.prepare(Image.new("RGB", (256, 256), (90, 120, 60)))] * 8
    encoder.encode(batch)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        encoder.encode(batch)
        times.append(time.perf_counter() - start)
    return min(times)


def _split_preprocess(
    preprocess: Callable[[Image], torch.Tensor],
) -> tuple[Callable[[Image], npt.NDArray[Any]], torch.Tensor | None, torch.Tensor | None]:
    """Return what a decoding thread does to a photo, and the mean and deviation left to do for a whole batch.

    Resizing and cropping are Pillow's and run outside Python's lock; arithmetic on tensors would start a thread pool of
    its own in each decoding thread, and is cheaper done at once.
    """
    from torchvision import transforms

    steps = list(getattr(preprocess, "transforms", ()))
    ends = len(steps) > 2 and isinstance(steps[-1], transforms.Normalize) and isinstance(steps[-2], transforms.ToTensor)
    if not ends:
        return (lambda image: preprocess(image).numpy()), None, None
    import torch

    geometry = transforms.Compose(steps[:-2])
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (steps[-1].mean, steps[-1].std))
    return (lambda image: np.asarray(geometry(image))), mean, std
