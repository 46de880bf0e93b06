"""Few-shot fine-tuning against heads on frozen features, on the same draws, as a table.

    python tests/bench/few_shot_finetune.py --model MODEL --data DATA [--shots 1,2,4] [--seeds 3] [--how lora]

Each run trains on a draw of the train split alone (``flip finetune --shots K --seed S``); zero-shot and the head
``auto`` of the same draw are then scored on the test split with the model before and after. ``--choose`` divides the
train split into four photos per class to draw from and the rest to score, for choosing settings without a test photo.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import flip
from flip.classify.heads import build_head
from flip.classify.text_side import build_text_side
from flip.data.dataset import Dataset, few_shot_indices
from flip.embed.settings import EmbedSettings
from flip.training.settings import ClipSettings, Hardware

HOW: dict[str, dict[str, Any]] = {"projection": {"train": "projection"}, "lora": {}}
POOL = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--prompts", default="plain")
    parser.add_argument("--shots", default="1,2,4,8,16")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--how", default=",".join(HOW))
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the runs")
    arguments = parser.parse_args()
    dataset = flip.open_dataset(arguments.data)
    dataset = (
        _choosing(dataset)
        if arguments.choose
        else dataset.take([i for i, r in enumerate(dataset.records) if r.split != "val"])
    )
    more = dict(_setting(item) for item in arguments.set)
    for shots in arguments.shots.split(","):
        scores = defaultdict(list)
        for seed in range(arguments.seeds):
            before = _scores(arguments.model, dataset, arguments.prompts, shots, seed)
            scores["zero-shot"].append(before[0])
            scores["auto"].append(before[1])
            for how in arguments.how.split(","):
                settings = ClipSettings(shots=shots, seed=seed, no_scores=True, **{**HOW[how], **more})
                with tempfile.TemporaryDirectory() as folder:
                    start = time.perf_counter()
                    hardware = Hardware(precision="fp32", workers=1)
                    flip.finetune(dataset, arguments.model, Path(folder) / "tuned", settings, hardware=hardware)
                    scores[f"{how}, seconds"].append(time.perf_counter() - start)
                    after = _scores(f"{folder}/tuned", dataset, arguments.prompts, shots, seed)
                scores[f"{how}, zero-shot"].append(after[0])
                scores[f"{how}, auto"].append(after[1])
        means = ", ".join(f"{name} {np.mean(found):.1f} ({_spread(found):.1f})" for name, found in scores.items())
        print(f"{shots} shots: {means}", flush=True)


def _setting(item: str) -> tuple[str, Any]:
    name, _, value = item.partition("=")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _spread(found: list[float]) -> float:
    """Return the half-width of the 95 % Student-t interval."""
    from scipy.stats import t

    n = len(found)
    return float(t.ppf(0.975, n - 1) * np.std(found, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


def _choosing(dataset: Dataset) -> Dataset:
    """Return the train split as training and test photos."""
    train = dataset.select("train")
    drawn = set(few_shot_indices(train.labels, POOL, 1000).tolist())
    records = tuple(r._replace(split="train" if i in drawn else "test") for i, r in enumerate(train.records))
    return replace(train, records=records)


def _scores(name: str, dataset: Dataset, prompts: str, shots: str, seed: int) -> tuple[float, float]:
    """Return top-1 of zero-shot and of the head ``auto`` fitted to the draw."""
    model = flip.load_model(name)
    features = flip.extract_features(dataset, model, settings=EmbedSettings(precision="fp32"))
    train, test = features.split("train").readable(), features.split("test").readable()
    text = flip.build_zero_shot_classifier(flip.class_prompts(prompts, dataset.classnames), model).text
    sides = [build_text_side(f.image_features, text.class_embeddings, text.logit_scale) for f in (train, test)]
    zero_shot = sides[1].zero_shot
    assert zero_shot is not None
    rows = np.arange(len(train)) if shots == "all" else few_shot_indices(train.labels, int(shots), seed)
    head = build_head("auto", len(dataset.classnames), seed).fit(sides[0].take(rows), train.labels[rows])
    right = [zero_shot.argmax(axis=1) == test.labels, head.predict_proba(sides[1]).argmax(axis=1) == test.labels]
    return 100 * float(right[0].mean()), 100 * float(right[1].mean())


if __name__ == "__main__":
    main()
