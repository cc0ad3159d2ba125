"""ImageNet's folders and their names: those of V2, Sketch, A and R, too. Loads no torch.

The names are OpenAI's, as open_clip carries them; timm carries the folders (WordNet ids) in their order. Both are
read as files: importing them would load torch.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

NUM_CLASSES = 1000


def imagenet_names(folders: Collection[str]) -> Mapping[str, str] | None:
    """Folder -> name when every folder is one of ImageNet's, else None."""
    names = _names() if all(folder[:1] == "n" and folder[1:].isdecimal() for folder in folders) else {}
    return {folder: names[folder] for folder in folders} if set(folders) <= names.keys() else None


def numbered_folders(folders: Collection[str]) -> Mapping[str, str] | None:
    """V2 calls its folders 0 to 999: number -> WordNet id when the folders are just these, else None."""
    if len(folders) != NUM_CLASSES or set(folders) != {str(number) for number in range(NUM_CLASSES)}:
        return None
    return {str(number): folder for number, folder in enumerate(_names())}


@cache
def _names() -> Mapping[str, str]:
    """WordNet id -> name, in ImageNet's order. Where two have one name, WordNet's first word tells them apart."""
    folders = _file("timm", "data/_info/imagenet_synsets.txt").split()
    lines = (line.partition("\t") for line in _file("timm", "data/_info/imagenet_synset_to_lemma.txt").splitlines())
    lemmas = {folder: words.split(",")[0].strip() for folder, _, words in lines}
    given = _open_clip_names()
    names = {
        folder: name if given.count(name) == 1 else lemmas[folder] for folder, name in zip(folders, given, strict=True)
    }
    return MappingProxyType(names)


def _open_clip_names() -> list[str]:
    for node in ast.parse(_file("open_clip", "zero_shot_metadata.py")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "IMAGENET_CLASSNAMES":
            return list(ast.literal_eval(node.value))
    raise AssertionError("open_clip names no ImageNet classes")


def _file(package: str, path: str) -> str:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return (Path(spec.submodule_search_locations[0]) / path).read_text()
