"""Bytes that the pages of a Parquet file declare, for which pyarrow makes room before it looks at them.

Footer and page headers are structs of Thrift's compact protocol, as parquet.thrift defines them. pyarrow shows no page
headers, and ends the process where it is asked for the columns of some broken footers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, TypeAlias

#: Bytes of a page header that are read first, and at most: statistics may hold long texts.
_FIRST, _MOST = 1 << 12, 1 << 24
#: Longest footer that is looked at, in bytes; it takes a second.
_LONGEST_FOOTER = 1 << 20
#: Structs within structs; a footer has eight.
_DEEPEST = 16

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

#: Numbers of fields: of the footer, of a row group, of a column chunk and what is said of it, and of a page header.
_ROW_GROUPS, _COLUMNS, _ABOUT = 4, 1, 3
_CHUNK_PACKED, _DATA_OFFSET, _DICTIONARY_OFFSET = 7, 9, 11
_PAGE_UNPACKED, _PAGE_PACKED = 2, 3

#: A struct by the numbers of its fields; text and other bytes are None.
Value: TypeAlias = int | list["Value"] | dict[int, "Value"] | None
Struct: TypeAlias = dict[int, Value]


class PageSizes(NamedTuple):
    """Bytes of a page's header, and of the page in memory and in the file."""

    header: int
    unpacked: int
    packed: int


def declared_bytes(file: BinaryIO, size: int) -> int:
    """Return the bytes of memory that all page headers of a Parquet file ask for; 0 where its footer cannot be read.

    Parameters
    ----------
    file : binary file
    size : int
        Of the file in bytes.
    """
    return sum(
        max(0, page.unpacked, page.packed)
        for start, length in _column_chunks(file, size)
        for page in page_sizes(file, start, length)
    )


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
        page = _read_page(file, start, end - start)
        if page is None or page.packed < 0:
            return
        yield page
        start += page.header + page.packed


def _read_page(file: BinaryIO, start: int, most: int) -> PageSizes | None:
    size = _FIRST
    while True:
        file.seek(start)
        reader = _Compact(file.read(min(size, most)))
        try:
            header = reader.struct()
        except IndexError:
            if size >= min(most, _MOST):
                return None
            size *= 8
            continue
        except ValueError:
            return None
        unpacked, packed = header.get(_PAGE_UNPACKED), header.get(_PAGE_PACKED)
        if isinstance(unpacked, int) and isinstance(packed, int):
            return PageSizes(reader.at, unpacked, packed)
        return None


def _column_chunks(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Yield the place and the length of each column chunk."""
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(4), "little")
    if not 0 < length <= min(_LONGEST_FOOTER, size - 8):
        return
    file.seek(size - 8 - length)
    try:
        footer = _Compact(file.read(length)).struct()
    except (IndexError, ValueError):
        return
    for group in _structs(footer.get(_ROW_GROUPS)):
        for column in _structs(group.get(_COLUMNS)):
            about = column.get(_ABOUT)
            if isinstance(about, dict):
                offsets = [o for o in map(about.get, (_DATA_OFFSET, _DICTIONARY_OFFSET)) if isinstance(o, int)]
                packed = about.get(_CHUNK_PACKED)
                if offsets and isinstance(packed, int):
                    yield min(offsets), packed


def _structs(value: Value) -> list[Struct]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


class _Compact:
    """A reader of Thrift's compact protocol that skips text.

    Reading past the end raises IndexError, and what is no struct ValueError.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> Struct:
        """Return the fields by their number."""
        if depth > _DEEPEST:
            raise ValueError("too deep")
        fields: Struct = {}
        field = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            field = field + step if step else self._integer()
            fields[field] = kind if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Value:
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind not in (_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY):
            raise ValueError("no kind that Parquet has")
        length = self._varint() if kind == _BINARY else 8 if kind == _DOUBLE else 1
        self.at += length
        if self.at > len(self.data):
            raise IndexError("past the end")
        return None

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

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
