"""The average of the network before and after, put into it, with its weight chosen on photos of the training split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from flip.clip.encoder import FloatMatrix
from flip.clip.model import ClipModel
from flip.clip.prompts import ClassPrompts, class_prompts
from flip.config import FinetuneConfig, parse_wise, worker_count
from flip.data.dataset import Dataset
from flip.device import Placement
from flip.training.clip.examples import Examples, make_examples
from flip.training.clip.sampler import IntArray
from flip.training.clip.step import trained_head
from flip.training.clip.validation import embed_photos, zero_shot
from flip.training.clip.wise import WisePoint, ZeroShot, choose, interpolate, sweep


@dataclass(frozen=True)
class Judge:
    """What scores the network as it is at the moment."""

    model: ClipModel
    prompts: ClassPrompts
    placement: Placement
    config: FinetuneConfig
    held_out: Dataset | None

    def embedder(self, examples: Examples) -> Callable[[], tuple[FloatMatrix, IntArray]]:
        """Return what embeds photos by the network as it is, with their labels; what no weight changes, once."""
        config = self.config

        def embed() -> tuple[FloatMatrix, IntArray]:
            workers = worker_count(config.workers)
            sources = list(examples.sources)
            image, readable = embed_photos(self.model, sources, self.placement, config.batch_size, workers)
            return image, examples.labels[readable]

        head = None if config.lora is not None else trained_head(self.model.network.visual)  # type: ignore[arg-type]
        if head is None or not len(examples):
            return embed
        entering: list[torch.Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, arguments: entering.append(arguments[0]))
        labels = embed()[1]
        handle.remove()

        def embed_again() -> tuple[FloatMatrix, IntArray]:
            with torch.inference_mode():
                features = torch.cat([head(part) for part in entering])
            return torch.nn.functional.normalize(features, dim=-1).cpu().numpy(), labels

        return embed_again

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

        sets = [(judge.embedder(validation), judge.prompts), (judge.embedder(forgotten or validation.none()), names)]

        def score(weight: float) -> tuple[ZeroShot, ZeroShot]:
            put(weight)
            val, held = (zero_shot(judge.model, *embed(), prompts, judge.placement) for embed, prompts in sets)
            return val, held

        points = sweep(score)
        weight = choose(points)
    put(weight)
    return points, weight


def state_of(model: ClipModel) -> dict[str, torch.Tensor]:
    """Return a copy of the network's tensors, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.network.state_dict().items()}
