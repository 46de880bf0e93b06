"""Text of unknown origin as a person is shown it: one line, of bounded length, in which nothing moves a cursor."""

from __future__ import annotations

import re

#: Most characters of a message.
MOST = 390

#: Of a message that is too long its end is kept too: it says what to do.
_END = 140

# Control characters (among them escape sequences), line and paragraph separators, marks that turn the direction of
# writing, and surrogates, of which one stands for each byte of a name that is not UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

#: The folders of a path above the last two names.
_LONG_PATH = re.compile(r"(?<![^\s'\"(])/(?:[^/\s]+/){2,}((?<=/)[^/\s]+/[^/\s]+)")

_NAMED = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def shown(text: object) -> str:
    """Return a text with each unsafe character written out, as ``\\x1b`` or ``\\u202e``."""
    return _UNSAFE.sub(_written_out, str(text))


def one_line(text: object, most: int = MOST) -> str:
    """Return a text as one safe line of at most ``most`` characters.

    Where it is longer, long paths lose their beginning, and if that does not suffice the line loses its middle.
    """
    line = shown(text)
    if len(line) > most:
        line = _LONG_PATH.sub(r"…\1", line)
    if len(line) <= most:
        return line
    return f"{line[: most - _END - 3]} … {line[-_END:]}"


def _written_out(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
