"""The two streams of a command: results on stdout, all else on stderr, so that a pipe gets the results alone."""

from rich.console import Console

out = Console(soft_wrap=True, highlight=False)
err = Console(soft_wrap=True, highlight=False, stderr=True)
