"""Disks of their own that can be made full and free again; only root may have them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOM_BYTES = 2**30  # taken of the memory only as far as it is used
FILL_SECONDS = 60.0


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs, whose size can be changed at any time."""

    folder: Path

    def fill(self) -> None:
        """Leave no room at all, so that not even error.json can be written."""
        deadline = time.monotonic() + FILL_SECONDS
        while not self._resize(self._used_bytes()):  # somebody wrote in between
            assert time.monotonic() < deadline, f"{self.folder} could not be made full."

    def free(self) -> None:
        assert self._resize(ROOM_BYTES)

    def _used_bytes(self) -> int:
        """At least one block: a tmpfs of no size has no limit."""
        disk = os.statvfs(self.folder)
        return max(1, disk.f_blocks - disk.f_bfree) * disk.f_frsize

    def _resize(self, num_bytes: int) -> bool:
        command = ["mount", "-o", f"remount,size={num_bytes}", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk | None]:
    """A disk at the folder while the block runs; None where the tests may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs", str(folder)]
    is_mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield SmallDisk(folder) if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
