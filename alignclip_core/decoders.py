"""Strangers' images -> pixels, in processes of their own that are shut in (`decode_process`). Loads no torch."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections import deque
from types import TracebackType

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from alignclip_core.decode_process import CHANNELS, HEAD
from alignclip_core.errors import ImageRejected
from alignclip_core.images import ImageLimits

ANSWER_SECONDS = 60.0  # the largest image that is allowed takes a few
MAX_REASON_BYTES = 100_000
PASSED_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")  # no secret of the service

log = logging.getLogger(__name__)


class Decoders:
    """As many processes as images are decoded at once; each is started when it is needed, and kept."""

    def __init__(self, limits: ImageLimits) -> None:
        self.limits = limits
        self._idle: deque[_Decoder] = deque()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def pixels(self, content: bytes) -> UInt8[np.ndarray, "height width 3"]:
        """The image as `decode_image` makes it. Any thread may call it, and waits. Raises `ImageRejected`."""
        for _ in range(2):  # an idle process may have been killed, which is not this image's fault
            decoder = self._take()
            try:
                answer = decoder.decode(content)
            except (OSError, EOFError) as error:
                decoder.close()
                log.warning("A process that decodes images has ended: %r", error)
                continue
            self._idle.append(decoder)
            if isinstance(answer, str):
                raise ImageRejected(answer)
            return answer
        raise ImageRejected("The image ends the process that decodes it; save it again, in another format.")

    def image(self, content: bytes) -> Image.Image:
        """The same as a picture."""
        return Image.fromarray(self.pixels(content))

    def _take(self) -> _Decoder:
        """An idle one, else a new one. To look first and take then would let another thread come between."""
        try:
            return self._idle.pop()
        except IndexError:
            return _Decoder(self.limits)

    def close(self) -> None:
        """End the processes; none may be at work any more."""
        while self._idle:
            self._idle.pop().close()


class _Decoder:
    """One process, and our end of its socket."""

    def __init__(self, limits: ImageLimits) -> None:
        self._max_pixels = limits.max_pixels
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(ANSWER_SECONDS)
        module = "alignclip_core.decode_process"
        numbers = (theirs.fileno(), limits.max_bytes, limits.max_pixels)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, numbers)],
                env={name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # it ends with the socket, not by the signals of a terminal
            )

    def decode(self, content: bytes) -> np.ndarray | str:
        """RGB pixels [height, width, 3], or why there are none. Raises `OSError` or `EOFError` where it has ended.

        What it says is believed no further than an image may go: it may be in another's hands.
        """
        self._socket.sendall(HEAD.pack(len(content), 0))
        self._socket.sendall(content)
        head = bytearray(HEAD.size)
        self._fill(memoryview(head))
        width, height = HEAD.unpack(head)
        if height == 0:
            reason = bytearray(min(width, MAX_REASON_BYTES))
            self._fill(memoryview(reason))
            return reason.decode(errors="replace")
        if width * height > self._max_pixels:
            raise EOFError(f"{width} x {height} pixels are more than an image may have.")
        pixels = np.empty((height, width, CHANNELS), np.uint8)
        self._fill(pixels.data.cast("B"))
        return pixels

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _fill(self, buffer: memoryview) -> None:
        while buffer:
            num_bytes = self._socket.recv_into(buffer)
            if num_bytes == 0:
                raise EOFError("It closed its socket.")
            buffer = buffer[num_bytes:]
