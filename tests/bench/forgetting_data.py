"""Write the manifest that forgetting is measured on: every photo that the shared model has seen, and half of the rest.

    python tests/bench/forgetting_data.py --birds birds --clean birds-clean.jsonl -o forgetting.jsonl

Train: the official train photos, and five of six of the train half of ``birds-clean.jsonl`` in classes 1 to 20. Val:
the sixth, and that half's photos of classes 21 to 30, which the model has not seen. Test: the test half. Classes keep
CUB's order.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

TRAINED = 20


def main() -> None:
    """Write one row a photo."""
    from flip.data.open import open_dataset

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--birds", required=True)
    parser.add_argument("--clean", required=True)
    parser.add_argument("-o", type=Path, required=True)
    options = parser.parse_args()
    official, clean = open_dataset(options.birds), open_dataset(options.clean)
    halves = {str(clean.file(r).resolve()): r.split for r in clean.records}
    seen: Counter[int] = Counter()
    rows = []
    for record in official.records:
        path = str(official.file(record).resolve())
        split = halves.get(path, record.split)
        if path in halves and split == "train":
            seen[record.label] += 1
            split = "val" if record.label >= TRAINED or seen[record.label] % 6 == 3 else "train"
        rows.append({"path": path, "label": official.raw_names[record.label], "split": split})
        rows[-1] |= {"caption": list(record.captions)} if record.captions else {}
    options.o.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
