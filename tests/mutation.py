"""Bytes that were good until something happened to them."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

TELLING = [struct.pack(form, number) for form in ("<I", ">I", "<H", ">H") for number in (0, 1, 0x7FFF, 0xFFFF)]
TELLING += [b"\xff" * 4, b"\x7f\xff\xff\xff", b"../", b"\0", b"\x80" + b"\0" * 7]  # sizes, counts and names that harm


@st.composite
def mutations(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with up to six pieces overwritten, put in, left out, doubled or cut off."""
    content = bytearray(seed)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["bit", "overwrite", "insert", "leave_out", "double", "cut"]))
        piece = draw(st.one_of(st.sampled_from(TELLING), st.binary(min_size=1, max_size=8)))
        length = draw(st.integers(1, 64))
        if kind == "bit" and content:
            content[place] ^= 1 << (length % 8)
        elif kind == "overwrite":
            content[place : place + len(piece)] = piece
        elif kind == "insert":
            content[place:place] = piece
        elif kind == "leave_out":
            del content[place : place + length]
        elif kind == "double":
            content[place:place] = content[place : place + length]
        else:
            del content[max(place, len(content) // 2) :]
    return bytes(content)
