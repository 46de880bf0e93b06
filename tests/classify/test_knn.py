import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from flip.classify.knn import NeighborIndex, Neighbors, fit_knn, vote_shares
from flip.errors import ConfigError, DataError, FeatureMismatchError


def unit(rng, n, d=16):
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def clusters():
    """Three classes around three directions, noisy enough that they overlap."""
    rng = np.random.default_rng(0)
    centres = unit(rng, 3)
    labels = np.repeat(np.arange(3), 30)
    x = centres[labels] + 0.35 * rng.normal(size=(90, 16))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def test_k_1_on_the_training_rows_returns_each_row_s_own_label(clusters):
    x, y = clusters
    assert (fit_knn(x, y, 3, k=1).predict_proba(x).argmax(axis=1) == y).all()


@pytest.mark.parametrize("k", range(3, 21))
def test_uniform_votes_equal_scikit_learn_s_cosine_knn(clusters, k):
    x, y = clusters
    queries = unit(np.random.default_rng(1), 200)
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x, y)
    ours = fit_knn(x, y, 3, k=k, vote="uniform").predict_proba(queries)
    assert ours == pytest.approx(theirs.predict_proba(queries), abs=1e-6)
    assert (ours.argmax(axis=1) == theirs.predict(queries)).all()


def test_softmax_vote_by_hand():
    neighbors = Neighbors(np.array([[0.9, 0.8]], np.float32), np.array([[0, 1]]))
    share = 1 / (1 + np.exp(-0.1 / 0.07))
    assert vote_shares(neighbors, np.array([1, 0]), 2, "softmax", 0.07) == pytest.approx(np.array([[1 - share, share]]))


def test_a_uniform_tie_goes_to_the_lowest_class():
    neighbors = Neighbors(np.array([[0.9, 0.8]], np.float32), np.array([[0, 1]]))
    assert vote_shares(neighbors, np.array([2, 1]), 3, "uniform").argmax() == 1


def test_a_missing_neighbour_has_no_vote():
    neighbors = Neighbors(np.array([[0.9, 0.0]], np.float32), np.array([[0, -1]]))
    assert vote_shares(neighbors, np.array([0, 1]), 2, "uniform") == pytest.approx(np.array([[1.0, 0.0]]))


def test_search_others_never_returns_the_row_itself_even_among_copies():
    x = unit(np.random.default_rng(2), 6)
    x[3] = x[0]
    x[4] = x[0]
    rows = NeighborIndex(x).search_others(3).rows
    assert rows.shape == (6, 3)
    assert not (rows == np.arange(6)[:, None]).any()


def test_k_is_chosen_by_leave_one_out_against_brute_force(clusters):
    x, y = clusters
    classifier = fit_knn(x, y, 3, k=range(1, 16), vote="uniform")
    for trial in classifier.trials:
        correct = 0
        for i in range(len(x)):
            others = np.delete(np.arange(len(x)), i)
            nearest = others[np.argsort(-(x[others] @ x[i]), kind="stable")[: trial.k]]
            correct += np.bincount(y[nearest], minlength=3).argmax() == y[i]
        assert trial.train_top1 == pytest.approx(100 * correct / len(x))
    best = max(trial.train_top1 for trial in classifier.trials)
    assert classifier.k == min(t.k for t in classifier.trials if t.train_top1 == best)


def test_approximate_indexes_find_most_and_say_how_many(clusters):
    x = unit(np.random.default_rng(3), 2000)
    for kind in ("ivf", "hnsw"):
        index = NeighborIndex(x, kind)
        assert 0.3 < index.recall(5) <= 1.0
    assert NeighborIndex(x, "flat").recall(5) == 1.0


def test_permuting_the_training_rows_changes_no_vote(clusters):
    x, y = clusters
    order = np.random.default_rng(4).permutation(len(x))
    queries = unit(np.random.default_rng(5), 20)
    a = fit_knn(x, y, 3, k=5).predict_proba(queries)
    assert fit_knn(x[order], y[order], 3, k=5).predict_proba(queries) == pytest.approx(a, abs=1e-6)


def test_k_too_large_names_the_limit():
    x = unit(np.random.default_rng(0), 3)
    with pytest.raises(ConfigError, match=r"k=5 exceeds the 3 images in the index; pass -k 3 or fewer"):
        fit_knn(x, np.array([0, 1, 1]), 2, k=5)
    with pytest.raises(ConfigError, match="k=3 exceeds the 2 other images"):
        fit_knn(x, np.array([0, 1, 1]), 2, k=range(1, 4))


def test_one_training_photo_is_enough_for_auto():
    assert fit_knn(np.ones((1, 2), np.float32), np.array([0]), 1).k == 1


def test_no_training_row_and_another_width_are_one_line_errors():
    with pytest.raises(DataError, match="no training photo"):
        NeighborIndex(np.zeros((0, 4), np.float32))
    with pytest.raises(FeatureMismatchError, match="queries have width 3, the index 4"):
        NeighborIndex(np.ones((2, 4), np.float32)).search(np.ones((1, 3), np.float32), 1)


def test_leave_one_out_leaves_out_what_was_made_from_a_photo():
    """Two photos of each of two classes, and an exact copy of each: a copy must not name its original."""
    photos = np.array([[1, 0], [-1, 0.1], [0.1, 1], [0.1, -1]], np.float32)
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    labels, group = np.array([0, 0, 1, 1] * 2), np.array([0, 1, 2, 3] * 2)
    real = np.arange(8) < 4
    told = fit_knn(np.tile(photos, (2, 1)), labels, 2, k=[1, 2], real=real, group=group)
    untold = fit_knn(np.tile(photos, (2, 1)), labels, 2, k=[1, 2], real=real)
    assert untold.trials[0].train_top1 == 100
    assert told.trials[0].train_top1 == 0, "each photo's nearest other one is of the other class"
    rows = told.index.search_others(7, group).rows
    assert (rows[:, -1] == -1).all(), "six others are left of eight"
    assert (np.sort(group[rows[:, :6]], axis=1) == [[x for x in range(4) if x != g for _ in "12"] for g in group]).all()
