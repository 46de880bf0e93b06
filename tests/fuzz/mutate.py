"""Changes to files: of bytes, of text, of JSON, of the containers of weights, and of what lies in a folder."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[bytes, random.Random], bytes]

#: Pieces of text that have broken some reader somewhere.
NASTY = (
    *("", " ", '"', "'", ",", "\t", ";", "\n", "\r", "\r\n", "\0", "\ufeff", "\ufffd", "é", "e\u0301", "\u202eabc"),
    *("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "=1+1", "@cmd", "-1", "NaN", "nan", "inf", "1e999", "9" * 400, "0"),
    *("true", "null", "../../../etc/passwd", "/dev/zero", "/dev/tty", "~/x", "C:\\x\\y.jpg", "file:///x", "{}", "{x}"),
    *("[red]x[/red]", "[/]", "%s", "\u2028", "a" * 200_000, "[" * 2000, '{"a":' * 2000, "\U0001f426", "b'wren'"),
)
NASTY_BYTES = (b"\xff", b"\xfe\xff", b"\xff\xfe", b"\0" * 16, b"\xed\xa0\x80", b"\xc0\xaf", b"\xff" * 8, b"\x80")

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "\ud800"),
    *([], {}, [[]], [None], {"": 0}, ["a", "a"], "a\0b", "\x1b[2J", "x" * 5000, -(2**63), {"auto_map": ["evil.T"]}),
)


def any_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change bytes without a thought of what they mean."""
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        data = rng.choice(_BYTES)(data, rng)
    return data


def _at(data: bytes, rng: random.Random) -> int:
    # The head of a file decides more than the rest.
    return rng.randrange(min(len(data), 64)) if rng.random() < 0.3 else rng.randrange(len(data))


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"\0"
    changed, i = bytearray(data), _at(data, rng)
    changed[i] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_byte(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"\xff"
    changed = bytearray(data)
    changed[_at(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _set_number(data: bytes, rng: random.Random) -> bytes:
    """Write a large or odd number over 2, 4 or 8 bytes."""
    width = rng.choice((2, 4, 8))
    if len(data) <= width:
        return data
    number = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1, len(data)))
    i = rng.randrange(len(data) - width)
    packed = (number % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "big")))
    return data[:i] + packed + data[i + width :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    i = rng.randrange(len(data) + 1)
    return data[:i] + data[i + rng.randrange(64) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    i = rng.randrange(len(data) + 1)
    return data[:i] + data[i : i + rng.randrange(512)] * rng.randrange(1, 4) + data[i:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    i = rng.randrange(len(data) + 1)
    piece = rng.choice((*NASTY_BYTES, rng.randbytes(rng.randrange(1, 32))))
    return data[:i] + piece + data[i:]


def _zero(data: bytes, rng: random.Random) -> bytes:
    i = rng.randrange(len(data) + 1)
    n = min(rng.choice((4, 64, 4096)), len(data) - i)
    return data[:i] + bytes(n) + data[i + n :]


def _other(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\n", b"\0", b"{}", b"[]", b"null", b"PK\x03\x04", b"PAR1PAR1", b"\x80\x02}.", data[::-1]))


_BYTES: tuple[Change, ...] = (
    *(_flip_bit, _flip_bit, _set_byte, _set_number, _cut, _remove, _repeat, _insert, _zero),
    _other,
)


def any_text(data: bytes, rng: random.Random) -> bytes:
    """Change a text: put something nasty in, swap, repeat or drop lines, write it in another encoding."""
    kind = rng.randrange(8)
    if kind == 0:
        return any_bytes(data, rng)
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    if kind == 1:
        text = text.replace(rng.choice((",", "\t", " ", '"', "\n", ":")), rng.choice(NASTY), rng.choice((1, -1)))
    elif kind == 2:
        i = rng.randrange(len(lines))
        lines.insert(rng.randrange(len(lines) + 1), lines[i])
        text = "\n".join(lines)
    elif kind == 3:
        del lines[rng.randrange(len(lines))]
        text = "\n".join(lines)
    elif kind == 4:
        return text.encode(rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32")), "replace")
    else:
        i = rng.randrange(len(text) + 1)
        text = text[:i] + rng.choice(NASTY) + text[i + rng.choice((0, 0, 1, 5)) :]
    return text.encode("utf-8", "surrogatepass")


def any_json(data: bytes, rng: random.Random) -> bytes:
    """Change a value or a key of a JSON text (of one line of it, where each is one), or its text."""
    if rng.random() < 0.3:
        return any_text(data, rng)
    if rng.random() < 0.05:
        return b'{"a":' * 100_000
    lines = data.split(b"\n")
    at = rng.randrange(len(lines)) if len(lines) > 1 and lines[0].startswith((b'{"', b"{'")) else None
    try:
        value = json.loads(data if at is None else lines[at])
    except ValueError:
        return any_text(data, rng)
    text = json.dumps(change_value(value, rng)).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        text = text.replace(b'{"', b'{"twice": 1, "twice": 2, "', 1)
    return text if at is None else b"\n".join([*lines[:at], text, *lines[at + 1 :]])


def change_value(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one of its parts changed, removed, or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.3:
            return {**value, rng.choice((*NASTY[:40], key.upper(), "auto_map", "trust_remote_code")): value[key]}
        return {**value, key: change_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:i] + value[i + 1 :]
        return [*value[:i], change_value(value[i], rng), *value[i + 1 :]]
    if isinstance(value, str) and rng.random() < 0.5:
        i = rng.randrange(len(value) + 1)
        return value[:i] + rng.choice(NASTY[:40]) + value[i:]
    return rng.choice(VALUES)


def any_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Change bytes, or the header of a safetensors file."""
    if rng.random() < 0.5:
        return any_bytes(data, rng)
    n = int.from_bytes(data[:8], "little")
    try:
        header = json.dumps(change_value(json.loads(data[8 : 8 + n]), rng)).encode("utf-8", "surrogatepass")
    except ValueError:
        return any_bytes(data, rng)
    return len(header).to_bytes(8, "little") + header + data[8 + n :]


def any_zip(data: bytes, rng: random.Random) -> bytes:
    """Change bytes, or a member of a zip: its content, its name, or how it is packed."""
    if rng.random() < 0.4:
        return any_bytes(data, rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(packed, "w") as target:
        names = source.namelist()
        chosen = next((n for n in names if n.endswith("data.pkl")), names[0]) if rng.random() < 0.7 else None
        chosen = chosen or rng.choice(names)
        squeezed = rng.random() < 0.1
        for name in names:
            content = source.read(name)
            if name == chosen:
                content = rng.choice((any_bytes, _pickle))(content, rng)
                name = name if rng.random() < 0.9 else rng.choice(("../evil", "/evil", "x", name.upper()))
            target.writestr(name, content, zipfile.ZIP_DEFLATED if squeezed else zipfile.ZIP_STORED)
    return packed.getvalue()


def _pickle(data: bytes, rng: random.Random) -> bytes:
    """Put a call of something that runs code into a pickle."""
    module, name, argument = rng.choice(
        (
            *(
                ("os", "system", "touch CANARY"),
                ("posix", "system", "touch CANARY"),
                ("builtins", "eval", "open('CANARY','w')"),
            ),
            *(("builtins", "exec", "open('CANARY','w')"), ("subprocess", "check_output", "touch CANARY")),
            *(("pathlib", "Path.touch", "CANARY"), ("torch", "load", "CANARY"), ("numpy", "fromfile", "CANARY")),
        )
    )
    argument = argument.replace("CANARY", os.environ.get("FLIP_FUZZ_CANARY", "CANARY"))
    call = f"c{module}\n{name}\n(X".encode() + len(argument).to_bytes(4, "little") + argument.encode() + b"tR"
    i = data.find(b"}") if rng.random() < 0.5 else 2
    return data[:i] + call + (b"0" if rng.random() < 0.7 else b"") + data[i:]


#: Mutations by file suffix; other files are mutated as bytes.
BY_SUFFIX: dict[str, Change] = {
    **dict.fromkeys((".json",), any_json),
    **dict.fromkeys((".jsonl",), any_json),
    **dict.fromkeys((".txt", ".csv", ".tsv", ".yaml", ".md", ".xml"), any_text),
    ".safetensors": any_safetensors,
    **dict.fromkeys((".ckpt", ".pt", ".pth", ".bin"), any_zip),
}


def change_file(file: Path, rng: random.Random) -> None:
    """Change the content of a file."""
    data = file.read_bytes()
    change = BY_SUFFIX.get(file.suffix, any_bytes)
    if file.suffix in (".ckpt", ".pt", ".pth", ".bin") and not data.startswith(b"PK"):
        change = any_bytes
    file.write_bytes(change(data, rng))


def change_place(file: Path, rng: random.Random) -> None:
    """Change what lies at the place of a file: nothing, a folder, a FIFO, a link, another name."""
    kind = rng.randrange(9)
    if kind == 6:
        odd = rng.choice(("caf\udce9", "a\nb", "\x1b[31mx", "\u202egnp", "x" * 200, "=cmd", "a b", "e\u0301", "[red]"))
        file.rename(file.with_name(odd + file.suffix))
        return
    if kind == 8:
        file.chmod(0)
        return
    if kind == 7:
        file.with_name(f"copy of {file.name}").write_bytes(file.read_bytes())
        return
    file.unlink()
    if kind == 1:
        file.mkdir()
    elif kind == 2:
        os.mkfifo(file)
    elif kind == 3:
        file.symlink_to(file.name)
    elif kind == 4:
        file.symlink_to(rng.choice(("/dev/zero", "/dev/tty", "/dev/null", "/nowhere", "/", ".")))
    elif kind == 5:
        file.write_bytes(b"")
