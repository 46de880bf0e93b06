"""Logistic regression with a prior."""

from __future__ import annotations

import numpy as np
import pytest

from flip.classify.heads import Inputs, build_head, linear
from flip.classify.heads.columns import Columns
from flip.classify.heads.regression import BIAS_VARIANCE, Problem, basis_of, regress, weights_of
from tests.classify.heads_data import CLASSES, WIDTH, birds, photos


def problem_of(features, labels, weight, offset=None):
    basis = basis_of(Columns(features), weight)
    return Problem(Columns(features), labels, offset, basis, CLASSES)


def objective(features, labels, weight, offset, strength, weights, bias, basis):
    """The documented objective, in float64, at weights that act on the features as they are."""
    logits = features.astype(np.float64) @ weights + bias + (0 if offset is None else offset)
    top = logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - logits[np.arange(len(labels)), labels]
    centred = weights * basis.scale
    free = bias + basis.mean @ weights
    return weight @ losses + 0.5 * (centred**2).sum() / strength + 0.5 * (free**2).sum() / BIAS_VARIANCE


@pytest.mark.parametrize("strength", [0.3, 10.0])
def test_it_equals_scikit_learn(strength):
    """With the same centred features and a constant column instead of a bias, and no prior."""
    from sklearn.linear_model import LogisticRegression

    features, labels = photos(12, seed=3)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(labels)).astype(np.float32)
    problem = problem_of(features, labels, weight)
    got = regress(problem, weight, strength, tolerance=1e-7, precision=np.float64)
    constant = np.full((len(labels), 1), np.sqrt(BIAS_VARIANCE / strength))
    columns = np.hstack([(features - problem.basis.mean) / problem.basis.scale, constant])
    theirs = LogisticRegression(C=strength, fit_intercept=False, tol=1e-8, max_iter=10_000)
    theirs.fit(columns, labels, sample_weight=weight)
    weights, bias = weights_of(got.coordinates, problem.basis)
    np.testing.assert_allclose(features @ weights + bias, theirs.decision_function(columns), atol=2e-3)


@pytest.mark.parametrize("per_class", [2, 20])
def test_it_has_converged_to_the_minimum(per_class):
    """With fewer rows than dimensions, and with more: no step in any direction lowers the objective."""
    features, labels = photos(per_class, seed=3)
    weight = np.ones(len(labels), np.float32)
    offset = np.random.default_rng(1).normal(size=(len(labels), CLASSES)).astype(np.float32)
    problem = problem_of(features, labels, weight, offset)
    solution = regress(problem, weight, 3.0, precision=np.float64)
    assert solution.gradient <= 1e-5
    assert 0 < solution.iterations < 200
    weights, bias = (part.astype(np.float64) for part in weights_of(solution.coordinates, problem.basis))
    least = objective(features, labels, weight, offset, 3.0, weights, bias, problem.basis)
    rng = np.random.default_rng(2)
    for size in (1e-1, 1e-2):
        for _ in range(20):
            moved = weights + size * rng.normal(size=weights.shape), bias + size * rng.normal(size=bias.shape)
            assert objective(features, labels, weight, offset, 3.0, *moved, problem.basis) > least - 1e-5


def test_rows_of_weight_zero_take_no_part():
    features, labels = photos(10, seed=3)
    weight = np.ones(len(labels), np.float32)
    weight[::3] = 0
    basis = basis_of(Columns(features), np.ones(len(labels), np.float32))
    whole = Problem(Columns(features), labels, None, basis, CLASSES)
    rest = Problem(Columns(features[weight > 0]), labels[weight > 0], None, basis, CLASSES)
    got, expected = regress(whole, weight, 3.0, tolerance=1e-7), regress(rest, weight[weight > 0], 3.0, tolerance=1e-7)
    np.testing.assert_allclose(got.coordinates, expected.coordinates, atol=1e-3)


def test_image_and_text_side_by_side_equal_one_matrix(monkeypatch):
    features, labels = photos(10, seed=3)
    weight = np.ones(len(labels), np.float32)
    split = Problem(
        Columns(features[:, :5], features[:, 5:]), labels, None, basis_of(Columns(features), weight), CLASSES
    )
    joined = regress(problem_of(features, labels, weight), weight, 1.0, tolerance=1e-7)
    np.testing.assert_allclose(regress(split, weight, 1.0, tolerance=1e-7).coordinates, joined.coordinates, atol=1e-3)


def test_a_strong_prior_is_the_zero_shot_classifier_and_the_bias_its_correction():
    inputs, labels = birds(20)
    weight = np.ones(len(labels), np.float32)
    problem = problem_of(inputs.image, labels, weight, inputs.zero_shot)
    weights, bias = weights_of(regress(problem, weight, 1e-6).coordinates, problem.basis)
    assert np.abs(inputs.image @ weights).max() < 1e-3
    assert np.abs(bias).max() < 3


def test_the_protocol_says_how_each_choice_was_made():
    inputs, labels = birds(10)
    head = build_head("linear", CLASSES).fit(inputs, labels)
    assert "5-fold cross-validation on train" in head.protocol["C"]
    assert head.protocol["convergence"].startswith(f"{head.iterations} iterations")
    assert head.gradient <= 1e-5
    assert head.weights.shape == (WIDTH * (2 if head.use_text else 1), CLASSES)
    assert build_head("linear", CLASSES).fit(Inputs(inputs.image), labels).text_weight == 0


def test_a_large_problem_is_searched_on_a_part_and_fitted_whole(monkeypatch):
    monkeypatch.setattr(linear, "SEARCH_ROWS", 40)
    inputs, labels = birds(50)
    seen = []
    whole = linear.regress
    monkeypatch.setattr(linear, "regress", lambda p, *a, **k: seen.append(len(p.columns)) or whole(p, *a, **k))
    head = build_head("linear", CLASSES).fit(inputs, labels)
    assert seen[-1] == 200
    assert (head.predict(inputs) == labels).mean() > 0.9
