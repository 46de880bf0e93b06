import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from flip.classify.index import NeighborIndex, Neighbors
from flip.classify.knn import KnnClassifier
from flip.classify.settings import AUTO_K, KnnSettings, parse_k
from flip.classify.text_side import ZeroShotText
from flip.classify.training_set import TrainingSet
from flip.classify.votes import ShareScale, choose_text_share, fit_knn, fit_share_scale, vote_shares
from flip.errors import ConfigError, DataError, FeatureMismatchError
from flip.results import Neighbor
from tests.classify.features_data import CLASSNAMES, bird_features, features_of
from tests.classify.heads_data import class_embeddings


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


def test_an_exact_index_finds_the_neighbours_that_brute_force_finds():
    x, queries = unit(np.random.default_rng(3), 200), unit(np.random.default_rng(4), 50)
    found = NeighborIndex(x, "flat").search(queries, 5)
    true = np.argsort(-(queries @ x.T), axis=1)[:, :5]
    assert (found.rows == true).all()
    assert found.similarities == pytest.approx(np.take_along_axis(queries @ x.T, true, axis=1), abs=1e-6)


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
    grouped = fit_knn(np.tile(photos, (2, 1)), labels, 2, k=[1, 2], real=real, group=group)
    ungrouped = fit_knn(np.tile(photos, (2, 1)), labels, 2, k=[1, 2], real=real)
    assert ungrouped.trials[0].train_top1 == 100
    assert grouped.trials[0].train_top1 == 0, "each photo's nearest other one is of the other class"
    rows = grouped.index.search_others(7, group).rows
    assert (rows[:, -1] == -1).all(), "six others are left of eight"
    assert (np.sort(group[rows[:, :6]], axis=1) == [[x for x in range(4) if x != g for _ in "12"] for g in group]).all()


def test_settings_are_checked_and_name_the_words():
    assert parse_k("auto") is None
    assert parse_k("3:5") == (3, 4, 5)
    assert KnnSettings().k == "auto"
    for wrong in ("0", "5:3", "many", "1:2:3"):
        with pytest.raises(ConfigError, match="is not a number of neighbours"):
            KnnSettings(k=wrong)
    with pytest.raises(ConfigError, match=r"--temperature 0 is not positive; pass for example 0\.07"):
        KnnSettings(temperature=0)
    with pytest.raises(ConfigError, match=r"--vote 'unifrm' is unknown; did you mean uniform\?; pass one of uniform"):
        KnnSettings(vote="unifrm")
    with pytest.raises(ConfigError, match="needs the class embeddings"):
        KnnClassifier(KnnSettings(text="prompts"))


def test_the_classifier_votes_as_the_arrays_do():
    train, test = bird_features(8), bird_features(5, seed=2)
    arrays = fit_knn(train.image_features, train.labels, 4)
    classifier = KnnClassifier().fit(train)
    shares = arrays.predict_proba(test.image_features)
    scale = fit_share_scale(arrays.leave_one_out_shares(arrays.k), train.labels)
    np.testing.assert_allclose(classifier.predict_proba(test), scale.probabilities(shares), atol=1e-6)
    np.testing.assert_array_equal(classifier.predict(test), shares.argmax(axis=1))
    assert classifier.k == arrays.k
    assert classifier.protocol == {
        "k": arrays.k,
        "k_chosen_by": "leave-one-out on train",
        "vote": "softmax",
        "train_photos": 32,
        "calibration": "least log-loss in leave-one-out on train",
        "index": "flat",
        "temperature": 0.07,
    }


def test_a_k_that_is_given_is_taken():
    train = bird_features(4)
    classifier = KnnClassifier(k=3).fit(train)
    assert classifier.k == 3
    assert classifier.protocol["k_chosen_by"] == "given"
    assert classifier.sweep(train) == []
    uniform = KnnClassifier(KnnSettings(vote="uniform", k="1")).fit(train)
    assert "temperature" not in uniform.protocol
    assert uniform.score(train) == 1


def test_the_sweep_reports_each_k_on_train_and_on_the_photos_scored():
    train, test = bird_features(8), bird_features(5, seed=2, unreadable=(0,))
    classifier = KnnClassifier(KnnSettings(k="2:4")).fit(train)
    rows = classifier.sweep(test)
    assert [row["k"] for row in rows] == [2, 3, 4]
    assert [row["k"] for row in rows if row["chosen"]] == [classifier.k]
    for row in rows:
        assert row["top1"] == pytest.approx(100 * KnnClassifier(k=row["k"]).fit(train).score(test))
    assert [row["k"] for row in KnnClassifier().fit(train).sweep(test)] == [k for k in AUTO_K if k < 32]


def test_neighbours_are_named_by_path_and_label():
    image = np.eye(4, dtype=np.float32)
    train = features_of(image, np.arange(4))
    asked = features_of((image + 0.5 * np.roll(image, 1, axis=0)) / np.sqrt(1.25, dtype=np.float32), np.arange(4))
    classifier = KnnClassifier(k=2).fit(train)
    first, *_ = classifier.neighbors(asked)
    assert [(n.path, n.label) for n in first] == [("0.jpg", CLASSNAMES[0]), ("3.jpg", CLASSNAMES[3])]
    assert [n.score for n in first] == pytest.approx([1 / np.sqrt(1.25), 0.5 / np.sqrt(1.25)])
    assert isinstance(first[0], Neighbor)
    assert classifier.neighbors(features_of(image, np.arange(4), unreadable=(1,)))[1] == ()


def test_text_votes_with_the_share_that_leave_one_out_prefers():
    train, test = bird_features(3), bird_features(9, seed=2)
    text = ZeroShotText(class_embeddings(), 10.0, "bird", "one")
    classifier = KnnClassifier(text=text).fit(train)
    votes = fit_knn(train.image_features, train.labels, 4)
    share = choose_text_share(votes, text.probabilities(train.image_features))
    assert classifier.text_share == share
    assert classifier.protocol["text_share"] == f"{share:g}, by leave-one-out on train"
    assert classifier.protocol["text"] == "bird"
    mixed = (1 - share) * votes.predict_proba(test.image_features) + share * text.probabilities(test.image_features)
    probabilities = classifier.predict_proba(test)
    np.testing.assert_array_equal(np.argsort(probabilities, axis=1), np.argsort(mixed, axis=1))
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(test)), abs=1e-5)


def test_text_that_names_everything_wrongly_gets_no_share():
    train = bird_features(8)
    wrong = ZeroShotText(np.roll(class_embeddings(), 1, axis=0), 10.0)
    assert KnnClassifier(text=wrong).fit(train).text_share == 0


def test_text_of_another_model_is_refused():
    with pytest.raises(FeatureMismatchError, match="make both with one model"):
        KnnClassifier(text=ZeroShotText(class_embeddings(), 10.0, "plain", "two")).fit(bird_features(3))


def test_generated_images_vote_with_their_weight_and_choose_no_k():
    photos = bird_features(3)
    images = bird_features(3, seed=5)
    sources = np.arange(len(images))
    classifier = KnnClassifier(k=5).fit(TrainingSet.of(photos).with_generated(images, sources, 0.5))
    arrays = fit_knn(
        np.concatenate([photos.image_features, images.image_features]),
        np.concatenate([photos.labels, images.labels]),
        4,
        k=5,
        sample_weight=np.repeat(np.float32([1, 0.5]), len(photos)),
    )
    test = bird_features(5, seed=2)
    shares = arrays.predict_proba(test.image_features)
    np.testing.assert_allclose(classifier.predict_proba(test), classifier._scale.probabilities(shares), atol=1e-6)
    free = KnnClassifier(KnnSettings(k="1:3")).fit(TrainingSet.of(photos).with_generated(photos, sources, 1.0))
    own = KnnClassifier(KnnSettings(k="1:3")).fit(photos)
    assert free.sweep(test)[0]["train_top1"] == own.sweep(test)[0]["train_top1"], "a copy votes for no photo it is of"


def test_an_approximate_index_says_its_recall():
    train = bird_features(40)
    protocol = KnnClassifier(KnnSettings(index="ivf", k="3")).fit(train).protocol
    assert protocol["index"] == "ivf"
    assert 0 < protocol["recall"] <= 1


def test_scaled_shares_by_hand():
    got = ShareScale(0.25, 2.0).probabilities(np.array([[0.75, 0.25, 0.0]], np.float32))
    np.testing.assert_allclose(got, [[16 / 21, 4 / 21, 1 / 21]], rtol=1e-5)


@pytest.mark.parametrize(("right", "k"), [(0.6, 1), (0.9, 1), (0.7, 3)])
def test_probabilities_of_unanimous_votes_are_how_often_they_are_right(right, k):
    """Votes all go to one class, which is the right one in a share of the rows."""
    rng = np.random.default_rng(k)
    labels = rng.integers(0, 5, 4000)
    named = np.where(rng.random(4000) < right, labels, (labels + 1) % 5)
    shares = np.eye(5, dtype=np.float32)[named]
    top = fit_share_scale(shares, labels).probabilities(shares).max(axis=1)
    assert top == pytest.approx(np.full(4000, np.mean(named == labels)), abs=0.02)


def test_one_photo_per_class_has_the_default_scale_and_says_so():
    train = bird_features(1)
    classifier = KnnClassifier().fit(train)
    assert classifier.protocol["calibration"] == "default: nothing to validate on"
    assert classifier.predict_proba(train).max() < 0.99


def test_votes_that_are_never_right_keep_their_order():
    shares = np.eye(4, dtype=np.float32)
    scale = fit_share_scale(shares, np.array([1, 2, 3, 0]))
    np.testing.assert_array_equal(scale.probabilities(shares).argmax(axis=1), np.arange(4))


def test_neighbours_of_some_rows_are_those_of_all():
    train = bird_features(6)
    group = np.repeat(np.arange(12), 2)
    index = NeighborIndex(train.image_features)
    rows = np.array([3, 8, 20])
    for of in (None, group):
        every, some = index.search_others(3, of), index.search_others(3, of, rows)
        np.testing.assert_array_equal(some.rows, every.rows[rows])
        np.testing.assert_allclose(some.similarities, every.similarities[rows], rtol=1e-6)
