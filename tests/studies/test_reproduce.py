"""The paper's table: its protocol equals scikit-learn's own estimators, rows resume, and what is missing is said."""

from __future__ import annotations

import csv
import io
import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from flip.classify.knn import KnnClassifier
from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from flip.errors import ConfigError, DataError
from flip.results import Run
from flip.studies import paper_finetune
from flip.studies.paper_bench import CLEAN, PAPER, Bench
from flip.studies.paper_finetune import finetune_as_paper
from flip.studies.paper_protocol import PaperKnn, PaperMlp, SklearnClassifier, paper_draw
from flip.studies.paper_rows import ROWS, Quoted, Row, select
from flip.studies.protocol import Description, score
from flip.studies.reproduce import COLUMNS, Reproduction, csv_text, markdown
from flip.studies.settings import ReproduceSettings
from tests.classify.features_data import bird_features
from tests.conftest import write_captioned

TRAIN = bird_features(6, seed=1)
TEST = bird_features(10, seed=2, splits=("test",) * len(bird_features(10)))


def lengthened(features, seed):
    """Features whose rows have different lengths."""
    lengths = np.random.default_rng(seed).uniform(1, 9, (len(features), 1)).astype(np.float32)
    return replace(features, image_features=features.image_features * lengths, fingerprint="one-raw")


RAW_TRAIN, RAW_TEST = lengthened(TRAIN, 0), lengthened(TEST, 1)


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("logreg", LogisticRegression()),
        ("knn", KNeighborsClassifier()),
        ("svm-linear", SVC(kernel="linear")),
        ("svm-rbf", SVC(kernel="rbf")),
    ],
)
def test_each_estimator_equals_scikit_learn_s_own(name, estimator):
    estimator.fit(RAW_TRAIN.image_features.astype(np.float64), RAW_TRAIN.labels)
    expected = estimator.predict(RAW_TEST.image_features.astype(np.float64))
    own = SklearnClassifier(name).fit(RAW_TRAIN)
    np.testing.assert_array_equal(own.predict(RAW_TEST), expected)
    assert score(own, RAW_TEST).evaluation.top1 == pytest.approx(100 * np.mean(expected == RAW_TEST.labels))
    np.testing.assert_allclose(own.predict_proba(RAW_TEST).sum(axis=1), 1, atol=1e-5)
    assert own.protocol["features"] == "unnormalised"


@pytest.mark.parametrize("name", ["logreg", "knn", "svm-linear", "svm-rbf"])
def test_two_classes_and_classes_without_photos(name):
    two = RAW_TRAIN.take(np.flatnonzero(np.isin(RAW_TRAIN.labels, (1, 3))))
    own = SklearnClassifier(name).fit(two)
    predicted = own.predict(RAW_TEST)
    assert set(predicted) <= {1, 3}
    assert (own.predict_proba(RAW_TEST)[:, 0] == 0).all()
    estimator = own._estimator
    np.testing.assert_array_equal(predicted, estimator.predict(RAW_TEST.image_features.astype(np.float64)))


def test_the_draw_is_pandas_sample_with_seed_42():
    pandas = pytest.importorskip("pandas")
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 12))
    frame = pandas.DataFrame({"label": labels})
    expected = [list(frame[frame.label == c].sample(n=5, random_state=42).index) for c in range(5)]
    np.testing.assert_array_equal(paper_draw(labels, 5), np.concatenate(expected))
    assert len(paper_draw(labels, 99)) == 60


def test_the_draw_of_one_class_by_hand():
    labels = np.array([1, 0, 1, 1, 0])
    drawn = paper_draw(labels, 2)
    assert labels[drawn].tolist() == [0, 0, 1, 1]
    ones = np.array([0, 2, 3])[np.random.RandomState(42).choice(3, 2, replace=False)]
    np.testing.assert_array_equal(drawn[2:], ones)


def test_knn_shows_its_sweep_and_marks_what_was_chosen_on_test():
    outcome = score(PaperKnn("knn").fit(RAW_TRAIN), RAW_TEST)
    details = outcome.evaluation.details
    by_k = {row["k"]: row["top1"] for row in details["sweep"]}
    assert list(by_k) == list(range(3, 21))
    assert outcome.evaluation.top1 == by_k[5]
    assert details["best_on_test"]["top1"] == max(by_k.values())
    x, y = RAW_TRAIN.image_features.astype(np.float64), RAW_TRAIN.labels
    nine = KNeighborsClassifier(9).fit(x, y).score(RAW_TEST.image_features.astype(np.float64), RAW_TEST.labels)
    assert by_k[9] == pytest.approx(100 * nine)


def test_the_network_predicts_by_its_last_epoch_and_shows_the_best():
    mlp = PaperMlp(0).fit(RAW_TRAIN)
    outcome = score(mlp, RAW_TEST)
    epochs = outcome.evaluation.details["epochs"]
    assert [row["epoch"] for row in epochs] == list(range(1, 31))
    assert outcome.evaluation.top1 == epochs[-1]["top1"]
    assert outcome.evaluation.details["best_on_test"]["top1"] == max(row["top1"] for row in epochs)
    assert outcome.evaluation.protocol["test_captions"] is True
    again = PaperMlp(0).fit(RAW_TRAIN)
    np.testing.assert_array_equal(again.predict_proba(RAW_TEST), mlp.predict_proba(RAW_TEST))
    assert not np.array_equal(PaperMlp(1).fit(RAW_TRAIN).predict_proba(RAW_TEST), mlp.predict_proba(RAW_TEST))


# The table.


def test_every_row_has_a_name_of_its_own_and_the_paper_s_numbers():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    quoted = {row.name: row.quoted for row in ROWS}
    assert quoted["zeroshot"].top1 == 45.56
    assert (quoted["mlp-finetuned"].top1, quoted["mlp-finetuned"].best_on_test) == (73.82, 75.18)
    assert quoted["full-logreg"].top1 == 74.28
    assert quoted["full-logreg-finetuned"].top1 == 75.18
    assert quoted["shots10-logreg"].top1 == 65.33
    assert quoted["shots5-captions-logreg"].top1 == 48.5
    assert all(row.quoted.top1 is not None or row.quoted.note for row in ROWS)


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("knn", ["knn"]),
        ("knn-finetuned, zeroshot", ["zeroshot", "knn-finetuned"]),
        ("full-logreg*", ["full-logreg", "full-logreg-finetuned"]),
        ("hybrid", ["mlp", "mlp-finetuned"]),
        (None, [row.name for row in ROWS]),
    ],
)
def test_only_chooses_rows(only, names):
    assert [row.name for row in select(ROWS, only)] == names


def test_an_unknown_row_is_one_line():
    with pytest.raises(ConfigError, match="--only 'knnn' is no row; did you mean knn"):
        select(ROWS, "zeroshot,knnn")


@pytest.fixture
def bench(tiny_model, tmp_path):
    dataset = open_dataset(write_captioned(tmp_path / "birds"))
    settings = EmbedSettings(precision="fp32", device="cpu", workers=1)
    extractor = FeatureExtractor(load_model(str(tiny_model)), settings, tmp_path / "cache")
    own = ReproduceSettings(seeds=2, epochs=1, tune_epochs=1)
    return Bench(dataset, "birds", extractor, tmp_path / "run", own, None, 0, lambda title, total: nullcontext())


def knn_row(calls, name="one", error=None):
    def run(bench):
        calls.append(name)
        if error:
            raise error
        features = bench.features()
        about = Description(command="reproduce", data="birds", model="tiny", split="test")
        return score(KnnClassifier(k=1).fit(features.split("train")), features.split("test"), about)

    return Row(name=name, title=name, family="x", quoted=Quoted(50.0, 60.0), paper=run, clean=run)


def test_finished_rows_are_not_run_again(bench, tmp_path):
    calls = []
    first = Reproduction(bench, [knn_row(calls, "a")], {}, tmp_path / "run")
    first.claim(resume=False, overwrite=False)
    table = first.run()
    both = Reproduction(bench, [knn_row(calls, "a"), knn_row(calls, "b")], {}, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a reproduction; pass --resume"):
        both.claim(resume=False, overwrite=False)
    both.claim(resume=True, overwrite=False)
    assert [(line["row"], line["protocol"]) for line in both.plan()] == [("b", PAPER), ("b", CLEAN)]
    again = both.run()
    assert calls == ["a", "a", "b", "b"]
    assert again["rows"][0]["paper"] == table["rows"][0]["paper"]
    assert Run.open(tmp_path / "run" / "a" / "clean").evaluation.top1 == table["rows"][0]["clean"]["top1"]
    other = replace(bench, settings=replace(bench.settings, epochs=2))
    with pytest.raises(ConfigError, match=r"epochs 2 \(was 1\)"):
        Reproduction(other, [], {}, tmp_path / "run").claim(resume=True, overwrite=False)
    both.claim(resume=False, overwrite=True)
    assert not (tmp_path / "run" / "zeroshot").exists()


def test_a_row_that_cannot_be_run_says_why_and_the_others_go_on(bench, tmp_path):
    calls = []
    rows = [knn_row(calls, "a", DataError("no captions here")), knn_row(calls, "b")]
    table = Reproduction(bench, rows, {}).run()
    assert table["rows"][0]["paper"] == {"left_out": "no captions here"}
    assert table["rows"][1]["paper"]["n"] == 24
    assert "left out: no captions here" in markdown(table)


def test_the_table_as_markdown_and_csv(bench):
    table = Reproduction(bench, [knn_row([], "a"), *select(ROWS, "knn")], {}).run()
    text = markdown(table)
    first = text.splitlines()[2]
    assert first.startswith("| a | 50.00, 60.00 † | ")
    assert "† at k " in text
    assert "† chosen on the test photos" in text
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["row"], row["protocol"]) for row in rows] == [
        *(("a", PAPER), ("a", CLEAN), ("knn", PAPER), ("knn", CLEAN))
    ]
    json.dumps(table["rows"])


def test_the_seconds_of_a_row_are_its_own(bench):
    import time

    def slow(bench):
        with bench.timed("fine-tuning"):
            time.sleep(0.2)
            with bench.timed("embedding"):
                time.sleep(0.1)
        return knn_row([]).paper(bench)

    table = Reproduction(bench, [replace(knn_row([]), paper=slow, clean=None)], {}).run()
    assert table["prepared"]["fine-tuning"] == pytest.approx(0.2, abs=0.09)
    assert table["prepared"]["embedding"] >= 0.1
    assert table["rows"][0]["paper"]["seconds"] < 0.2
    assert table["rows"][0]["clean"] is None


def test_raw_features_hold_the_first_caption_beside_the_photo(bench):
    raw, both = bench.raw(None, False), bench.raw(None, True)
    d = raw.image_features.shape[1]
    np.testing.assert_array_equal(both.image_features[:, :d], raw.image_features)
    assert both.image_features.shape[1] == 2 * d
    assert len({raw.fingerprint, both.fingerprint, bench.features().fingerprint}) == 3
    plain = replace(bench.dataset, records=tuple(r._replace(captions=()) for r in bench.dataset.records))
    without = replace(bench, dataset=plain, made={})
    with pytest.raises(DataError, match="48 of 48 photos have no caption"):
        without.raw(None, True)


def test_paper_rows_equal_scikit_learn_on_open_clip_s_own_features(bench, tiny_model, tmp_path):
    """From the files on: open_clip encodes, scikit-learn fits, and the row has the same number."""
    import open_clip
    from PIL import Image

    rng = np.random.default_rng(0)
    for file in (tmp_path / "birds").rglob("*.png"):
        # Hard to tell apart, so that the numbers are not all 100.
        pixels = np.asarray(Image.open(file)).astype(float) / 12 + rng.normal(120, 60, (40, 48, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file)
    network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tiny_model}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{tiny_model}")
    network.eval()
    records = bench.dataset.records
    with torch.inference_mode():
        pixels = torch.stack([preprocess(Image.open(bench.dataset.file(r)).convert("RGB")) for r in records])
        image = network.encode_image(pixels).double().numpy()
        text = network.encode_text(tokenize([r.captions[0] for r in records])).double().numpy()
    train = np.array([r.split == "train" for r in records])
    labels = bench.dataset.labels
    estimators = {"logreg": LogisticRegression(), "knn": KNeighborsClassifier(), "svm-linear": SVC(kernel="linear")}
    estimators["svm-rbf"] = SVC()
    found = []
    for kind, x in (("full", image), ("full-captions", np.concatenate([image, text], axis=1))):
        for name, estimator in estimators.items():
            expected = 100 * estimator.fit(x[train], labels[train]).score(x[~train], labels[~train])
            (row,) = select(ROWS, f"{kind}-{name}")
            assert row.paper is not None
            assert row.paper(bench).evaluation.top1 == pytest.approx(expected, abs=0.1), row.name
            found.append(expected)
    assert min(found) < 80
    assert len(set(found)) > 3


def test_clean_rows_never_see_a_test_caption_or_label(bench):
    """Whatever the test photos' captions and labels are, the clean predictions are the same."""
    rng = np.random.default_rng(0)
    shuffled = tuple(
        r._replace(label=int(rng.integers(4)), captions=("nonsense",)) if r.split == "test" else r
        for r in bench.dataset.records
    )
    other = replace(bench, dataset=replace(bench.dataset, records=shuffled), folder=bench.folder / "other", made={})
    rows = select(ROWS, "zeroshot,knn,shots5-captions-logreg,mlp,full-logreg-finetuned")
    for row in rows:
        assert row.clean is not None
        np.testing.assert_array_equal(row.clean(bench).probabilities, row.clean(other).probabilities, err_msg=row.name)


# The paper's fine-tuning.


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "open_clip_model.safetensors")


def test_fine_tuning_learns_from_all_captioned_photos_and_rounds_to_half(tiny_model, tmp_path):
    dataset = open_dataset(write_captioned(tmp_path / "birds"))
    dataset = replace(dataset, records=(dataset.records[0]._replace(captions=()), *dataset.records[1:]))
    result = finetune_as_paper(dataset, load_model(str(tiny_model)), tmp_path / "tuned", epochs=1)
    assert (result["photos"], result["test_photos"], result["epochs"]) == (47, 23, 1)
    tuned, before = weights(tmp_path / "tuned"), weights(tiny_model)
    halved = tuned["visual.transformer.resblocks.0.mlp.c_fc.weight"]
    assert torch.equal(halved, halved.half().float())
    embedding = tuned["positional_embedding"]
    assert not torch.equal(embedding, embedding.half().float()), "embeddings and norms stay in fp32"
    assert (embedding - before["positional_embedding"]).abs().max() < 1e-4
    assert load_model(str(tmp_path / "tuned")).dim == 32
    again = finetune_as_paper(dataset, load_model(str(tiny_model)), tmp_path / "tuned", epochs=1)
    assert again["loss"] == result["loss"]


def test_an_interrupted_fine_tuning_resumes_bit_identically(tiny_model, tmp_path, monkeypatch):
    dataset = open_dataset(write_captioned(tmp_path / "birds"))
    monkeypatch.setitem(paper_finetune.ADAM, "lr", 1e-3)
    finetune_as_paper(dataset, load_model(str(tiny_model)), tmp_path / "whole", epochs=2)
    calls = []

    def stop(n):
        calls.append(n)
        if sum(calls) > len(dataset):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune_as_paper(dataset, load_model(str(tiny_model)), tmp_path / "cut", epochs=2, progress=stop)
    finetune_as_paper(dataset, load_model(str(tiny_model)), tmp_path / "cut", epochs=2)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not torch.equal(whole["positional_embedding"], weights(tiny_model)["positional_embedding"])


def test_fine_tuning_without_captions_is_one_line(tiny_model, squares, tmp_path):
    with pytest.raises(DataError, match="has 0 photos with a caption"):
        finetune_as_paper(open_dataset(squares), load_model(str(tiny_model)), tmp_path / "tuned")
