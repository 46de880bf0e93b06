"""The registry of layouts: one file and one word each."""

from __future__ import annotations

import pkgutil

import flip.data.layouts
from flip import names
from flip.data.layout import layouts


def test_every_file_is_a_layout_and_every_word_has_a_file() -> None:
    files = {module.name.replace("_", "-") for module in pkgutil.iter_modules(flip.data.layouts.__path__)}
    assert files == set(names.LAYOUTS) == {layout.name for layout in layouts().values()}


def test_layouts_are_tried_in_the_order_of_the_words() -> None:
    assert tuple(layouts()) == names.LAYOUTS
    assert names.LAYOUTS[0] == "embeddings"
    assert names.LAYOUTS[-1] == "class-folders"
