from __future__ import annotations

import json
import logging
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flip.data.dataset import Dataset, Photo, Record
from flip.device import training_accelerator
from flip.diffusion.checkpoint import Loaded, load_pipeline
from flip.diffusion.text_tower import read_text_tower
from flip.errors import CheckpointError, ConfigError, DataError
from flip.training.diffusion.batches import snr_weights, spread_timesteps
from flip.training.diffusion.examples import (
    Example,
    TextBank,
    Views,
    affordable_views,
    encode_views,
    pixels,
    read_examples,
)
from flip.training.diffusion.finetune import finetune
from flip.training.diffusion.scratch import build_pipeline, read_scratch_config
from flip.training.diffusion.trainer import DiffusionTrainer
from flip.training.listener import Interrupted, Listener, StepReport
from flip.training.settings import DiffusionSettings, Hardware
from tests.diffusion.tiny import SIZE, make_pipeline

QUICK = DiffusionSettings(epochs=2, batch_size=2, size=SIZE, lr=1e-3, views=2, ema=0.9)
CPU = Hardware(device="cpu", workers=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two classes of three coloured photos, one file broken; one caption tells left from right."""
    root = tmp_path_factory.mktemp("photos")
    records = []
    for i in range(6):
        colour = (220, 40 * i, 30) if i < 3 else (20, 40 * i, 240)
        Image.new("RGB", (40 + i, 30), colour).save(root / f"{i}.png")
        caption = "looking to the LEFT" if i == 1 else f"caption {i}"
        records.append(Record(f"{i}.png", i // 3, "train", (caption,)))
    (root / "broken.png").write_bytes(b"nothing")
    records += [Record("broken.png", 0, "train"), Record("0.png", 0, "test", ("a secret of the test split",))]
    return Dataset(root, "manifest", ("Red Bird", "Blue Bird"), ("Red_Bird", "Blue_Bird"), tuple(records))


def train(
    photos: Dataset, folder: Path, settings: DiffusionSettings = QUICK, *, hardware: Hardware = CPU, **more: Any
) -> dict[str, Any]:
    start = None if settings.from_scratch else Loaded(make_pipeline(), "tiny", "f")
    return finetune(photos, start, folder, settings, hardware=hardware, **more)


def weights(folder: Path, part: str = "unet") -> dict[str, torch.Tensor]:
    return dict(getattr(load_pipeline(folder).pipeline, part).state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def make_trainer(photos: Dataset, **change: Any) -> DiffusionTrainer:
    pipeline, examples, settings = make_pipeline(), read_examples(photos), replace(QUICK, **change)
    latents = encode_views(pipeline.vae, Views(examples, SIZE, settings.views, 0, 1), torch.device("cpu"))
    texts = TextBank(
        pipeline.tokenizer, pipeline.text_encoder, ["", *(t for e in examples for t in (*e.prompts, *e.captions))]
    )
    pipeline.text_encoder.requires_grad_(False)
    pipeline.unet.requires_grad_(True).train()
    return DiffusionTrainer(
        pipeline, training_accelerator("cpu"), examples, latents, texts, settings, photos.root / "checkpoints", SIZE
    )


def test_only_training_photos_and_their_texts_are_seen(photos: Dataset) -> None:
    examples = read_examples(photos)
    assert len(examples) == 7
    assert examples[0].prompts == ("a photo of a Red Bird.",)
    assert examples[0].captions == ("a photo of a Red Bird. caption 0",)
    assert not any("secret" in text for e in examples for text in e.captions)
    assert [e.may_mirror for e in examples] == [True, False, True, True, True, True, True]
    assert Example(Photo(Path()), (), ("a leftover of rightful size",)).may_mirror  # whole words only


def test_pixels_are_what_an_autoencoder_reads() -> None:
    half = Image.new("RGB", (6, 4), "black")
    half.paste((255, 255, 255), (3, 0, 6, 4))
    found = pixels(half)
    assert (found.shape, found.dtype) == ((3, 4, 6), np.float32)
    assert found[0, 0].tolist() == [-1, -1, -1, 1, 1, 1]


def test_views_are_stable_and_memory_bounds_them(photos: Dataset) -> None:
    examples = read_examples(photos)
    a, b = (dict(Views(examples, SIZE, 3, 0, workers)) for workers in (1, 3))
    assert a[6] is None  # the broken file
    assert all(np.array_equal(a[i], b[i]) for i in range(6))
    assert a[0].shape == (3, 3, SIZE, SIZE)
    fewer = Views(examples, SIZE, 2, 0, 1).read(0)
    assert np.array_equal(fewer, a[0][:2])
    assert affordable_views(4, 1000, 65_536) == 4
    assert affordable_views(4, 60_000, 65_536) == 2
    assert affordable_views(4, 10**9, 65_536) == 1


def test_min_snr_by_hand() -> None:
    alphas = torch.tensor([0.9, 0.5, 0.1])  # SNR 9, 1, 1/9
    steps = torch.tensor([0, 1, 2])
    assert snr_weights(alphas, steps, 5.0).tolist() == pytest.approx([5 / 9, 1, 1])
    assert snr_weights(alphas, steps, 5.0, velocity=True).tolist() == pytest.approx([0.5, 0.5, 0.1])
    assert snr_weights(alphas, steps, 0.0).tolist() == [1, 1, 1]


def test_parts_of_a_batch_give_the_gradient_of_the_whole(photos: Dataset) -> None:
    gradients = []
    for micro in (4, 1):
        trainer = make_trainer(photos, batch_size=4)
        trainer._micro = micro
        trainer._gradients(trainer.batches.draw(0))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_texts_are_dropped_as_often_as_asked(photos: Dataset) -> None:
    trainer = make_trainer(photos, caption_dropout=0.25, caption_share=0.5)
    chance = np.random.default_rng(0)
    drawn = [trainer.batches.draw_text(trainer.examples[0], chance) for _ in range(4000)]
    assert drawn.count("") / 4000 == pytest.approx(0.25, abs=0.03)
    assert drawn.count("a photo of a Red Bird. caption 0") / 4000 == pytest.approx(0.375, abs=0.03)
    assert drawn.count("a photo of a Red Bird.") / 4000 == pytest.approx(0.375, abs=0.03)


def test_an_epoch_takes_every_photo_once(photos: Dataset) -> None:
    trainer = make_trainer(photos, batch_size=3, caption_share=1.0, caption_dropout=0.0)
    assert (trainer.batches.steps_per_epoch, trainer.steps) == (2, 4)
    texts = [text for step in range(2) for text in trainer.batches.draw(step).texts]
    assert len(set(texts)) == 6
    assert trainer.learning_rate(0) == pytest.approx(1e-3)  # a tenth of four steps is less than one step


@pytest.mark.slow
def test_it_learns_eight_photos_by_heart(photos: Dataset) -> None:
    trainer = make_trainer(photos, batch_size=6, epochs=30, lr=4e-3, snr_gamma=0.0)
    losses = [trainer.train_step() for _ in range(30)]
    assert np.mean(losses[-6:]) < 0.6 * np.mean(losses[:3])


def test_out_of_memory_makes_smaller_parts(photos: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    trainer, whole = make_trainer(photos, batch_size=4), make_trainer(photos, batch_size=4)
    forward = trainer._unet.forward

    def short(latents: torch.Tensor, *arguments: Any, **more: Any) -> Any:
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(latents, *arguments, **more)

    trainer._unet.forward = short
    with caplog.at_level(logging.INFO, "flip"):
        assert trainer.train_step() == pytest.approx(whole.train_step(), abs=1e-5)
    assert caplog.messages == [
        f"out of memory; continuing with {n} photos at once and as many per step as before" for n in (2, 1)
    ]
    trainer._unet.forward = lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory"))
    with pytest.raises(ConfigError, match=r"out of memory with 1 photos at once.*--grad-checkpointing.*--lora"):
        trainer.train_step()


@pytest.fixture(scope="module")
def whole(photos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(photos, folder, replace(QUICK, sample_every=10))
    return folder


def test_full_training_writes_a_folder(photos: Dataset, whole: Path) -> None:
    result = json.loads((whole / "finetune.json").read_text())
    assert (result["command"], result["format"]) == ("finetune", 1)
    assert (result["steps"], result["photos_a_step"], result["trained"], result["precision"]) == (6, 2, "unet", "fp32")
    assert result["settings"]["lr"] == 1e-3
    sheets = sorted(f.name for f in (whole / "samples").iterdir())
    assert sheets == ["step-000006.png"]  # the last step has one, whatever the turn
    first, before = weights(whole), make_pipeline().unet.state_dict()
    assert any(not torch.equal(first[name], before[name]) for name in first)
    rows = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] == pytest.approx(result["loss"], abs=1e-6)
    assert not (whole / "checkpoints").exists()


class Stop(Exception):
    """Stands for whatever ends a process."""


def stop_after(step: int) -> Listener:
    def on_step(report: StepReport) -> None:
        assert report.steps == 6
        if report.step == step:
            raise Stop

    return Listener(on_step)


@pytest.mark.parametrize("more", [{}, {"lora": 2}, {"ema": 0.0}], ids=["full", "lora", "no average"])
def test_killed_it_resumes_bit_for_bit(
    photos: Dataset, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, more: dict[str, Any]
) -> None:
    run, settings = tmp_path / "run", replace(QUICK, save_every=2, **more)
    if more:
        whole = tmp_path / "whole"
        train(photos, whole, settings)
    with pytest.raises(Stop):
        train(photos, run, settings, listener=stop_after(5))
    with caplog.at_level(logging.INFO, "flip"):
        train(photos, run, settings, resume=True)
    assert "resuming after step 4 of 6" in caplog.messages
    assert "1 of 7 training photos cannot be read and are left out" in caplog.messages
    if "lora" in more:
        ours, theirs = (load_file(f / "pytorch_lora_weights.safetensors") for f in (run, whole))
        assert same(ours, theirs)
    else:
        assert same(weights(run), weights(whole))
    assert (run / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()
    losses = [json.loads((f / "finetune.json").read_text())["loss"] for f in (run, whole)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 3), (signal.SIGTERM, 3), (signal.SIGINT, 6)])
def test_interrupted_the_same_command_resumes_and_ends_as_if_nothing_had_been(
    photos: Dataset, whole: Path, tmp_path: Path, number: signal.Signals, step: int
) -> None:
    def interrupt(report: StepReport) -> None:
        if report.step == step:
            signal.raise_signal(number)

    run, settings, before = tmp_path / "run", replace(QUICK, sample_every=10), signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        train(photos, run, settings, listener=Listener(interrupt))
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    assert [p.name for p in (run / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    again = train(photos, run, settings)
    assert same(weights(run), weights(whole))
    assert (run / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()
    assert again["loss"] == json.loads((whole / "finetune.json").read_text())["loss"]
    assert not (run / "checkpoints").exists()


def test_other_settings_are_not_resumed_and_a_finished_run_is_kept(photos: Dataset, tmp_path: Path) -> None:
    run, settings = tmp_path / "run", replace(QUICK, save_every=1)
    with pytest.raises(Stop):
        train(photos, run, settings, listener=stop_after(2))
    differs = (
        r"run was begun with other settings: lr 0.0001 \(was 0.001\), views 1 \(was 2\); .*--overwrite to begin again"
    )
    with pytest.raises(ConfigError, match=differs):
        train(photos, run, replace(settings, lr=1e-4, views=1))
    with pytest.raises(ConfigError, match="begun with other settings: prompts bird"):
        train(photos, run, replace(settings, prompts="bird"), resume=True)
    with pytest.raises(ConfigError, match="begun with other settings: data-fingerprint"):
        train(photos.take(range(4)), run, settings)
    done = train(photos, run, replace(settings, save_every=7, sample_every=3))
    with pytest.raises(ConfigError, match="holds a finished run; pass --overwrite"):
        train(photos, run)
    assert train(photos, run, resume=True) == done
    (run / "thesis.txt").write_text("mine")
    again = train(photos, run, replace(QUICK, epochs=1), overwrite=True)
    assert again["steps"] == 3
    assert (run / "thesis.txt").read_text() == "mine"


def test_a_checkpoint_of_an_earlier_version_is_refused_in_one_line(photos: Dataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"step": 4}, run / "checkpoint.pt")
    (run / "log.jsonl").write_text("")
    for resume in (True, False):
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt was written by an earlier flip .*--overwrite"):
            train(photos, run, resume=resume)
    train(photos, run, replace(QUICK, epochs=1), overwrite=True)
    assert not (run / "checkpoint.pt").exists()


def test_lora_writes_a_file_that_changes_its_base(photos: Dataset, tmp_path: Path, folder: Path) -> None:
    result = train(photos, tmp_path / "out", replace(QUICK, lora=2, grad_checkpointing=True, lr=1e-2))
    assert result["trained"] == "lora"
    file = tmp_path / "out" / "pytorch_lora_weights.safetensors"
    assert file.stat().st_size < 200_000
    changed = load_pipeline(file, base=folder).pipeline.unet.state_dict()
    before = make_pipeline().unet.state_dict()
    moved = {name for name in before if not torch.allclose(changed[name], before[name], atol=1e-6)}
    assert moved
    assert all(".to_" in name for name in moved)


@pytest.mark.slow
def test_bf16_trains(photos: Dataset, tmp_path: Path) -> None:
    hardware = replace(CPU, precision="bf16")
    assert train(photos, tmp_path / "out", replace(QUICK, epochs=1), hardware=hardware)["precision"] == "bf16"


SCRATCH = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "cross_attention_dim": 64,
        "attention_head_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    "vae": {
        "block_out_channels": [32, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 4,
    },
    "text_encoder": {
        "hidden_size": 64,
        "projection_dim": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    "vae_steps": 40,
    "vae_batch_size": 4,
    "vae_lr": 5e-3,
}


@pytest.mark.slow
def test_from_scratch_trains_every_part(photos: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(SCRATCH))
    config = read_scratch_config(file)
    train(photos, tmp_path / "out", replace(QUICK, from_scratch=file, epochs=1))
    made = load_pipeline(tmp_path / "out").pipeline
    begun = build_pipeline(config, 0)
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = (dict(getattr(p, part).named_parameters()) for p in (made, begun))
        assert any(not torch.equal(ours[name], theirs[name]) for name in ours), part
    assert made.tokenizer.model_max_length == 32
    begun.vae.requires_grad_(False)
    red = torch.from_numpy(pixels(Image.new("RGB", (SIZE, SIZE), (220, 40, 30))))[None]
    latent = made.vae.encode(red).latent_dist.mean
    error, before = (
        float((vae.decode(vae.encode(red).latent_dist.mean).sample - red).abs().mean()) for vae in (made.vae, begun.vae)
    )
    assert error < 0.5 * before
    assert 0.1 < float((latent * made.vae.config.scaling_factor).abs().mean()) < 5
    assert not (tmp_path / "out" / "start").exists()


def test_a_new_autoencoder_gives_a_blurred_photo_back_and_a_new_unet_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(SCRATCH))
    made = build_pipeline(read_scratch_config(file), 0)
    photo = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16) * torch.tensor([1, -1, 0.5])[:, None, None]
    with torch.inference_mode():
        posterior = made.vae.encode(photo).latent_dist
        back = made.vae.decode(posterior.mean).sample
        said = made.unet(torch.randn(1, 4, 8, 8), 500, torch.randn(1, 32, 64)).sample
    assert float(posterior.std.max()) < 0.1
    assert np.corrcoef(back.flatten(), photo.flatten())[0, 1] > 0.5
    assert float(said.abs().max()) == 0


def test_a_text_encoder_from_open_clip_reads_as_it_did(tiny_model: Path, tmp_path: Path) -> None:
    import open_clip

    network = open_clip.create_model_from_pretrained(f"local-dir:{tiny_model}", return_transform=False).eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tiny_model}")(["a red fox", "a photo of a blue jay, a type of bird."])
    file = tmp_path / "config.json"
    for length in (None, 20):
        described = {"open_clip": str(tiny_model)} | ({"max_position_embeddings": length} if length else {})
        unet = {**SCRATCH["unet"], "cross_attention_dim": 64}
        file.write_text(json.dumps({**SCRATCH, "unet": unet, "text_encoder": described}))
        made = build_pipeline(read_scratch_config(file), 0)
        assert made.tokenizer.model_max_length == (length or 16)
        padded = torch.nn.functional.pad(tokens, (0, made.tokenizer.model_max_length - 16))
        with torch.inference_mode():
            states = made.text_encoder(padded)[0]
            ours = states[torch.arange(2), tokens.argmax(dim=1)] @ network.text_projection
            torch.testing.assert_close(ours, network.encode_text(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "open_clip_model.safetensors").write_bytes(b"cut"), "SafetensorError"),
        (lambda folder: (folder / "open_clip_config.json").write_text("[]"), "TypeError"),
        (lambda folder: edit_text_cfg(folder, no_causal_mask=True), "read in both directions"),
    ],
)
def test_a_text_tower_that_cannot_be_taken_is_one_line(spoil: Any, said: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "clip")
    spoil(folder)
    with pytest.raises(ConfigError, match=f"clip is no open_clip model with a text transformer of its own .*{said}"):
        read_text_tower(folder)


def edit_text_cfg(folder: Path, **change: Any) -> None:
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"] |= change
    file.write_text(json.dumps(config))


def test_a_text_tower_brings_its_vocabulary_and_another_is_refused(tmp_path: Path) -> None:
    from flip.sample.weights import clip_folder

    file = tmp_path / "config.json"
    unet = {**SCRATCH["unet"], "cross_attention_dim": 128}
    file.write_text(json.dumps({**SCRATCH, "unet": unet, "text_encoder": {"open_clip": str(clip_folder())}}))
    config = read_scratch_config(file)
    assert len(build_pipeline(config, 0).tokenizer) == 772
    with pytest.raises(ConfigError, match="text_encoder knows 772 tokens, the tokenizer has 49408; put"):
        build_pipeline({**config, "tokenizer": None}, 0)


@pytest.mark.parametrize("count", [1, 3, 32])
def test_timesteps_are_uniform_alone_and_spread_together(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([spread_timesteps(count, 1000, generator) for _ in range(3000)])
    assert (int(drawn.min()), int(drawn.max())) == (0, 999)
    assert (drawn.float().mean(dim=0) - 499.5).abs().max() < 20, "each place in the batch sees every timestep alike"
    gaps = drawn.sort(dim=1).values.diff(dim=1)
    assert ((gaps - 1000 / count).abs() <= 1).all(), "neighbours are equally far apart, but for rounding"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text_encoder": {"open_clip": "nowhere"}}, "nowhere is no open_clip model with a text transformer"),
        ({"vae": None}, "has no vae"),
        ({"colour": 1}, "unknown 'colour'"),
        ({"text_encoder": {"hidden_size": 32, "num_attention_heads": 1}}, "make them equal"),
        ({"unet": {"block_out_channels": [32]}}, "cannot be built"),
    ],
)
def test_wrong_configurations_are_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps({**SCRATCH, **change}))
    with pytest.raises(ConfigError, match=said):
        build_pipeline(read_scratch_config(file), 0)
    with pytest.raises(ConfigError, match=r"none\.json cannot be read"):
        read_scratch_config(tmp_path / "none.json")


def test_slips(photos: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--from-scratch begins with random weights; leave out --ckpt"):
        finetune(
            photos, Loaded(make_pipeline(), "tiny", "f"), tmp_path / "a", replace(QUICK, from_scratch=Path("x.json"))
        )
    with pytest.raises(ConfigError, match="no model given; pass one to fine-tune"):
        finetune(photos, None, tmp_path / "a", QUICK)
    with pytest.raises(ConfigError, match="fp16 overflows in training"):
        finetune(
            photos,
            Loaded(make_pipeline(), "tiny", "f"),
            tmp_path / "a",
            QUICK,
            hardware=Hardware(device="cpu", precision="fp16"),
        )
    unread = photos.take([6])
    with pytest.raises(DataError, match="none of the training photos can be read"):
        train(unread, tmp_path / "b")
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf).*pass a smaller --lr"):
        train(photos, tmp_path / "d", replace(QUICK, lr=1e30, warmup=0.0, clip_grad=1e30))
