"""--data sample: drawn into the cache once."""

import pytest

from flip.data import sample as reading
from flip.data.open import open_dataset
from flip.errors import DataError
from flip.sample.fieldguide import FieldGuide
from flip.sample.species import SPECIES


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(reading.GUIDES, "sample", lambda: FieldGuide("sample", SPECIES[:2], photos=3, train=2))


def test_it_is_drawn_once(small, tmp_path, caplog):
    caplog.set_level("INFO", "flip")
    dataset = open_dataset("sample", cache=tmp_path)
    assert dataset.layout == "sample"
    assert dataset.splits == {"train": 4, "test": 2}
    assert ["drawing 6 photos of 2 species" in message for message in caplog.messages] == [True]
    again = open_dataset("sample", cache=tmp_path)
    assert again.records == dataset.records
    assert len(caplog.messages) == 1


def test_a_cache_that_cannot_be_written_is_one_line(small, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="pass --cache"):
        open_dataset("sample", cache=tmp_path / "file")


def test_a_folder_called_sample_is_read_as_a_folder(small, tmp_path, monkeypatch):
    folder = tmp_path / "sample"
    (folder / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        open_dataset("./sample", cache=tmp_path)
