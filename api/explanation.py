"""An image and a label -> where the model looks, as numbers and as pictures. Runs in a thread."""

from __future__ import annotations

import base64
import io
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from alignclip_core.errors import ImageRejected
from alignclip_core.explain.explaining import picture_seen
from alignclip_core.explain.maps import embed_label, make_maps, normalised
from alignclip_core.explain.pictures import overlay
from api.classify_forms import ImageSource
from api.resources import Resources
from api.served_models import describe_model, find_model

MAP_NAMES = {
    "cls_attention": "cls_attention",
    "patch_similarity": "patch_similarity",
    "dv_similarity": "dv_patch_similarity",
}
DECIMALS = 6


class ExplanationAnswer(BaseModel):
    """Maps over the patches of an image, row by row from the top."""

    object: Literal["explanation"] = "explanation"
    model: str
    label: str
    similarity: float = Field(description="Cosine of the whole image with the label.")
    grid: tuple[int, int] = Field(description="Rows and columns of every map.")
    maps: dict[str, list[list[float]]] = Field(
        description="`cls_attention`: of the class token, its sum is one. `patch_similarity`: cosine of each patch "
        "with the label. `dv_similarity`: the same of the D-V branch."
    )
    image: str = Field(description="The part of the image that the model sees, as a data URL of a PNG.")
    pictures: dict[str, str] = Field(description="The same names: each map as colours over that, from blue to red.")
    compared: ExplanationAnswer | None = Field(None, description="The same by the model of `compare_with`.")


def explain(resources: Resources, owner: str, name: str, source: ImageSource, label: str) -> ExplanationAnswer:
    """Raises for a model or an image that cannot be used; any label may be asked."""
    found = find_model(resources, owner, name)
    described = describe_model(resources, found)
    try:
        image = resources.decoders.image(source.read())
    except ImageRejected as error:
        raise ImageRejected(f"{source.filename}: {error.message}", param="image") from error
    model = resources.models.finished_model(found)
    with resources.models.encoding(described.base_model) as encoder:
        text = embed_label(model, encoder, image, label)
    maps = make_maps(model, image, text)
    arrays = {ours: np.asarray(getattr(maps, theirs)) for ours, theirs in MAP_NAMES.items()}
    seen = picture_seen(image, model.preprocessing)
    rows, columns = maps.patch_similarity.shape
    return ExplanationAnswer(
        model=found.id,
        label=label,
        similarity=maps.image_similarity,
        grid=(rows, columns),
        maps={name: np.round(values.astype(float), DECIMALS).tolist() for name, values in arrays.items()},
        image=_data_url(seen),
        pictures={name: _data_url(overlay(seen, normalised(values))) for name, values in arrays.items()},
    )


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
