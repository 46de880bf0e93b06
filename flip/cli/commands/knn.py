"""``flip knn``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from flip.classify.settings import KnnSettings
from flip.cli.config import TrainedOptions
from flip.cli.context import Context
from flip.cli.options import command
from flip.cli.predicting import run_fit
from flip.files import cache_folder
from flip.settings import settings_from

if TYPE_CHECKING:
    from flip.classify.knn import KnnClassifier
    from flip.classify.training_set import TrainingSet


@dataclass(frozen=True, kw_only=True)
class KnnOptions(TrainedOptions, KnnSettings):
    """``flip knn``."""

    def __post_init__(self) -> None:
        TrainedOptions.__post_init__(self)
        KnnSettings.__post_init__(self)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "knn", KnnOptions)(knn)


def knn(options: KnnOptions) -> None:
    """Name each photo by a vote of the training photos that look most alike.

    Without IMAGES the split of --data is scored. With IMAGES each is named. With -k auto or a range, k is chosen by
    leave-one-out on the training photos; test photos never take part in the choice.
    """
    from flip.classify.knn import KnnClassifier

    context = Context(options)
    options = replace(options, text=context.text_side(options.text))
    with_text = options.text != "none"
    text = context.zero_shot_of_data(options.prompts).text if with_text else None
    settings = settings_from(options, KnnSettings)
    indexes = cache_folder(options.cache) / "neighbors"

    def fit(training: TrainingSet, seed: int) -> KnnClassifier:
        classifier = KnnClassifier(settings, text=text, device=options.device, seed=options.seed, index_folder=indexes)
        return classifier.fit(training)

    run_fit(options, context, "knn", fit, with_model=with_text)
