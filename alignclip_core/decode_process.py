"""`python -m alignclip_core.decode_process FD MAX_BYTES MAX_PIXELS`: decodes images for another process, shut in.

Images come from strangers, and decoders of images have had holes. Should one of them take this process over, it finds
no secret, no file and no network, and no more memory than a large image needs; should one of them end it, nothing else
ends. It lives as long as the other end of its socket.

On the socket of descriptor FD a request is a head (length, 0) and so many bytes of an image file. Its answer is a head
(width, height) and the RGB pixels, row by row; or, where the image is refused, (length, 0) and the reason in UTF-8.

Loads no torch.
"""

from __future__ import annotations

import resource
import socket
import struct
import sys
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from alignclip_core.confinement import Confinement, confine, landlock_version
from alignclip_core.errors import ImageRejected
from alignclip_core.images import FORMATS, ImageLimits, decode_image

HEAD = struct.Struct("=II")
CHANNELS = 3
BYTES_PER_PIXEL = 40  # most that Pillow holds at one time: copies of 4 bytes each, a progressive JPEG's coefficients
OTHER_BYTES = 512 * 2**20  # address space of Python and Pillow themselves


def main(arguments: list[str]) -> None:
    """Answer until the other end of the socket is closed."""
    descriptor, max_bytes, max_pixels = map(int, arguments)
    limits = ImageLimits(max_bytes=max_bytes, max_pixels=max_pixels)
    _load_decoders()
    _shut_in(limits)
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as requests:
        while (content := _receive(requests)) is not None:
            head, body = _answer(content, limits)
            connection.sendall(head)
            connection.sendall(body)


def _receive(requests: BinaryIO) -> bytes | None:
    """The next image file; None when nobody asks any more."""
    head = requests.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    num_bytes, _ = HEAD.unpack(head)
    content = requests.read(num_bytes)
    return content if len(content) == num_bytes else None


def _answer(content: bytes, limits: ImageLimits) -> tuple[bytes, bytes]:
    try:
        image = decode_image(content, limits)
        return HEAD.pack(*image.size), image.tobytes()
    except ImageRejected as error:
        reason = error.message
    except MemoryError:
        reason = "The image takes too much memory to decode; scale it down, or save it in another format."
    encoded = reason.encode(errors="replace")
    return HEAD.pack(len(encoded), 0), encoded


def _load_decoders() -> None:
    """Load what Pillow loads when it is needed: soon no file can be read."""
    Image.init()
    for name in FORMATS:
        file = BytesIO()
        Image.new("RGB", (1, 1)).save(file, name)
        decode_image(file.getvalue())


def _shut_in(limits: ImageLimits) -> None:
    most = OTHER_BYTES + BYTES_PER_PIXEL * limits.max_pixels + 2 * limits.max_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if landlock_version():
        confine(Confinement(hidden=Path("/")))


if __name__ == "__main__":
    main(sys.argv[1:])
