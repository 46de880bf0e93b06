from __future__ import annotations

import json
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flip.data.dataset import Photo
from flip.device import resolve_device, resolve_precision
from flip.diffusion.background import in_the_background
from flip.diffusion.checkpoint import Loaded, save_pipeline
from flip.diffusion.generate import GeneratedImage, draw_planned, generate, plan_pictures, save_grid
from flip.diffusion.metadata import ImageMetadata
from flip.diffusion.painter import SCHEDULERS, Painter, Picture, picture_seed
from flip.diffusion.pictures import contact_sheet, read_metadata, save_picture, save_sheet, slug
from flip.diffusion.settings import DrawSettings, parse_size
from flip.errors import ConfigError, DataError
from flip.names import SAMPLERS
from tests.diffusion.tiny import SIZE, make_pipeline


def drawing(
    sampler: str = "ddim", steps: int = 3, guidance: float = 5.0, side: int = SIZE, **more: Any
) -> DrawSettings:
    return DrawSettings(sampler=sampler, steps=steps, guidance=guidance, size=str(side), **more)


SETTINGS = drawing()
TEXTS = ['it\'s "quoted"', "two\nlines; and a semicolon", "word " * 500, "ünï 日本 🐦", "../../etc/passwd", "\0 nul"]


def painter(settings: DrawSettings = SETTINGS, pipeline: Any = None, **more: Any) -> Painter:
    return Painter(pipeline or make_pipeline(), resolve_device("cpu"), settings, **more)


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
    assert tuple(SCHEDULERS) == SAMPLERS
    for sampler in SAMPLERS:
        ((_, image),) = painter(drawing(sampler)).draw([Picture("a bird", 1)])
        drawn.append(pixels(image))
    assert all(np.abs(a - b).max() > 0 for a, b in pairwise(drawn))


def test_a_source_photo_shapes_what_is_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), (250, 10, 10)).save(tmp_path / "red.png")
    Image.new("RGB", (40, 20), (10, 10, 250)).save(tmp_path / "blue.png")
    settings = drawing(steps=4, guidance=1.0, strength=0.3)
    red, blue, again = (
        pixels(image)
        for _, image in painter(settings).draw(
            Picture("a bird", 3, Photo(tmp_path / f"{name}.png")) for name in ("red", "blue", "red")
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


def test_out_of_memory_halves_the_batch_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="flip")
    small = short_of_memory(2)
    p = painter(pipeline=small, batch_size=8)
    pictures = [Picture("a bird", i) for i in range(9)]
    drawn = list(p.draw(pictures))
    assert [picture for picture, _ in drawn] == pictures
    assert p.batch_size == 2
    assert caplog.messages == [
        "out of memory for 8 images at once; continuing with --batch-size 4",
        "out of memory for 4 images at once; continuing with --batch-size 2",
    ]
    assert small.calls == [8, 4, 2, 2, 2, 2, 1]


def test_out_of_memory_for_one_picture_is_one_line() -> None:
    p = painter(pipeline=short_of_memory(0), batch_size=2)
    with pytest.raises(ConfigError, match=r"out of memory for one image of 16x16; pass a smaller --size, --precision"):
        list(p.draw([Picture("a bird", 0)]))


def test_other_errors_are_not_taken_for_memory() -> None:
    class Failing(type(make_pipeline())):  # type: ignore[misc]
        def __call__(self, **_: Any) -> Any:
            raise ValueError("something else")

    p = painter(pipeline=Failing(**make_pipeline().components, requires_safety_checker=False))
    with pytest.raises(ValueError, match="something else"):
        list(p.draw([Picture("a bird", 0)]))


def test_texts_are_just_texts(tmp_path: Path) -> None:
    p = painter(drawing(steps=1, guidance=1.0), batch_size=8)
    planned = plan_pictures(TEXTS, 1, tmp_path, seed=0, settings=p.settings, fingerprint="f")
    seen: list[str] = []
    draw_planned(p, planned, ImageMetadata(ckpt="x"), lambda image: seen.append(image.metadata.prompt))
    assert seen == TEXTS
    assert len({q.file for q in planned}) == len(TEXTS)
    for q in planned:
        assert q.file.parent == tmp_path
        assert q.file.name.isascii()
        assert len(q.file.name) < 70
        found = read_metadata(q.file)
        assert found.prompt == q.picture.prompt
        assert (found.ckpt, found.seed, found.settings["width"]) == ("x", q.picture.seed, SIZE)
    assert p.count_cut(TEXTS) == (1, 77)


def test_names_change_with_what_decides_the_picture(tmp_path: Path) -> None:
    def name(seed: int = 0, settings: DrawSettings = SETTINGS, fingerprint: str = "f", prompt: str = "a") -> str:
        (p,) = plan_pictures([prompt], 1, tmp_path, seed=seed, settings=settings, fingerprint=fingerprint)
        return p.file.name

    others = [name(1), name(settings=drawing(steps=4)), name(fingerprint="g"), name(prompt="A")]
    assert len({name(), *others}) == 5
    assert name() == name()
    assert slug("!!!") == "picture"
    assert slug("A Photo, of: birds") == "a-photo-of-birds"


def test_only_what_is_missing_is_drawn_and_equals_what_was(tmp_path: Path) -> None:
    p = painter()
    planned = plan_pictures(["a", "b", "a"], 2, tmp_path, seed=0, settings=p.settings, fingerprint="f")
    drawn: list[bool] = []
    draw_planned(p, planned, ImageMetadata(), lambda image: drawn.append(image.drawn))
    assert drawn == [True, True, True, True, False, False]  # the second "a" is the first
    before = {q.file: q.file.read_bytes() for q in planned}
    planned[1].file.unlink()
    drawn.clear()
    draw_planned(p, planned, ImageMetadata(), lambda image: drawn.append(image.drawn))
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
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "file" / "a.png", ImageMetadata(prompt="p"))


def test_metadata_of_a_foreign_file(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert read_metadata(tmp_path / "a.jpg") == read_metadata(tmp_path / "a.png") == ImageMetadata()
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"cut.png cannot be read as an image .*; delete it"):
        read_metadata(tmp_path / "cut.png")


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
    cpu = resolve_device("cpu")
    assert resolve_precision("auto", cpu, "draw") == "fp32"
    assert resolve_precision("bf16", cpu, "draw") == "bf16"
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        resolve_precision("fp16", cpu, "draw")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sampler": "magic"}, "--sampler 'magic' is unknown; pass one of ddim"),
        ({"steps": 0}, "--steps 0 is too small; pass 1 or more"),
        ({"strength": 1.5}, r"--strength 1.5 is outside \(0, 1\]"),
        ({"strength": 0.3, "steps": 2}, "--strength 0.3 takes that share of --steps 2, and leaves none"),
    ],
)
def test_settings_that_draw_nothing(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        drawing(**wrong)


def test_one_call_draws_from_prompts(tmp_path: Path) -> None:
    loaded, seen = Loaded(make_pipeline(), "tiny", "f"), []
    call: dict[str, Any] = {"n": 2, "settings": SETTINGS, "device": "cpu", "on_image": seen.append}
    images = generate(["a bird", "a cat"], loaded, tmp_path / "out", **call, grid=tmp_path / "grid.png")
    assert images == seen
    assert [image.drawn for image in images] == [True] * 4
    assert [image.metadata.index for image in images] == [0, 1, 0, 1]
    assert all(read_metadata(image.path) == image.metadata for image in images)
    assert [image.drawn for image in generate(["a bird"], loaded, tmp_path / "out", **call)] == [False] * 2
    assert (tmp_path / "grid.png").is_file()
    with pytest.raises(ConfigError, match="draws from noise"):
        generate(["a bird"], loaded, tmp_path / "out", settings=drawing(strength=0.5))
    planned = plan_pictures(["a bird"], 2, tmp_path / "out", seed=0, settings=SETTINGS, fingerprint="f")
    planned[0].file.write_bytes(planned[0].file.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be read as an image; delete it"):
        save_grid(tmp_path / "grid.png", planned)


def test_a_row_says_what_was_drawn(tmp_path: Path) -> None:
    metadata = ImageMetadata(
        prompt="a", seed=3, index=1, settings={**SETTINGS.to_dict(), "width": SIZE, "height": SIZE}
    )
    row = GeneratedImage(tmp_path / "a.png", metadata, True).to_row()
    first = {"path": str(tmp_path / "a.png"), "prompt": "a", "index": 1, "drawn": True, "sampler": "ddim", "steps": 3}
    assert row == {**first, "guidance": 5.0, "width": SIZE, "height": SIZE, "negative": "", "seed": 3}


def test_a_saved_model_replaces_a_model_and_nothing_else(tmp_path: Path) -> None:
    first, other, out = make_pipeline(), make_pipeline(seed=1), tmp_path / "model"
    save_pipeline(first, out)
    stale = out / "safety_checker" / "model.safetensors"
    stale.parent.mkdir()
    stale.write_bytes(b"stale")
    index = json.loads((out / "model_index.json").read_text())
    (out / "model_index.json").write_text(json.dumps({**index, "safety_checker": ["stable_diffusion", "X"]}))
    mine = [out / "thesis.txt", out / "unet" / "notes.md", out / "photos" / "a.safetensors", out / "model.safetensors"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    with pytest.raises(ConfigError, match="--save-as .* already holds files"):
        save_pipeline(other, out)
    save_pipeline(other, out, overwrite=True)
    assert all(file.read_text() == "mine" for file in mine)
    assert not stale.exists()
    found = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(found["conv_in.weight"], other.unet.state_dict()["conv_in.weight"])
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == []
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already holds files"):
        save_pipeline(other, tmp_path / "foreign", overwrite=True)


@pytest.mark.slow
def test_bf16_draws_nearly_the_same() -> None:
    settings = drawing(guidance=1.0)
    ((_, fine),) = painter(settings).draw([Picture("a bird", 1)])
    ((_, coarse),) = painter(settings, precision="bf16").draw([Picture("a bird", 1)])
    assert np.abs(pixels(fine) - pixels(coarse)).mean() < 60
