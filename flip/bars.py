"""A progress bar for callers of the library, in notebooks and on terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from flip.settings import Progress


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[Progress]:
    """Show a progress bar in a notebook, or on stderr, while the block runs.

    In a notebook it needs the ipywidgets package; without that a line is shown at the end.

    Parameters
    ----------
    what : str
        Shown before the bar.
    total : int, optional
        Number of items. Without it the bar moves to and fro, and the items done are counted.

    Yields
    ------
    callable
        To be passed as ``progress``: called with the number of items just finished.

    Examples
    --------
    ::

        with flip.progress_bar("photos", len(birds)) as progress:
            features = flip.extract_features(birds, model, progress=progress)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    if console.is_jupyter and find_spec("ipywidgets") is None:
        # Rich would show nothing but a warning for each time that it draws.
        console = Console(stderr=True, force_jupyter=False)
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.update(task, advance=n)
