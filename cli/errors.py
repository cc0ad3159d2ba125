"""What a command refuses, as a tree; each is shown as one line and ends the command with exit code 1.

CliError                  the message says what is wrong and what would do
├── ServiceUnreachable    nothing answers at the service's address
├── StreamUnusable        no stream of events comes through
└── RequestRefused        the service answered with an error; `status` and `code` are its own
"""


class CliError(Exception):
    """Base of all: the message is for people."""


class ServiceUnreachable(CliError):
    pass


class RequestRefused(CliError):
    def __init__(self, message: str, *, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class StreamUnusable(CliError):
    pass
