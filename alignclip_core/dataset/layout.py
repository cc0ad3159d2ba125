"""What a listing of files says: classes, domains, samples. "class/image" or "domain/class/image". Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from alignclip_core.dataset.samples import SPLIT_WORDS, DatasetLayout, Sample, SplitName, layout_of
from alignclip_core.errors import DatasetInvalid

__all__ = ["IMAGE_SUFFIXES", "MASK_SUFFIX", "DatasetLayout", "Sample", "list_folder", "read_layout"]

MASK_SUFFIX = ".mask.png"  # beside cat/1.jpg, cat/1.mask.png: white where the object is
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
EXPECTED = "expected class/image or domain/class/image"

Parts = tuple[str, ...]


def list_folder(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, sorted; an empty folder is listed with a "/" at its end."""
    paths: list[str] = []
    for parent, folders, files in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        paths += [(relative / name).as_posix() for name in files]
        if not folders and not files and parent != str(folder):
            paths.append(f"{relative.as_posix()}/")
    return sorted(paths)


def read_layout(relative_paths: Iterable[str], *, min_classes: int = 2) -> DatasetLayout:
    """The layout of a listing; names that end in "/" are folders, as in a zip.

    A folder that holds all the rest is stripped; hidden files and `__MACOSX` are ignored. Where the upper folders are
    called train, val and test, they are splits rather than domains. Raises `DatasetInvalid` for no images, images
    beside folders, mixed depths, a class without images and fewer than `min_classes` classes.

    Where no class is needed (`min_classes` 0), folders that name none are no fault: the images then have the class "".
    """
    folders, images, ignored = _sort_paths(relative_paths)
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DatasetInvalid(f"The dataset holds no image ({suffixes}); {EXPECTED}.")
    num_stripped = _num_common_folders(list(images.values()))
    try:
        depth = _class_depth(images, num_stripped)
    except DatasetInvalid:
        if min_classes > 0:
            raise
        return layout_of([Sample(path, "") for path in images], min_classes=0, ignored=ignored)
    splits = _split_folders(images, num_stripped) if depth == 2 else {}
    samples = tuple(
        Sample(
            path,
            parts[-2],
            parts[num_stripped] if depth == 2 and not splits else "",
            split=splits.get(parts[num_stripped], ""),
        )
        for path, parts in sorted(images.items())
    )
    layout = DatasetLayout(
        class_names=tuple(sorted({sample.class_name for sample in samples})),
        domains=tuple(sorted({sample.domain for sample in samples})) if depth == 2 and not splits else (),
        samples=samples,
        ignored=tuple(sorted(ignored)),
    )
    if min_classes > 0:
        _check_empty_classes(folders, layout, num_stripped, depth)
    if len(layout.class_names) < min_classes:
        raise DatasetInvalid(
            f"The dataset has one class only, {layout.class_names[0]!r}; at least {min_classes} class folders "
            f"are needed ({EXPECTED})."
        )
    return layout


def _sort_paths(relative_paths: Iterable[str]) -> tuple[set[Parts], dict[str, Parts], list[str]]:
    """All folders that are named, the images, and the visible files that are none."""
    folders: set[Parts] = set()
    images: dict[str, Parts] = {}
    ignored: list[str] = []
    for path in relative_paths:
        parts = PurePosixPath(path).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            continue
        if path.endswith("/"):
            folders.add(parts)
            continue
        folders.add(parts[:-1])
        if path.lower().endswith(MASK_SUFFIX):
            continue
        if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
            images[path] = parts
        else:
            ignored.append(path)
    return folders, images, ignored


def _num_common_folders(images: Sequence[Parts]) -> int:
    """How many leading folders hold everything; a class folder is left even where it holds everything."""
    common = 0
    while all(len(parts) > common + 2 and parts[common] == images[0][common] for parts in images):
        common += 1
    return common


def _class_depth(images: dict[str, Parts], num_stripped: int) -> int:
    """1 for class/image, 2 for domain/class/image, the same for every image."""
    depths: dict[int, str] = {}
    for path, parts in images.items():
        depths.setdefault(len(parts) - 1 - num_stripped, path)
    if 0 in depths:
        raise DatasetInvalid(f"Image {depths[0]!r} lies in no class folder; {EXPECTED}.")
    if len(depths) > 1:
        first, second = (depths[depth] for depth in sorted(depths)[:2])
        raise DatasetInvalid(f"The folders are of mixed depth: {first!r} and {second!r}; {EXPECTED}.")
    (depth,) = depths
    if depth > 2:
        raise DatasetInvalid(f"Image {depths[depth]!r} lies {depth} folders deep; {EXPECTED}.")
    return depth


def _split_folders(images: dict[str, Parts], num_stripped: int) -> dict[str, SplitName]:
    """The splits that the upper folders name; none unless all of them do, and one trains."""
    folders = {parts[num_stripped] for parts in images.values()}
    splits: dict[str, SplitName] = {
        name: SPLIT_WORDS[name.lower()]  # type: ignore[misc]
        for name in folders
        if name.lower() in SPLIT_WORDS
    }
    return splits if len(splits) == len(folders) and "train" in splits.values() else {}


def _check_empty_classes(folders: set[Parts], layout: DatasetLayout, num_stripped: int, depth: int) -> None:
    """In a domain a class may be absent or empty as long as another domain has it."""
    class_folders = {parts[num_stripped : num_stripped + depth] for parts in folders if len(parts) > num_stripped}
    for parts in sorted(class_folders):
        if len(parts) == depth and parts[-1] not in layout.class_names:
            raise DatasetInvalid(
                f"Class folder {'/'.join(parts)!r} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                "add images or remove the folder."
            )
        if depth == 2 and layout.domains and parts[0] not in layout.domains:
            raise DatasetInvalid(
                f"Domain folder {parts[0]!r} holds no image; add class folders with images or remove the folder."
            )
