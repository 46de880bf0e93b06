"""The two halves that every classifying command has: score a split, or name photos as they come."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flip.cli.config import PredictOptions, TrainedOptions
from flip.cli.context import Context, finish, input_paths, is_there, progress, waiting
from flip.cli.output import prediction_writer, report_outcome, show_photos
from flip.cli.pictures import draw
from flip.errors import DataError
from flip.settings import Progress, parse_shots

if TYPE_CHECKING:
    from flip.classify.base import Classifier
    from flip.classify.groups import Candidates, ClassGroups
    from flip.data.dataset import Dataset
    from flip.results import Prediction
    from flip.studies.protocol import Description, Fit, Outcome

log = logging.getLogger("flip.cli")


def name_photos(options: PredictOptions, context: Context, classifier: Classifier) -> None:
    """Write one row for each input, in the input's order, each batch as soon as it is done."""
    from flip.studies.protocol import prediction_rows

    if len(classifier.classes_) < 2:
        raise DataError(f"there is one class, {classifier.classes_[0]!r}, so every photo is it; give two or more")
    if not context.is_main:
        return
    kept: list[Prediction] = []
    unreadable = 0
    about = _describe(options, context, "", classifier.classes_, {})
    with prediction_writer(options) as write:
        for batch in context.extractor.stream(input_paths(options.images or [], null=options.null)):
            features = batch.features(classifier.classes_, context.encoder.fingerprint)
            rows = prediction_rows(
                features.paths,
                features.errors,
                about.probabilities(classifier, features),
                classifier.classes_,
                neighbors=classifier.listed_neighbors(features),
                top=options.top,
                reject=options.reject,
                groups=about.groups,
            )
            unreadable += features.unreadable
            for row in rows:
                write(row)
            kept += rows if options.sheet or options.copy_to else ()
    show_photos(options, kept, Path())
    _require_named(options.images or [])
    finish(options, unreadable)


def _require_named(images: Sequence[str]) -> None:
    """Raise a DataError where a photo that was named as an argument is not there; its row is written already."""
    absent = [path for path in images if path != "-" and not is_there(path)]
    if absent:
        more = f", and {len(absent) - 1} more arguments are not there" if len(absent) > 1 else ""
        raise DataError(f"no photo {absent[0]}{more}; its row says so, and all others are named; check the path")


def describe(options: PredictOptions, context: Context, command: str, **protocol: object) -> Description:
    """Return what a result of this command says of its origin."""
    own = {**protocol, "crop": options.crop, "tta": options.tta}
    return _describe(options, context, command, context.dataset.classnames, own)


def _describe(
    options: PredictOptions, context: Context, command: str, classnames: Sequence[str], protocol: dict[str, object]
) -> Description:
    from flip.studies.protocol import Description

    return Description(
        command=command,
        data=context.data_name,
        model=context.model_name,
        split=options.split,
        protocol=protocol,
        reject=options.reject,
        groups=_groups(options.groups, classnames, context.opened),
        candidates=_candidates(options.subset, classnames, context.opened),
    )


def _groups(given: str | None, classnames: Sequence[str], dataset: Dataset | None) -> ClassGroups | None:
    """Return the ranks that ``--groups`` names: of a file, of the data, or the last words of the class names."""
    if given is None:
        return None
    from flip.classify import groups

    if given != groups.AUTO:
        return groups.read_groups(Path(given), classnames, dataset.raw_names if dataset else ())
    ranks = dataset.ranks if dataset else ()
    return groups.from_ranks(ranks, classnames) if ranks else groups.last_words(classnames)


def _candidates(given: Path | None, classnames: Sequence[str], dataset: Dataset | None) -> Candidates | None:
    if given is None:
        return None
    from flip.classify.groups import read_candidates

    return read_candidates(given, classnames, dataset.raw_names if dataset else ())


def show(options: PredictOptions, context: Context, outcome: Outcome, dataset: Dataset) -> None:
    """Write the evaluation of a split and what else the options ask for."""
    seconds = time.perf_counter() - context.began
    outcome = replace(outcome, evaluation=replace(outcome.evaluation, seconds=seconds))
    subset = outcome.evaluation.details.get("subset")
    if subset and subset["outside"]:
        log.info(
            "%d of %d scored photos are of classes outside %s and count as wrong; the others: %.1f %%",
            *(subset["outside"], outcome.evaluation.n, subset["file"], subset["top1"] or 0.0),
        )
    wanted = options.predictions or options.run or options.sheet or options.copy_to
    rows = outcome.rows(top=options.top, reject=options.reject) if wanted else []
    draw(options.plot, outcome)
    report_outcome(options, outcome, rows, dataset.select(options.split), context.used)
    finish(options, outcome.evaluation.unreadable)


def run_fit(
    options: TrainedOptions,
    context: Context,
    command: str,
    fit: Fit,
    *,
    with_model: bool,
    captions: bool = False,
) -> None:
    """Fit on the training photos, then score a split or name photos.

    Parameters
    ----------
    with_model : bool
        Whether a model is needed although the data may be a table of embeddings.
    captions : bool
        Embed each photo's captions too.
    """
    from flip.embed.captions import with_caption_features
    from flip.studies.few_shot import count_draws
    from flip.studies.protocol import run_protocol
    from flip.studies.training_data import make_training_set, take_splits

    dataset = context.dataset
    dataset.require_training_photos()
    if not options.images:
        require_meaning(context, options.split)
    splits = {"train"} if options.images else {"train", options.split}
    if options.images or options.augmented is not None:
        context.require_model()
    with_model = with_model or options.augmented is not None or not context.needs_no_model
    features = context.features(take_splits(dataset, splits), with_model=with_model)
    if not context.is_main:
        return
    extractor = context.extractor if with_model else None

    train, test = features.split("train"), features.split(options.split)
    if captions and extractor is not None:
        train, test = (with_caption_features(part, extractor) for part in (train, test))
    training = make_training_set(
        train, extractor, generated=options.augmented, generated_weight=options.augmented_weight
    )
    if options.images:
        with waiting(options, f"fitting {command}"):
            classifier = fit(training, options.seed)
        name_photos(options, context, classifier)
        return
    augmented = {"augmented": str(options.augmented), "augmented_weight": options.augmented_weight}
    about = describe(options, context, command, **(augmented if options.augmented else {}))
    shots = parse_shots(options.shots)
    with _fitting(options, command, count_draws(shots, options.seeds)) as advance:
        outcome = run_protocol(
            fit, training, test, shots=shots, seeds=options.seeds, seed=options.seed, about=about, progress=advance
        )
    show(options, context, outcome, dataset)


def _fitting(options: TrainedOptions, command: str, draws: int) -> AbstractContextManager[Progress | None]:
    """Show a bar while a method is fitted: over the few-shot draws, or for how long it has taken."""
    return progress(options, "draws", draws) if draws else waiting(options, f"fitting {command}")


def require_meaning(context: Context, split: str) -> None:
    """Refuse an evaluation that means nothing, and say where test photos are training photos as well.

    Raises
    ------
    DataError
        If the split has no photo, there is one class only, or the model learned from the photos.
    """
    from flip.clip.learned import require_unlearned_by_model
    from flip.data.same_photos import warn_of_copies

    dataset = context.dataset
    dataset.select(split)
    dataset.require_classes()
    require_unlearned_by_model(context.model_name, dataset, split)
    warn_of_copies(dataset)
    dataset.note_absent_classes(split)
