"""Images of a request -> image features: decoded beside each other, computed with other requests' images.

Runs in the request's own thread from end to end: a request that changes threads waits for them, and so do others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from alignclip_core.classifier import Classifier
from alignclip_core.errors import ImageRejected
from alignclip_core.pixels import prepare_pixels
from api.classify_forms import ImageSource
from api.resources import Resources


def compute_features(resources: Resources, classifier: Classifier, sources: Sequence[ImageSource]) -> Tensor:
    """Image features [images, dim]. Raises `ImageRejected` for the first image that cannot be used.

    Of more images than a batch holds, each batch waits its turn anew: a large request does not keep small ones out.
    """
    size = resources.settings.max_batch_images
    read = partial(_read_pixels, resources, classifier, sources)
    features = []
    for start in range(0, len(sources), size):
        batch = range(start, min(start + size, len(sources)))
        with resources.batcher.arriving(classifier, classifier.features) as submit:
            images = [read(start)] if len(batch) == 1 else list(resources.decode_pool.map(read, batch))
            submitted = submit(images)
        features.append(submitted.result())
    return torch.cat(features)


def _read_pixels(resources: Resources, classifier: Classifier, sources: Sequence[ImageSource], index: int) -> Tensor:
    """One image as the model takes it, not yet normalised. Raises `ImageRejected`, which names it."""
    source = sources[index]
    try:
        with resources.decode_places:
            pixels = resources.decoders.pixels(source.read())
            return prepare_pixels(torch.from_numpy(pixels).permute(2, 0, 1), classifier.preprocessing)
    except ImageRejected as error:
        where = f"Image {index} ({source.filename})" if len(sources) > 1 else source.filename
        raise ImageRejected(f"{where}: {error.message}", param=error.param or "image") from error
