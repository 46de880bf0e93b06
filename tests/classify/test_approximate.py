"""Approximate indexes: tuned to a recall, kept between runs, bound to the photos."""

from dataclasses import replace

import numpy as np
import pytest

from flip.classify import approximate
from flip.classify.approximate import ApproximateIndex, IndexFile
from flip.classify.index import NeighborIndex
from flip.classify.knn import KnnClassifier, row_keys
from flip.classify.settings import KnnSettings
from flip.classify.votes import fit_knn
from flip.errors import ConfigError
from tests.classify.features_data import bird_features

KINDS = ["ivf", "hnsw"]


def photos(n, d=32, seed=0):
    """Unit rows in 40 clusters that overlap."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, d))
    x = centres[rng.integers(0, 40, n)] + 0.8 * rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def found_share(index, x, queries, k):
    """The share of the true nearest that an index finds, by brute force."""
    true = np.argsort(-(queries @ x.T), axis=1, kind="stable")[:, :k]
    found = index.search(queries, k).rows
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(true, found, strict=True)])


@pytest.fixture
def no_building(monkeypatch):
    """From the call on, no index may be trained."""

    def forbid():
        monkeypatch.setattr(approximate, "_trained", lambda *_: pytest.fail("the index was built again"))

    return forbid


@pytest.mark.parametrize("target", [0.8, 0.95])
@pytest.mark.parametrize(("n", "d"), [(3000, 16), (12000, 32), (12000, 30)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_recall_that_was_asked_for_is_reached(kind, n, d, target):
    x, queries = photos(n, d), photos(400, d, seed=5)
    index = NeighborIndex(x, kind, recall=target)
    assert found_share(index, x, queries, 10) >= target - 0.02
    assert index.recall(10) >= target - 0.03
    assert index.kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_similarities_are_exact_and_the_nearest_first(kind):
    x, queries = photos(12000), photos(50, seed=5)
    similarities, rows = NeighborIndex(x, kind).search(queries, 7)
    assert similarities == pytest.approx(np.einsum("nd,nkd->nk", queries, x[rows]), abs=1e-6)
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_auto_is_exact_until_a_search_is_very_large(monkeypatch):
    monkeypatch.setattr("flip.classify.index.EXACT_COMPARISONS", 3000 * 100)
    x = photos(3000, 16)
    index = NeighborIndex(x)
    assert found_share(index, x, photos(100, 16, seed=5), 5) == 1
    assert (index.kind, index.recall(5)) == ("flat", 1.0)
    index.search(photos(101, 16, seed=5), 5)
    assert index.kind == "ivf"
    assert 0.9 < index.recall(5) <= 1


def test_leave_one_out_of_very_many_rows_is_approximate(monkeypatch):
    monkeypatch.setattr("flip.classify.index.EXACT_COMPARISONS", 10_000)
    x = photos(3000, 16)
    labels = np.arange(3000) % 3
    exact, auto = (fit_knn(x, labels, 3, k=[1, 3, 5], index=kind) for kind in ("flat", "auto"))
    assert (exact.index.kind, auto.index.kind) == ("flat", "ivf")
    for ours, theirs in zip(auto.trials, exact.trials, strict=True):
        assert ours.train_top1 == pytest.approx(theirs.train_top1, abs=2)


@pytest.mark.parametrize("grouped", [False, True])
def test_blocks_change_nothing(monkeypatch, grouped):
    x = photos(700, 16)
    group = np.arange(700) // 3 if grouped else None
    whole = NeighborIndex(x).search_others(4, group)
    monkeypatch.setattr("flip.classify.index.BLOCK", 64)
    parts = NeighborIndex(x).search_others(4, group)
    assert (parts.rows == whole.rows).all()
    assert parts.similarities == pytest.approx(whole.similarities, abs=1e-6)


def test_rows_are_searched_where_they_are():
    x = photos(100)
    assert NeighborIndex(x).features is x
    assert np.shares_memory(NeighborIndex(x[10:60]).features, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [3000, 12000])
class TestKept:
    def saved(self, folder, keys):
        return IndexFile(folder / "index.faiss", lambda: keys)

    def test_it_is_read_again(self, kind, n, tmp_path, no_building):
        x, keys, queries = photos(n), np.arange(n) * 7, photos(50, seed=5)
        first = NeighborIndex(x, kind, saved=self.saved(tmp_path, keys)).search(queries, 5)
        no_building()
        again = NeighborIndex(x, kind, saved=self.saved(tmp_path, keys)).search(queries, 5)
        assert (again.rows == first.rows).all()

    def test_rows_follow_their_keys_into_another_order(self, kind, n, tmp_path, no_building):
        x, keys, queries = photos(n), np.arange(n) * 7, photos(50, seed=5)
        first = NeighborIndex(x, kind, saved=self.saved(tmp_path, keys)).search(queries, 5)
        no_building()
        order = np.random.default_rng(1).permutation(n)
        again = NeighborIndex(x[order], kind, saved=self.saved(tmp_path, keys[order])).search(queries, 5)
        assert (order[again.rows] == first.rows).mean() > 0.98

    def test_new_rows_are_added_and_kept(self, kind, n, tmp_path, no_building):
        x, keys = photos(n + 300), np.arange(n + 300) * 7
        NeighborIndex(x[:n], kind, saved=self.saved(tmp_path, keys[:n])).search(x[:2], 1)
        no_building()
        for _ in range(2):
            found = NeighborIndex(x, kind, saved=self.saved(tmp_path, keys)).search(x[n:], 1)
            assert (found.rows[:, 0] == np.arange(n, n + 300)).mean() > 0.97

    def test_rows_that_are_gone_are_not_found(self, kind, n, tmp_path, no_building):
        x, keys = photos(n), np.arange(n) * 7
        NeighborIndex(x, kind, saved=self.saved(tmp_path, keys)).search(x[:2], 1)
        no_building()
        left = np.arange(n)[200:]
        index = NeighborIndex(x[left], kind, saved=self.saved(tmp_path, keys[left]))
        assert found_share(index, x[left], x[:200], 5) > 0.9

    @pytest.mark.parametrize("change", ["other rows", "another width", "damaged", "empty"])
    def test_what_does_not_fit_is_built_again(self, kind, n, tmp_path, change):
        x, keys = photos(n), np.arange(n) * 7
        saved = self.saved(tmp_path, keys)
        NeighborIndex(x, kind, saved=saved).search(x[:2], 1)
        if change == "other rows":
            saved = self.saved(tmp_path, keys + 1)
        if change == "another width":
            x = photos(n, 24)
        if change == "damaged":
            saved.file.write_bytes(saved.file.read_bytes()[:200])
        if change == "empty":
            saved.file.write_bytes(b"")
        index = NeighborIndex(x, kind, saved=saved)
        assert found_share(index, x, x[:100], 5) > 0.9


def test_without_a_place_it_is_not_kept(tmp_path):
    (tmp_path / "file").write_text("")
    x = photos(3000)
    index = NeighborIndex(x, "ivf", saved=IndexFile(tmp_path / "file" / "index.faiss", lambda: np.arange(3000)))
    assert found_share(index, x, x[:100], 5) > 0.9


def test_rows_of_one_key_are_told_apart(tmp_path):
    x = photos(3000)
    index = ApproximateIndex(x, "ivf", saved=None)
    both = ApproximateIndex(x, "ivf", saved=IndexFile(tmp_path / "i.faiss", lambda: np.arange(3000) // 2))
    assert (both.search(x, 1)[1] == index.search(x, 1)[1]).mean() > 0.99


def test_keys_are_of_paths_and_embeddings():
    features = bird_features(20)
    keys = row_keys(features)
    assert keys.dtype == np.int64
    assert (keys >= 0).all()
    assert len(set(keys)) == len(features)
    assert (row_keys(features) == keys).all()
    order = np.random.default_rng(0).permutation(len(features))
    assert (row_keys(features.take(order)) == keys[order]).all()
    moved = replace(features, paths=tuple(f"other/{path}" for path in features.paths))
    assert not set(row_keys(moved)) & set(keys)
    turned = replace(features, image_features=np.roll(features.image_features, 1, axis=1))
    assert not set(row_keys(turned)) & set(keys)


def test_a_classifier_keeps_its_index_and_names_photos_by_path(tmp_path, no_building):
    train = bird_features(40)
    settings = KnnSettings(index="hnsw", k="3")
    first = KnnClassifier(settings, index_folder=tmp_path).fit(train)
    neighbors = first.neighbors(train)
    assert [file.suffix for file in tmp_path.iterdir()] == [".faiss"]
    no_building()
    order = np.random.default_rng(0).permutation(len(train))
    again = KnnClassifier(settings, index_folder=tmp_path).fit(train.take(order))
    named = [[n.path for n in near] for near in again.neighbors(train)]
    assert np.mean([a == [n.path for n in b] for a, b in zip(named, neighbors, strict=True)]) > 0.95
    assert 0.9 < first.protocol["recall"] <= 1


@pytest.mark.parametrize("recall", [0, -1, 1.01, float("nan")])
def test_a_recall_is_a_share(recall):
    with pytest.raises(ConfigError, match="--recall"):
        KnnSettings(recall=recall)
