"""Files that are something else than their name says, as downloads leave them: told by how they begin."""

from __future__ import annotations

#: First bytes of a file, in lower case, to its kind and the advice to the user.
_SIGNS = {
    b"version https://": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    b"<!doctype": "a web page, which a server sent instead; download the file again",
    b"<html": "a web page, which a server sent instead; download the file again",
    b"<?xml": "XML, such as a server's error; download the file again",
    b"{": "JSON, such as a server's error; download the file again",
    b"<svg": "a drawing (SVG); convert it to PNG",
    b"%pdf": "a PDF; convert its pages to PNG",
    b"gguf": "weights in the GGUF format of llama.cpp; take a .safetensors file",
    b"\x89hdf": "HDF5, as Keras writes it; take weights of PyTorch, or a .safetensors file",
}


def what_it_is(head: bytes, *, of: tuple[str, ...] = ()) -> str | None:
    """Identify a file that is no photo, table or weights by its first bytes; None if it is not recognised.

    Parameters
    ----------
    head : bytes
        16 are enough.
    of : tuple of str
        First words of what the file may rightly be, such as ``JSON``.
    """
    begin = head.lstrip().lower()
    what = next((what for sign, what in _SIGNS.items() if begin.startswith(sign)), None)
    return None if what is None or what.startswith(of or ("\0",)) else what
