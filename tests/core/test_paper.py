"""The paper's tables and figures as grids: complete, of methods that exist, with recipes that make whole configs."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from alignclip_core.base_models import PULLABLE, BaseModel
from alignclip_core.errors import ConfigInvalid
from alignclip_core.protocols.paper import (
    expected_layout,
    experiment_names,
    find_experiment,
    find_recipe,
    recipe_names,
)
from alignclip_core.protocols.rows import Row
from alignclip_core.protocols.tables import make_tables

DOCUMENT = Path(__file__).parents[2] / "docs" / "paper.md"
NAMES = [f"table{n}" for n in range(1, 11)] + [f"fig3{letter}" for letter in "abcd"] + [f"fig{n}" for n in range(4, 9)]


def test_every_table_and_figure_is_there():
    assert list(experiment_names()) == NAMES
    with pytest.raises(ConfigInvalid, match="Unknown experiment 'table11'"):
        find_experiment("table11")


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_of_an_experiment_makes_a_whole_config(name):
    for grid in find_experiment(name, seeds=(0,)).grids:
        layout = expected_layout(grid.dataset)
        base_model = next((model for model in PULLABLE if model.id == grid.base_model), BaseModel(id=grid.base_model))
        cells = grid.cells(layout)
        assert len({cell.key for cell in cells}) == len(cells)
        first = {cell.method.text: cell for cell in cells}
        for cell in first.values():
            config = grid.config_of(cell, base_model, {class_name: class_name for class_name in layout.class_names})
            assert config.num_steps == (0 if cell.method.algorithm == "zero_shot" else grid.recipe["num_steps"])


def test_recipes_are_the_papers_settings():
    assert find_recipe("domainnet")[0] == {
        "learning_rate": 1e-5,
        "num_steps": 10_000,
        "bma_beta": 0.5,
        "global_batch_size": 60,
    }
    assert find_recipe("office_home_wild")[1]["clipood"] == {"margin": 0.1}
    assert find_recipe("open_dtd")[0]["templates"] == ("{} texture.",)
    assert {grid.recipe["bma_beta"] for grid in find_experiment("table3").grids} == {0.1}
    assert find_recipe("resnet50")[0]["global_batch_size"] == 3 * 32
    assert len(recipe_names()) == 22
    with pytest.raises(ConfigInvalid, match="Unknown recipe"):
        find_recipe("open_sesame")


def test_the_papers_figures_stand_beside_ours_in_the_table_over_datasets():
    experiment = find_experiment("table1")
    rows = [
        row_of(dataset, target, accuracy)
        for dataset, target, accuracy in (("pacs", "photo", 0.9), ("pacs", "sketch", 0.7), ("vlcs", "SUN09", 0.6))
    ]
    table = make_tables(rows, experiment.figures)[-1]
    assert table.title == "domain shift on 2 datasets"
    assert table.lines[0][:4] == ("alignclip", "80.0", "60.0", "70.0")
    assert ("AlignCLIP (paper)", "97.3", "85.1", "78.5") in [line[:4] for line in table.lines]


def test_methods_of_several_base_models_stand_in_one_table_and_say_from_which():
    rows = [row_of("pacs", "photo", 0.9), row_of("vlcs", "SUN09", 0.6)]
    rows += [replace(row, base_model="resnet50-imagenet", accuracy=row.accuracy - 0.1) for row in rows]
    tables = make_tables(rows, find_experiment("table1").figures)
    assert [table.title for table in tables] == [
        "domain shift on pacs",
        "domain shift on vlcs",
        "domain shift on 2 datasets",
    ]
    lines = {line[0]: line[1:4] for line in tables[-1].lines}
    assert lines["alignclip from starter"] == ("90.0", "60.0", "75.0")
    assert lines["alignclip from resnet50-imagenet"] == ("80.0", "50.0", "65.0")
    assert lines["ERM of ResNet-50, as DomainBed published (paper)"] == ("85.5", "77.5", "63.3")


def row_of(dataset, target, accuracy):
    measured = {"seed": 0, "n": 1, "accuracy": accuracy, "zero_shot": None, "beside": {}, "seconds": 1.0}
    words = {"split": "all", "split_sha256": "00", "trained": "image tower", "command": "alignclip", "num_steps": 1}
    return Row(method="alignclip", protocol="domain_shift", dataset=dataset, target=target, **measured, **words)


def rows_of_the_document():
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `alignclip ")]
    return [re.search(r"`(.+?)`", line)[1] for line in lines]


def test_every_experiment_has_a_row_in_the_document_and_its_command_is_one():
    commands = [shlex.split(command) for command in rows_of_the_document()]
    assert [command[3] for command in commands] == NAMES
    assert all(
        command[:3] + command[4:] == ["alignclip", "evaluate", "--paper", "--data", "ROOT"] for command in commands
    )
