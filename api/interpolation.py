"""A tuned model and a share -> a new model between it and its base (WiSE-FT)."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from alignclip_core.interpolation import check_unmixed, interpolate_model
from alignclip_core.method.mixing import check_alpha
from alignclip_store import models, tables
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from alignclip_store.errors import ModelNotFound
from alignclip_store.ids import new_id
from alignclip_store.limits import require_room_for_bytes
from api.authentication import Caller
from api.errors import RequestInvalid
from api.model_files import local_folder
from api.resources import Resources


def interpolate(resources: Resources, caller: Caller, model_id: str, alpha: float) -> tables.Model:
    """The mixture of the caller's model with its base; the same request again gives the same model.

    Raises `ModelNotFound`, `InterpolationInvalid`, and `RequestInvalid` for a base model.
    """
    check_alpha(alpha)
    if resources.models.find_base_model(model_id) is not None:
        raise RequestInvalid(f"{model_id!r} is a base model; a tuned model is mixed with its base.", param="model")
    with reading(resources.engine) as session:
        source = models.get_model(session, caller.owner, model_id)
    check_unmixed(source.manifest)
    name = f"alpha-{float(alpha)!r}"
    with resources.computing.holding(("variant", source.id, name)):
        return _find(resources, source, name) or _make(resources, caller, source, name, alpha)


def _find(resources: Resources, source: tables.Model, name: str) -> tables.Model | None:
    with reading(resources.engine) as session:
        try:
            return models.get_model(session, source.owner, models.variant_id(source, name))
        except ModelNotFound:
            return None


def _make(resources: Resources, caller: Caller, source: tables.Model, name: str, alpha: float) -> tables.Model:
    base_model = resources.models.base_model(source.base_model)
    key = f"models/{new_id('mixture')}"
    with TemporaryDirectory(dir=resources.scratch, prefix="mixture-") as folder:
        mixture = Path(folder) / "model"
        with local_folder(resources, source) as tuned:
            manifest = interpolate_model(tuned, base_model, alpha, mixture, source=source.id)
        uri = resources.artifacts.put_folder(mixture, key)
        num_bytes = sum(path.stat().st_size for path in mixture.iterdir())
    try:
        with transaction(resources.engine) as session:
            require_room_for_bytes(session, caller.owner, num_bytes, resources.settings)
            still = models.get_model(session, source.owner, source.id)  # not deleted meanwhile
            variant = models.create_variant(
                session, still, name=name, artifact_uri=uri, manifest=manifest, num_bytes=num_bytes
            )
            after = {"base_model": variant.base_model, "weights_sha256": manifest["weights_sha256"]}
            record_change(session, caller.actor, "model.create", variant.id, after=after)
            return variant
    except Exception:
        resources.artifacts.delete(uri)
        raise
