"""The image tower on its device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flip.arrays import Array, FloatArray
from flip.clip.network import LoadedModel

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class ImageTower:
    """The image tower on its device, in its number format, channels last.

    Parameters
    ----------
    model : LoadedModel
        In fp32 its own tower is used, as it is at the moment of encoding; in another format a copy of it.
    device : torch.device
    precision : {"fp32", "bf16", "fp16"}
    flip : bool
        Encode each photo as the mean of itself and its mirror image.
    unit : bool
        Bring embeddings to unit length.
    """

    def __init__(
        self, model: LoadedModel, device: torch.device, precision: str, *, flip: bool = False, unit: bool = True
    ) -> None:
        import torch

        self._device = device
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._flip, self._normalize = flip, unit
        visual = model.network.visual if precision == "fp32" else copy.deepcopy(model.network.visual)
        visual.to(device=device, dtype=self._dtype)
        self._visual = visual.to(memory_format=torch.channels_last)
        _, self._mean, self._std = split_preprocess(model.preprocess)

    def encode(self, prepared: Sequence[Array]) -> FloatArray:
        """Return embeddings (n, d) of n prepared photos."""
        import torch

        pixels = torch.from_numpy(np.stack(prepared)).to(self._device, non_blocking=True)
        if self._mean is not None and self._std is not None:
            # (n, h, w, 3) → (n, 3, h, w): rows, columns, channels in memory is what channels last means, so no copy.
            pixels = pixels.permute(0, 3, 1, 2).float().div_(255)
            pixels = pixels.sub_(self._mean.to(self._device)).div_(self._std.to(self._device))
        with torch.inference_mode():
            features = self._encode(pixels)
            if self._flip:
                features = self._scale((features + self._encode(pixels.flip(-1))) / 2)
        rows: FloatArray = features.cpu().numpy()
        return rows

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        features = self._visual(pixels.to(self._dtype).contiguous(memory_format=torch.channels_last))
        # CoCa's tower returns its pooled embedding first and its tokens second.
        features = features[0] if isinstance(features, tuple) else features
        return self._scale(features.float())

    def _scale(self, features: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.nn.functional.normalize(features, dim=-1) if self._normalize else features


def split_preprocess(
    preprocess: Callable[[Image], torch.Tensor],
) -> tuple[Callable[[Image], Array], torch.Tensor | None, torch.Tensor | None]:
    """Divide a transform into what a decoding thread does, and mean and deviation, which are left for a whole batch.

    Resizing and cropping are Pillow's and run outside Python's lock; arithmetic on tensors would start a thread pool of
    its own in each decoding thread, and is cheaper done at once.

    Returns
    -------
    callable
        PIL image → uint8 array (h, w, 3), or float32 (3, h, w) where the transform cannot be divided.
    mean, std : tensors of shape (1, 3, 1, 1), or None
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
