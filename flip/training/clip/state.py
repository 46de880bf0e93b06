"""How far a CLIP fine-tuning is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainingState:
    """How far a run is, beside weights and optimiser; what a checkpoint's ``state.json`` holds."""

    step: int = 0
    #: Sum of the losses of the present epoch's steps.
    loss_sum: float = 0.0
    seconds: float = 0.0
    #: Zero-shot top-1 of the validation photos before training, in percent.
    start_top1: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_file: str | None = None
    stopped: bool = False

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best epoch."""
        return self.history[self.best_epoch - 1]


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """Return what a user reads of an epoch."""
    line = f"epoch {row['epoch']} of {epochs}: loss {row['loss']:.3f}"
    if row["val_top1"] is not None:
        line += f", validation loss {row['val_loss']:.3f}, zero-shot {row['val_top1']:.1f} %"
    return f"{line}, {row['seconds']:.0f} s"
