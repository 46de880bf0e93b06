"""What looks alike: an order of classes, nearest photos, doubtful labels, and a map of photos in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.features import Features
from flip.report.album import Content

#: Above this many photos the map is of principal components: t-SNE would take minutes.
TSNE_MOST = 6000

#: Neighbours that vote on a photo's label, and the temperature of their vote.
VOTERS, TEMPERATURE = 10, 0.07


def alike_order(confusions: IntArray, class_means: FloatArray | None = None) -> IntArray:
    """Return an order of the classes in which those that are confused, or look alike, stand together.

    Average-linkage clustering with optimal leaf order (Bar-Joseph et al., Bioinformatics 2001).

    Parameters
    ----------
    confusions : int array of shape (c, c)
        Photos of each class (rows) that were given each class (columns).
    class_means : float array of shape (c, d), optional
        Unit mean embeddings, which decide where no photo is confused; a row of zeros for a class without.

    Returns
    -------
    int array of shape (c,)
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    c = len(confusions)
    if c < 3:
        return np.arange(c)
    shares = confusions / np.maximum(confusions.sum(axis=1, keepdims=True), 1)  # (c, c)
    similarity = shares + shares.T
    np.fill_diagonal(similarity, 0)
    similarity /= max(float(similarity.max()), 1e-9)
    if class_means is not None:
        cosines = class_means @ class_means.T  # (c, c)
        low, high = float(cosines.min()), float(cosines.max())
        similarity = similarity + 0.5 * (cosines - low) / max(high - low, 1e-9)
    distance = float(similarity.max()) - similarity
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), method="average", optimal_ordering=True)
    return np.asarray(leaves_list(tree), dtype=np.int64)


def class_means(features: Features, classes: Sequence[str]) -> FloatArray:
    """Return the unit mean embedding of each class's training photos, float32 (c, d); zeros for a class without."""
    train = features.split("train").readable()
    means = np.zeros((len(classes), features.image_features.shape[1]), dtype=np.float32)
    index = {name: i for i, name in enumerate(classes)}
    rows = np.array([index.get(features.classnames[label], -1) for label in train.labels], dtype=np.int64)
    known = rows >= 0
    np.add.at(means, rows[known], train.image_features[known])
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.maximum(norms, 1e-9), dtype=np.float32)


def project(image_features: FloatArray, seed: int = 0) -> tuple[FloatArray, str]:
    """Return photos in two dimensions, and the method's name.

    t-SNE (van der Maaten & Hinton, JMLR 2008) from the principal components, or these alone for many photos or few.

    Parameters
    ----------
    image_features : float array of shape (n, d)
    seed : int

    Returns
    -------
    float array of shape (n, 2)
    str
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, d = image_features.shape
    if n < 3:
        return np.zeros((n, 2), dtype=np.float32), "PCA"
    components = PCA(min(50, n, d), random_state=seed).fit_transform(image_features)  # (n, up to 50)
    if n > TSNE_MOST or n < 10 or components.shape[1] < 2:
        return np.pad(components, ((0, 0), (0, 1)))[:, :2].astype(np.float32), "PCA"
    tsne = TSNE(init="pca", perplexity=min(30, (n - 1) / 3), max_iter=500, random_state=seed)
    return np.asarray(tsne.fit_transform(components), dtype=np.float32), "t-SNE"


def nearest(
    queries: FloatArray, photos: FloatArray, k: int, *, itself: IntArray | None = None
) -> tuple[IntArray, FloatArray]:
    """Return the rows of the k nearest photos by cosine, and the cosines, both of shape (n, k), nearest first.

    Parameters
    ----------
    queries : float array of shape (n, d)
    photos : float array of shape (m, d)
    k : int
        At most m.
    itself : int array of shape (n,), optional
        The row of each query among the photos, which is left out; -1 for none.
    """
    found, cosines = np.zeros((len(queries), k), np.int64), np.zeros((len(queries), k), np.float32)
    for start in range(0, len(queries), 1024):
        scores = queries[start : start + 1024] @ photos.T  # (up to 1024, m)
        if itself is not None:
            own = itself[start : start + 1024]
            scores[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
        # Only the nearest are put in order; of equals the first comes first.
        order = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
        ranks = np.argsort(-np.take_along_axis(scores, order, axis=1), axis=1, kind="stable")
        order = np.take_along_axis(order, ranks, axis=1)
        found[start : start + 1024] = order
        cosines[start : start + 1024] = np.take_along_axis(scores, order, axis=1)
    return found, cosines


def leave_one_out_votes(features: Features) -> FloatArray:
    """Return the vote of each photo's nearest others, float32 (n, c): shares by label, softmax over cosine."""
    k = min(VOTERS, len(features) - 1)
    votes = np.zeros((len(features), len(features.classnames)), dtype=np.float32)
    if k < 1:
        return votes
    rows, cosines = nearest(features.image_features, features.image_features, k, itself=np.arange(len(features)))
    weight = np.exp((cosines - cosines[:, :1]) / TEMPERATURE)
    weight /= weight.sum(axis=1, keepdims=True)
    for column in range(k):
        np.add.at(votes, (np.arange(len(votes)), features.labels[rows[:, column]]), weight[:, column])
    return votes


@dataclass(frozen=True)
class Doubt:
    """A photo whose label is contradicted: the other class, both probabilities, and the number of judges."""

    photo: int
    suggested: int
    probability: float
    label_probability: float
    judges: int

    @property
    def margin(self) -> float:
        """Probability of the other class minus that of the label."""
        return self.probability - self.label_probability


def doubtful_labels(content: Content, most: int) -> list[Doubt]:
    """Return the photos whose label the runs and the most alike photos contradict most, the most doubtful first.

    Each run judges the photos that it scored; the nearest photos of each photo, itself left out, judge every photo that
    has embeddings. Probabilities are means over the judges.
    """
    judged: dict[int, list[dict[int, float]]] = {}
    for rows in content.rows:
        for i, photo in enumerate(rows):
            if photo.readable:
                judged.setdefault(i, []).append({content.index[name]: p for name, p in photo.top})
    seen: set[str] = set()
    for features in content.features:
        if features is None or features.fingerprint in seen:
            continue
        seen.add(features.fingerprint)
        _add_votes(content, features.readable(), judged)
    doubts = [_doubt(i, content.album.labels[i], judges) for i, judges in judged.items()]
    return sorted((d for d in doubts if d is not None), key=lambda d: (-d.margin, d.photo))[:most]


def _add_votes(content: Content, features: Features, judged: dict[int, list[dict[int, float]]]) -> None:
    votes = leave_one_out_votes(features)
    for path, row in zip(features.paths, votes, strict=True):
        number = content.album.number(path)
        if number is not None:
            shares = {
                content.index[features.classnames[c]]: float(row[c])
                for c in np.flatnonzero(row)
                if features.classnames[c] in content.index
            }
            judged.setdefault(number, []).append(shares)


def _doubt(photo: int, label: int, judges: Sequence[dict[int, float]]) -> Doubt | None:
    total: dict[int, float] = {}
    for judge in judges:
        for c, p in judge.items():
            total[c] = total.get(c, 0.0) + p / len(judges)
    others = {c: p for c, p in total.items() if c != label}
    if label < 0 or not others:
        return None
    suggested = max(others, key=lambda c: (others[c], -c))
    doubt = Doubt(photo, suggested, others[suggested], total.get(label, 0.0), len(judges))
    return doubt if doubt.margin > 0 else None
