"""Where a process without our credentials, the trainer, reads some bytes of a dataset."""

from __future__ import annotations

from typing import NamedTuple


class Location(NamedTuple):
    """A range of bytes."""

    where: str  # an absolute path or an http(s) URL
    offset: int
    num_bytes: int
