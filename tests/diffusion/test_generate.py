from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flip.config import parse_size
from flip.device import place
from flip.diffusion.generate import generate, in_the_background, plan_pictures
from flip.diffusion.painter import DrawSettings, Painter, Picture, picture_seed, resolve_precision
from flip.diffusion.pictures import contact_sheet, read_about, save_picture, save_sheet, slug
from flip.errors import ConfigError
from tests.diffusion.tiny import SIZE, make_pipeline

SETTINGS = DrawSettings("ddim", 3, 5.0, SIZE, SIZE)
TEXTS = ['it\'s "quoted"', "two\nlines; and a semicolon", "word " * 500, "ünï 日本 🐦", "../../etc/passwd", "\0 nul"]


def painter(settings: DrawSettings = SETTINGS, pipeline: Any = None, **more: Any) -> Painter:
    return Painter(pipeline or make_pipeline(), place("cpu"), settings, **more)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def test_a_picture_is_the_same_alone_and_in_any_batch() -> None:
    pictures = [Picture(f"bird {i}", picture_seed(0, f"bird {i}", 0)) for i in range(3)]
    together = [image for _, image in painter(batch_size=3).draw(pictures)]
    alone = [image for _, image in painter(batch_size=1).draw(pictures)]
    for a, b in zip(together, alone, strict=True):
        assert np.abs(pixels(a) - pixels(b)).max() <= 1
    assert np.abs(pixels(alone[0]) - pixels(alone[1])).max() > 1


def test_it_draws_what_the_pipeline_draws() -> None:
    plain = make_pipeline()
    ((_, ours),) = painter().draw([Picture("a bird", 7)])
    theirs = plain(
        "a bird",
        negative_prompt="",
        generator=[torch.Generator().manual_seed(7)],
        num_inference_steps=3,
        guidance_scale=5.0,
        width=SIZE,
        height=SIZE,
    ).images[0]
    assert np.array_equal(pixels(ours), pixels(theirs))


def test_seeds_differ_by_seed_prompt_and_number_and_never_change() -> None:
    seeds = {picture_seed(s, p, i) for s in (0, 1) for p in ("a", "b") for i in (0, 1)}
    assert len(seeds) == 8
    # sha256 of "0\0" "0\0" "a red bird", its first six bytes: a change would draw other pictures for old seeds.
    assert picture_seed(0, "a red bird", 0) == 232245717657113
    assert max(seeds) < 2**48


def test_every_sampler_draws_another_picture_of_the_same_noise() -> None:
    drawn = []
    for sampler in ("ddim", "dpm++", "euler"):
        ((_, image),) = painter(DrawSettings(sampler, 3, 5.0, SIZE, SIZE)).draw([Picture("a bird", 1)])
        drawn.append(pixels(image))
    assert all(np.abs(a - b).max() > 0 for a, b in pairwise(drawn))


def test_a_source_photo_shapes_what_is_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), (250, 10, 10)).save(tmp_path / "red.png")
    Image.new("RGB", (40, 20), (10, 10, 250)).save(tmp_path / "blue.png")
    settings = DrawSettings("ddim", 4, 1.0, SIZE, SIZE, strength=0.3)
    red, blue, again = (
        pixels(image)
        for _, image in painter(settings).draw(
            Picture("a bird", 3, tmp_path / f"{name}.png") for name in ("red", "blue", "red")
        )
    )
    assert red.shape == (SIZE, SIZE, 3)
    assert np.abs(red - again).max() <= 1
    assert np.abs(red - blue).max() > 1


def short_of_memory(most: int) -> Any:
    """A real pipeline on a device that holds ``most`` pictures."""
    from diffusers import StableDiffusionPipeline

    class Small(StableDiffusionPipeline):
        calls: list[int] = []  # noqa: RUF012

        def __call__(self, prompt: Any, **more: Any) -> Any:
            self.calls.append(len(prompt))
            if len(prompt) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().__call__(prompt, **more)

    return Small(**make_pipeline().components, requires_safety_checker=False)


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    small, said = short_of_memory(2), []
    p = painter(pipeline=small, batch_size=8, say=said.append)
    pictures = [Picture("a bird", i) for i in range(9)]
    drawn = list(p.draw(pictures))
    assert [picture for picture, _ in drawn] == pictures
    assert p.batch_size == 2
    assert said == [
        "memory does not suffice for 8 pictures at once; going on with --batch-size 4",
        "memory does not suffice for 4 pictures at once; going on with --batch-size 2",
    ]
    assert small.calls == [8, 4, 2, 2, 2, 2, 1]


def test_out_of_memory_for_one_picture_is_one_line() -> None:
    p = painter(pipeline=short_of_memory(0), batch_size=2)
    with pytest.raises(ConfigError, match=r"one picture of 16x16; pass a smaller --size, --precision"):
        list(p.draw([Picture("a bird", 0)]))


def test_other_errors_are_not_taken_for_memory() -> None:
    p = painter(DrawSettings("ddim", 3, 5.0, 12, 12))
    with pytest.raises(ValueError, match="divisible by 8"):
        list(p.draw([Picture("a bird", 0)]))


def test_texts_are_just_texts(tmp_path: Path) -> None:
    p = painter(DrawSettings("ddim", 1, 1.0, SIZE, SIZE), batch_size=8)
    planned = plan_pictures(TEXTS, 1, tmp_path, seed=0, settings=p.settings, fingerprint="f")
    seen: list[str] = []
    generate(p, planned, {"ckpt": "x"}, lambda q, drawn: seen.append(q.picture.prompt))
    assert seen == TEXTS
    assert len({q.file for q in planned}) == len(TEXTS)
    for q in planned:
        assert q.file.parent == tmp_path
        assert q.file.name.isascii()
        assert len(q.file.name) < 70
        prompt, about = read_about(q.file)
        assert prompt == q.picture.prompt
        assert (about["ckpt"], about["seed"], about["width"]) == ("x", q.picture.seed, SIZE)
    assert p.count_cut(TEXTS) == (1, 77)


def test_names_change_with_what_decides_the_picture(tmp_path: Path) -> None:
    def name(seed: int = 0, settings: DrawSettings = SETTINGS, fingerprint: str = "f", prompt: str = "a") -> str:
        (p,) = plan_pictures([prompt], 1, tmp_path, seed=seed, settings=settings, fingerprint=fingerprint)
        return p.file.name

    others = [name(1), name(settings=DrawSettings("ddim", 4)), name(fingerprint="g"), name(prompt="A")]
    assert len({name(), *others}) == 5
    assert name() == name()
    assert slug("!!!") == "picture"
    assert slug("A Photo, of: birds") == "a-photo-of-birds"


def test_only_what_is_missing_is_drawn_and_equals_what_was(tmp_path: Path) -> None:
    p = painter()
    planned = plan_pictures(["a", "b", "a"], 2, tmp_path, seed=0, settings=p.settings, fingerprint="f")
    drawn: list[bool] = []
    generate(p, planned, {}, lambda _, now: drawn.append(now))
    assert drawn == [True, True, True, True, False, False]  # the second "a" is the first
    before = {q.file: q.file.read_bytes() for q in planned}
    planned[1].file.unlink()
    drawn.clear()
    generate(p, planned, {}, lambda _, now: drawn.append(now))
    assert drawn == [False, True, False, False, False, False]
    assert {q.file: q.file.read_bytes() for q in planned} == before
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}


def test_an_error_while_writing_reaches_the_caller() -> None:
    def write(number: int) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if number == 2:
            raise ConfigError("disk is full")

    with pytest.raises(ConfigError, match="disk is full"):
        in_the_background(write, ((i,) for i in range(5)))


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"cannot be written .*pass -o"):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "file" / "a.png", "p", {})


def test_read_about_of_a_foreign_file(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert read_about(tmp_path / "a.jpg") == read_about(tmp_path / "a.png") == ("", {})


def test_contact_sheet(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 4), "blue")
    sheet = contact_sheet([[red, blue], [blue]], gap=2)
    assert sheet.size == (2 * 10 + 2, 2 * 10 + 2)
    assert sheet.getpixel((2, 2)) == (255, 0, 0)
    assert sheet.getpixel((12, 2)) == (255, 255, 255)  # a wide picture stands in the middle of its cell
    assert sheet.getpixel((12, 4)) == (0, 0, 255)
    assert contact_sheet([[Image.new("RGB", (512, 512))]]).size == (264, 264)
    save_sheet(sheet, tmp_path / "deep" / "sheet.png")
    assert Image.open(tmp_path / "deep" / "sheet.png").size == sheet.size
    with pytest.raises(ConfigError, match=r"no image file; pass a name that ends in"):
        save_sheet(sheet, tmp_path / "sheet.txt")


def test_size_and_precision() -> None:
    assert parse_size(None) is None
    assert parse_size("512") == (512, 512)
    assert parse_size("512x768") == (512, 768)
    for wrong in ("0", "100", "axb", "512x", "-8", "8x8x8"):
        with pytest.raises(ConfigError, match="multiples of 8"):
            parse_size(wrong)
    cpu = place("cpu")
    assert resolve_precision("auto", cpu) == "fp32"
    assert resolve_precision("bf16", cpu) == "bf16"
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        resolve_precision("fp16", cpu)


@pytest.mark.slow
def test_bf16_draws_nearly_the_same() -> None:
    settings = DrawSettings("ddim", 3, 1.0, SIZE, SIZE)
    ((_, fine),) = painter(settings).draw([Picture("a bird", 1)])
    ((_, coarse),) = painter(settings, precision="bf16").draw([Picture("a bird", 1)])
    assert np.abs(pixels(fine) - pixels(coarse)).mean() < 60
