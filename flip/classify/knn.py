"""k-nearest-neighbour classification by cosine similarity, over features."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.classify.approximate import BLOCK, IndexFile
from flip.classify.base import Classifier, HeldOutPredictions, readable_rows
from flip.classify.index import NeighborIndex, Neighbors
from flip.classify.settings import KnnSettings, parse_k
from flip.classify.text_side import ZeroShotText
from flip.classify.training_set import TrainingSet
from flip.classify.votes import NeighborVotes, ShareScale, choose_text_share, fit_knn, fit_share_scale
from flip.errors import ConfigError
from flip.features import Features
from flip.results import Neighbor

BY_LEAVE_ONE_OUT = "leave-one-out on train"


class KnnClassifier(Classifier):
    """The most similar training photos vote; k, and the share of text, are chosen by leave-one-out on them.

    Parameters
    ----------
    settings : KnnSettings, optional
    k : int or str, optional
        In place of ``settings.k``: a number, a range such as ``"3:20"``, or ``"auto"``.
    text : ZeroShotText, optional
        Class embeddings of the same model, whose zero-shot probabilities vote too: ``ZeroShotClassifier.text``.
    device : {"auto", "cpu", "cuda", "mps"}
        Where faiss searches; it uses a GPU where it has one, unless this is ``cpu``.
    seed : int
        Chooses the rows on which an approximate index is tuned and measured.
    index_folder : Path, optional
        Where approximate indexes are kept between runs.

    Raises
    ------
    ConfigError
        If a setting is none of its words or out of range, or text is asked for without class embeddings.
    """

    name = "knn"

    def __init__(
        self,
        settings: KnnSettings | None = None,
        *,
        k: int | str | None = None,
        text: ZeroShotText | None = None,
        device: str = "auto",
        seed: int = 0,
        index_folder: Path | None = None,
    ) -> None:
        settings = settings or KnnSettings()
        self.settings = settings if k is None else replace(settings, k=str(k))
        if self.settings.text != "none" and text is None:
            raise ConfigError("text='prompts' needs the class embeddings of the prompts; pass text=…, or text='none'")
        self.text, self.device, self.seed, self.index_folder = text, device, seed, index_folder
        self.text_share = 0.0
        self._votes: NeighborVotes | None = None
        self._scale = ShareScale()
        self._calibration = "default: nothing to validate on"
        self._train: Features | None = None

    @property
    def k(self) -> int:
        """Neighbours that vote, as chosen."""
        return self._fitted.k

    def unfitted(self, seed: int | None = None) -> KnnClassifier:
        """Return an unfitted classifier with the same settings and, where one is given, another seed."""
        seed = self.seed if seed is None else seed
        return KnnClassifier(
            self.settings, text=self.text, device=self.device, seed=seed, index_folder=self.index_folder
        )

    def neighbors(self, features: Features) -> list[tuple[Neighbor, ...]]:
        """Return the k nearest training photos of each of n photos, most similar first; none for unreadable photos."""
        self._require_fitted()
        self._require_features(features)
        named: list[tuple[Neighbor, ...]] = [()] * len(features)
        rows = readable_rows(features)
        if len(rows):
            found = self._fitted.neighbors(features.image_features[rows])
            for row, similarities, neighbors in zip(rows, found.similarities, found.rows, strict=True):
                named[row] = self._named(similarities, neighbors)
        return named

    def held_out(self) -> HeldOutPredictions | None:
        """Return the leave-one-out probabilities of the real training photos; None with one photo per class."""
        votes, train = self._fitted, self._train
        assert train is not None
        scored = np.ones(len(votes.labels), bool) if votes.real is None else votes.real
        if len(votes.labels) < 2 or np.bincount(votes.labels[scored]).max() < 2:
            return None
        shares = votes.leave_one_out_shares(min(votes.k, len(votes.labels) - 1))
        rows = np.flatnonzero(scored)
        probabilities = self._scale.probabilities(self._with_text(shares[rows], train.image_features[rows]))
        return HeldOutPredictions("leave-one-out", rows, probabilities)

    def listed_neighbors(self, features: Features) -> list[tuple[Neighbor, ...]] | None:
        """Return the neighbours of each photo where ``settings.neighbors`` asks for them."""
        return self.neighbors(features) if self.settings.neighbors else None

    def details_on(self, test: Features) -> dict[str, object]:
        """Return the sweep over k, where there was a choice."""
        rows = self.sweep(test)
        return {"sweep": rows} if rows else {}

    def sweep(self, test: Features) -> list[dict[str, object]]:
        """Return a row for each k that was tried; empty when k was given.

        Parameters
        ----------
        test : Features
            Photos that are scored for the comparison; they take no part in the choice.

        Returns
        -------
        list of dict
            ``k``, ``train_top1`` (leave-one-out accuracy on the training photos, which decided), ``top1`` (accuracy of
            the vote on the readable photos of ``test``, without text), both in percent, and ``chosen``.
        """
        votes, test = self._fitted, test.readable()
        rows: list[dict[str, object]] = []
        self._require_features(test)
        if not votes.trials:
            return rows
        most = max(trial.k for trial in votes.trials)
        similarities, nearest = votes.index.search(test.image_features, most)  # (n, most)
        for trial in votes.trials:
            shares = votes.vote_on(Neighbors(similarities[:, : trial.k], nearest[:, : trial.k]))  # (n, c)
            top1 = 100.0 * float((shares.argmax(axis=1) == test.labels).mean())
            rows.append({"k": trial.k, "train_top1": trial.train_top1, "top1": top1, "chosen": trial.k == votes.k})
        return rows

    @property
    def recall(self) -> float:
        """Share of the true nearest neighbours that the index finds; 1 for an exact index."""
        return self._fitted.index.recall(self.k)

    def _fit(self, train: TrainingSet) -> None:
        features, settings = train.features, self.settings
        if self.text is not None:
            self.text.require_model(features.fingerprint)
        votes = fit_knn(
            features.image_features,
            features.labels,
            len(features.classnames),
            k=parse_k(settings.k),
            vote=settings.vote,
            temperature=settings.temperature,
            index=NeighborIndex(
                features.image_features,
                settings.index,
                gpu=self.device in ("auto", "cuda"),
                recall=settings.recall,
                seed=self.seed,
                saved=None if self.index_folder is None else _index_file(self.index_folder, settings.index, features),
            ),
            sample_weight=train.weight,
            real=train.real,
            group=train.group,
        )
        if self.text is not None:
            self.text_share = choose_text_share(votes, self.text.probabilities(features.image_features))
        self._votes, self._train = votes, features
        rows = votes.rows_to_scale_on()
        if len(rows):
            shares = votes.leave_one_out_shares(min(votes.k, len(votes.labels) - 1), rows)
            shares = self._with_text(shares, features.image_features[rows])
            self._scale = fit_share_scale(shares, features.labels[rows])
            self._calibration = f"least log-loss in {BY_LEAVE_ONE_OUT}"

    def _probabilities(self, features: Features) -> FloatArray:
        shares = self._fitted.predict_proba(features.image_features)  # (n, c)
        return self._scale.probabilities(self._with_text(shares, features.image_features))

    def _with_text(self, shares: FloatArray, image_features: FloatArray) -> FloatArray:
        if self.text is None:
            return shares
        return (1 - self.text_share) * shares + self.text_share * self.text.probabilities(image_features)

    def _describe(self) -> dict[str, object]:
        votes, settings = self._fitted, self.settings
        protocol: dict[str, object] = {
            "k": votes.k,
            "k_chosen_by": BY_LEAVE_ONE_OUT if votes.trials else "given",
            "vote": settings.vote,
            "train_photos": len(votes.labels),
            "calibration": self._calibration,
            "index": votes.index.kind,
        }
        if settings.vote == "softmax":
            protocol["temperature"] = settings.temperature
        if self.text is not None:
            protocol |= {"text": self.text.prompts, "text_share": f"{self.text_share:g}, by {BY_LEAVE_ONE_OUT}"}
        if votes.index.kind != "flat":
            protocol["recall"] = round(self.recall, 4)
        return protocol

    @property
    def _fitted(self) -> NeighborVotes:
        if self._votes is None:
            raise ConfigError("this knn classifier is not fitted; call fit first")
        return self._votes

    def _named(self, similarities: FloatArray, rows: Sequence[int]) -> tuple[Neighbor, ...]:
        train = self._train
        assert train is not None
        # A row of -1 means that an approximate index found too few.
        return tuple(
            Neighbor(train.paths[i], train.classnames[train.labels[i]], float(s))
            for s, i in zip(similarities, rows, strict=True)
            if i >= 0
        )


def _index_file(folder: Path, kind: str, features: Features) -> IndexFile:
    """Return the index file of a model and a set of classes; photos added later use the same file."""
    of = hashlib.sha256("\n".join([features.fingerprint, *features.raw_names]).encode("utf-8", "surrogatepass"))
    name = "hnsw" if kind == "hnsw" else "ivf"
    return IndexFile(folder / f"{name}-{of.hexdigest()[:16]}.faiss", lambda: row_keys(features))


def row_keys(features: Features) -> IntArray:
    """Return a number from 0 for each row, int64 of shape (n,), of its path and its embedding in half precision."""
    image, n = features.image_features, len(features)
    width = -(-image.shape[1] // 4)
    # A sum of the row's words, each times an odd number of 64 bits, without its overflow.
    odd = np.random.default_rng(0).integers(0, 1 << 63, width, np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.fromiter((zlib.crc32(path.encode("utf-8", "surrogatepass")) for path in features.paths), np.uint64, n)
    keys *= odd[0]
    for start in range(0, n, BLOCK):
        here = slice(start, start + BLOCK)
        halves = np.zeros((len(keys[here]), 4 * width), np.float16)
        halves[:, : image.shape[1]] = image[here]
        keys[here] ^= (halves.view(np.uint64) * odd).sum(axis=1, dtype=np.uint64)
    return (keys >> np.uint64(1)).astype(np.int64)
