"""Becomes a command that the kernel kills when the process that started it dies, even by kill -9.

    python die_with_parent.py PARENT_PID COMMAND [ARGUMENT ...]

PR_SET_PDEATHSIG survives exec, so the command needs to know nothing of it. It is asked for here, in a process of its
own, because Python code between fork and exec (`preexec_fn`) may deadlock beside threads. The signal follows the thread
that started us, so that has to be one that lives on: the main thread. Linux only; elsewhere the command runs without.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Ask the kernel for the signal, then become the command. SIGKILL: an orphan must not linger to be polite."""
    parent_pid, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent_pid):  # it died before we asked
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
