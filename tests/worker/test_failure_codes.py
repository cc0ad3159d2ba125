"""docs/operations.md lists every code that a failed job can have, and no other."""

import re
from pathlib import Path

import pytest

import alignclip_core.errors
import alignclip_store.errors
from alignclip_core.errors import AlignClipError
from alignclip_store.errors import StoreError

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "operations.md").read_text().partition("\n## Failures\n")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", SECTION, re.MULTILINE)

# Errors that no run of a job raises: of other commands and routes, bases of others, and those that end a run otherwise.
NOT_OF_A_RUN = {
    "alignclip_error", "base_model_error", "invalid_labels", "export_unfit", "invalid_interpolation",
    "conversion_refused", "training_stopped",
}  # fmt: skip
OF_A_RUN_BY_THE_STORE = {"dataset_rejected", "file_not_found", "artifact_missing", "similarity_not_found"}


def codes_of(module: object, base: type[Exception]) -> set[str]:
    return {each.code for each in vars(module).values() if isinstance(each, type) and issubclass(each, base)}


def codes_in_source() -> set[str]:
    """Codes that workers and trainers write by themselves: literals where an outcome or error.json is made."""
    pattern = re.compile(
        r'(?:Outcome\.(?:failed|given_up)\(|TrainerError\(\s*code=|"code": )\s*"(\w+)"|^[A-Z_]+ = "(\w+)"$',
        re.MULTILINE,
    )
    sources = [
        *(ROOT / "worker").glob("*.py"),
        ROOT / "alignclip_core" / "train.py",
        ROOT / "alignclip_store" / "stale.py",
    ]
    outcome = (ROOT / "worker" / "outcome.py").read_text()
    found = {first for source in sources for first, _ in pattern.findall(source.read_text()) if first}
    return found | {second for _, second in pattern.findall(outcome) if second}


def test_the_table_is_complete():
    of_the_core = codes_of(alignclip_core.errors, AlignClipError) - NOT_OF_A_RUN
    assert codes_of(alignclip_store.errors, StoreError) >= OF_A_RUN_BY_THE_STORE
    expected = of_the_core | OF_A_RUN_BY_THE_STORE | codes_in_source()
    assert {"trainer_killed", "worker_lost", "deadline_exceeded", "disk_full", "internal_error"} <= expected
    assert {code for code, _, _ in ROWS} == expected


@pytest.mark.parametrize(("code", "happened", "next_step"), ROWS)
def test_every_code_is_listed_once_with_a_sentence_and_a_next_step(code, happened, next_step):
    assert [row[0] for row in ROWS].count(code) == 1
    assert len(happened.split()) > 3
    assert len(next_step.split()) > 3
