"""The page that maps the paper to the code names every public function of the method, and none that is gone."""

import importlib
import inspect
import re
from pathlib import Path

import alignclip_core

FOLDER = Path(alignclip_core.__file__).parent
MODULES = ("similarity", "attention", "losses", "averaging", "mixing", "misalignment")


def public_names(module_name: str) -> set[str]:
    module = importlib.import_module(f"alignclip_core.method.{module_name}")
    return {
        name for name, value in vars(module).items()
        if not name.startswith("_") and inspect.getmodule(value) is module
        and (inspect.isfunction(value) or name in ("BetaMovingAverage", "ValleyAverage"))
    }  # fmt: skip


def test_every_equation_of_the_method_is_on_the_page():
    page = (FOLDER / "README.md").read_text()
    beside = {"patch_similarity_of_all_classes", "uniform_similarity", "check_alpha", "max_copies"}  # no equation
    for module_name in MODULES:
        missing = {name for name in public_names(module_name) - beside if name not in page}
        assert not missing, module_name


def test_every_function_and_file_that_the_page_names_exists():
    page = (FOLDER / "README.md").read_text()
    known = set().union(*(public_names(name) for name in MODULES))
    for names, link in re.findall(r"\[((?:`[^`]+`)(?:, `[^`]+`)*|`[^`]+`)\]\((method/\w+\.py)\)", page):
        assert (FOLDER / link).is_file(), link
        for name in re.findall(r"[\w.]+", names):
            assert name.split(".")[-1] in known, name
    assert len(re.findall(r"\]\(method/", page)) >= 12
