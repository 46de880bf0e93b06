"""Oxford Flowers-102 (Nilsback and Zisserman, 2008): photos in one folder, labels and splits in MATLAB files."""

from __future__ import annotations

from pathlib import Path

from flip.data.archives import Archive, Entry, archive_dataset, find_base, require_base
from flip.data.dataset import Dataset
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.matlab import read_mat
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError

_FOLDERS = ("flowers-102", "102flowers", "flowers102", "oxford_flowers", "flowers")
_NEEDED = ("jpg", "imagelabels.mat", "setid.mat")
_SPLITS = {"trnid": "train", "valid": "val", "tstid": "test"}

#: The classes as they are published, in the order of the labels 1 to 102; the archive itself has no names.
NAMES = (
    "pink primrose; hard-leaved pocket orchid; canterbury bells; sweet pea; english marigold; tiger lily; moon orchid; "
    "bird of paradise; monkshood; globe thistle; snapdragon; colt's foot; king protea; spear thistle; yellow iris; "
    "globe-flower; purple coneflower; peruvian lily; balloon flower; giant white arum lily; fire lily; "
    "pincushion flower; fritillary; red ginger; grape hyacinth; corn poppy; prince of wales feathers; "
    "stemless gentian; artichoke; sweet william; carnation; garden phlox; love in the mist; mexican aster; "
    "alpine sea holly; ruby-lipped cattleya; cape flower; great masterwort; siam tulip; lenten rose; barbeton daisy; "
    "daffodil; sword lily; poinsettia; bolero deep blue; wallflower; marigold; buttercup; oxeye daisy; "
    "common dandelion; petunia; wild pansy; primula; sunflower; pelargonium; bishop of llandaff; gaura; geranium; "
    "orange dahlia; pink-yellow dahlia?; cautleya spicata; japanese anemone; black-eyed susan; silverbush; "
    "californian poppy; osteospermum; spring crocus; bearded iris; windflower; tree poppy; gazania; azalea; "
    "water lily; rose; thorn apple; morning glory; passion flower; lotus; toad lily; anthurium; frangipani; clematis; "
    "hibiscus; columbine; desert-rose; tree mallow; magnolia; cyclamen; watercress; canna lily; hippeastrum; "
    "bee balm; ball moss; foxglove; bougainvillea; camellia; mallow; mexican petunia; bromelia; blanket flower; "
    "trumpet creeper; blackberry lily"
)


def find_flowers(root: Path) -> Path | None:
    """Return the folder that holds Flowers-102: the folder itself, or one in it; None if neither."""
    return find_base(root, _FOLDERS, *_NEEDED)


def read_flowers(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read Flowers-102 with its official splits: 1,020 photos to train on, 1,020 to validate and 6,149 to test.

    Photo n is ``jpg/image_<n>.jpg``; ``imagelabels.mat`` holds the label of each, from 1, and ``setid.mat`` the numbers
    of the photos of each split.

    Raises
    ------
    DataError
        If a file cannot be read, or names a photo or class that is not there.
    """
    base = require_base(find_flowers(root), root, "Flowers-102", "jpg/, imagelabels.mat and setid.mat")
    names = {str(i): name for i, name in enumerate(NAMES.split("; "), 1)}
    (labels,) = read_mat(base / "imagelabels.mat", "labels")
    ids = dict(zip(_SPLITS.values(), read_mat(base / "setid.mat", *_SPLITS), strict=True))
    entries = []
    for split, numbers in ids.items():
        for number in map(int, numbers):
            if not 1 <= number <= len(labels):
                raise DataError(f"{base / 'setid.mat'}: photo {number} has no label in imagelabels.mat")
            where = f"{base / 'setid.mat'}: {split} photo {number}"
            entries.append(Entry(where, f"jpg/image_{number:05d}.jpg", str(int(labels[number - 1])), split))
    said = {key: name.rstrip("?") for key, name in names.items()}
    return archive_dataset(Archive(root, base, LAYOUT.name), names, entries, Ledger(), classnames=said)


LAYOUT = Layout(
    "flowers-102", lambda root: find_flowers(root) is not None, read_flowers, "Flowers-102", index_files=(_NEEDED[1:],)
)
