from __future__ import annotations

import json
import logging
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from flip import device
from flip.clip.model import load_model, new_model
from flip.data.dataset import Dataset, Record
from flip.data.open import open_dataset
from flip.embed.extractor import extract_features
from flip.embed.settings import EmbedSettings
from flip.errors import CheckpointError, ConfigError, DataError, ModelError
from flip.training.clip import averaging
from flip.training.clip.output import save_model
from flip.training.clip.prepare import training_precision
from flip.training.clip.run import train_clip
from flip.training.clip.scores import take_classes
from flip.training.clip.validation import split_validation
from flip.training.listener import Interrupted, Listener
from flip.training.settings import ClipSettings, Hardware
from tests.conftest import TINY_CONFIG, write_squares

# Without the text tower, whose token embedding is nearly all of the tiny model, checkpoints are small.
SETTINGS = ClipSettings(lr=1e-3, train="image", epochs=2, batch_size=8, val_fraction=0.2)
CPU = Hardware(device="cpu", precision="fp32", workers=2)


def train(model, data, folder, settings=SETTINGS, *, hardware=CPU, dataset=None, **more):
    dataset = dataset or open_dataset(data)
    split = split_validation(dataset, settings.val_fraction, settings.seed)
    return train_clip(load_model(str(model)), split, folder, settings, hardware, **more)


def weights(folder):
    return load_file(folder / "open_clip_model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model, squares):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return train(tiny_model, squares, folder, replace(SETTINGS, epochs=3))


def test_eight_photos_are_learned_by_heart(tmp_path, tiny_model):
    write_squares(tmp_path / "data" / "train", photos=2)
    result = train(tiny_model, tmp_path / "data", tmp_path / "run", replace(SETTINGS, epochs=30, val_fraction=0.0))
    history = result.trainer.state.history
    # The two photos of a class are positives of each other: the loss cannot fall below log 2.
    assert history[-1]["loss"] - np.log(2) < 0.1 * (history[0]["loss"] - np.log(2))
    assert result.trainer.state.best_epoch == 30


def test_open_clip_alone_reads_the_result_and_gives_the_same_embeddings(whole, squares, tmp_path):
    network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{whole.folder}")
    network.eval()
    dataset = open_dataset(squares).select("test")
    settings = EmbedSettings(precision="fp32", device="cpu")
    features = extract_features(dataset, load_model(str(whole.folder)), settings=settings, cache=tmp_path)
    from PIL import Image

    pixels = torch.stack([preprocess(Image.open(dataset.file(r)).convert("RGB")) for r in dataset.records])
    with torch.inference_mode():
        expected = network.encode_image(pixels, normalize=True).numpy()
    np.testing.assert_allclose(features.image_features, expected, atol=1e-3)
    assert (features.image_features * expected).sum(axis=1).min() > 0.9999


def test_a_line_an_epoch_and_what_it_takes_to_repeat_it(whole):
    rows = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"loss", "val_loss", "val_top1", "seconds", "step"} <= rows[0].keys()
    assert json.loads((whole.folder / "config.json").read_text())["lr"] == 1e-3
    environment = json.loads((whole.folder / "environment.json").read_text())
    assert torch.__version__.startswith(environment["versions"]["torch"])
    assert environment["data_fingerprint"]


class Stop(Exception):
    """Stands for whatever ends a process."""


def stop_after(step):
    def on_step(report):
        if report.step == step:
            raise Stop

    return Listener(on_step=on_step)


@pytest.mark.parametrize(
    ("step", "more"),
    [(3, {}), (5, {}), (3, {"lora": 2}), (3, {"train": "full", "grad_accum": 2}), (40, {"train": None, "shots": "4"})],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(whole, tmp_path, tiny_model, squares, step, more):
    # Three epochs of two steps: step 3 is in the middle of the second. The checkpoint is written after each step.
    settings = replace(SETTINGS, epochs=3, save_every=1, **more)
    if more:
        whole = train(tiny_model, squares, tmp_path / "whole", settings)
    with pytest.raises(Stop):
        train(tiny_model, squares, tmp_path / "run", settings, listener=stop_after(step))
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    resumed = train(tiny_model, squares, tmp_path / "run", settings)
    assert same(weights(tmp_path / "run"), weights(whole.folder))
    ours, theirs = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in r.trainer.state.history] for r in (resumed, whole)
    )
    assert ours == theirs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_the_same_command_resumes_and_ends_as_if_nothing_had_been(
    whole, tmp_path, tiny_model, squares, number, caplog
):
    def interrupt(report):
        if report.step == 3:
            signal.raise_signal(number)

    settings, before = replace(SETTINGS, epochs=3), signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        train(tiny_model, squares, tmp_path / "run", settings, listener=Listener(on_step=interrupt))
    assert caught.value.signal == number
    assert [p.name for p in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000003"]
    assert signal.getsignal(number) is before
    with caplog.at_level(logging.INFO, "flip"):
        train(tiny_model, squares, tmp_path / "run", settings)
    assert "resuming after step 3 of 6" in caplog.messages
    assert same(weights(tmp_path / "run"), weights(whole.folder))


def test_gathered_batches_train_as_one_batch(tmp_path, tiny_model, squares, whole):
    train(tiny_model, squares, tmp_path / "run", replace(SETTINGS, epochs=3, batch_size=4, grad_accum=2))
    ours, theirs = weights(tmp_path / "run"), weights(whole.folder)
    # AdamW divides by the gradient's size, so the last bits of a tiny gradient matter: only most weights are close.
    far = sum(int(((ours[n] - theirs[n]).abs() > 1e-4).sum()) for n in ours)
    assert far < 0.001 * sum(t.numel() for t in ours.values())


def test_other_settings_data_or_another_model_are_not_resumed(tmp_path, tiny_model, other_model, squares):
    run = tmp_path / "run"
    with pytest.raises(Stop):
        train(tiny_model, squares, run, replace(SETTINGS, save_every=1), listener=stop_after(2))
    with pytest.raises(
        ConfigError, match=r"run was begun with other settings: epochs 9 \(was 2\), lr 0.002 \(was 0.001\)"
    ):
        train(tiny_model, squares, run, replace(SETTINGS, lr=2e-3, epochs=9))
    with pytest.raises(ConfigError, match="begun with other settings: model-fingerprint .*--overwrite to begin again"):
        train(other_model, squares, run)
    with pytest.raises(ConfigError, match="begun with other settings: data-fingerprint"):
        train(tiny_model, squares, run, dataset=take_classes(open_dataset(squares), 0, 3), resume=True)
    with pytest.raises(ConfigError, match="begun with other settings: crop boxes"):
        train(tiny_model, squares, run, crop="boxes")
    train(tiny_model, squares, run, replace(SETTINGS, save_every=7), hardware=replace(CPU, workers=1), resume=True)


def test_folders_with_other_work_are_refused(tmp_path, tiny_model, squares):
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already holds files; pass another folder, or --overwrite"):
        train(tiny_model, squares, run)
    with pytest.raises(ConfigError, match="holds no run of flip finetune"):
        train(tiny_model, squares, run, resume=True)
    with pytest.raises(ConfigError, match="is a file; pass a folder"):
        train(tiny_model, squares, run / "thesis.txt")
    with pytest.raises(ConfigError, match="is the folder of --model itself"):
        train(tiny_model, squares, tiny_model, overwrite=True)
    train(tiny_model, squares, run, replace(SETTINGS, epochs=1), overwrite=True)
    assert (run / "thesis.txt").read_text() == "mine"


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_epoch(tmp_path, tiny_model, squares):
    def poison(report):
        if report.step == 3:
            spoilt.network.visual.proj.data.fill_(float("nan"))

    spoilt = load_model(str(tiny_model))
    settings, split = replace(SETTINGS, epochs=3), split_validation(open_dataset(squares), 0.2, 0)
    message = "is not a number at step 4 of 6; epoch 1 is the last good one and is kept; pass --lr below 0.001"
    with pytest.raises(ModelError, match=message):
        train_clip(spoilt, split, tmp_path / "run", settings, CPU, listener=Listener(on_step=poison))
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())
    load_model(str(tmp_path / "run"))


def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_intact(tmp_path, tiny_model, squares):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(report):
        if report.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))

    try:
        with pytest.raises(
            CheckpointError, match="the one before, step-00000001, is intact; make room and run the same"
        ):
            train(
                tiny_model, squares, tmp_path / "run", replace(SETTINGS, save_every=1), listener=Listener(on_step=fill)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    train(tiny_model, squares, tmp_path / "run")
    train(tiny_model, squares, tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_batch_of_one_photo_is_refused(tmp_path, tiny_model, squares):
    with pytest.raises(ConfigError, match="a batch of one photo gives the contrastive loss nothing to compare"):
        train(tiny_model, squares, tmp_path / "run", replace(SETTINGS, batch_size=1))
    result = train(tiny_model, squares, tmp_path / "ok", replace(SETTINGS, batch_size=1, grad_accum=4, epochs=1))
    assert result.trainer.batch == 4


def test_one_class_is_refused(tmp_path, tiny_model, squares):
    with pytest.raises(DataError, match="has training photos of 1 classes; contrastive training compares two or more"):
        train(tiny_model, squares, tmp_path / "run", dataset=take_classes(open_dataset(squares), 1, 2))


def test_a_class_with_one_photo_is_learned_and_validates_nothing(tmp_path, tiny_model):
    write_squares(tmp_path / "data" / "train", photos=5)
    for i in range(1, 5):
        (tmp_path / "data" / "train" / "red_fox" / f"{i}.png").unlink()
    split = split_validation(open_dataset(tmp_path / "data"), 0.2, 0)
    assert np.bincount(split.training.labels).tolist() == [4, 4, 4, 1]
    assert np.bincount(split.validation.labels, minlength=4).tolist() == [1, 1, 1, 0]
    result = train(tiny_model, tmp_path / "data", tmp_path / "run", replace(SETTINGS, epochs=1))
    assert (result.photos, result.validation_photos) == (13, 3)


def test_the_test_photos_are_never_learned_from_nor_chosen_by(squares):
    dataset = open_dataset(squares)
    split = split_validation(dataset, 0.3, seed=1)
    paths = [{r.path for r in part.records} for part in split]
    assert not paths[0] & paths[1]
    assert paths[0] | paths[1] == {r.path for r in dataset.records if r.split == "train"}
    assert split_validation(dataset, 0.3, seed=1) == split
    assert split_validation(dataset, 0.3, seed=2) != split


def test_a_val_split_of_the_data_s_own_chooses():
    records = tuple(
        Record(f"{i}.png", i % 2, split) for i, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 2)
    )
    split = split_validation(Dataset(Path(), "manifest", ("a", "b"), ("a", "b"), records), 0.5, 0)
    assert [len(part) for part in split] == [6, 2]


def test_the_average_with_weight_0_is_the_model_it_began_with(tmp_path, tiny_model, squares, whole):
    settings = replace(SETTINGS, epochs=3)
    train(tiny_model, squares, tmp_path / "none", replace(settings, wise="0"))
    assert same(weights(tmp_path / "none"), dict(load_model(str(tiny_model)).network.state_dict()))
    train(tiny_model, squares, tmp_path / "half", replace(settings, wise="0.5"))
    half, before, after = weights(tmp_path / "half"), weights(tmp_path / "none"), weights(whole.folder)
    torch.testing.assert_close(half["visual.proj"], (before["visual.proj"] + after["visual.proj"]) / 2)


def test_a_sweep_chooses_on_held_out_classes(tmp_path, tiny_model, squares):
    dataset = open_dataset(squares)
    held_out = take_classes(dataset, 2, 4).select("train")
    settings = replace(SETTINGS, wise="sweep", epochs=1)
    result = train(
        tiny_model, squares, tmp_path / "run", settings, dataset=take_classes(dataset, 0, 2), held_out=held_out
    )
    assert [point.weight for point in result.wise_points] == [i / 10 for i in range(11)]
    first, last = result.wise_points[0], result.wise_points[-1]
    assert first.difference == 0
    # Twelve photos of two classes: whole photos, and their number differs from before by the difference.
    for point in result.wise_points:
        assert point.held_out * 12 / 100 == pytest.approx(round(point.held_out * 12 / 100))
        assert point.difference == pytest.approx(point.held_out - first.held_out)
    assert last.held_out_loss != pytest.approx(first.held_out_loss, abs=1e-4)
    assert result.wise in [point.weight for point in result.wise_points]


def test_a_sweep_without_held_out_classes_chooses_on_validation_photos_alone(tmp_path, tiny_model, squares):
    result = train(tiny_model, squares, tmp_path / "run", replace(SETTINGS, wise="sweep", epochs=1))
    assert all(np.isnan(point.held_out) and np.isnan(point.held_out_loss) for point in result.wise_points)
    best = min(point.val_loss for point in result.wise_points)
    assert next(p.val_loss for p in result.wise_points if p.weight == result.wise) == best


def test_training_stops_when_no_epoch_is_better(tmp_path, tiny_model, squares):
    # At this rate nothing changes, so the first epoch stays the best.
    result = train(tiny_model, squares, tmp_path / "run", replace(SETTINGS, lr=1e-12, epochs=9, patience=2))
    state = result.trainer.state
    assert len(state.history) - state.best_epoch == 2
    assert len(state.history) < 9


def test_an_architecture_is_trained_from_random_weights(tmp_path, squares):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(TINY_CONFIG))
    settings = replace(SETTINGS, from_scratch=file, train="full", lr=None, epochs=1)
    split = split_validation(open_dataset(squares), 0.2, 0)
    result = train_clip(new_model(file, 0), split, tmp_path / "run", settings, CPU)
    assert result.trainer.rates.image == 5e-4
    assert load_model(str(tmp_path / "run")).config["preprocess_cfg"]["mean"] == [0.48, 0.46, 0.41]
    assert same(new_model(file, 3).network.state_dict(), new_model(file, 3).network.state_dict())
    assert new_model(file, 3).fingerprint != new_model(file, 4).fingerprint
    with pytest.raises(ConfigError, match="--from-scratch trains all of random weights; leave out"):
        train_clip(new_model(file, 0), split, tmp_path / "other", replace(settings, lora=2), CPU)
    file.write_text('{"embed_dim": 4}')
    with pytest.raises(ConfigError, match="is not an open_clip configuration"):
        new_model(file, 0)


def test_photos_of_another_folder_join_training_only(tmp_path, tiny_model, squares, caplog):
    write_squares(tmp_path / "more", seed=5, photos=2)
    more = open_dataset(tmp_path / "more", layout="class-folders")
    settings = replace(SETTINGS, epochs=1, augmented_weight=0.5)
    with caplog.at_level(logging.INFO, "flip"):
        result = train(tiny_model, squares, tmp_path / "run", settings, augmented=more)
    assert (result.photos, result.validation_photos) == (20, 4)
    assert any(
        message.startswith("20 and 8 generated photos, batches of 8, 2 steps per") for message in caplog.messages
    )


def test_fp16_is_refused(tmp_path, tiny_model, squares):
    with pytest.raises(ConfigError, match="--precision fp16 loses gradients"):
        train(tiny_model, squares, tmp_path / "run", hardware=Hardware(device="cpu", precision="fp16"))


def test_bf16_trains_fp32_weights(tmp_path, tiny_model, squares):
    result = train(
        tiny_model, squares, tmp_path / "run", replace(SETTINGS, epochs=1), hardware=replace(CPU, precision="bf16")
    )
    assert result.precision == "bf16"
    assert {t.dtype for t in weights(tmp_path / "run").values() if t.is_floating_point()} == {torch.float32}


def test_auto_is_fp32_for_a_convolutional_tower_on_a_cpu(monkeypatch, tiny_model):
    monkeypatch.setattr(device, "bf16_in_hardware", lambda device: True)
    model, hardware = load_model(str(tiny_model)), Hardware(device="cpu")
    assert training_precision(hardware, model) == "bf16"
    model.network.visual = torch.nn.Sequential(*(torch.nn.Conv2d(1, 1, 1) for _ in range(5)))
    assert training_precision(hardware, model) == "fp32"


def test_what_is_kept_stays_nearer_to_where_it_was(tmp_path, tiny_model, squares):
    test = open_dataset(squares).select("test")
    moved = []
    for keep in (0.0, 20.0):
        train(tiny_model, squares, tmp_path / str(keep), replace(SETTINGS, keep=keep))
        before, after = (
            extract_features(
                test, load_model(str(m)), settings=EmbedSettings(precision="fp32", device="cpu"), cache=tmp_path / "c"
            )
            for m in (tiny_model, tmp_path / str(keep))
        )
        moved.append(float(((after.image_features - before.image_features) ** 2).sum(axis=1).mean()))
    assert moved[1] < 0.5 * moved[0]


def timm_model(folder):
    """Write a dual encoder whose image tower has a trunk and a head."""
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    text = TINY_CONFIG["model_cfg"]["text_cfg"]
    config = TINY_CONFIG | {"model_cfg": {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}}
    (folder / "config.json").write_text(json.dumps(config))
    model = new_model(folder / "config.json", 0)
    save_model(model, model.network.state_dict(), folder / "model")
    return folder / "model"


def test_a_sweep_over_a_head_alone_is_the_sweep_over_the_whole_tower(tmp_path, squares, monkeypatch):
    model = timm_model(tmp_path)
    settings = replace(SETTINGS, wise="sweep", train="projection", lr=1e-2)
    held_out = open_dataset(squares).select("train")
    points = []
    for once in (True, False):
        if not once:
            monkeypatch.setattr(averaging, "trained_head", lambda visual: None)
        points.append(train(model, squares, tmp_path / str(once), settings, held_out=held_out).wise_points)
    for ours, theirs in zip(*points, strict=True):
        assert (ours.val_loss, ours.held_out_loss) == pytest.approx((theirs.val_loss, theirs.held_out_loss), abs=1e-4)
    assert points[0][0].val_loss != pytest.approx(points[0][10].val_loss, abs=1e-3)


def test_a_copy_of_the_folder_is_the_same_model(tmp_path, whole):
    shutil.copytree(whole.folder, tmp_path / "copy")
    assert load_model(str(tmp_path / "copy")).fingerprint == load_model(str(whole.folder)).fingerprint
