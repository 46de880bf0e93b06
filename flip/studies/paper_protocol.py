"""The paper's classifiers as its notebooks have them, over unnormalised features.

Some of what they do is a leak that flip avoids elsewhere: the test photos' own captions, k and the epoch chosen on the
test photos. It is repeated here to stand beside clean numbers, and marked.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from flip.arrays import Array, FloatArray, IntArray
from flip.classify.base import Classifier
from flip.classify.calibration import softmax
from flip.classify.heads.base import SMALL_PRODUCT
from flip.classify.training_set import TrainingSet
from flip.features import Features

if TYPE_CHECKING:
    import torch

#: The paper's estimators: scikit-learn's with their defaults.
ESTIMATORS = ("logreg", "knn", "svm-linear", "svm-rbf")

#: The k values of its sweep.
SWEEP = range(3, 21)

#: The seed of its one few-shot draw.
DRAW_SEED = 42

#: Its network's training.
HIDDEN, EPOCHS, BATCH, LEARNING_RATE = 512, 30, 16, 0.005


def paper_draw(labels: IntArray, shots: int) -> IntArray:
    """Return the rows of the notebooks' few-shot draw, pandas' ``sample(n=shots, random_state=42)`` of each class.

    A class with fewer photos gives all it has, where pandas would refuse.

    Parameters
    ----------
    labels : int array of shape (n,)
    shots : int
    """
    drawn = []
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        # pandas draws with a legacy generator.
        chosen = np.random.RandomState(DRAW_SEED).choice(len(rows), size=min(shots, len(rows)), replace=False)
        drawn.append(rows[chosen])
    return np.concatenate(drawn) if drawn else np.empty(0, np.int64)


def make_estimator(name: str) -> Any:
    """Return scikit-learn's estimator of one of ``ESTIMATORS``, with its defaults."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    if name == "logreg":
        return LogisticRegression()
    return KNeighborsClassifier() if name == "knn" else SVC(kernel=name.removeprefix("svm-"))


class SklearnClassifier(Classifier):
    """A scikit-learn estimator with its defaults, which sees the features as they are given.

    Parameters
    ----------
    name : str
        One of ``ESTIMATORS``.
    captions : bool
        Whether the features hold each photo's caption, at test time too; only said in the protocol.
    """

    def __init__(self, name: str, *, captions: bool = False) -> None:
        self.name, self.captions = name, captions
        self._estimator = make_estimator(name)

    def unfitted(self, seed: int | None = None) -> SklearnClassifier:
        """Return an unfitted classifier of the same kind; nothing in it is random."""
        return type(self)(self.name, captions=self.captions)

    def _fit(self, train: TrainingSet) -> None:
        from sklearn.exceptions import ConvergenceWarning

        x, self._n_classes = _columns(train.features), len(train.features.classnames)
        # Many small products on several threads wait for each other.
        threads = 1 if x.size * self._n_classes < SMALL_PRODUCT else None
        with warnings.catch_warnings(), threadpool_limits(threads):
            # That logistic regression stops at 100 iterations is part of the protocol, and said there.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._estimator.fit(x, train.labels)

    def _probabilities(self, features: Features) -> FloatArray:
        x = _columns(features)
        estimator = self._estimator
        if hasattr(estimator, "predict_proba"):
            return self._spread(estimator.predict_proba(x))
        # Votes between pairs of classes decide, which the decision function need not rank first.
        scores = np.atleast_2d(estimator.decision_function(x).T).T  # (n, c), or (n, 1) for two classes
        scores = np.concatenate([-scores, scores], axis=1) if scores.shape[1] == 1 else scores
        index = np.searchsorted(estimator.classes_, estimator.predict(x))
        rows, first = np.arange(len(x)), scores.argmax(axis=1)
        scores[rows, index], scores[rows, first] = scores[rows, first], scores[rows, index]
        return self._spread(softmax(scores))

    def _spread(self, probabilities: Array) -> FloatArray:
        """Return probabilities of all classes (n, c); those without a training photo get none."""
        spread = np.zeros((len(probabilities), self._n_classes), np.float32)
        spread[:, self._estimator.classes_] = probabilities
        return spread

    def _describe(self) -> dict[str, object]:
        protocol = {"estimator": f"scikit-learn's {self._estimator!r}", **_seen(self.captions)}
        if self.name == "logreg":
            stopped = int(np.max(self._estimator.n_iter_)) >= self._estimator.max_iter
            protocol["convergence"] = "stopped at max_iter, as in the paper" if stopped else "converged"
        return protocol


class PaperKnn(SklearnClassifier):
    """Scikit-learn's kNN (k = 5), reported with the paper's sweep over k = 3…20 on the test photos."""

    def _fit(self, train: TrainingSet) -> None:
        super()._fit(train)
        self._train = train.features

    def details_on(self, test: Features) -> dict[str, object]:
        """Return top-1 of each k on the test photos, and the best of them, which was chosen on test."""
        from sklearn.neighbors import KNeighborsClassifier

        test = test.readable()
        x, labels = _columns(self._train), self._train.labels
        sweep = []
        for k in (k for k in SWEEP if k <= len(labels)):
            predicted = KNeighborsClassifier(n_neighbors=k).fit(x, labels).predict(_columns(test))
            sweep.append({"k": k, "top1": 100.0 * float((predicted == test.labels).mean())})
        best = max(sweep, key=lambda row: row["top1"], default=None)
        return {"sweep": sweep} | _best_on_test(best, "k")


class PaperMlp(Classifier):
    """The paper's hybrid: Linear(512), ReLU, BatchNorm, Linear over image and caption; SGD for 30 epochs.

    The last epoch predicts. ``details_on`` also reports every epoch on the test photos, the best of which the paper
    quotes.

    Parameters
    ----------
    seed : int
        Of the initial weights and the order of photos.
    captions : bool
    """

    name = "mlp"

    def __init__(self, seed: int = 0, *, captions: bool = True) -> None:
        self.seed, self.captions = seed, captions
        self._net: torch.nn.Module | None = None
        self._epochs: list[dict[str, torch.Tensor]] = []

    def unfitted(self, seed: int | None = None) -> PaperMlp:
        """Return an unfitted classifier with the same settings and, where one is given, another seed."""
        return PaperMlp(self.seed if seed is None else seed, captions=self.captions)

    def details_on(self, test: Features) -> dict[str, object]:
        """Return top-1 of each epoch on the test photos, and the best of them, which was chosen on test."""
        test = test.readable()
        epochs = []
        for epoch, state in enumerate(self._epochs, 1):
            right = self._logits(test, state).argmax(axis=1) == test.labels
            epochs.append({"epoch": epoch, "top1": 100.0 * float(right.mean())})
        self._load(self._epochs[-1])
        return {"epochs": epochs} | _best_on_test(max(epochs, key=lambda row: row["top1"]), "epoch")

    def _fit(self, train: TrainingSet) -> None:
        import torch
        from torch import nn

        x, y = torch.from_numpy(train.features.image_features), torch.from_numpy(train.labels)
        classes = len(train.features.classnames)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            layers = (nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, classes))
            net = self._net = nn.Sequential(*layers)
            optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
            for _ in range(EPOCHS):
                net.train()
                for rows in torch.split(torch.randperm(len(x)), BATCH):
                    # BatchNorm has no variance of one photo.
                    if len(rows) > 1:
                        optimizer.zero_grad()
                        torch.autograd.backward(nn.functional.cross_entropy(net(x[rows]), y[rows]))
                        optimizer.step()
                self._epochs.append({name: tensor.clone() for name, tensor in net.state_dict().items()})

    def _probabilities(self, features: Features) -> FloatArray:
        return softmax(self._logits(features))

    def _logits(self, features: Features, state: dict[str, torch.Tensor] | None = None) -> FloatArray:
        import torch

        assert self._net is not None
        if state is not None:
            self._load(state)
        self._net.eval()
        with torch.inference_mode():
            logits: FloatArray = self._net(torch.from_numpy(features.image_features)).numpy()
        return logits

    def _load(self, state: dict[str, torch.Tensor]) -> None:
        assert self._net is not None
        self._net.load_state_dict(state)

    def _describe(self) -> dict[str, object]:
        training = f"SGD, learning rate {LEARNING_RATE}, batches of {BATCH}, {EPOCHS} epochs; the last predicts"
        return {"estimator": f"Linear({HIDDEN}), ReLU, BatchNorm, Linear", "training": training, **_seen(self.captions)}


def _columns(features: Features) -> Array:
    return features.image_features.astype(np.float64)


def _seen(captions: bool) -> dict[str, object]:
    seen: dict[str, object] = {"features": "unnormalised"}
    return seen | ({"test_captions": True} if captions else {})


def _best_on_test(best: dict[str, Any] | None, choice: str) -> dict[str, object]:
    if best is None:
        return {}
    return {"best_on_test": {"choice": f"{choice} {best[choice]}", "top1": best["top1"]}}
