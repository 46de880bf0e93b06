"""--data sample: drawn into the cache once."""

import pytest

from flip import files
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


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_where_no_cache_can_be_written_it_is_drawn_for_this_run(small, tmp_path, caplog, place):
    (tmp_path / "file").write_text("x")
    files._of_process.cache_clear()
    dataset = open_dataset("sample", cache=tmp_path / place)
    assert dataset.records == open_dataset("sample", cache=tmp_path / "good").records
    assert all(dataset.file(record).is_file() for record in dataset.records)
    assert open_dataset("sample", cache=tmp_path / place).root == dataset.root
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert "pass --cache DIR, or set FLIP_CACHE" in said[0]


def test_a_folder_called_sample_is_read_as_a_folder(small, tmp_path, monkeypatch):
    folder = tmp_path / "sample"
    (folder / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        open_dataset("./sample", cache=tmp_path)
