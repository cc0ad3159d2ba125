"""The two streams of a command: results on stdout, all else on stderr, so that a pipe gets the results alone."""

import sys

from rich.console import Console

PIPE_WIDTH = 250  # a program that reads a table wants whole cells

out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, soft_wrap=True, highlight=False)
err = Console(width=None if sys.stderr.isatty() else PIPE_WIDTH, soft_wrap=True, highlight=False, stderr=True)
