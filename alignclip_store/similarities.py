"""Class-similarity matrices: computed once per owner and input."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import SimilarityNotFound
from alignclip_store.ids import new_id
from alignclip_store.tables import Similarity
from alignclip_store.upsert import insert_or_ignore


def find_similarity(session: Session, owner: str, cache_key: str) -> Similarity | None:
    """The owner's matrix that was computed from the same input, if there is one."""
    return session.scalar(select(Similarity).where(Similarity.owner == owner, Similarity.cache_key == cache_key))


def create_similarity(
    session: Session,
    owner: str,
    *,
    cache_key: str,
    sha256: str,
    base_model: str,
    num_classes: int,
    artifact_uri: str,
) -> Similarity:
    """A row for a matrix whose file is stored; the first one when two requests computed it at once."""
    values = {
        "id": new_id("sim"),
        "owner": owner,
        "created_at": database_now(session),
        "cache_key": cache_key,
        "sha256": sha256,
        "base_model": base_model,
        "num_classes": num_classes,
        "artifact_uri": artifact_uri,
    }
    session.execute(insert_or_ignore(session, Similarity), values)
    similarity = find_similarity(session, owner, cache_key)
    assert similarity is not None
    return similarity


def get_similarity(session: Session, owner: str, similarity_id: str) -> Similarity:
    """The owner's matrix. Raises `SimilarityNotFound`, also for another owner's."""
    similarity = session.scalar(select(Similarity).where(Similarity.id == similarity_id, Similarity.owner == owner))
    if similarity is None:
        raise SimilarityNotFound(f"No similarity matrix {similarity_id!r}.")
    return similarity
