"""Heads, nearest class mean, kNN and scikit-learn's LogisticRegression() by number of training photos, as tables.

    python tests/bench/few_shot_table.py --model MODEL --data DATA [--seeds 5] [--plot docs]

With the right class names, with the names shuffled among all classes, so that zero-shot is at chance, and among half of
them. Everything is fitted and chosen on draws of the train split; the test split is scored only. The last line of each
table is ``auto`` less the best of zero-shot, nearest class mean and logistic regression.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import flip
from flip.classify.heads import build_head
from flip.classify.text_side import build_text_side
from flip.classify.votes import fit_knn
from flip.embed.settings import EmbedSettings
from flip.names import HEADS
from flip.report.plots import plot_few_shot
from flip.studies.few_shot import DrawScore, draws, few_shot_rows

SHOTS = "1,2,4,8,16,all"
NAMES = ("right", "shuffled", "half")
#: Methods with nothing random in them.
FIXED = ("knn", "ncm", "logreg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--prompts", default="bird")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shots", default=SHOTS)
    parser.add_argument("--names", default="right,shuffled", help=f"some of {','.join(NAMES)}")
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()

    dataset, model = flip.open_dataset(arguments.data), flip.load_model(arguments.model)
    features = flip.extract_features(dataset, model, settings=EmbedSettings(precision="fp32"))
    train, test = features.split("train").readable(), features.split("test").readable()
    prompts = flip.class_prompts(arguments.prompts, dataset.classnames, dataset.raw_names)
    text = flip.build_zero_shot_classifier(prompts, model).text
    for names in arguments.names.split(","):
        embeddings = text.class_embeddings[_order(len(dataset.classnames), names)]
        sides = [build_text_side(f.image_features, embeddings, text.logit_scale) for f in (train, test)]
        zero_shot = 100 * (sides[1].zero_shot.argmax(axis=1) == test.labels).mean()
        print(f"\nclass names {names}: zero-shot {zero_shot:.1f}, n {len(test)}\n", flush=True)
        shots = [None if k == "all" else int(k) for k in arguments.shots.split(",")]
        curves = {}
        for name, fit in _methods(arguments.heads.split(","), *sides, train.labels, len(embeddings)).items():
            start = time.perf_counter()
            curves[name] = _curve(fit, train.labels, test.labels, shots, arguments.seeds, fixed=name in FIXED)
            print(_line(name, curves[name], time.perf_counter() - start), flush=True)
        if "auto" in curves:
            best = [max(zero_shot, *(curves[m][i]["top1"] for m in FIXED[1:])) for i in range(len(shots))]
            ahead = [row["top1"] - other for row, other in zip(curves["auto"], best, strict=True)]
            print(f"| `auto` less the best | {' | '.join(f'{points:+.1f}' for points in ahead)} | |", flush=True)
        if arguments.plot and names != "half":
            shown = {name: curves[name] for name in ("auto", "ridge", "gda", "knn", "logreg") if name in curves}
            title = f"class names {names}, {len(embeddings)} classes, n {len(test)}"
            plot_few_shot(arguments.plot / f"few-shot-{names}.svg", shown, title)


def _order(classes: int, names: str) -> np.ndarray:
    """Return the class whose name each class gets, (c,)."""
    rng = np.random.default_rng(0)
    if names == "shuffled":
        return rng.permutation(classes)
    order = np.arange(classes)
    if names == "half":
        wrong = rng.permutation(classes)[: classes // 2]
        order[wrong] = np.roll(wrong, 1)
    return order


def _methods(
    heads: list[str], train: Any, test: Any, labels: np.ndarray, classes: int
) -> dict[str, Callable[..., Any]]:
    """Return for each method what fits rows with a seed, and returns predicted labels and what it chose."""
    from sklearn.linear_model import LogisticRegression

    def knn(rows: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
        classifier = fit_knn(train.image[rows], labels[rows], classes)
        return classifier.predict_proba(test.image).argmax(axis=1), "knn"

    def ncm(rows: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
        means = np.stack([train.image[rows[labels[rows] == c]].mean(axis=0) for c in range(classes)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        return (test.image @ means.T).argmax(axis=1), "ncm"

    def logreg(rows: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
        return LogisticRegression().fit(train.image[rows], labels[rows]).predict(test.image), "logreg"

    def head(name: str) -> Callable[..., tuple[np.ndarray, str]]:
        def fit(rows: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
            fitted = build_head(name, classes, seed).fit(train.take(rows), labels[rows])
            return fitted.predict_proba(test).argmax(axis=1), fitted.chosen_name

        return fit

    return {"knn": knn, "ncm": ncm, "logreg": logreg} | {name: head(name) for name in heads}


def _curve(
    fit: Callable[..., Any],
    labels: np.ndarray,
    truth: np.ndarray,
    shots: list[int | None],
    seeds: int,
    *,
    fixed: bool,
) -> list[Any]:
    scored = []
    for draw in draws(labels, shots, seeds):
        # With all photos the draws are the same, and only a method with chance in it differs from seed to seed.
        for seed in range(1 if draw.shots or fixed else seeds):
            predicted, chosen = fit(draw.rows, draw.seed + seed)
            scored.append(DrawScore(draw, 100.0 * float((predicted == truth).mean()), chosen))
    return few_shot_rows(scored)


def _line(name: str, rows: list[Any], seconds: float) -> str:
    cells = []
    for row in rows:
        spread = f" ± {row['ci95'][1] - row['top1']:.1f}" if row["ci95"] else ""
        cells.append(f"{row['top1']:.1f}{spread}")
    chosen = f" {rows[-1]['head']}" if name == "auto" else ""
    return f"| `{name}` | " + " | ".join(cells) + f" | {seconds:.0f} s{chosen} |"


if __name__ == "__main__":
    main()
