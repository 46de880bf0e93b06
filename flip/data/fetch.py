"""Datasets from their official addresses: downloaded with their checksum, resumed where it stopped, unpacked safely."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from flip.data.transfer import receive
from flip.data.untar import unpack
from flip.errors import ConfigError, DataError, reason_of
from flip.files import folder_aside
from flip.settings import Progress


class Archive(NamedTuple):
    """A published archive.

    Attributes
    ----------
    name : str
        As ``flip data get`` calls it.
    url : str
    checksum : str
        ``md5:…`` or ``sha256:…``, as its publisher gives it.
    size : int
        In bytes; 0 where it is not known.
    folder : str
        The folder at the top of the archive.
    """

    name: str
    url: str
    checksum: str
    size: int
    folder: str

    @property
    def file_name(self) -> str:
        """The archive's own name, the last part of its address."""
        return self.url.rpartition("/")[2]


CUB = Archive(
    "cub",
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    "md5:97eceeb196236b17998738112f37df78",
    1_150_585_339,
    "CUB_200_2011",
)

#: Archives by the names that ``flip data get`` takes.
ARCHIVES = {CUB.name: CUB}


def fetch(archive: Archive, folder: Path, downloads: Path, progress: Progress | None = None) -> Path:
    """Download an archive and unpack it; return the folder at its top.

    What was downloaded of it before is kept and continued. The archive is deleted once it is unpacked.

    Parameters
    ----------
    archive : Archive
    folder : Path
        The archive's own folder is put into it, whole or not at all.
    downloads : Path
        The folder of archives on their way. One that lies there already, whole, is not downloaded.
    progress : callable, optional
        Called with the number of bytes that were just received, or were there.

    Raises
    ------
    DataError
        If the address cannot be reached, or what comes is not the archive.
    ConfigError
        If a folder cannot be written.
    """
    file = download(archive, downloads, progress)
    target = folder / archive.folder
    try:
        with folder_aside(target) as aside:
            unpack(file, aside, archive.folder)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written ({reason_of(error)}); free space or pass -o") from error
    file.unlink()
    return target


def download(archive: Archive, folder: Path, progress: Progress | None = None) -> Path:
    """Download an archive into a folder, or continue to; return its file, whose checksum is right.

    Raises
    ------
    DataError
        If the address cannot be reached, or what comes has another checksum; that is deleted.
    ConfigError
        If the folder cannot be written.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    part = folder / f"{archive.file_name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = pooch.retrieve(
            archive.url,
            known_hash=archive.checksum,
            fname=archive.file_name,
            path=folder,
            downloader=_Resuming(part, progress),
        )
    except ValueError as error:  # pooch's word for another checksum
        part.unlink(missing_ok=True)
        raise DataError(
            f"{archive.url} did not send the file whose checksum is {archive.checksum}; what came was deleted. "
            "Run the command again; if it comes again, the file was changed or something stands between"
        ) from error
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({reason_of(error)}); pass --cache") from error
    part.unlink(missing_ok=True)
    return Path(name)


class _Resuming:
    """A downloader for pooch that keeps what it has received in a file beside, and continues it."""

    def __init__(self, part: Path, progress: Progress | None) -> None:
        self._part, self._progress = part, progress

    def __call__(self, url: str, output_file: str | Path, pooch: object) -> None:
        """Bring the part to its full length, then hand it over."""
        receive(url, self._part, self._progress)
        output = Path(output_file)
        output.unlink(missing_ok=True)
        try:
            output.hardlink_to(self._part)
        except OSError:  # a file system without links
            shutil.copyfile(self._part, output)
