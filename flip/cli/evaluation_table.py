"""An evaluation for people: the headline first, what follows from it on one screen, and the rest with ``-v``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from flip.cli.tables import cell, grid, pairs
from flip.results import Evaluation

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

#: Classes and pairs of classes that the short form names.
NAMED = 3

_BARS = "▁▂▃▄▅▆▇█"


def evaluation_tables(e: Evaluation, *, verbose: bool) -> list[RenderableType]:
    """Return the renderables of an evaluation, in print order."""
    tables: list[RenderableType] = [_headline(e).append("\n").append(pairs("", dict(_short(e))))]
    if "shots" in e.details:
        tables.append(grid("few shots", list(map(_shot_row, e.details["shots"]))))
    if verbose:
        tables += _long(e)
    return tables


def _headline(e: Evaluation) -> Text:
    from rich.text import Text

    low, high = e.ci95
    return Text.assemble(
        (f"flip {e.command}: ", "bold"),
        (f"{e.top1:.1f} %", "bold green"),
        (f" of {e.n:,} photos named right", "bold"),
        f"   95 % interval {low:.1f} to {high:.1f}",
    )


def _short(e: Evaluation) -> Iterator[tuple[str, object]]:
    yield "data", f"{e.data}, split {e.split}, {e.classes:,} classes"
    yield "model", e.model
    if e.top5 is not None:
        yield "top-5", f"{e.top5:.1f} %"
    yield "mean per class", f"{e.mean_per_class:.1f} %"
    yield from _choice(e)
    yield from _trust(e)
    for row in e.details.get("ranks", ())[1:]:
        yield f"by {row['rank']}", f"{row['top1']:.1f} % of {row['groups']:,} groups"
    hardest = sorted((row for row in e.per_class if row["top1"] < 100), key=lambda row: row["top1"])[:NAMED]
    if hardest:
        yield "hardest", ", ".join(f"{row['label']} {row['top1']:.0f} %" for row in hardest)
    confused = e.details.get("confused", ())[:NAMED]
    if confused:
        yield "most confused", tuple(f"{p['truth']} → {p['predicted']} × {p['n']}" for p in confused)
    if e.unreadable:
        yield "unreadable", f"{e.unreadable:,}"
    yield "seconds", f"{e.seconds:.1f}"


def _choice(e: Evaluation) -> Iterator[tuple[str, str]]:
    """Yield rows on the chosen head, prompts and k; a sweep over k is one line of bars."""
    protocol = e.protocol
    if "head" in protocol:
        yield "head", cell(protocol["head"])
    if "prompts" in protocol:
        yield "prompts", cell(protocol["prompts"])
    if plain := e.details.get("plain"):
        low, high = plain["ci95"]
        yield "transductive", f"uses the photos scored; without them {plain['top1']:.1f} % ({low:.1f} to {high:.1f})"
    sweep: Sequence[Mapping[str, float]] = e.details.get("sweep", ())
    if "k" in protocol:
        chosen = f", {protocol['k_chosen_by']}" if "k_chosen_by" in protocol else ""
        yield "k", f"{protocol['k']}{chosen}"
    if len(sweep) > 1:
        first, last = sweep[0], sweep[-1]
        best = max(row["top1"] for row in sweep)
        least = min(row["top1"] for row in sweep)
        yield (
            f"k {first['k']} to {last['k']}",
            f"{sparkline([row['top1'] for row in sweep])}  {least:.1f} to {best:.1f} % on {e.split}",
        )


def _trust(e: Evaluation) -> Iterator[tuple[str, str]]:
    if "ece" in e.details:
        yield "calibration error", f"{e.details['ece']:.3f}"
    if rejected := e.details.get("rejected"):
        right = "none" if rejected["top1"] is None else f"{rejected['top1']:.1f} %"
        yield f"at {rejected['below']:g} or more", f"{100 * rejected['coverage']:.0f} % answered, {right} of them right"
    told = {round(row["coverage"], 2): row["top1"] for row in e.details.get("coverage", ())}
    if told:
        surest = [f"{100 * share:.0f} %: {told[share]:.1f} %" for share in (0.8, 0.5) if share in told]
        yield "right of the surest", ", ".join(surest)


def _shot_row(row: Mapping[str, object]) -> dict[str, object]:
    shown = {"photos per class": row["shots"], "top-1, %": row["top1"]}
    interval = row.get("ci95")
    spread = f"{interval[0]:.1f} to {interval[1]:.1f}" if isinstance(interval, (list, tuple)) else "one draw"
    return {**shown, "95 % over draws": spread, "draws": row["seeds"], "head": row["head"]}


def _long(e: Evaluation) -> Iterator[RenderableType]:
    yield pairs("protocol", _flat(e.protocol))
    # The reliability curve's bins are for a program or a picture; its summary is above.
    for name, rows in e.details.items():
        if isinstance(rows, list) and rows and name not in ("reliability", "shots"):
            yield grid(name, rows)
    hardest = sorted(e.per_class, key=lambda row: row["top1"])
    yield grid("classes, the hardest first", hardest)


def _flat(protocol: Mapping[str, object]) -> dict[str, object]:
    """Return a protocol with the items of its mappings beside the others."""
    rows: dict[str, object] = {}
    for key, value in protocol.items():
        rows |= _flat(value) if isinstance(value, dict) else {key.replace("_", " "): value}
    return rows


def sparkline(values: Sequence[float]) -> str:
    """Return numbers as bars of eight heights, the least the lowest."""
    low, span = min(values), (max(values) - min(values)) or 1.0
    return "".join(_BARS[round((len(_BARS) - 1) * (value - low) / span)] for value in values)
