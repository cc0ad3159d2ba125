"""Images of a request -> image features: decoded beside each other, computed with other requests' images."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import torch
from anyio import to_thread
from torch import Tensor

from alignclip_core.classifier import Classifier
from alignclip_core.decoders import Decoders
from alignclip_core.errors import ImageRejected
from alignclip_core.pixels import prepare_pixels
from api.classify_forms import ImageSource
from api.resources import Resources


async def compute_features(resources: Resources, classifier: Classifier, sources: Sequence[ImageSource]) -> Tensor:
    """Image features [images, dim]. Raises `ImageRejected` for the first image that cannot be used.

    Of more images than a batch holds, each batch waits its turn anew: a large request does not keep small ones out.
    """
    size = resources.settings.max_batch_images
    features = []
    for start in range(0, len(sources), size):
        with resources.batcher.arriving(classifier, classifier.features) as submit:
            batch = range(start, min(start + size, len(sources)))
            decoded = await asyncio.gather(*(_decode(resources, classifier, sources, index) for index in batch))
            submitted = submit(decoded)
        features.append(await asyncio.wrap_future(submitted))
    return torch.cat(features)


async def _decode(resources: Resources, classifier: Classifier, sources: Sequence[ImageSource], index: int) -> Tensor:
    return await to_thread.run_sync(
        _read_pixels, resources.decoders, classifier, sources, index, limiter=resources.decode_limiter
    )


def _read_pixels(decoders: Decoders, classifier: Classifier, sources: Sequence[ImageSource], index: int) -> Tensor:
    """One image as the model takes it, not yet normalised. Raises `ImageRejected`, which names it."""
    source = sources[index]
    try:
        pixels = decoders.pixels(source.read())
        return prepare_pixels(torch.from_numpy(pixels).permute(2, 0, 1), classifier.preprocessing)
    except ImageRejected as error:
        where = f"Image {index} ({source.filename})" if len(sources) > 1 else source.filename
        raise ImageRejected(f"{where}: {error.message}", param=error.param or "image") from error
