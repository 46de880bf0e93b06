"""Errors are remembered with the versions that met them, and those that pass are not."""

import errno
import importlib.metadata

import pytest

from flip.embed import rows
from flip.errors import DataError
from tests.embed.plain_encoder import PlainEncoder, embed, extractor, write_photos

BROKEN = [b"I am text", b"\xff\xd8\xff\xe0 cut", b""]


@pytest.fixture
def broken(tmp_path):
    files = [tmp_path / f"{i}.jpg" for i in range(len(BROKEN))]
    for file, content in zip(files, BROKEN, strict=True):
        file.write_bytes(content)
    return files


@pytest.fixture
def versions(monkeypatch):
    """The versions that are installed, which a test may change."""
    installed = {"flip-clip": "0.2.0", "pillow": "12.0.0"}

    def version(package):
        if package not in installed:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(rows.importlib.metadata, "version", version)
    rows.maker.cache_clear()
    yield installed
    rows.maker.cache_clear()


@pytest.mark.parametrize("package", ["flip-clip", "pillow", "pillow-heif"])
def test_an_error_is_tried_again_when_a_version_changes(tmp_path, broken, versions, package):
    _, errors, read = embed(tmp_path / "c", broken)
    assert all(errors)
    assert read == 3
    assert embed(tmp_path / "c", broken)[1:] == (errors, 0)
    versions[package] = "99.0"
    rows.maker.cache_clear()
    assert embed(tmp_path / "c", broken)[1:] == (errors, 3)
    assert embed(tmp_path / "c", broken)[1:] == (errors, 0)


def test_photos_that_could_be_read_are_not_read_again_for_another_version(tmp_path, versions):
    files = write_photos(tmp_path / "photos")
    embed(tmp_path / "c", files)
    versions["pillow"] = "99.0"
    rows.maker.cache_clear()
    assert embed(tmp_path / "c", files)[2] == 0


def out_of_memory(*_):
    raise DataError("image too large: out of memory") from MemoryError()


def out_of_memory_in_a_decoder(*_):
    raise DataError("broken or truncated image: out of memory error when reading image file") from OSError("decoder")


def refused(*_):
    raise DataError("cannot be read: Input/output error") from OSError(errno.EIO, "Input/output error")


def too_slow(*_):
    raise DataError("takes more than 10 s") from TimeoutError()


def no_thread(*_):
    raise DataError("broken: can't start new thread") from RuntimeError("can't start new thread")


@pytest.mark.parametrize("fails", [out_of_memory, out_of_memory_in_a_decoder, refused, too_slow, no_thread])
def test_what_may_be_gone_tomorrow_is_not_remembered(tmp_path, monkeypatch, fails):
    files = write_photos(tmp_path / "photos", 6)
    with monkeypatch.context() as patched:
        patched.setattr("flip.embed.decoding.decode_image", fails)
        _, errors, read = embed(tmp_path / "c", files)
        assert all(errors)
        assert read == 6
    assert embed(tmp_path / "c", files)[1:] == ([None] * 6, 6)


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error"), MemoryError()]
)
def test_a_file_that_cannot_be_opened_now_is_not_remembered(tmp_path, monkeypatch, error):
    files = write_photos(tmp_path / "photos", 6)

    def fail(file):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("flip.embed.photo.open_plain", fail)
        _, errors, _ = embed(tmp_path / "c", files)
        assert all(errors)
    assert embed(tmp_path / "c", files)[1:] == ([None] * 6, 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_the_network_makes_of_a_photo_is_finite_or_an_error_that_is_not_remembered(tmp_path, monkeypatch, value):
    files = write_photos(tmp_path / "photos", 6)
    real = PlainEncoder.encode_images

    def encode(self, prepared):
        encoded = real(self, prepared)
        encoded[0, 2] = value
        return encoded

    with monkeypatch.context() as patched:
        patched.setattr(PlainEncoder, "encode_images", encode)
        embedded, errors, _ = embed(tmp_path / "c", files)
        assert errors.count("the network gave no finite embedding") == 2, "one in each batch"
        assert not embedded[[0, 4]].any()
    assert embed(tmp_path / "c", files)[1:] == ([None] * 6, 2)


def test_an_encoder_that_cannot_be_made_ends_the_run_and_no_photo_is_blamed(tmp_path):
    files = write_photos(tmp_path / "photos", 6)
    run = extractor(tmp_path / "c")

    class Gone(PlainEncoder):
        @property
        def prepare(self):
            raise DataError("the weights are gone")

    object.__setattr__(run, "model", Gone())
    with pytest.raises(DataError, match="the weights are gone"):
        list(run.stream(map(str, files)))
    assert embed(tmp_path / "c", files)[1:] == ([None] * 6, 6)
