"""The audit of a dataset: every check of ``flip data check``, with those on embeddings."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from flip.arrays import BoolArray
from flip.data.audit import Check, Finding, Subject, find_with
from flip.data.checks import classes, copies, photos
from flip.data.dataset import Dataset
from flip.features import Features
from flip.names import CHECKS
from flip.settings import Progress
from flip.studies.label_doubt import LabelDoubts, class_similarities, doubt_labels

log = logging.getLogger(__name__)

#: A photo is an outlier if its cosine with the mean of its own class is below the first, with every class's below the
#: second, and the head gives its label less than the third. Cosines are of centred features.
OWN_CLASS, ANY_CLASS, LABEL_PROBABILITY = 0.25, 0.3, 0.2


@dataclass
class EmbeddedSubject(Subject):
    """A dataset that is audited together with its embeddings.

    Attributes
    ----------
    seed : int
        Decides the folds of the head that judges labels.
    """

    seed: int = 0

    @cached_property
    def readable(self) -> BoolArray:
        """Photos that have an embedding, bool array of shape (n,)."""
        assert self.features is not None
        return np.array([error is None for error in self.features.errors], bool)

    @cached_property
    def doubts(self) -> LabelDoubts | None:
        """The labels of the readable photos, judged; None where there is one class."""
        assert self.features is not None
        labels = self.dataset.labels[self.readable]
        if len(np.unique(labels)) < 2:
            return None
        n_classes = len(self.dataset.classnames)
        return doubt_labels(self.features.image_features[self.readable], labels, n_classes, seed=self.seed)


class LabelRow(NamedTuple):
    """One photo in the ranking of labels.

    ``score`` is one less the probability that the head gives the label, and ``wrong`` the probability that the label is
    wrong, given the rate at which labels are.
    """

    path: str
    label: str
    suggested: str
    split: str
    score: float
    wrong: float
    in_doubt: bool


@dataclass(frozen=True)
class Audit:
    """What was found in a dataset.

    Attributes
    ----------
    dataset : Dataset
    checks : tuple of Check
        Those that ran.
    findings : tuple of Finding
        In the order of the checks; the surest of a kind first.
    ranking : tuple of LabelRow
        Every photo whose label was judged, the most doubtful first; empty without embeddings.
    notes : dict of str to str
        What there is to know of a check, by its name.
    """

    dataset: Dataset
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    ranking: tuple[LabelRow, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)

    def of(self, check: str) -> list[Finding]:
        """Return the findings of one kind."""
        return [finding for finding in self.findings if finding.kind == check]

    @property
    def dropped(self) -> set[str]:
        """Paths of the photos that a clean manifest leaves out."""
        drops = {check.name for check in self.checks if check.drops}
        return {finding.path for finding in self.findings if finding.path is not None and finding.kind in drops}

    def clean(self) -> Dataset:
        """Return the dataset without the photos that were found."""
        return self.dataset.take(i for i, r in enumerate(self.dataset.records) if r.path not in self.dropped)


def audit(
    dataset: Dataset,
    features: Features | None = None,
    *,
    checks: Sequence[str] = CHECKS,
    few: int = 5,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Run checks on a dataset.

    Parameters
    ----------
    dataset : Dataset
    features : Features, optional
        Of every photo, in its order. Checks that need them are left out without.
    checks : sequence of str
        Of ``flip.names.CHECKS``.
    few : int
        Classes with fewer training photos than this are found.
    seed : int
        Decides the folds of the head that judges labels.
    workers : int, optional
        Threads that decode photos; one per CPU core without.
    progress : callable, optional
        Called with 1 for each photo that was decoded.
    """
    has_photos = dataset.embeddings is None
    there = {"names", *(("files", "photos") if has_photos else ()), *(("features",) if features is not None else ())}
    wanted = tuple(check for check in registry() if check.name in checks and there.intersection(check.needs))
    subject = EmbeddedSubject(dataset, features, few, workers, progress, seed)
    findings: list[Finding] = []
    for check in wanted:
        found = find_with(check, subject)
        findings += sorted(found, key=_surest_first)
    judged = features is not None and "labels-in-doubt" in {check.name for check in wanted}
    notes = dict(_notes(subject)) if judged else {}
    return Audit(dataset, wanted, tuple(findings), tuple(_ranking(subject)) if judged else (), notes)


def registry() -> tuple[Check, ...]:
    """Return every check, in the order of ``flip.names.CHECKS``."""
    known = {check.name: check for check in (*photos.CHECKS, *copies.CHECKS, *classes.CHECKS, *MODEL_CHECKS)}
    return tuple(known[name] for name in CHECKS)


def _surest_first(finding: Finding) -> tuple[float, str]:
    upwards = finding.kind in ("dark", "blurred", "flat", "tiny", "few-photos")
    score = 0.0 if math.isnan(finding.score) else finding.score
    return score if upwards else -score, finding.path or ""


def _labels_in_doubt(subject: Subject) -> Iterator[Finding]:
    assert isinstance(subject, EmbeddedSubject)
    doubts = subject.doubts
    if doubts is None:
        return
    rows = np.flatnonzero(subject.readable)
    for i in np.flatnonzero(doubts.in_doubt):
        name = subject.dataset.classnames[doubts.suggested[i]]
        why = f"looks like {name!r}; the label has probability {doubts.given[i]:.2g}"
        yield subject.finding(int(rows[i]), why, 1 - float(doubts.given[i]))._replace(other=name)


def _outliers(subject: Subject) -> Iterator[Finding]:
    assert isinstance(subject, EmbeddedSubject)
    for i, similarity in _far_from_all_classes(subject):
        yield subject.finding(i, "unlike every class, its own included", 1 - similarity)
    if subject.dataset.embeddings is None:
        for i in photos.drawn(subject):
            yield subject.finding(i, "drawn, or noise: no photo as the others are", 1.0)


def _far_from_all_classes(subject: EmbeddedSubject) -> Iterator[tuple[int, float]]:
    """Yield the rows of outliers with their cosine to the nearest class."""
    if subject.features is None or subject.doubts is None:
        return
    rows = np.flatnonzero(subject.readable)
    labels, features = subject.dataset.labels[rows], subject.features.image_features[rows]
    own, best = class_similarities(features, labels, len(subject.dataset.classnames))
    unlikely = np.nan_to_num(subject.doubts.given, nan=1.0) < LABEL_PROBABILITY
    for i in np.flatnonzero((own < OWN_CLASS) & (best < ANY_CLASS) & unlikely):
        yield int(rows[i]), float(best[i])


def _ranking(subject: EmbeddedSubject) -> Iterable[LabelRow]:
    doubts, names = subject.doubts, subject.dataset.classnames
    if doubts is None:
        return
    rows = np.flatnonzero(subject.readable)
    for i in np.lexsort((np.arange(len(rows)), doubts.given)):
        if doubts.judged[i]:
            record = subject.dataset.records[rows[i]]
            suggested = names[doubts.suggested[i]]
            score, wrong = 1 - float(doubts.given[i]), float(doubts.wrong[i])
            in_doubt = bool(doubts.in_doubt[i])
            yield LabelRow(record.path, names[record.label], suggested, record.split, score, wrong, in_doubt)


def _notes(subject: EmbeddedSubject) -> Iterator[tuple[str, str]]:
    doubts = subject.doubts
    if doubts is None:
        yield "labels-in-doubt", "one class: there is no other label to compare with"
        return
    if not doubts.judged.any():
        yield "labels-in-doubt", "one photo per class: no label can be judged by the others of its class"
        return
    unjudged = int((~doubts.judged).sum())
    alone = f"; {unjudged} photos alone in their class are not judged" if unjudged else ""
    yield (
        "labels-in-doubt",
        f"about {100 * doubts.noise.rate:.1f} % of the labels seem wrong; confident learning alone would doubt "
        f"{doubts.confident} of {int(doubts.judged.sum())}{alone}",
    )


#: The checks that look at embeddings.
MODEL_CHECKS = (
    Check("labels-in-doubt", "warning", True, ("features",), _labels_in_doubt),
    Check("outliers", "warning", True, ("photos", "features"), _outliers),
)

#: Checks that embeddings make possible, or find more with.
LOOK_AT_FEATURES = frozenset(
    ("labels-in-doubt", "outliers", "near-copies", "near-copies-across-splits", "near-copies-across-classes")
)
