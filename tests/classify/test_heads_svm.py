"""Support vector machines read back as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from flip.classify.heads import Inputs, build_head, svm
from flip.errors import ConfigError
from tests.classify.heads_data import birds, photos


@pytest.mark.parametrize("name", ["svm-linear", "svm-rbf"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_scores_equal_scikit_learns_decisions(name, classes):
    from sklearn.svm import SVC

    features, labels = photos(15, seed=1, noise=0.6)
    features, labels = features[labels < classes], labels[labels < classes]
    others, _ = photos(20, seed=2, noise=0.6)
    head = build_head(name, classes).fit(Inputs(features), labels)
    got = head.scores(head.view(Inputs(others)))
    centred, queries = ((x - head.mean).astype(np.float64) / head.scale for x in (features, others))
    read_back = SVC(C=head.setting["C"], kernel="precomputed").fit(head.kernel(centred, centred), labels)
    expected = as_scores(read_back.decision_function(head.kernel(queries, centred)))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # Its own kernel takes the solver another way to the same optimum, within the solver's tolerance of 1e-3.
    own = SVC(C=head.setting["C"], kernel=name.removeprefix("svm-"), gamma=1.0).fit(centred, labels)
    np.testing.assert_allclose(got, as_scores(own.decision_function(queries)), atol=5e-3)


def as_scores(decisions):
    """One margin between two classes, as a vote for the winner and the same margin, bounded, to either side."""
    if decisions.ndim == 2:
        return decisions
    margin = decisions / (3 * (np.abs(decisions) + 1))
    return np.stack([(decisions <= 0) - margin, (decisions > 0) + margin], axis=1)


def test_many_classes_are_scored_in_parts(monkeypatch):
    inputs, labels = birds(6)
    head = build_head("svm-rbf", 4).fit(inputs, labels)
    whole = head.scores(head.view(inputs))
    monkeypatch.setattr(svm, "PAIRS_AT_ONCE", 50)
    np.testing.assert_allclose(head.scores(head.view(inputs)), whole, atol=1e-6)


def test_too_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr(svm, "MOST_ROWS", 20)
    inputs, labels = birds(6)
    with pytest.raises(ConfigError, match="svm-rbf takes at most 20 training photos and was given 24; pass --head"):
        build_head("svm-rbf", 4).fit(inputs, labels)
