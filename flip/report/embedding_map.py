"""The columns that ``flip embed --map`` adds to its table: a map, nearest photos, and a kNN prediction of each."""

from __future__ import annotations

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.classify.index import NeighborIndex
from flip.classify.votes import fit_knn
from flip.embed.table import MapColumns
from flip.features import Features
from flip.report.similarity import project

#: Nearest photos that are listed with each.
NEIGHBORS = 15


def map_columns(features: Features, neighbors: int = NEIGHBORS, seed: int = 0) -> MapColumns:
    """Return the map's columns of n photos; those of unreadable photos are empty.

    A photo's prediction is the vote of the most similar training photos, the photo itself left out; there is none
    without two training photos.

    Parameters
    ----------
    features : Features
    neighbors : int
        Nearest photos listed with each, of all splits.
    seed : int
        Of the projection.
    """
    readable = np.array([error is None for error in features.errors], bool)
    rows = np.flatnonzero(readable)
    image = features.image_features[rows]
    places = np.full((len(features), 2), np.nan, np.float32)
    nearest = np.full((len(features), max(0, min(neighbors, len(rows) - 1))), -1, np.int64)
    distances = np.full(nearest.shape, np.nan, np.float32)
    if len(rows):
        places[rows] = project(image, seed)[0]
    if nearest.shape[1]:
        found = NeighborIndex(image).search_others(nearest.shape[1])
        nearest[rows] = np.where(found.rows < 0, -1, rows[found.rows])
        distances[rows] = 1 - found.similarities
    predicted, scores = _predictions(features, rows)
    return MapColumns(places, nearest, distances, predicted, scores)


def _predictions(features: Features, rows: IntArray) -> tuple[list[str | None], FloatArray]:
    """Return the label that the training photos vote for, and the share of their votes, of each of n photos."""
    predicted: list[str | None] = [None] * len(features)
    scores = np.full(len(features), np.nan, np.float32)
    train = np.array([i for i in rows if features.splits[i] == "train"], np.int64)
    if len(train) < 2:
        return predicted, scores
    votes = fit_knn(features.image_features[train], features.labels[train], len(features.classnames))
    other = np.setdiff1d(rows, train)
    shares = np.zeros((len(features), len(features.classnames)), np.float32)
    shares[train] = votes.leave_one_out_shares(min(votes.k, len(train) - 1))
    if len(other):
        shares[other] = votes.predict_proba(features.image_features[other])
    scores[rows] = shares[rows].max(axis=1)
    for i in rows:
        predicted[i] = features.raw_names[int(shares[i].argmax())]
    return predicted, scores
