""".env.example lists every setting with the default that the code has."""

import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from alignclip_store.settings import Settings
from cli.environment import ClientSettings

EXAMPLE = (Path(__file__).parents[2] / ".env.example").read_text()
LISTED = dict(re.findall(r"^(?:# )?ALIGNCLIP_([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
FIELDS = {**Settings.model_fields, **ClientSettings.model_fields}


def test_every_setting_is_listed_and_no_other():
    assert set(LISTED) == {name.upper() for name in FIELDS}


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_listed_value_is_the_default(name):
    field = FIELDS[name]
    text = LISTED[name.upper()]
    if field.default is None:
        assert text == ""
    elif field.annotation in (int, float):
        assert TypeAdapter(field.annotation).validate_python(text) == field.default
    else:
        assert text == str(to_jsonable_python(field.default))
