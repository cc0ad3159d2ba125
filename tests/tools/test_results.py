"""`make results`: what it asks of which dataset, and the document that it writes into."""

import pytest

from alignclip_core.config import ALGORITHMS
from alignclip_core.dataset.layout import read_layout
from alignclip_core.protocols.methods import Method
from alignclip_core.protocols.rows import Row
from tools.results import budget
from tools.results.__main__ import main
from tools.results.document import write_document

STYLES = [f"{style}/{name}/{number}.png" for style in ("ink", "oil") for name in "abcd" for number in range(9)]
FLAT = [path.split("/", 1)[1] for path in STYLES if path.startswith("ink/")]


def test_every_algorithm_is_asked_at_the_same_cost():
    methods = budget.SHORT.methods()
    assert set(ALGORITHMS) <= {method.text for method in methods}
    grids = [
        grid
        for paths in (STYLES, FLAT)
        for grid in budget.grids_of(budget.SHORT, "pictures", read_layout(paths), methods, seed=0)
    ]
    assert [grid.protocol for grid in grids] == ["domain_shift", "in_the_wild", "unseen_classes", "few_shot"]
    assert {tuple(grid.values.items()) for grid in grids} == {tuple(budget.SHORT.values.items())}
    assert {tuple(method.values) for grid in grids for method in grid.methods} <= {(), ("head",)}


def test_the_long_budget_asks_few_methods_and_only_of_domains():
    grids = [
        grid
        for paths in (STYLES, FLAT)
        for grid in budget.grids_of(budget.LONG, "pictures", read_layout(paths), budget.LONG.methods(), seed=0)
    ]
    assert [grid.protocol for grid in grids] == ["domain_shift", "in_the_wild"]
    assert {grid.values["num_steps"] for grid in grids} == {150}
    assert [method.text for method in grids[0].methods] == list(budget.LONG_METHODS)


def row(dataset, accuracy, target="ink", method="finetune", seed=0):
    measured = {"seed": seed, "n": 9, "accuracy": accuracy, "zero_shot": 0.5, "beside": {}, "seconds": 8.0}
    words = {"split": "all", "split_sha256": "0123456789abcdef00", "trained": "image tower", "num_steps": 1}
    return Row(
        method=method, protocol="domain_shift", dataset=dataset, target=target, command="say", **measured, **words
    )


def test_the_document_keeps_what_people_wrote_and_other_datasets(tmp_path):
    document = tmp_path / "results.md"
    document.write_text("# Results\n\nWords of a person.\n")
    write_document(document, budget.SHORT, [row("pictures", 0.25)])
    write_document(document, budget.SHORT, [row("drawings", 0.5)])
    document.write_text(document.read_text() + "\nMore words.\n")
    write_document(document, budget.SHORT, [row("pictures", 0.75)])
    text = document.read_text()
    assert "Words of a person." in text
    assert text.rstrip().endswith("More words.")
    assert text.count("## pictures\n") == text.count("## drawings\n") == 1
    assert "| finetune | 75.0 | 1 | image tower |" in text
    assert "25.0" not in text
    assert "| domain_shift | ink | 0 | 9 | 0123456789abcdef |" in text


def test_a_longer_budget_has_a_part_of_its_own(tmp_path):
    document = tmp_path / "results.md"
    write_document(document, budget.SHORT, [row("pictures", 0.25)])
    write_document(document, budget.LONG, [row("pictures", 0.75)])
    write_document(document, budget.LONG, [row("pictures", 0.5)])
    text = document.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## pictures", "## pictures, 150 steps"]
    assert "25.0" in text
    assert "50.0" in text
    assert "75.0" not in text


def test_margins_are_of_pairs_of_runs_under_one_seed_on_the_same_images(tmp_path):
    document = tmp_path / "results.md"
    finetune = [row("pictures", accuracy, seed=seed) for seed, accuracy in enumerate([0.5, 0.6, 0.9])]
    clipood = [row("pictures", accuracy, method="clipood", seed=seed) for seed, accuracy in enumerate([0.52, 0.66])]
    other = [row("pictures", 0.4, target="oil", method="clipood"), row("pictures", 0.4, method="dpl", seed=2)]
    write_document(document, budget.SHORT, [*finetune, *clipood, *other])
    text = document.read_text()
    assert "| domain_shift | clipood | +4.0 ± 2.0 | 2 |" in text  # of +2 and +6; oil has nothing to compare with
    assert "| domain_shift | dpl | -50.0 | 1 |" in text


@pytest.mark.parametrize(("data", "words"), [("nowhere", "no folder"), (".", "neither a zip nor a folder")])
def test_data_that_is_no_folder_of_datasets_is_refused(data, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([data, "--output", str(tmp_path / "out"), "--plan"]) == 1
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_plan_names_every_cell_and_trains_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ALIGNCLIP_HOME", str(tmp_path / "home"))
    for path in STYLES:
        (tmp_path / "data/pictures" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/pictures" / path).touch()
    assert main([str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--plan", "--method", "clipood"]) == 0
    shown = capsys.readouterr()
    assert len([line for line in shown.out.splitlines() if line.endswith("to run")]) == 3 * (2 + 1)
    assert "'num_steps': 30" in shown.err
    assert main([str(tmp_path / "data"), "--long", "--output", str(tmp_path / "out"), "--plan"]) == 0
    shown = capsys.readouterr()
    assert len([line for line in shown.out.splitlines() if line.endswith("to run")]) == 4 * 2 * (2 + 1)
    assert "'num_steps': 150" in shown.err
    assert Method.parse("clipood").text in shown.out
