"""The average of the network before and after, put into it, with its weight chosen on photos of the training split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from flip.clip.finetune.examples import Examples, make_examples
from flip.clip.finetune.validation import embed_photos, zero_shot_correct
from flip.clip.finetune.wise import WisePoint, choose, interpolate, sweep
from flip.clip.model import ClipModel
from flip.clip.prompts import ClassPrompts, class_prompts
from flip.config import FinetuneConfig, parse_wise, worker_count
from flip.data.dataset import Dataset
from flip.device import Placement


@dataclass(frozen=True)
class Judge:
    """What scores the network as it is at the moment."""

    model: ClipModel
    prompts: ClassPrompts
    placement: Placement
    config: FinetuneConfig
    held_out: Dataset | None

    def correct(self, examples: Examples, prompts: ClassPrompts) -> Any:
        """Return which photos zero-shot names rightly."""
        image, readable = embed_photos(
            self.model,
            list(examples.sources),
            self.placement,
            self.config.batch_size,
            worker_count(self.config.workers),
        )
        return zero_shot_correct(self.model, image, examples.labels[readable], prompts, self.placement)

    def examples(self, dataset: Dataset, prompts: ClassPrompts) -> Examples:
        """Return photos to score."""
        return make_examples(dataset, prompts, self.model.tokenize, crop=self.config.crop == "boxes")


def average(
    judge: Judge, config: FinetuneConfig, before: dict[str, torch.Tensor], validation: Examples
) -> tuple[list[WisePoint], float]:
    """Put WiSE-FT's average into the network; returns the points of a sweep, and the weight."""
    if config.wise is None:
        return [], 1.0
    network, after = judge.model.network, state_of(judge.model)

    def put(weight: float) -> None:
        network.load_state_dict(interpolate(before, after, weight))

    points: list[WisePoint] = []
    weight = parse_wise(config.wise)
    if weight is None:
        held_out = judge.held_out
        names = class_prompts(config.prompts, held_out.classnames, held_out.raw_names) if held_out else judge.prompts
        forgotten = judge.examples(held_out, names) if held_out else None

        def score(weight: float) -> tuple[Any, Any]:
            put(weight)
            return judge.correct(validation, judge.prompts), judge.correct(forgotten or validation.none(), names)

        points = sweep(score)
        weight = choose(points)
    put(weight)
    return points, weight


def state_of(model: ClipModel) -> dict[str, torch.Tensor]:
    """Return a copy of the network's tensors, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.network.state_dict().items()}
