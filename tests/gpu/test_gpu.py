"""Every part that runs on a GPU gives what the CPU gives, within a stated tolerance."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flip.classify.classifier import make_head
from flip.classify.index import NeighborIndex
from flip.classify.knn import KnnClassifier
from flip.cli.app import app
from flip.clip.model import load_model
from flip.clip.prompts import class_prompts
from flip.device import resolve_device
from flip.diffusion.checkpoint import load_pipeline
from flip.diffusion.painter import Painter, Picture
from flip.diffusion.settings import DrawSettings
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from flip.training.clip.finetune import finetune as finetune_clip
from flip.training.diffusion.finetune import finetune as finetune_diffusion
from flip.training.settings import ClipSettings, DiffusionSettings, Hardware

GPU, CPU = Hardware(device="cuda", precision="fp32"), Hardware(device="cpu", precision="fp32")
QUICK_CLIP = ClipSettings(epochs=2, batch_size=48, lr=1e-3, save_every=3, no_scores=True)
QUICK_DIFFUSION = DiffusionSettings(epochs=1, batch_size=24, lr=3e-4, views=1, save_every=4)


def extractor(cache, device, precision="fp32", **more):
    return FeatureExtractor(
        load_model("sample", cache=cache), EmbedSettings(device=device, precision=precision, **more), cache
    )


@pytest.fixture(scope="module")
def on_cpu(birds, cache):
    return extractor(cache, "cpu").features(birds)


@pytest.fixture(scope="module")
def on_gpu(birds, tmp_path_factory):
    return extractor(tmp_path_factory.mktemp("gpu"), "cuda").features(birds)


def cosines(a, b):
    return (a.image_features * b.image_features).sum(axis=1)


def test_fp32_features_are_the_cpus(on_cpu, on_gpu):
    assert cosines(on_cpu, on_gpu).min() >= 0.9999


@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_half_precision_keeps_its_promise(birds, on_cpu, tmp_path, precision):
    half = extractor(tmp_path, "cuda", precision).features(birds)
    assert cosines(on_cpu, half).mean() >= 0.999
    assert cosines(on_cpu, half).min() >= 0.98


def test_auto_is_bf16_where_the_gpu_has_it(cache):
    expected = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    assert extractor(cache, "auto", "auto").precision == expected


def test_mirrored_views_are_the_cpus(birds, cache, tmp_path):
    few = birds.take(range(40))
    views = [
        extractor(folder, device, tta="flip").features(few) for folder, device in ((cache, "cpu"), (tmp_path, "cuda"))
    ]
    assert cosines(*views).min() >= 0.9999


def test_texts_are_the_cpus(birds, cache, tmp_path):
    prompts = class_prompts("clip", birds.classnames)
    cpu, gpu = (
        extractor(folder, device).class_embeddings(prompts) for folder, device in ((cache, "cpu"), (tmp_path, "cuda"))
    )
    assert np.abs(cpu - gpu).max() < 1e-4


def test_neighbours_are_the_cpus(on_cpu):
    faiss = pytest.importorskip("faiss")
    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        pytest.skip("this faiss has no GPU")
    rows = np.ascontiguousarray(on_cpu.image_features)
    cpu, gpu = (NeighborIndex(rows, "flat", gpu=wanted).search(rows, 10) for wanted in (False, True))
    assert np.abs(cpu.similarities - gpu.similarities).max() < 1e-4
    assert (cpu.rows[:, 0] == gpu.rows[:, 0]).mean() > 0.99
    train, test = on_cpu.split("train"), on_cpu.split("test")
    scores = [KnnClassifier(k=5, device=device).fit(train).score(test) for device in ("cpu", "cuda")]
    assert abs(scores[0] - scores[1]) <= 0.003


def test_the_network_head_is_as_good_as_on_the_cpu(on_cpu):
    train, test = on_cpu.split("train"), on_cpu.split("test")
    scores = [make_head("mlp", device=device).fit(train).score(test) for device in ("cpu", "cuda")]
    assert abs(scores[0] - scores[1]) <= 0.02


def test_clip_training_follows_the_cpus(birds, cache, tmp_path):
    rows = {}
    for name, hardware in (("cpu", CPU), ("cuda", GPU)):
        finetune_clip(birds, "sample", tmp_path / name, QUICK_CLIP, hardware=hardware, cache=cache)
        rows[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    for cpu, gpu in zip(rows["cpu"], rows["cuda"], strict=True):
        assert gpu["loss"] == pytest.approx(cpu["loss"], rel=0.02)


@pytest.mark.parametrize("more", [{"lora": 4}, {"grad_checkpointing": True}, {"keep": 1.0}, {}], ids=str)
def test_clip_training_in_bf16_learns(birds, cache, tmp_path, more):
    settings = replace(QUICK_CLIP, **more)
    hardware = Hardware(device="cuda", precision="bf16")
    result = finetune_clip(birds, "sample", tmp_path / "run", settings, hardware=hardware, cache=cache)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert result["precision"] == "bf16"
    assert rows[-1]["loss"] < rows[0]["loss"] + 0.1
    assert np.isfinite(rows[-1]["loss"])


def test_a_stopped_clip_training_resumes(birds, cache, tmp_path):
    from flip.training.listener import Listener

    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 5:
            raise Stop

    whole = finetune_clip(birds, "sample", tmp_path / "whole", QUICK_CLIP, hardware=GPU, cache=cache)
    with pytest.raises(Stop):
        finetune_clip(
            birds, "sample", tmp_path / "parts", QUICK_CLIP, hardware=GPU, cache=cache, listener=Listener(stop)
        )
    parts = finetune_clip(birds, "sample", tmp_path / "parts", QUICK_CLIP, hardware=GPU, cache=cache)
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-3)


def test_diffusion_training_follows_the_cpus(birds, cache, tmp_path):
    few = birds.take(range(0, 960, 8))
    losses = {}
    for name, hardware in (("cpu", CPU), ("cuda", GPU)):
        start = load_pipeline("sample", cache=cache)
        result = finetune_diffusion(few, start, tmp_path / name, QUICK_DIFFUSION, hardware=hardware)
        losses[name] = [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert result["device"] == name
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.02)


@pytest.mark.parametrize("more", [{"lora": 4}, {"grad_checkpointing": True}], ids=str)
def test_diffusion_training_in_bf16(birds, cache, tmp_path, more):
    few, start = birds.take(range(0, 960, 8)), load_pipeline("sample", cache=cache)
    settings = replace(QUICK_DIFFUSION, **more)
    result = finetune_diffusion(
        few, start, tmp_path / "run", settings, hardware=Hardware(device="cuda", precision="auto")
    )
    assert result["precision"] == ("bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32")
    assert np.isfinite(result["loss"])


def draw(device, precision, cache, pictures, batch_size=4):
    pipeline = load_pipeline("sample", cache=cache).pipeline
    settings = DrawSettings(steps=8, guidance=5.0)
    painter = Painter(pipeline, resolve_device(device), settings, precision=precision, batch_size=batch_size)
    return [np.asarray(image, np.float32) for _, image in painter.draw(pictures)], painter


PICTURES = [Picture(f"a photo of a {colour} bird", i) for i, colour in enumerate(("red", "blue", "green", "black"))]


def test_drawn_pictures_are_the_cpus(cache):
    cpu, gpu = (draw(device, "fp32", cache, PICTURES)[0] for device in ("cpu", "cuda"))
    for a, b in zip(cpu, gpu, strict=True):
        assert np.abs(a - b).mean() < 1.0  # of 255
        assert np.abs(a - b).max() <= 24


def test_bf16_pictures_are_near(cache):
    full, half = (draw("cuda", precision, cache, PICTURES)[0] for precision in ("fp32", "bf16"))
    assert np.mean([np.abs(a - b).mean() for a, b in zip(full, half, strict=True)]) < 12


def test_out_of_memory_halves_the_batch_and_draws_the_same(cache, caplog):
    """A batch that does not fit is drawn in halves; the pictures are those of small batches."""
    torch.cuda.empty_cache()
    pictures = [Picture("a photo of a bird", seed) for seed in range(512)]
    small, _ = draw("cuda", "fp32", cache, pictures[:4])
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_allocated() + (600 << 20)) / total))
    try:
        with caplog.at_level(logging.INFO, "flip"):
            drawn, painter = draw("cuda", "fp32", cache, pictures, batch_size=512)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(drawn) == 512
    assert painter.batch_size < 512
    assert "out of memory" in caplog.text
    for a, b in zip(small, drawn[:4], strict=True):
        assert np.abs(a - b).mean() < 1.0


def test_the_commands_run_on_a_gpu(cache, tmp_path):
    def flip(*arguments):
        done = CliRunner().invoke(app, [*map(str, arguments), "--cache", str(cache), "-q"])
        assert done.exit_code == 0, done.output
        return done.stdout

    zero = json.loads(flip("zeroshot", "--data", "sample", "--device", "cuda", "--format", "json"))
    assert zero["top1"] > 50
    knn = json.loads(flip("knn", "--data", "sample", "--device", "cuda", "--format", "json"))
    assert knn["top1"] > 60
    out = tmp_path / "augmented"
    arguments = ("--per-class", 1, "--steps", 8, "--draws", 2, "--device", "cuda", "-o", out)
    flip("augment", "--data", "sample", "--ckpt", "sample", *arguments)
    hybrid = flip(
        "hybrid", "--data", "sample", "--head", "gda", "--augmented", out, "--device", "cuda", "--format", "json"
    )
    assert json.loads(hybrid)["top1"] > 60
