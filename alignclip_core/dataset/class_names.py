"""What the classes are called: from folders and from what a user gives to the words of the prompts. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignclip_core.config import SYNONYM
from alignclip_core.dataset.imagenet import imagenet_names
from alignclip_core.dataset.samples import DatasetLayout
from alignclip_core.errors import DatasetInvalid


def resolve_class_names(
    layout: DatasetLayout, given: Sequence[str] | Mapping[str, str | Sequence[str]] | None
) -> dict[str, str]:
    """Folder name -> display name of every class. Raises `DatasetInvalid` naming what does not fit.

    A list must hold one name for each folder, in any order, alike but for case, "_" and "-"; a map may name other
    words, several for one class as well, and folders that it leaves out keep their own name. Without either, ImageNet's
    folders get ImageNet's names.
    """
    if given is None:
        names = dict(imagenet_names(layout.class_names) or {folder: folder for folder in layout.class_names})
    elif isinstance(given, Mapping):
        joined = {folder: _joined(name) for folder, name in given.items()}
        names = _names_from_map(layout.class_names, joined)
    else:
        names = _names_from_list(layout.class_names, given)
    _check_display_names(names)
    return names


def some(names: Sequence[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _names_from_map(folders: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    for folder in given:
        if folder not in folders:
            raise DatasetInvalid(
                f"class_names names a folder {folder!r} that the dataset has not; its class folders: {some(folders)}.",
                param="class_names",
            )
    return {folder: given.get(folder, folder) for folder in folders}


def _joined(name: str | Sequence[str]) -> str:
    """Several words for a class as one name."""
    is_several = isinstance(name, list | tuple) and all(isinstance(word, str) for word in name)
    return SYNONYM.join(name) if is_several else name  # type: ignore[return-value]  # the check of names refuses others


def _names_from_list(folders: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    unmatched = {_spoken(folder): folder for folder in folders}
    names: dict[str, str] = {}
    for name in given:
        folder = unmatched.pop(_spoken(name), None) if isinstance(name, str) else None
        if folder is None:
            raise DatasetInvalid(
                f"class_names holds {name!r}, which fits no class folder (left: {some(tuple(unmatched.values()))}); "
                "to use other words, send a map from folder name to name.",
                param="class_names",
            )
        names[folder] = name
    if unmatched:
        raise DatasetInvalid(
            f"class_names has no name for class folder {next(iter(unmatched.values()))!r}.", param="class_names"
        )
    return dict(sorted(names.items()))


def _check_display_names(names: Mapping[str, str]) -> None:
    folders: dict[str, str] = {}
    for folder, name in names.items():
        if not isinstance(name, str) or not all(word.strip() for word in name.split(SYNONYM)):
            raise DatasetInvalid(
                f"The name of class {folder!r} is {name!r}; it must be a word or more.", param="class_names"
            )
        for word in name.split(SYNONYM):
            other = folders.setdefault(_spoken(word), folder)
            if other != folder:
                raise DatasetInvalid(
                    f"Classes {other!r} and {folder!r} have the same name {word!r}, so the text cannot tell them "
                    "apart; give other names by a map from folder name to name.",
                    param="class_names",
                )


def _spoken(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())
