"""Settings of the documents: ``sphinx-build -W docs build/docs`` makes the site."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import flip

project = "flip"
author = "The flip maintainers"
release = version = flip.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
html_theme = "furo"
html_title = f"flip {release}"
html_show_sourcelink = False
exclude_patterns = ["build"]

# Headings can be linked to, as on the pages of a code host.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False


def _with_options(app: object, what: str, name: str, kind: object, options: object, lines: list[str]) -> None:
    """Add the sentence and the default of each option to the docstring of a settings class."""
    if what != "class" or not is_dataclass(kind):
        return
    told = [f for f in fields(kind) if "help" in f.metadata]
    if told:
        lines += ["", "**Settings**", ""]
    for f in told:
        choices = f.metadata.get("choices")
        words = f" One of {', '.join(f'``{word}``' for word in choices)}." if choices else ""
        lines += [f"``{f.name}`` = ``{f.default!r}``", f"    {f.metadata['help']}{words}", ""]


def setup(app: object) -> None:
    """Connect what is added to docstrings."""
    app.connect("autodoc-process-docstring", _with_options)  # type: ignore[attr-defined]
