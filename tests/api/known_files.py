"""Hooks of schemathesis: binary fields sometimes hold what the API wants, an archive of pictures or a picture.

KNOWN_FILES in the environment names the folder of these files.
"""

import os
from base64 import b64encode
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

FILES = [path.read_bytes() for path in sorted(Path(os.environ["KNOWN_FILES"]).iterdir())]

schemathesis.openapi.format("binary", st.one_of(st.sampled_from(FILES), st.binary()))
schemathesis.openapi.format(
    "byte", st.one_of(st.sampled_from(FILES), st.binary()).map(lambda content: b64encode(content).decode())
)
