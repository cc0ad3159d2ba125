"""docs/reliability.md names tests and files that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE))))
def test_every_test_that_is_named_is_there(name):
    file, _, function = name.partition("::")
    assert f"def {function}" in (ROOT / file).read_text() or not function


def test_every_promise_has_a_test_and_a_sabotage():
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 13))
    assert all("::test_" in test and ".py`:" in sabotage for _, test, sabotage in rows)
