"""Every head, ``auto``, kNN and scikit-learn's LogisticRegression() by number of training photos, as tables and curves.

    python tests/bench/few_shot_table.py --model MODEL --data DATA [--seeds 5] [--plot docs]

Once with the right class names and once with the names shuffled among the classes, so that zero-shot is at chance.
Everything is fitted and chosen on draws of the train split; the test split is scored only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flip.config import ReadConfig, parse_shots

from flip.classify.heads import HEADS, make_head
from flip.classify.knn import fit_knn
from flip.classify.text_side import build_text_side
from flip.clip.model import load_model
from flip.clip.prompts import class_prompts
from flip.data.dataset import few_shot_indices
from flip.data.open import open_dataset
from flip.embed.extractor import make_extractor
from flip.report.plots import plot_few_shot
from flip.studies.few_shot import draws, few_shot_rows

SHOTS = "1,2,4,8,16,all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--prompts", default="bird")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()

    extractor = make_extractor(load_model(arguments.model), ReadConfig(precision="fp32"))
    dataset = open_dataset(arguments.data)
    features = extractor.features(dataset)
    train, test = features.split("train").readable(), features.split("test").readable()
    embeddings = extractor.class_embeddings(class_prompts(arguments.prompts, dataset.classnames, dataset.raw_names))
    shuffled = embeddings[np.random.default_rng(0).permutation(len(embeddings))]
    for names, of_classes in (("right", embeddings), ("shuffled", shuffled)):
        sides = [build_text_side(f.image_features, of_classes, extractor.model.logit_scale) for f in (train, test)]
        zero_shot = 100 * (sides[1].zero_shot.argmax(axis=1) == test.labels).mean()
        print(f"\nclass names {names}: zero-shot {zero_shot:.1f}, n {len(test)}\n", flush=True)
        curves = {}
        for name, fit in _methods(arguments.heads.split(","), *sides, train.labels, len(embeddings)).items():
            start = time.perf_counter()
            curves[name] = _curve(fit, train.labels, test.labels, arguments.seeds, fixed=name in ("knn", "logreg"))
            print(_line(name, curves[name], time.perf_counter() - start), flush=True)
        if arguments.plot:
            shown = {name: curves[name] for name in ("auto", "linear", "gda", "knn", "logreg") if name in curves}
            title = f"class names {names}, {len(embeddings)} classes, n {len(test)}"
            plot_few_shot(arguments.plot / f"few-shot-{names}.svg", shown, title)


def _methods(
    heads: list[str], train: Any, test: Any, labels: np.ndarray, classes: int
) -> dict[str, Callable[..., Any]]:
    """Return for each method what fits rows with a seed, and returns predicted labels and what it chose."""
    from sklearn.linear_model import LogisticRegression

    def knn(rows: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
        classifier = fit_knn(train.image[rows], labels[rows], classes)
        return classifier.predict_proba(test.image).argmax(axis=1), "knn"

    def logreg(rows: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
        return LogisticRegression().fit(train.image[rows], labels[rows]).predict(test.image), "logreg"

    def head(name: str) -> Callable[..., tuple[np.ndarray, str]]:
        def fit(rows: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
            fitted = make_head(name, classes, seed).fit(train.take(rows), labels[rows])
            return fitted.predict_proba(test).argmax(axis=1), getattr(fitted, "chosen", fitted).name

        return fit

    return {"knn": knn, "logreg": logreg} | {name: head(name) for name in heads}


def _curve(fit: Callable[..., Any], labels: np.ndarray, truth: np.ndarray, seeds: int, *, fixed: bool) -> list[Any]:
    scored = []
    for draw in draws(labels, parse_shots(SHOTS), seeds, few_shot_indices):
        # With all photos the draws are the same, and only a method with chance in it differs from seed to seed.
        for seed in range(1 if draw.shots or fixed else seeds):
            predicted, chosen = fit(draw.rows, draw.seed + seed)
            scored.append((draw, 100.0 * float((predicted == truth).mean()), chosen))
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
