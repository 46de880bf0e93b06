"""The short form: some changed inputs for every reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import READERS, share
from tests.fuzz.campaign import Reader, run

#: Over all readers; the long form has fifty thousand.
INPUTS = 1500


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_changed_inputs_are_read_right_or_refused_in_one_line(reader: Reader, tmp_path: Path) -> None:
    tally = run(reader, share(INPUTS)[reader], tmp_path)
    assert tally.inputs == share(INPUTS)[reader]
    assert not tally.findings, str(tally)
