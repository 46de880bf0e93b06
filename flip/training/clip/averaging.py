"""WiSE-FT: interpolate pre- and post-fine-tuning weights; the weight is tuned on held-out training photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from flip.arrays import FloatArray, IntArray
from flip.clip.encoder import OpenClipEncoder
from flip.clip.prompts import ClassPrompts, data_prompts
from flip.data.dataset import Dataset
from flip.device import Placement
from flip.training.clip.examples import Examples, make_examples
from flip.training.clip.step import trained_head
from flip.training.clip.validation import embed_photos, zero_shot
from flip.training.clip.wise import WisePoint, ZeroShot, choose, interpolate, sweep
from flip.training.settings import ClipSettings, parse_wise

#: Encodes examples with the current weights: unit features (m, d) and labels (m,) of the readable ones.
Embed = Callable[[], tuple[FloatArray, IntArray]]


@dataclass(frozen=True)
class Scorer:
    """Scores the current weights of a model by zero-shot.

    Attributes
    ----------
    model : OpenClipEncoder
    prompts : ClassPrompts
        Of the classes that are trained.
    placement : Placement
    settings : ClipSettings
    crop : bool
        Cut photos to their boxes.
    workers : int or None
        Threads that decode photos.
    """

    model: OpenClipEncoder
    prompts: ClassPrompts
    placement: Placement
    settings: ClipSettings
    crop: bool = False
    workers: int | None = None

    def embedder(self, examples: Examples) -> Embed:
        """Return a function that encodes the examples with the current weights.

        With a head-only fine-tune the trunk's output is computed once and cached.
        """

        def embed() -> tuple[FloatArray, IntArray]:
            sources, size = list(examples.sources), self.settings.batch_size
            image, readable = embed_photos(self.model, sources, self.placement, size, self.workers)
            return image, examples.labels[readable]

        head = None if self.settings.rank is not None else trained_head(self.model.network.visual)
        return embed if head is None or not len(examples) else _embed_by_head(head, embed)

    def examples(self, dataset: Dataset, prompts: ClassPrompts) -> Examples:
        """Return the photos of a dataset as examples."""
        return make_examples(dataset, prompts, self.model.tokenize, crop=self.crop)

    def score(self, embed: Embed, prompts: ClassPrompts) -> ZeroShot:
        """Return the zero-shot of photos with the current weights."""
        return zero_shot(self.model, *embed(), prompts, self.placement)


def _embed_by_head(head: torch.nn.Module, embed: Embed) -> Embed:
    entering: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, arguments: entering.append(arguments[0]))
    labels = embed()[1]
    handle.remove()

    def embed_again() -> tuple[FloatArray, IntArray]:
        with torch.inference_mode():
            features = torch.cat([head(part) for part in entering])  # (m, d)
        return torch.nn.functional.normalize(features, dim=-1).cpu().numpy(), labels

    return embed_again


def average(
    scorer: Scorer, before: dict[str, torch.Tensor], validation: Examples, held_out: Dataset | None
) -> tuple[list[WisePoint], float]:
    """Load WiSE-FT's average of the weights into the model.

    Parameters
    ----------
    before : dict of str to tensor
        Weights before fine-tuning; those after it are in the model.
    validation : Examples
        Of the classes that were trained.
    held_out : Dataset, optional
        Photos of other classes.

    Returns the points of a sweep, and the weight of the fine-tuned model.
    """
    if scorer.settings.wise is None:
        return [], 1.0
    network, after = scorer.model.network, state_of(scorer.model)

    def load(weight: float) -> None:
        network.load_state_dict(interpolate(before, after, weight))

    points: list[WisePoint] = []
    weight = parse_wise(scorer.settings.wise)
    if weight is None:
        prompts = _held_out_prompts(scorer, held_out)
        others = scorer.examples(held_out, prompts) if held_out else validation.without_photos()
        embed_validation, embed_others = scorer.embedder(validation), scorer.embedder(others)

        def score(weight: float) -> tuple[ZeroShot, ZeroShot]:
            load(weight)
            return scorer.score(embed_validation, scorer.prompts), scorer.score(embed_others, prompts)

        points = sweep(score)
        weight = choose(points)
    load(weight)
    return points, weight


def _held_out_prompts(scorer: Scorer, held_out: Dataset | None) -> ClassPrompts:
    if held_out is None:
        return scorer.prompts
    return data_prompts(scorer.settings.prompts, held_out)


def state_of(model: OpenClipEncoder) -> dict[str, torch.Tensor]:
    """Return a copy of the network's tensors, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.network.state_dict().items()}
