"""docs/security.md names tests and files that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE))))
def test_every_test_that_is_named_is_there(name):
    file, _, function = name.partition("::")
    assert f"def {function}" in (ROOT / file).read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:api|worker|cli|alignclip_\w+|docker)/[^`]+)`", PAGE))))
def test_every_file_that_is_named_is_there(name):
    assert (ROOT / name).is_file()
