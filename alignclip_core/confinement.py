"""`python -m alignclip_core.confinement ... -- COMMAND`: becomes the command, shut in by the kernel (Landlock).

A trainer decodes strangers' images. Should one of them take it over, it finds no secret in its environment
(worker/launcher.py), and the kernel leaves it what a trainer needs: it reads the system and its run directory, writes
there and to the temporary folder, makes no link that the worker would follow, and reaches no process but its own. It
wants no rights and no other user, and what was given up cannot be taken back, nor by a process that it starts.

Loads no torch.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # numbers of the system calls, on every architecture
GIVE_VERSION = 1
PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38

# Bits of linux/landlock.h
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = (1 << bit for bit in range(4))
ALL_OF_VERSION_1 = (1 << 13) - 1
MAKE_CHAR, MAKE_BLOCK, MAKE_SYM = 1 << 6, 1 << 11, 1 << 12
REFER = 1 << 13  # version 2: a file goes from one folder to another, or gets a second name there
TRUNCATE = 1 << 14  # version 3
BIND_TCP, CONNECT_TCP = 1, 2  # version 4
ABSTRACT_UNIX_SOCKET, SIGNAL = 1, 2  # version 6

# What is left of a superuser's rights: those over files, which Landlock bounds, and over locked memory. Others reach
# into the memory of any process (linux/capability.h).
KEPT_RIGHTS = 0b1111 | 1 << 14  # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER; IPC_LOCK
CAPABILITY_VERSION_3 = 0x20080522

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = READ | (ALL_OF_VERSION_1 | TRUNCATE) & ~(MAKE_CHAR | MAKE_BLOCK | MAKE_SYM)
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What a process may reach."""

    hidden: Path  # read everything but what is below it
    readable: tuple[Path, ...] = ()  # ... where these are an exception
    own: Path | None = None  # read and write, and move files about
    writable: tuple[Path, ...] = ()  # read and write, too
    has_network: bool = False

    def wrap(self, command: Sequence[str]) -> list[str]:
        """The command line that becomes the command within this confinement."""
        options = ["--hide", str(self.hidden)]
        options += ["--own", str(self.own)] if self.own is not None else []
        options += [part for path in self.readable for part in ("--read", str(path))]
        options += [part for path in self.writable for part in ("--write", str(path))]
        options += ["--network"] if self.has_network else []
        return [sys.executable, "-P", "-m", "alignclip_core.confinement", *options, "--", *command]


def landlock_version() -> int:
    """Of this kernel; 0 where it has none, or may not use it."""
    return max(_libc().syscall(CREATE_RULESET, None, 0, GIVE_VERSION), 0) if sys.platform == "linux" else 0


def confine(confinement: Confinement) -> None:
    """Give up all else, for this thread and what it becomes or starts. Raises `OSError` where the kernel refuses."""
    version = landlock_version()
    handled = ALL_OF_VERSION_1 | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    network = BIND_TCP | CONNECT_TCP if version >= 4 and not confinement.has_network else 0
    scoped = ABSTRACT_UNIX_SOCKET | SIGNAL if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, network, scoped)
    ruleset = _call(CREATE_RULESET, attributes, len(attributes), 0)
    for path, access in _grants(confinement):
        _allow(ruleset, path, access & handled)
    _give_up_rights()
    _call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def main(arguments: list[str]) -> None:
    """Confine this process and become the command."""
    parser = argparse.ArgumentParser(prog="alignclip_core.confinement")
    parser.add_argument("--hide", type=Path, required=True)
    parser.add_argument("--own", type=Path)
    parser.add_argument("--read", type=Path, action="append", default=[])
    parser.add_argument("--write", type=Path, action="append", default=[])
    parser.add_argument("--network", action="store_true")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    _make_gpu_files()
    if not landlock_version():
        print("This process is not shut in: the kernel has no Landlock.", file=sys.stderr)  # noqa: T201
    else:
        confine(
            Confinement(
                hidden=given.hide,
                readable=tuple(given.read),
                own=given.own,
                writable=tuple(given.write),
                has_network=given.network,
            )
        )
    os.execv(given.command[0], given.command)  # noqa: S606  the command is the worker's own


def _make_gpu_files() -> None:
    """CUDA lets this program, which takes more rights, make files in /dev where they are missing: soon it may not."""
    if program := shutil.which("nvidia-modprobe"):
        subprocess.run([program, "-u", "-c=0"], check=False)


def _grants(confinement: Confinement) -> Iterator[tuple[Path, int]]:
    for path in _all_but(confinement.hidden.resolve()):
        yield path, READ
    for path in confinement.readable:
        yield path, READ
    for path in confinement.writable:
        yield path, WRITE
    if confinement.own is not None:
        yield confinement.own, WRITE | REFER


def _all_but(hidden: Path) -> Iterator[Path]:
    """What lies beside each folder on the way to it. Links are left out: where they lead is granted by its own name."""
    way = {hidden, *hidden.parents}
    for folder in hidden.parents:
        with contextlib.suppress(OSError):
            yield from (child for child in folder.iterdir() if child not in way and not child.is_symlink())


def _allow(ruleset: int, path: Path, access: int) -> None:
    """Grant what is below the path; what is not there or out of reach needs no grant."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = struct.pack("=Qi", access if path.is_dir() else access & OF_A_FILE, place)
        _call(ADD_RULE, ruleset, PATH_BENEATH, rule, 0)
    finally:
        os.close(place)


def _give_up_rights() -> None:
    """For good: no program that is started from here on has more, whoever owns it."""
    libc = _libc()
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(24)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(libc.capget(header, held))
    _, permitted, *_ = struct.unpack("=6I", held.raw)
    kept = permitted & KEPT_RIGHTS
    _check(libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)))


def _call(number: int, *arguments: int | bytes) -> int:
    return _check(_libc().syscall(number, *arguments))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"The process cannot be shut in: {os.strerror(code)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    main(sys.argv[1:])
