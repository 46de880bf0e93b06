"""What the sample's models reach on the drawn birds, beside probes that see colours or raw pixels only.

``python tests/bench/sample_numbers.py [--model DIR] [--ckpt DIR] [--seeds 0,1]`` prints a table in Markdown: the same
species drawn from several seeds, zero-shot, kNN and heads, two probes without a network, and how many generated birds
a head that was trained on drawn training photos labels as asked.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from flip.classify.classifier import make_head
from flip.classify.knn import KnnClassifier
from flip.clip.model import load_model
from flip.clip.prompts import class_prompts
from flip.data.open import open_dataset
from flip.device import resolve_device
from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.painter import Painter, Picture, picture_seed
from flip.diffusion.pictures import contact_sheet, save_sheet
from flip.diffusion.settings import DrawSettings
from flip.diffusion.texts import drawing_prompts
from flip.embed.extractor import FeatureExtractor
from flip.embed.texts import build_zero_shot_classifier
from flip.features import Features
from flip.metrics import wilson_interval
from flip.sample.fieldguide import sample_guide, write_guide

BINS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sample")
    parser.add_argument("--ckpt", default="sample")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--pictures", type=int, default=8, help="generated birds a species; 0 draws none")
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--prompts", default="auto")
    parser.add_argument("--sheet", type=Path, help="contact sheet of the generated birds, unfiltered")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        extractor = FeatureExtractor(load_model(given.model, cache=Path(cache)), cache=Path(cache))
        print("| seed | method | top-1, % | 95 % |\n|---|---|---|---|")
        for seed in map(int, given.seeds.split(",")):
            folder = Path(cache) / f"birds-{seed}"
            write_guide(sample_guide(seed), folder)
            dataset = open_dataset(folder)
            for method, correct in scores(dataset, extractor):
                row(seed, method, correct)
        if given.pictures:
            generated(dataset, extractor, given)


def row(seed: object, method: str, correct: np.ndarray) -> None:
    low, high = wilson_interval(int(correct.sum()), len(correct))
    print(f"| {seed} | {method} | {100 * correct.mean():.1f} | {low:.1f} to {high:.1f} |", flush=True)


def scores(dataset, extractor):
    features = extractor.features(dataset)
    train, test = features.split("train"), features.split("test")
    for prompts in ("paper", "plain", "bird", "clip"):
        texts = class_prompts(prompts, dataset.classnames, dataset.raw_names)
        names = build_zero_shot_classifier(texts, extractor.model, cache=extractor.cache)
        yield f"zero-shot, {prompts}", right(names, test)
    knn = KnnClassifier().fit(train)
    yield f"kNN, k = {knn.k}", right(knn, test)
    texts = class_prompts("plain", dataset.classnames, dataset.raw_names)
    names = build_zero_shot_classifier(texts, extractor.model, cache=extractor.cache)
    for kind in ("linear", "gda", "auto"):
        yield f"head {kind}", right(make_head(kind, text="prompts", zero_shot=names, seed=0).fit(train), test)
    for probe, view in (("colour histogram", histogram), ("raw pixels", raw)):
        x = {part: np.stack([view(f) for f in files(dataset, part)]) for part in ("train", "test")}
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(
            x["train"], train.labels
        )
        yield f"logistic regression on {probe}", fitted.predict(x["test"]) == test.labels


def right(classifier, features) -> np.ndarray:
    return classifier.predict_proba(features).argmax(axis=1) == features.labels


def files(dataset, part):
    chosen = dataset.select(part)
    return [chosen.file(record) for record in chosen.records]


def histogram(file: Path) -> np.ndarray:
    """Share of pixels in each of 6 x 6 x 6 cells of RGB; the square root makes rare colours count."""
    pixels = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
    counts = np.histogramdd(pixels, bins=BINS, range=[(0, 256)] * 3)[0]
    return np.sqrt(counts.ravel() / len(pixels))


def raw(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB").resize((32, 32))).ravel() / 255.0


def generated(dataset, extractor, given) -> None:
    train = dataset.select("train")
    features = extractor.features(train)
    head = make_head("linear", text="none", seed=0).fit(features)
    settings = DrawSettings(sampler="dpm++", steps=25, guidance=given.guidance)
    painter = Painter(load_pipeline(given.ckpt).pipeline, resolve_device(), settings, batch_size=24)
    prompts = drawing_prompts(train, given.prompts)
    asked = [(label, texts[i % len(texts)], i) for label, texts in enumerate(prompts) for i in range(given.pictures)]
    pictures = [Picture(text, picture_seed(0, text, i)) for _, text, i in asked]
    drawn = [image.resize((160, 160), Image.Resampling.BICUBIC) for _, image in painter.draw(pictures)]
    if given.sheet:
        tiles = [image.resize((80, 80), Image.Resampling.BICUBIC) for image in drawn]
        save_sheet(
            contact_sheet([tiles[i : i + 4 * given.pictures] for i in range(0, len(tiles), 4 * given.pictures)]),
            given.sheet,
        )
    encoder = extractor.encoder
    embedded = np.concatenate(
        [encoder.encode_images([encoder.prepare(i) for i in drawn[s : s + 32]]) for s in range(0, len(drawn), 32)]
    )
    n, none = len(drawn), ((),) * len(drawn)
    labels = np.array([label for label, _, _ in asked])
    named, names = tuple(map(str, range(n))), features.classnames
    made = Features(embedded, labels, named, ("test",) * n, none, (None,) * n, names, names, features.fingerprint)
    row("–", f"generated as asked ({given.prompts})", right(head, made))


if __name__ == "__main__":
    main()
