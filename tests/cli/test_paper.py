"""`alignclip evaluate --paper`: each row of docs/paper.md has a command that plans, even without its datasets."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignclip_core.protocols.paper import find_experiment
from cli.grid_data import find_dataset
from cli.main import app

ROWS = re.findall(r"^\| `(alignclip .+?)`", (Path(__file__).parents[2] / "docs" / "paper.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", ROWS)
def test_every_row_of_the_document_plans(command, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNCLIP_HOME", str(tmp_path))
    words = shlex.split(command.replace("ROOT", str(tmp_path)))[1:]
    done = CliRunner().invoke(app, [*words, "--plan", "--seed", "0"])
    assert done.exit_code == 0, done.output
    assert "domain" in done.output or "dataset" in done.output
    assert "seed" in done.output
    assert not list(tmp_path.iterdir())


def test_the_command_of_a_cell_plans_that_cell_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNCLIP_HOME", str(tmp_path))
    words = ["evaluate", "vlcs", "--paper", "table6", "--data", str(tmp_path), "--method", "clipood", "--seed", "2"]
    done = CliRunner().invoke(app, [*words, "--target", "SUN09", "--plan"])
    assert done.exit_code == 0, done.output
    cells = [line.split() for line in done.output.splitlines() if "clipood" in line]
    assert [cell[1:6] for cell in cells] == [["vlcs", "domain_shift", "SUN09", "clipood", "2"]]


def plan_of(tmp_path, *words):
    done = CliRunner().invoke(app, ["evaluate", *words, "--data", str(tmp_path), "--seed", "0", "--plan"])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    return [tuple(line[:5]) for line in lines if "domain_shift" in line or "in_the_wild" in line]


def test_the_paper_s_baselines_without_texts_take_methods_with_a_linear_head_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNCLIP_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    table1 = ["vlcs", "--paper", "table1", "--target", "SUN09"]
    cells = plan_of(tmp_path, *table1)
    heads = {method.split(":")[0] for model, *_, method in cells if model == "resnet50-imagenet"}
    assert heads == {"finetune", "coral"}
    assert {model for model, *_ in cells} == {"vit-b-16-openai", "resnet50-imagenet"}

    chosen = plan_of(tmp_path, *table1, "--method", "clipood", "--method", "coral:head=linear")
    assert [(model, method) for model, *_, method in chosen] == [
        ("vit-b-16-openai", "clipood"),
        ("vit-b-16-openai", "coral:head=linear"),
        ("resnet50-imagenet", "coral:head=linear"),
    ]
    assert {model for model, *_ in plan_of(tmp_path, *table1, "--model", "starter")} == {"starter"}
    alone = plan_of(tmp_path, *table1, "--model", "resnet50-imagenet")
    assert alone == [cell for cell in cells if cell[0] == "resnet50-imagenet"]
    several = plan_of(tmp_path, "--paper", "fig5", "--model", "declip-vit-b-32", "--target", "Art")
    assert [model for model, *_ in several] == ["declip-vit-b-32"] * 3


def test_without_its_datasets_an_experiment_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNCLIP_HOME", str(tmp_path))
    (tmp_path / "pacs.zip").touch()
    refused = CliRunner().invoke(app, ["evaluate", "--paper", "table10", "--data", str(tmp_path)])
    assert refused.exit_code == 1
    words = " ".join(refused.output.split())
    assert "table10 needs: " in words
    assert "vlcs.zip" in words
    assert "alignclip models pull vit-b-16-openai" in words


PUBLISHED = {
    "table1": "PACS VLCS office_home terra_incognita domain_net",
    "table2": "imagenet imagenetv2 imagenet-sketch imagenet-adversarial imagenet-rendition.tar",
    "table5": "imagenet caltech-101 oxford_pets stanford_cars oxford_flowers food-101 fgvc_aircraft sun397 dtd eurosat "
    "ucf101",
    "table3": "imagenet caltech101 oxford-iiit-pet stanford_cars flowers-102 food-101 fgvc-aircraft-2013b SUN397 dtd "
    "eurosat ucf101",
}
"""As DomainBed, CoOp (twice) and torchvision unpack them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_datasets_are_found_by_the_names_that_their_folders_have_as_published(name, tmp_path):
    for folder in PUBLISHED[name].split():
        (tmp_path / folder).mkdir()
    found = {find_dataset(tmp_path, dataset) for dataset in find_experiment(name).datasets}
    assert found == {tmp_path / folder for folder in PUBLISHED[name].split()}
    assert find_dataset(tmp_path / "nowhere", "pacs") is None
    (tmp_path / "pacs.zip").touch()
    assert find_dataset(tmp_path, "pacs") == tmp_path / ("PACS" if name == "table1" else "pacs.zip")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--paper", "table1"], "--data"),
        (["--paper", "table1", "--data", ".", "--shots", "4", "--halves", "ceil"], "paper's own --shots, --halves"),
        (
            ["dtd", "--paper", "table1", "--data", "."],
            "table1 does not train on 'dtd'; it does on domainnet, office_home",
        ),
        (["--paper", "table10", "--data", ".", "--target", "chalk", "--plan"], "'chalk' is no domain folder"),
        (["--paper", "table11", "--data", "."], "Unknown experiment 'table11'"),
        (
            ["--paper", "table1", "--data", ".", "--model", "resnet50-imagenet", "--method", "clipood"],
            "resnet50-imagenet has no text tower; it takes methods with head=linear alone",
        ),
        ([], "at least one dataset"),
    ],
)
def test_what_does_not_go_together_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNCLIP_HOME", str(tmp_path))
    refused = CliRunner().invoke(app, ["evaluate", *words])
    assert refused.exit_code == 1
    assert said in " ".join(refused.output.split())
