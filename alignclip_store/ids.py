"""Names of rows: text with a prefix, hard to guess, safe in URLs."""

from __future__ import annotations

import re
import secrets


def new_id(prefix: str) -> str:
    """A new id such as `ftjob-3f0c...` with 96 random bits."""
    return f"{prefix}-{secrets.token_hex(12)}"


def model_id(base_model: str, owner: str, suffix: str | None, job_id: str) -> str:
    """The id of a job's model: `ft:<base>:<owner>:<suffix, else part of the job's id>:<end of the job's id>`."""
    tail = job_id.rpartition("-")[2]
    return ":".join(["ft", base_model, _word(owner), _word(suffix) if suffix else tail[:12], tail[-12:]])


def _word(text: str) -> str:
    """The text without what has a meaning in a URL or in the id itself."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)
