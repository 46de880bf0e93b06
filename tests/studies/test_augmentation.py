"""The study of generated pictures, on features made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flip.classify.heads import Inputs, build_head
from flip.errors import ConfigError
from flip.metrics import paired_interval_over_draws
from flip.studies.augmentation import CONTROL, NONE, TEXT, Condition, TrainingPool, compare, fit, plan, rows_of
from tests.classify.heads_data import CLASSES, photos, unit


def make_pool(per_class: int = 6, extras: int = 2, noise: float = 0.1) -> TrainingPool:
    features, labels = photos(per_class, seed=1)
    made = {}
    for i, arm in enumerate((CONTROL, TEXT)):
        rng = np.random.default_rng(i)
        several = np.repeat(features[:, None], extras, axis=1)
        made[arm] = unit((several + noise * rng.normal(size=several.shape)).reshape(-1, features.shape[1]))
    return TrainingPool(features, labels, {arm: m.reshape(len(labels), extras, -1) for arm, m in made.items()})


def linear(seed: int) -> Any:
    return build_head("linear", CLASSES, seed)


class Recorder:
    """Stands for a head: remembers what it was fitted on, and names everything class 0."""

    fitted: list[dict[str, Any]]

    def __init__(self, fitted: list[dict[str, Any]]) -> None:
        self.fitted = fitted

    def fit(self, inputs: Inputs, labels: Any, weight: Any, real: Any, group: Any) -> Recorder:
        self.fitted.append({"image": inputs.image, "labels": labels, "weight": weight, "real": real, "group": group})
        return self

    def predict(self, inputs: Inputs) -> Any:
        return np.zeros(len(inputs), np.int64)


def test_a_draw_is_fitted_on_its_own_photos_and_their_extras_alone() -> None:
    pool = make_pool(per_class=5)
    # Each feature tells whose it is: its first number is that of the photo.
    own = np.arange(len(pool.labels), dtype=np.float32)
    marked = TrainingPool(
        np.repeat(own[:, None], 3, axis=1),
        pool.labels,
        {arm: np.repeat(np.repeat(own[:, None, None], 2, axis=1), 3, axis=2) for arm in (CONTROL, TEXT)},
    )
    fitted: list[dict[str, Any]] = []
    options: Any = {"shots": [1, 2, None], "seeds": 2, "weights": (0.5, 1.0)}
    compare(marked, marked.photos, marked.labels, lambda seed: Recorder(fitted), **options)  # type: ignore[arg-type,return-value]
    planned = list(plan(marked.labels, [1, 2, None], 2, (CONTROL, TEXT), (0.5, 1.0)))
    assert len(fitted) == len(planned) == 5 * 5
    for (draw, condition), seen in zip(planned, fitted, strict=True):
        each = 0 if condition.arm == NONE else 2
        assert sorted(seen["image"][:, 0]) == sorted(np.repeat(draw.rows, 1 + each))
        assert list(seen["image"][:, 0]) == list(seen["group"])
        assert list(marked.labels[seen["group"]]) == list(seen["labels"])
        assert seen["real"].sum() == len(draw.rows)
        assert seen["weight"].sum() == pytest.approx(len(draw.rows))
        if condition.weight is not None:
            ratio = seen["weight"][~seen["real"]] / seen["weight"][0]
            assert ratio == pytest.approx(np.full(2 * len(draw.rows), condition.weight))


def test_extras_of_weight_zero_are_no_extras() -> None:
    pool, (others, _) = make_pool(), photos(20, seed=2)
    rows = np.arange(0, len(pool.labels), 2)
    none, weightless, full = (
        fit(linear(0), pool, rows, arm, weight).logits(Inputs(others))
        for arm, weight in ((NONE, 1.0), (TEXT, 0.0), (TEXT, 1.0))
    )
    np.testing.assert_allclose(weightless, none, atol=1e-3)
    assert np.abs(full - none).max() > 0.05


@pytest.mark.parametrize("per_class", [1, 6])
def test_copies_of_the_photos_change_nothing_at_any_weight(per_class: int) -> None:
    """Neither through the weights' sum nor through a held-out photo that is named by its own copy."""
    pool, (others, _) = make_pool(per_class, noise=0.0), photos(20, seed=2)
    rows = np.arange(len(pool.labels))
    none, copied = (fit(linear(0), pool, rows, arm, 0.7) for arm in (NONE, TEXT))
    np.testing.assert_allclose(copied.logits(Inputs(others)), none.logits(Inputs(others)), atol=2e-2)
    assert copied.protocol["C"] == none.protocol["C"]


def test_test_photos_and_their_labels_change_no_fitted_parameter() -> None:
    pool, (others, truth) = make_pool(), photos(10, seed=2)

    def parameters(test: Any, labels: Any) -> list[bytes]:
        heads: list[Any] = []

        def make(seed: int) -> Any:
            heads.append(linear(seed))
            return heads[-1]

        compare(pool, test, labels, make, shots=[2], seeds=2, weights=(0.3,))
        return [head.weights.tobytes() for head in heads]

    assert parameters(others, truth) == parameters(others[::-1], (truth + 1) % CLASSES)


def test_rows_say_what_is_gained_over_none_and_over_the_control() -> None:
    rng = np.random.default_rng(0)
    correct = {
        Condition(shots, arm, weight): rng.random((2, 30)) < share
        for shots in (1, None)
        for arm, weight, share in ((NONE, None, 0.5), (CONTROL, 1.0, 0.6), (TEXT, 1.0, 0.7))
    }
    rows = rows_of(correct)
    assert [(r["shots"], r["arm"]) for r in rows] == [(s, a) for s in (1, "all") for a in (NONE, CONTROL, TEXT)]
    none, control, text = rows[:3]
    assert (none["over_none"], none["over_views"], control["over_views"]) == (None, None, None)
    assert text["top1"] == pytest.approx(100 * correct[Condition(1, TEXT, 1.0)].mean())
    gain, low, high = paired_interval_over_draws(correct[Condition(1, TEXT, 1.0)], correct[Condition(1, CONTROL, 1.0)])
    assert (text["over_views"], text["over_views_ci95"]) == (gain, [low, high])
    assert text["over_none"] == pytest.approx(text["top1"] - none["top1"])
    assert control["over_none"] == pytest.approx(control["top1"] - none["top1"])


def test_pictures_that_tell_the_classes_apart_help_and_the_study_sees_it() -> None:
    """Extras right at the class centres: with one noisy photo a class they name what the photo cannot."""
    features, labels = photos(8, seed=1, noise=0.8)
    centres = np.stack([photos(1, seed=9, noise=0.0)[0][label] for label in labels])
    extras = {CONTROL: np.repeat(features[:, None], 2, axis=1), TEXT: np.repeat(centres[:, None], 2, axis=1)}
    pool, (others, truth) = TrainingPool(features, labels, extras), photos(60, seed=2, noise=0.5)
    rows = compare(pool, others, truth, linear, shots=[1], seeds=3, weights=(1.0,))
    control, text = rows[1], rows[2]
    assert text["over_views_ci95"][0] > 0
    assert control["over_none_ci95"][0] <= 0 <= control["over_none_ci95"][1]


def test_extras_that_do_not_fit_the_photos_are_one_line() -> None:
    pool = make_pool()
    with pytest.raises(ConfigError, match=r"extras of arm 'views' have shape"):
        TrainingPool(pool.photos[:3], pool.labels[:3], pool.extras)
    with pytest.raises(ConfigError, match="unequal numbers of extras"):
        TrainingPool(pool.photos, pool.labels, {CONTROL: pool.extras[CONTROL], TEXT: pool.extras[TEXT][:, :1]})
