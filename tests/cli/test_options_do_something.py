"""Options that no other test of the command line uses: each changes what it says it changes."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flip.diffusion.pictures import read_metadata
from tests.cli.conftest import Flip, one_line, read_json, read_rows
from tests.conftest import write_captioned
from tests.diffusion.tiny import ldm_state, make_pipeline, save_ckpt, with_ema

TRAIN = ("finetune", "--batch-size", 8, "--epochs", 1, "--lr", 1e-2, "--no-scores", "--precision", "fp32")


def test_captions_are_embedded_ahead(flip: Flip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioned = write_captioned(tmp_path / "captioned")
    read_json(flip("embed", "--data", captioned, "--captions"))
    read_json(flip("hybrid", "--data", captioned, "--head", "gda", "--text", "prompts"))
    # Whatever would encode a text now is an error.
    monkeypatch.setattr("flip.clip.encoder.OpenClipEncoder.encode_texts", lambda *a, **k: pytest.fail("encoded"))
    found = read_json(flip("hybrid", "--data", captioned, "--head", "gda", "--text", "captions"))
    assert found["protocol"]["test_captions"] is True


def test_fast_decoding_is_near_the_exact_one(flip: Flip, birds: Path) -> None:
    rng = np.random.default_rng(0)
    for photo in sorted(birds.rglob("*.png")):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(
            (800, 600), Image.Resampling.BICUBIC
        )
        coarse.save(photo.with_suffix(".jpg"))
        photo.unlink()
    tables = {}
    for way in ("fast", "exact"):  # what was decoded exactly would serve for fast
        read_json(flip("embed", "--decode", way, "--precision", "fp32", "-o", way))
        rows = pq.read_table(f"{way}/embeddings.parquet")["embedding"].to_pylist()
        tables[way] = np.asarray(rows, np.float32)
    cosines = (tables["exact"] * tables["fast"]).sum(axis=1)
    assert cosines.min() > 0.98
    assert not np.array_equal(tables["exact"], tables["fast"])


def test_few_says_which_classes_are_small(flip: Flip, squares: Path) -> None:
    def small(few: int) -> int:
        found = read_json(flip("data", "check", squares, "--only", "few-photos", "--few", few))
        return sum(row["kind"] == "few-photos" for row in found["rows"])

    assert (small(7), small(6)) == (4, 0), "each class has six training photos"


def test_checkpointed_gradients_are_the_gradients(flip: Flip, squares: Path) -> None:
    weights = []
    for folder, more in (("plain", ()), ("checkpointed", ("--grad-checkpointing",))):
        read_json(flip(*TRAIN, "--data", squares, "-o", folder, *more))
        weights.append(load_file(f"{folder}/open_clip_model.safetensors"))
    for name, plain in weights[0].items():
        torch.testing.assert_close(weights[1][name], plain, rtol=1e-4, atol=1e-5)


def test_weight_decay_shrinks_matrices(flip: Flip, squares: Path) -> None:
    def norm(decay: float) -> float:
        read_json(flip(*TRAIN, "--data", squares, "-o", f"w{decay}", "--weight-decay", decay))
        return float(load_file(f"w{decay}/open_clip_model.safetensors")["visual.proj"].norm())

    assert norm(20.0) < 0.9 * norm(0.0)


def test_guidance_and_what_shall_not_be_seen_change_an_image(flip: Flip, ckpt: Path) -> None:
    def draw(folder: str, *more: Any) -> Any:
        (row,) = read_rows(
            flip("generate", "--ckpt", ckpt, "a red bird", "--size", 16, "--steps", 2, "-o", folder, *more)
        )
        return np.asarray(Image.open(row["path"])), read_metadata(Path(row["path"]))

    plain, _ = draw("plain")
    strong, told = draw("strong", "--guidance", 2)
    assert told.settings["guidance"] == 2
    without, told = draw("without", "--negative", "blue")
    assert told.settings["negative"] == "blue"
    assert not np.array_equal(plain, strong)
    assert not np.array_equal(plain, without)


def test_the_plain_weights_of_a_checkpoint_are_another_model(flip: Flip, tmp_path: Path, state: Any) -> None:
    other: OrderedDict[str, Any] = ldm_state(make_pipeline(seed=1))
    file = save_ckpt(tmp_path / "both.ckpt", with_ema(state, other))
    images = []
    for folder, more in (("averaged", ()), ("plain", ("--no-ema",))):
        drawn = read_rows(flip("generate", "--ckpt", file, "x", "--size", 16, "--steps", 2, "-o", folder, *more))
        images.append(np.asarray(Image.open(drawn[0]["path"])))
    assert not np.array_equal(*images)


def test_here_lists_models_on_this_machine_only(flip: Flip) -> None:
    here = read_rows(flip("models", "--here"))
    everything = read_rows(flip("models"))
    assert all(row["here"] for row in here)
    assert here == [row for row in everything if row["here"]]
    assert any(row["name"] == "sample" for row in here), "it comes with flip"


def test_the_other_sample_is_written_by_its_name(flip: Flip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flip.sample import fieldguide

    whole = fieldguide.sample_train_guide
    monkeypatch.setattr(
        fieldguide, "sample_train_guide", lambda seed: replace(whole(seed), species=whole(seed).species[:2], photos=3)
    )
    result = flip("data", "sample", "--name", "sample-train", "-o", "birds")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "birds").rglob("*.jpg"))) == 6
    assert "'wren'" in one_line(flip("data", "sample", "--name", "wren"), 2)


def test_all_pairs_are_compared(flip: Flip, squares: Path) -> None:
    for k in (1, 3, 5):
        read_json(flip("knn", "--data", squares, "-k", k, "--run", f"k{k}"))
    compared = read_json(flip("compare", "k1", "k3", "k5", "--pairs", "all"))["comparisons"]
    assert [(row["run"], row["against"]) for row in compared] == [("k3", "k1"), ("k5", "k1"), ("k5", "k3")]
    assert len(read_json(flip("compare", "k1", "k3", "k5", "--pairs", "first"))["comparisons"]) == 2


def test_the_learning_rate_of_the_clean_fine_tuning_is_taken(flip: Flip, tmp_path: Path) -> None:
    captioned = write_captioned(tmp_path / "captioned")
    short = ("--only", "zeroshot-finetuned", "--epochs", 1, "--tune-epochs", 1, "--precision", "fp32", "--run", "runs")
    read_json(flip("reproduce", "--data", captioned, *short, "--tune-lr", 0.0123))
    settings = [json.loads(file.read_text()) for file in (tmp_path / "runs" / "tuned").rglob("result.json")]
    assert "0.0123" in json.dumps(settings)
