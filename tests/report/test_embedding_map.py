"""``flip embed --map``: the table that Embedding Atlas opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from flip.data.dataset import Dataset, Record
from flip.embed.table import write_table
from flip.report.embedding_map import map_columns
from tests.classify.features_data import bird_features


def test_neighbors_are_the_nearest_other_rows_of_the_table():
    features = bird_features(unreadable=(3,))
    columns = map_columns(features, neighbors=4)
    image = features.image_features
    cosines = image @ image.T
    np.fill_diagonal(cosines, -2)
    cosines[:, 3] = -2
    for i in (0, 2, 10):
        assert set(columns.nearest[i]) == set(np.argsort(-cosines[i])[:4])
        np.testing.assert_allclose(columns.distances[i], 1 - cosines[i][columns.nearest[i]], atol=1e-5)
    assert (columns.nearest[3] == -1).all()
    assert np.isnan(columns.places[3]).all()
    assert columns.predicted[3] is None


def test_a_training_photo_does_not_vote_for_itself():
    features = bird_features(per_class=1)
    columns = map_columns(features)
    labels = [features.raw_names[c] for c in features.labels]
    assert not any(guess == label for guess, label in zip(columns.predicted, labels, strict=True))


def test_without_training_photos_nothing_is_predicted():
    features = bird_features(splits=("test",) * len(bird_features()))
    assert set(map_columns(features).predicted) == {None}


def test_unreadable_rows_are_null(tmp_path):
    features = bird_features(unreadable=(0,))
    records = tuple(Record(p, int(c), "train") for p, c in zip(features.paths, features.labels, strict=True))
    dataset = Dataset(Path("birds"), "class-folders", features.classnames, features.raw_names, records)
    file = write_table(tmp_path / "t", features, dataset, "model", map_columns=map_columns(features))
    first = pq.read_table(file).slice(0, 1).to_pylist()[0]
    assert [first[name] for name in ("x", "y", "neighbors", "predicted", "score")] == [None] * 5
