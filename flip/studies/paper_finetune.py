"""The paper's caption fine-tuning as its notebook has it, leak and all.

It learns from every photo, the test photos and their captions included; batches are neighbouring files, mostly of one
species, of which every other photo counts as a negative; only the first caption is read; and the weights are rounded
to half precision after each step of at most 5e-7, so that most steps are lost. ``flip finetune`` does none of this.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.clip.encoder import OpenClipEncoder
from flip.clip.tower import split_preprocess
from flip.data.dataset import Dataset, Photo
from flip.data.images import decode_photo
from flip.device import Placement, keep_freed_memory, resolve_device
from flip.errors import DataError
from flip.files import claim_folder, plain, require_same_key, write_json
from flip.reading import read_json
from flip.results import FORMAT
from flip.settings import Progress
from flip.training.checkpoints import Checkpoint, CheckpointFolder, optimizer_tensors, restore_optimizer
from flip.training.clip.averaging import state_of
from flip.training.clip.output import save_learned, save_model
from flip.training.prefetch import prefetch
from flip.training.resume import CHECKPOINTS
from flip.training.settings import DEFAULT_HARDWARE, Hardware

if TYPE_CHECKING:
    import torch

    from flip.arrays import Array

log = logging.getLogger(__name__)

#: What the run was, once it is finished.
RESULT = "paper-finetune.json"

#: The notebook's optimiser.
ADAM: dict[str, Any] = {"lr": 5e-7, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.001}
EPOCHS, BATCH = 30, 32

#: Most memory for decoded photos.
KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class _Pair:
    """A photo and the first of its captions."""

    photo: Photo
    caption: str


def finetune_as_paper(
    dataset: Dataset,
    model: OpenClipEncoder,
    folder: Path,
    *,
    epochs: int = EPOCHS,
    hardware: Hardware = DEFAULT_HARDWARE,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fine-tune CLIP as the paper's notebook does, on all photos that have a caption, and write it into a folder.

    An interrupted run resumes after its last epoch; a finished one is returned as it is.

    Parameters
    ----------
    dataset : Dataset
        All splits.
    model : OpenClipEncoder
        Trained in place.
    folder : Path
        Becomes a model folder that :func:`flip.clip.model.load_model` takes.
    epochs : int
    hardware : Hardware
        Its precision is not used: fp32, rounded to half precision as the notebook does.
    progress : callable, optional
        Called with the number of photos that were just trained on.

    Returns
    -------
    dict
        ``photos``, ``test_photos`` among them, ``epochs`` and ``loss``, the mean of the last epoch.

    Raises
    ------
    DataError
        If no photo has a caption.
    ConfigError
        If the folder holds a run with other settings, data or model.
    """
    pairs = [_Pair(dataset.photo(r), r.captions[0]) for r in dataset.records if r.captions]
    if len(pairs) < 2:
        raise DataError(f"{dataset.root} has {len(pairs)} photos with a caption, and the paper's fine-tuning needs two")
    about = _begin(dataset, model, folder, epochs)
    if about.get("finished"):
        return about
    trainer = _Trainer(model, pairs, folder, hardware)
    loss = trainer.train(epochs, progress)
    save_learned(model, [dataset], folder)
    save_model(model, state_of(model), folder)
    result = {**about, "loss": loss, "unreadable": len(trainer.unreadable), "finished": True}
    write_json(folder / RESULT, result)
    CheckpointFolder(folder / CHECKPOINTS).remove()
    return result


def _begin(dataset: Dataset, model: OpenClipEncoder, folder: Path, epochs: int) -> dict[str, Any]:
    """Return what a finished run in the folder wrote, or begin one, or resume it where it has the same key."""
    key = plain({"data": dataset.fingerprint(), "model": model.fingerprint, "epochs": epochs, **ADAM})
    if claim_folder(folder, RESULT):
        before: dict[str, Any] = read_json(folder / RESULT)
        require_same_key(folder, before["key"], key, "remove the folder to begin again")
        if before.get("finished"):
            return before
    captioned = [record.split for record in dataset.records if record.captions]
    counts = {"photos": len(captioned), "test_photos": captioned.count("test"), "epochs": epochs}
    about = {"command": "reproduce", "format": FORMAT, "key": key, **counts}
    write_json(folder / RESULT, about)
    log.info(
        "fine-tuning as the paper does: %d photos with their first caption, %d of them test photos, %d epochs",
        *counts.values(),
    )
    return about


class _Trainer:
    """The notebook's loop."""

    def __init__(self, model: OpenClipEncoder, pairs: Sequence[_Pair], folder: Path, hardware: Hardware) -> None:
        import torch

        self.model, self.pairs, self.workers = model, pairs, hardware.workers
        self.placement: Placement = resolve_device(hardware.device)
        if self.placement.device.type == "cpu":
            keep_freed_memory()
        self.network: Any = model.network.to(self.placement.device)
        self.network.to(memory_format=torch.channels_last)
        for parameter in self.network.parameters():
            parameter.requires_grad_(True)
        # As the notebook, which never calls train(): BatchNorm and dropout stay as they are when predicting.
        self.network.eval()
        self.optimizer = torch.optim.Adam(self.network.parameters(), **ADAM)
        self.half = list(half_parameters(self.network))
        self.prepare, self.mean, self.std = split_preprocess(model.preprocess)
        self.checkpoints = CheckpointFolder(folder / CHECKPOINTS)
        self.unreadable: set[Photo] = set()
        #: Decoded photos: every epoch sees the same pixels, and reads them again only where they are too many to keep.
        self.decoded: dict[Photo, Array] = {}

    def train(self, epochs: int, progress: Progress | None) -> float:
        """Train and return the mean loss of the last epoch."""
        first, loss = self._resume()
        if progress:
            progress(first * len(self.pairs))
        for epoch in range(first, epochs):
            losses = [self._step(*batch, progress) for batch in self._batches()]
            loss = sum(losses) / max(1, len(losses))
            log.info("the paper's fine-tuning, epoch %d of %d: loss %.3f", epoch + 1, epochs, loss)
            names = {parameter: name for name, parameter in self.network.named_parameters()}
            tensors = {"weights": state_of(self.model), "optimizer": optimizer_tensors(self.optimizer, names)}
            self.checkpoints.save(Checkpoint(tensors, {"step": epoch + 1, "loss": loss}))
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        return loss

    def _resume(self) -> tuple[int, float]:
        """Return the number of finished epochs and the last one's loss."""
        checkpoint = self.checkpoints.load()
        if checkpoint is None:
            return 0, float("nan")
        self.network.load_state_dict(checkpoint.tensors["weights"], strict=False)
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"], dict(self.network.named_parameters()))
        return int(checkpoint.state["step"]), float(checkpoint.state["loss"])

    def _batches(self) -> Iterator[tuple[torch.Tensor, list[str]]]:
        """Yield pixels (b, 3, h, w) and captions, in the order of the files."""
        import numpy as np
        import torch

        parts = [self.pairs[start : start + BATCH] for start in range(0, len(self.pairs), BATCH)]
        for part, futures in zip(parts, prefetch(self._read, parts, self.workers), strict=True):
            read = [
                (pixels, pair.caption)
                for pair, f in zip(part, futures, strict=True)
                if (pixels := f.result()) is not None
            ]
            if len(read) > 1:
                yield torch.from_numpy(np.stack([pixels for pixels, _ in read])), [caption for _, caption in read]

    def _read(self, pair: _Pair) -> Array | None:
        if pair.photo in self.decoded:
            return self.decoded[pair.photo]
        try:
            pixels = self.prepare(decode_photo(pair.photo))
        except DataError:
            self.unreadable.add(pair.photo)
            return None
        if len(self.pairs) * pixels.nbytes <= KEPT_BYTES:
            self.decoded[pair.photo] = pixels
        return pixels

    def _step(self, pixels: torch.Tensor, captions: list[str], progress: Progress | None) -> float:
        import torch
        from torch.nn.functional import cross_entropy

        device = self.placement.device
        x = pixels.to(device)
        if self.mean is not None and self.std is not None:
            x = x.permute(0, 3, 1, 2).float().div_(255).sub_(self.mean.to(device)).div_(self.std.to(device))
        self.optimizer.zero_grad()
        images = self.network.encode_image(x.contiguous(memory_format=torch.channels_last), normalize=True)
        texts = self.network.encode_text(self.model.tokenize(captions).to(device), normalize=True)
        logits = self.network.logit_scale.exp() * images @ texts.T  # (b, b)
        own = torch.arange(len(captions), device=device)
        loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        torch.autograd.backward(loss)
        self.optimizer.step()
        with torch.no_grad():
            for parameter in self.half:
                parameter.copy_(parameter.half())
        if progress:
            progress(len(captions))
        return float(loss.detach())


def half_parameters(network: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Yield the parameters that OpenAI's ``convert_weights`` keeps in half precision.

    Those of convolutions, linear layers and attention, and the projections; not embeddings and norms.
    """
    from torch import nn

    names = {"in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight", "bias_k", "bias_v"}
    seen: set[int] = set()
    for module in network.modules():
        own = dict(module.named_parameters(recurse=False))
        whole = isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))
        for name, parameter in own.items():
            in_attention = isinstance(module, nn.MultiheadAttention) and name in names
            if (whole or in_attention or name in ("text_projection", "proj")) and id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter
