"""Per-class trust in the text: posterior probability that a class name is right, from labelled photos."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flip.arrays import Array, BoolArray, Float64Array, FloatArray, IntArray
from flip.classify.calibration import log_softmax, softmax

#: Scales tried, in units of one over the spread of the zero-shot logits.
SCALES = tuple(np.geomspace(0.1, 20, 30))
#: Scale and share are estimated on about this many logits; the trust in each name on all rows.
MOST_LOGITS = 2_000_000
#: Steps of expectation maximisation for the share of right names.
STEPS = 60
#: Smallest probability whose logarithm is taken, and logits handled at a time.
FLOOR, CHUNK = 1e-9, 4_000_000


class TextTrust(NamedTuple):
    """Fitted trust in the class names.

    Attributes
    ----------
    scale : float
        Factor of the zero-shot logits; 0 where they are at chance on the training photos.
    share : float
        Estimated share of right names.
    names : float64 array of shape (c,)
        Probability that each class's name is right, given its training photos.
    weight : float
        Mixing weight of the trusted probabilities against uniform ones, 0 to 1.
    """

    scale: float
    share: float
    names: Float64Array
    weight: float = 1.0

    @property
    def counts(self) -> bool:
        """Whether the text says anything."""
        return self.scale > 0 and self.weight > 0


class OwnTrust(NamedTuple):
    """Labels (n,) of training rows, and the trust (n,) in each row's own name by the other rows alone."""

    labels: IntArray
    names: Float64Array


class TrustedText(NamedTuple):
    """Fitted trust, and the trusted logits (n, c) of the training rows; None where the text carries no weight."""

    trust: TextTrust
    logits: FloatArray | None


def trust_names(zero_shot: Array, labels: IntArray, evidence: BoolArray, group: IntArray | None) -> TrustedText:
    """Fit the trust in each class name on training rows, and return it with the rows' trusted logits.

    Parameters
    ----------
    zero_shot : float array of shape (n, c)
    labels : int array of shape (n,)
    evidence : bool array of shape (n,)
        Rows that count; generated images do not.
    group : int array of shape (n,), optional
        Where rows will be held out: the trust in a row's own name leaves out the rows of its group.
    """
    trust = fit_trust(zero_shot, labels, evidence)
    if not trust.counts:
        return TrustedText(trust, None)
    own = None if group is None else own_trust(zero_shot, labels, evidence, group, trust)
    rows = _some(np.flatnonzero(evidence), zero_shot.shape[1])
    own_of_rows = None if own is None else OwnTrust(labels[rows], own.names[rows])
    said = trusted_logits(zero_shot[rows], trust, own_of_rows)
    trust = trust._replace(weight=least_squares_weight(said, labels[rows]))
    return TrustedText(trust, trusted_logits(zero_shot, trust, own) if trust.counts else None)


def trusted_logits(zero_shot: Array, trust: TextTrust, own: OwnTrust | None = None) -> FloatArray:
    """Return the logarithm of zero-shot probabilities in which names count as far as they are trusted.

    With s = softmax(scale · zero_shot) and trust v, class k has the probability
    ``p_k = v_k s_k + (1 − v_k) Σ_j (1 − v_j) s_j / Σ_j (1 − v_j)``: what falls on names that are not trusted is spread
    over their classes. The logarithm is of ``w p_k + (1 − w) / c``. With all names trusted this is zero-shot at its
    best scale, with none it is uniform.

    Parameters
    ----------
    zero_shot : float array of shape (n, c)
    trust : TextTrust
    own : OwnTrust, optional
        For training rows: trust in a row's own name without that row.

    Returns
    -------
    float32 array of shape (n, c)
    """
    n, classes = zero_shot.shape
    out = np.empty((n, classes), np.float32)
    for start in range(0, n, step := max(1, CHUNK // classes)):
        part = slice(start, start + step)
        probabilities = softmax(np.float32(trust.scale) * zero_shot[part]).astype(np.float64)
        names = np.broadcast_to(trust.names, probabilities.shape)
        if own is not None:
            names = names.copy()
            names[np.arange(len(names)), own.labels[part]] = own.names[part]
        doubt = 1.0 - names
        spread = np.sum(probabilities * doubt, axis=1) / np.maximum(doubt.sum(axis=1), 1e-12)
        trusted = names * probabilities + doubt * spread[:, None]
        out[part] = np.log(trust.weight * trusted + (1.0 - trust.weight) / classes + FLOOR)
    return out


def fit_trust(zero_shot: Array, labels: IntArray, evidence: BoolArray) -> TextTrust:
    """Return the scale and the share of right names of the greatest likelihood, and the trust in each name.

    The photos of class k are named by ``softmax(scale · zero_shot)`` if its name is right, and at random if it is
    wrong: a mixture of two models over classes, with the share of right names as its weight. That a class's own
    photos decide how far its text counts is CLAP's rule too (Silva-Rodríguez et al., CVPR 2024), whose
    weight is the mean probability of the true class; here it is the posterior probability of the better model, so that
    a class that zero-shot confuses with its neighbours keeps its name.

    No part of the logits was fitted on these photos, so that one photo per class is enough. The gain in log-likelihood
    over chance has to pay for the two parameters (Akaike, 1974); else the scale is 0.

    Parameters
    ----------
    zero_shot : float array of shape (n, c)
    labels : int array of shape (n,)
    evidence : bool array of shape (n,)
        Rows that count; generated images do not.
    """
    classes = zero_shot.shape[1]
    rows = np.flatnonzero(evidence)
    some = _some(rows, classes)
    logits, own = np.asarray(zero_shot[some], np.float32), labels[some]
    spread = float(np.std(logits - logits.mean(axis=1, keepdims=True))) or 1.0
    best = _Mixture(0.0, 0.5, -np.inf)
    for scale in np.array(SCALES) / spread:
        gains = _sums_by(log_gains(logits, own, scale), own, classes)[np.unique(own)]
        best = max(best, _fit_share(gains, float(scale)), key=lambda mixture: mixture.gain)
    if best.gain <= 2.0:
        return TextTrust(0.0, 0.0, np.zeros(classes))
    gains = _sums_by(log_gains(zero_shot[rows], labels[rows], best.scale), labels[rows], classes)
    return TextTrust(best.scale, best.share, _posterior(gains, best.share))


def own_trust(zero_shot: Array, labels: IntArray, evidence: BoolArray, group: IntArray, trust: TextTrust) -> OwnTrust:
    """Return the trust in each row's own name by the rows of other groups, for choices on held-out rows."""
    gains = np.where(evidence, log_gains(zero_shot, labels, trust.scale), 0.0)
    of_class = _sums_by(gains, labels, zero_shot.shape[1])[labels]
    _, number = np.unique(group, return_inverse=True)
    of_group = _sums_by(gains, number, len(gains))[number]
    return OwnTrust(labels, _posterior(of_class - of_group, trust.share))


def least_squares_weight(log_probabilities: Array, labels: IntArray) -> float:
    """Return the weight w, 0 to 1, of the least ``Σ |y − w p − (1 − w) / c|²`` over rows with one-hot labels y.

    It is near 1 for calibrated probabilities, whether they say much or little, and near 0 for those that are sure of
    a few names without reason.

    Parameters
    ----------
    log_probabilities : float array of shape (n, c)
    labels : int array of shape (n,)
    """
    n, classes = log_probabilities.shape
    across, square = 0.0, 0.0
    for start in range(0, n, step := max(1, CHUNK // classes)):
        part = slice(start, start + step)
        said = np.exp(log_probabilities[part].astype(np.float64)) - 1.0 / classes
        across += float(said[np.arange(len(said)), labels[part]].sum())
        square += float(np.einsum("ij,ij->", said, said))
    return float(np.clip(across / max(square, 1e-12), 0.0, 1.0))


def log_gains(zero_shot: Array, labels: IntArray, scale: float) -> Float64Array:
    """Return each row's gain in log-probability over chance, (n,): smoothed by one part in n + 2 (Platt, 1999)."""
    n, classes = zero_shot.shape
    smoothing, out = 1.0 / (n + 2), np.empty(n)
    for start in range(0, n, step := max(1, CHUNK // classes)):
        part = slice(start, start + step)
        logs = log_softmax(np.float32(scale) * zero_shot[part])
        at_label = logs[np.arange(len(logs)), labels[part]].astype(np.float64)
        out[part] = (1 - smoothing) * at_label + smoothing * logs.mean(axis=1, dtype=np.float64) + np.log(classes)
    return out


def _some(rows: IntArray, classes: int) -> IntArray:
    """Return evenly spaced rows that hold about ``MOST_LOGITS`` logits at most."""
    most = max(1, MOST_LOGITS // classes)
    return rows[:: -(-len(rows) // most)] if len(rows) > most else rows


def _sums_by(values: Float64Array, numbers: IntArray, length: int) -> Float64Array:
    """Return the sum of the values of each number, (length,)."""
    return np.bincount(numbers, weights=values, minlength=length).astype(np.float64)


class _Mixture(NamedTuple):
    """Scale, share of right names, and the gain in log-likelihood over chance."""

    scale: float
    share: float
    gain: float


def _fit_share(gains: Float64Array, scale: float) -> _Mixture:
    """Return the likeliest share of right names by expectation maximisation; ``gains`` (c,) are sums over photos."""
    share = 0.5
    for _ in range(STEPS):
        share = float(np.clip(_posterior(gains, share).mean(), 1e-4, 1 - 1e-4))
    gain = np.logaddexp(np.log(share) + gains, np.log1p(-share)).sum()
    return _Mixture(scale, share, float(gain))


def _posterior(gains: Float64Array, share: float) -> Float64Array:
    # The logistic function, which cannot overflow in this form.
    return np.asarray(np.exp(-np.logaddexp(0.0, np.log1p(-share) - np.log(share) - gains)))
