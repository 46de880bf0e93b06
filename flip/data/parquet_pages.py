"""Sizes that the page headers of a Parquet file declare, which pyarrow allocates before it looks at the page.

Page headers are structs of Thrift's compact protocol, as parquet.thrift defines them; pyarrow does not show them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

#: Bytes of a header that are read first, and at most: statistics may hold long texts.
_FIRST, _MOST = 1 << 12, 1 << 24
#: Structs within structs; a page header has three.
_DEEPEST = 16

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
_UNPACKED, _PACKED = 2, 3


class PageSizes(NamedTuple):
    """Bytes of a page's header, and of the page in memory and in the file."""

    header: int
    unpacked: int
    packed: int


def page_sizes(file: BinaryIO, start: int, length: int) -> Iterator[PageSizes]:
    """Yield the declared sizes of the pages of a column chunk; ends where a header cannot be read.

    Parameters
    ----------
    file : binary file
    start, length : int
        Of the chunk, in bytes.
    """
    end = start + length
    while 0 <= start < end:
        header = _read_header(file, start, end - start)
        if header is None or header.packed < 0:
            return
        yield header
        start += header.header + header.packed


def _read_header(file: BinaryIO, start: int, most: int) -> PageSizes | None:
    size = _FIRST
    while True:
        file.seek(start)
        data = file.read(min(size, most))
        reader = _Compact(data)
        try:
            numbers = reader.struct()
        except IndexError:
            if size >= min(most, _MOST) or len(data) < min(size, most):
                return None
            size *= 8
            continue
        except ValueError:
            return None
        if _UNPACKED not in numbers or _PACKED not in numbers:
            return None
        return PageSizes(reader.at, numbers[_UNPACKED], numbers[_PACKED])


class _Compact:
    """A reader of Thrift's compact protocol that keeps the integers of a struct and skips everything else.

    Reading past the end raises IndexError, and what is no struct ValueError.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, int]:
        """Return the integer fields by their number."""
        if depth > _DEEPEST:
            raise ValueError("too deep")
        numbers: dict[int, int] = {}
        field = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            field = field + step if step else self._integer()
            if kind in (_I16, _I32, _I64):
                numbers[field] = self._integer()
            elif kind not in (_TRUE, _FALSE):
                self._skip(kind, depth)
        return numbers

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE, _BYTE):
            self._forward(1)
        elif kind in (_I16, _I32, _I64):
            self._varint()
        elif kind == _DOUBLE:
            self._forward(8)
        elif kind == _BINARY:
            self._forward(self._varint())
        elif kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(count):
                self._skip(head & 15, depth + 1)
        elif kind == _STRUCT:
            self.struct(depth + 1)
        else:
            raise ValueError("no kind of a page header")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _forward(self, n: int) -> None:
        self.at += n
        if self.at > len(self.data):
            raise IndexError

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("no number")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
