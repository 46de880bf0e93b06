"""Labels in doubt and outliers: made-up features of which the answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flip.data.dataset import Dataset, Record
from flip.errors import ConfigError
from flip.features import Features
from flip.names import CHECKS
from flip.studies.audit import audit, registry
from flip.studies.audit_settings import AuditSettings
from flip.studies.label_doubt import class_similarities, confident_disputes, doubt_labels, fit_noise, wrong_label

DIM = 24


def class_features(dataset: Dataset, spread: float = 0.25, seed: int = 0) -> Features:
    """Return features of a dataset's photos around a direction of each class."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0][: len(dataset.classnames)]
    rows = centres[dataset.labels] + spread * rng.normal(size=(len(dataset), DIM)) / np.sqrt(DIM)
    return Features(
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32),
        dataset.labels,
        tuple(record.path for record in dataset.records),
        tuple(record.split for record in dataset.records),
        ((),) * len(dataset),
        (None,) * len(dataset),
        dataset.classnames,
        dataset.raw_names,
        "one",
    )


def made_up(classes: int = 8, photos: int = 20, flipped: int = 0, seed: int = 0) -> tuple[Dataset, Features, set[str]]:
    """Return a dataset without files, features of its true classes, and the paths whose labels were changed."""
    names = tuple(f"bird {c}" for c in range(classes))
    records = [Record(f"{c}/{n}.jpg", c, "train") for c in range(classes) for n in range(photos)]
    true = Dataset(Path("nowhere"), "manifest", names, names, tuple(records))
    features, rng = class_features(true, seed=seed), np.random.default_rng(seed)
    chosen = rng.choice(len(records), flipped, replace=False)
    for i in chosen:
        records[i] = records[i]._replace(label=int((records[i].label + rng.integers(1, classes)) % classes))
    dataset = Dataset(Path("nowhere"), "manifest", names, names, tuple(records))
    return dataset, features, {records[i].path for i in chosen}


@pytest.mark.parametrize("flipped", [1, 5, 16])
def test_flipped_labels_are_ranked_first(flipped: int) -> None:
    dataset, features, bad = made_up(flipped=flipped)
    found = audit(dataset, features, checks=("labels-in-doubt",))
    assert {row.path for row in found.ranking[:flipped]} == bad
    assert len(found.ranking) == len(dataset)
    # The default cut takes from the top of the ranking, and most of what is wrong.
    doubted = {finding.path for finding in found.findings}
    assert doubted <= bad
    assert len(doubted) >= 0.8 * flipped
    assert {row.path for row in found.ranking if row.in_doubt} == doubted
    assert [row.score for row in found.ranking] == sorted((row.score for row in found.ranking), reverse=True)
    for finding in found.findings:
        assert finding.other == f"bird {str(finding.path)[0]}"
    assert len(found.clean()) == len(dataset) - len(doubted)


def test_right_labels_are_not_doubted() -> None:
    for seed in range(3):
        dataset, features, _ = made_up(seed=seed)
        assert audit(dataset, features, checks=("labels-in-doubt",)).findings == ()


def test_one_class_and_one_photo_per_class_are_said() -> None:
    for classes, photos in ((1, 20), (8, 1)):
        dataset, features, _ = made_up(classes, photos)
        found = audit(dataset, features, checks=("labels-in-doubt",))
        assert found.findings == ()
        assert found.ranking == ()
        assert "class" in found.notes["labels-in-doubt"]


def test_unreadable_photos_are_not_judged() -> None:
    dataset, features, bad = made_up(flipped=3)
    first = next(i for i, path in enumerate(features.paths) if path in bad)
    errors = tuple("truncated" if i == first else None for i in range(len(features)))
    image = features.image_features.copy()
    image[first] = 0
    broken = Features(**{**vars(features), "errors": errors, "image_features": image})
    found = audit(dataset, broken, checks=("labels-in-doubt",))
    assert {row.path for row in found.ranking[:2]} == bad - {features.paths[first]}
    assert len(found.ranking) == len(dataset) - 1


def test_the_rate_of_noise_is_estimated() -> None:
    for flipped in (0, 16, 32):
        dataset, features, _ = made_up(flipped=flipped)
        noise = doubt_labels(features.image_features, dataset.labels, 8).noise
        assert noise.rate == pytest.approx(max(flipped / 160, 0.005), abs=0.03)


def test_noise_of_given_logits() -> None:
    # Sure logits, one label in ten wrong: the rate is a tenth.
    labels = np.arange(1000) % 10
    logits = 30.0 * np.eye(10)[labels]
    given = np.where(np.arange(1000) % 100 < 10, (labels + 3) % 10, labels)
    assert fit_noise(logits.astype(np.float32), given).rate == pytest.approx(0.1, abs=0.01)


def test_bayes_rule_by_hand() -> None:
    # P(wrong) = 0.5 · 0.1 / (0.5 · 0.1 + 0.5 · 0.9) with two classes and equal probabilities.
    wrong = wrong_label(np.array([[0.5, 0.5], [1.0, 0.0]], np.float32), np.array([0, 1]), 0.1)
    assert wrong == pytest.approx([0.1, 1.0])


def test_the_confident_joint_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.85, 0.15], [0.2, 0.8]], np.float32)
    labels = np.array([0, 0, 1, 1])
    # Thresholds are the means of the own probabilities: 0.8 and 0.475. The second photo reaches neither.
    assert confident_disputes(probabilities, labels).tolist() == [False, False, True, False]


def test_photos_far_from_every_class() -> None:
    dataset, features, _ = made_up()
    image = features.image_features.copy()
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
    image[[3, 50, 111]] = directions[9:12]  # orthogonal to those of all classes
    strange = Features(**{**vars(features), "image_features": image})
    table = Dataset(**{**vars(dataset), "embeddings": Path("nowhere.parquet")})
    found = audit(table, strange)
    assert {f.path for f in found.findings if f.kind == "outliers"} == {dataset.records[i].path for i in (3, 50, 111)}
    own, best = class_similarities(image, dataset.labels, 8)
    assert own[3] < 0.25
    assert best[3] < 0.3
    assert np.median(own) > 0.8


def test_a_table_of_embeddings_is_audited_without_photos() -> None:
    dataset, features, bad = made_up(flipped=4)
    table = Dataset(**{**vars(dataset), "embeddings": Path("nowhere.parquet")})
    found = audit(table, features)
    assert all({"names", "features"}.intersection(check.needs) for check in found.checks)
    doubted = {finding.path for finding in found.of("labels-in-doubt")}
    assert doubted
    assert doubted <= bad
    assert found.of("outliers") == []


def test_every_check_is_registered() -> None:
    assert tuple(check.name for check in registry()) == CHECKS


def test_settings() -> None:
    assert AuditSettings(only="dark, tiny").checks == ("dark", "tiny")
    assert "dark" not in AuditSettings(skip="dark").checks
    for wrong in ({"only": "darc"}, {"only": "dark", "skip": "dark"}, {"few": 0}, {"ranking": Path("a.txt")}):
        with pytest.raises(ConfigError):
            AuditSettings(**wrong)  # type: ignore[arg-type]
