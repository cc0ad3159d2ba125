"""What a dataset reference of a request lists."""

from __future__ import annotations

from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.dataset.reading import read_dataset
from alignclip_core.errors import DatasetInvalid
from alignclip_store.database import reading
from alignclip_store.datasets import open_dataset, open_files
from alignclip_store.errors import DatasetRejected, FileNotFound
from alignclip_store.objects import SourceUnreachable
from api.resources import Resources


def read_layout_of(
    resources: Resources, owner: str, reference: str, *, param: str, min_classes: int = 2
) -> DatasetLayout:
    """Classes, domains and images of a dataset by its listing alone. Every fault names the field `param`."""
    try:
        with reading(resources.engine) as session:
            dataset = open_dataset(session, owner, reference, resources.settings, param=param)
        with open_files(dataset, resources.artifacts, resources.settings) as files:
            return read_dataset(files, manifest=dataset.manifest, min_classes=min_classes, url=dataset.url)
    except FileNotFound as error:
        # A wrong word in a body is a wrong request (400): 404 would say that the route leads nowhere.
        raise DatasetRejected(error.message, param=param) from error
    except SourceUnreachable as error:
        raise DatasetRejected(str(error), param=param) from error
    except DatasetInvalid as error:
        raise DatasetInvalid(error.message, param=param) from error
