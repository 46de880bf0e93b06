"""The long form: ``python -m tests.fuzz --inputs 50000``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests import conftest  # noqa: F401 - sets the environment of tests before any library reads it
from tests.fuzz import readers_containers, readers_data, readers_models, readers_results
from tests.fuzz.campaign import Reader, run

READERS: tuple[Reader, ...] = (
    *readers_data.READERS,
    *readers_containers.READERS,
    *readers_results.READERS,
    *readers_models.READERS,
)


def share(inputs: int, readers: tuple[Reader, ...] = READERS) -> dict[Reader, int]:
    """Return the number of inputs per reader; slow readers get fewer."""
    weights = {reader: 1 / reader.cost for reader in readers}
    total = sum(weights.values())
    return {reader: max(1, round(inputs * weight / total)) for reader, weight in weights.items()}


def main() -> int:
    """Run, print a line per reader, and return 1 where something was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first input; runs of other seeds add to each other")
    parser.add_argument("--reader", action="append", help="only these")
    options = parser.parse_args()
    chosen = tuple(r for r in READERS if not options.reader or r.name in options.reader)
    inputs = findings = 0
    for reader, n in share(options.inputs, chosen).items():
        with tempfile.TemporaryDirectory() as folder:
            tally = run(reader, n, Path(folder), options.seed)
        print(tally, flush=True)
        inputs, findings = inputs + tally.inputs, findings + sum(tally.findings.values())
    print(f"{inputs} inputs, {findings} findings", flush=True)
    return int(findings > 0)


if __name__ == "__main__":
    raise SystemExit(main())
