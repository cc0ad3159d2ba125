"""Class-similarity matrices: computed once per text model, templates and names, then read from the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from fastapi import Response

from alignclip_core.base_models import BaseModel
from alignclip_core.config import FinetuneConfig
from alignclip_core.errors import ConfigInvalid, LabelsInvalid
from alignclip_core.method.similarity import calibrated_scale, normalised_similarity
from alignclip_core.prompts import class_similarity_of
from alignclip_core.run_dir import ClassSimilarity
from alignclip_store import similarities, tables
from alignclip_store.database import reading, transaction
from api.answers import SimilarityAnswer
from api.errors import RequestInvalid
from api.resources import Resources

MAX_JSON_CLASSES = 1000  # a million numbers twice; larger matrices are asked for as a file
DECIMALS = 7  # of the derived matrix; float32 has no more


def find_or_compute(
    resources: Resources,
    owner: str,
    base_model: BaseModel,
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    hyphens_to_spaces: bool = False,
) -> tables.Similarity:
    """The stored matrix of these names. Raises `ConfigInvalid` for more classes than are allowed."""
    check_class_names(resources, class_names)
    cache_key = _cache_key(base_model.text_model, class_names, templates, hyphens_to_spaces)
    with resources.computing.holding((owner, cache_key)):
        with reading(resources.engine) as session:
            found = similarities.find_similarity(session, owner, cache_key)
        if found is not None:
            return found
        with resources.models.encoding(base_model) as encoder:
            similarity = class_similarity_of(encoder, class_names, templates, hyphens_to_spaces)
        return _store(resources, owner, base_model, cache_key, similarity)


def check_class_names(resources: Resources, class_names: Sequence[str]) -> None:
    """Raises for fewer than two names, for equal ones and for too many."""
    if len(class_names) < 2:
        raise LabelsInvalid(f"{len(class_names)} class name has no neighbours; give at least two.", param="class_names")
    if len(class_names) > resources.settings.max_classes:
        raise ConfigInvalid(
            f"{len(class_names):,} classes; at most {resources.settings.max_classes:,} are allowed here.",
            param="class_names",
        )
    seen: set[str] = set()
    for name in class_names:
        if name in seen:
            raise LabelsInvalid(f"Class name {name!r} stands there twice.", param="class_names")
        if not name.strip():
            raise LabelsInvalid("A class name is empty.", param="class_names")
        seen.add(name)


def load(resources: Resources, row: tables.Similarity) -> ClassSimilarity:
    """The matrix of a row, its hash checked."""
    local = resources.artifacts.local_path(row.artifact_uri)
    if local is not None:
        return ClassSimilarity.load(local)
    with TemporaryDirectory(dir=resources.scratch) as folder:
        return ClassSimilarity.load(resources.artifacts.fetch_file(row.artifact_uri, Path(folder) / "similarity"))


def scale_of_job(config: FinetuneConfig, similarity: ClassSimilarity) -> float:
    """The multiplier that the job's trainer takes; `calibrated` is chosen by the classes that train."""
    if config.similarity_scale != "calibrated":
        return float(config.similarity_scale)
    rows = [row for row, name in enumerate(config.class_names) if name in config.trained_classes]
    return calibrated_scale(torch.from_numpy(similarity.cosine[rows][:, rows]))


def to_response(
    row: tables.Similarity, similarity: ClassSimilarity, *, similarity_scale: float, keep_diagonal: bool
) -> Response:
    """The matrix as JSON, a `SimilarityAnswer`; written here, in a thread, for it may hold millions of numbers.

    Raises `RequestInvalid` where it would be too long.
    """
    num_classes = len(similarity.class_names)
    if num_classes > MAX_JSON_CLASSES:
        raise RequestInvalid(
            f"The matrix of {num_classes:,} classes is too long for JSON (over {MAX_JSON_CLASSES:,}); "
            "fetch similarity.safetensors or similarity.png.",
            code="too_many_classes",
        )
    normalised = normalised_similarity(torch.from_numpy(similarity.cosine.copy()), similarity_scale, keep_diagonal)
    answer = SimilarityAnswer(
        id=row.id,
        model=row.base_model,
        text_model=similarity.text_model,
        templates=list(similarity.templates),
        class_names=list(similarity.class_names),
        cosine=similarity.cosine.tolist(),  # exact, so that a client can check the hash
        normalised=np.round(normalised.numpy().astype(np.float64), DECIMALS).tolist(),
        similarity_scale=similarity_scale,
        keep_diagonal=keep_diagonal,
        sha256=similarity.sha256,
    )
    return Response(answer.model_dump_json(), media_type="application/json")


def _store(
    resources: Resources, owner: str, base_model: BaseModel, cache_key: str, similarity: ClassSimilarity
) -> tables.Similarity:
    with TemporaryDirectory(dir=resources.scratch) as folder:
        file = Path(folder) / "similarity.safetensors"
        similarity.save(file)
        uri = resources.artifacts.put_file(file, f"similarities/{owner}/{cache_key}.safetensors")
    with transaction(resources.engine) as session:
        return similarities.create_similarity(
            session,
            owner,
            cache_key=cache_key,
            sha256=similarity.sha256,
            base_model=base_model.id,
            num_classes=len(similarity.class_names),
            artifact_uri=uri,
        )


def _cache_key(text_model: str, class_names: Sequence[str], templates: Sequence[str], hyphens_to_spaces: bool) -> str:
    made_of = [text_model, list(class_names), list(templates), hyphens_to_spaces]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
