"""Which classes and domains train and which test, and how answers become the paper's tables."""

from pathlib import Path

import pytest

from alignclip_core.base_models import find_base_model
from alignclip_core.config import ALGORITHMS
from alignclip_core.dataset.layout import read_layout
from alignclip_core.dataset.splits import split_dataset, thin_out
from alignclip_core.errors import ArtifactCorrupt, ConfigInvalid, DatasetInvalid
from alignclip_core.protocols.cells import Choices, ask, base_classes
from alignclip_core.protocols.grids import Grid
from alignclip_core.protocols.methods import Method, what_is_trained
from alignclip_core.protocols.rows import Row, read_rows
from alignclip_core.protocols.tables import harmonic_mean, make_tables

CLASSES = ("ant", "bee", "cat", "dog", "eel")
LAYOUT = read_layout(f"{d}/{c}/{i}.png" for d in ("ink", "oil", "pen") for c in CLASSES for i in range(6))
FLAT = read_layout(f"{c}/{i}.png" for c in CLASSES for i in range(30))
NAMES = {name: name for name in CLASSES}
STARTER = find_base_model("starter", Path("no models"))


def config_of(protocol, layout, choices=None, method="alignclip", **fields):
    grid = Grid(
        dataset="animals",
        protocol=protocol,
        methods=(Method.parse(method),),
        choices=choices or Choices(),
        **fields,
    )
    return grid.config_of(grid.cells(layout)[0], STARTER, NAMES)


def split_of(protocol, layout, choices=None):
    return split_dataset(layout, config_of(protocol, layout, choices))


def test_domain_shift_leaves_each_domain_out_in_turn():
    questions = ask("domain_shift", LAYOUT)
    assert [question.values for question in questions] == [{"test_domains": (name,)} for name in ("ink", "oil", "pen")]
    split = split_of("domain_shift", LAYOUT, Choices(targets=("oil",)))
    (tested,) = [group for group in split.groups if group.domains == "test_domains"]
    assert len(tested.indices) == 30  # all images of the target
    assert {name: len(part) for name, part in tested.parts.items()} == {"in_split": 24, "out_split": 6}


def test_odd_numbers_of_classes_are_halved_as_coop_or_as_domainbed_does():
    assert base_classes(reversed(CLASSES), "ceil") == ("ant", "bee", "cat")
    assert base_classes(CLASSES, "floor") == ("ant", "bee")
    assert config_of("unseen_classes", FLAT).unseen_classes == ("dog", "eel")
    assert config_of("in_the_wild", LAYOUT).unseen_classes == ("cat", "dog", "eel")
    assert config_of("unseen_classes", FLAT, Choices(halves="floor")).unseen_classes == ("cat", "dog", "eel")


def test_base_and_new_classes_are_tested_on_images_of_their_own_each_in_its_own_space():
    split = split_of("unseen_classes", FLAT)
    tested = {group.classes: group for group in split.groups if group.domains == "test_images"}
    assert tested["trained_classes"].label_space == ("ant", "bee", "cat")
    assert tested["unseen_classes"].label_space == ("dog", "eel")
    assert len(tested["trained_classes"].indices) == 3 * 6
    assert {answer.group for answer in ask("unseen_classes", FLAT)[0].answers} == {
        ("test_images", "trained_classes"),
        ("test_images", "unseen_classes"),
    }


def test_in_the_wild_is_asked_among_all_classes_in_a_domain_that_was_left_out():
    (question, *_) = ask("in_the_wild", LAYOUT)
    assert question.answers[0].group == ("test_domains", "all_classes")
    split = split_of("in_the_wild", LAYOUT)
    (everything,) = [g for g in split.groups if (g.domains, g.classes) == question.answers[0].group]
    assert everything.label_space == CLASSES
    assert len(everything.indices) == 30


def test_few_shots_are_sixteen_of_each_class_unless_told():
    split = split_of("few_shot", FLAT)
    assert len(split.train) == 16 * 5
    assert len(split_of("few_shot", FLAT, Choices(num_shots=2)).train) == 2 * 5


def test_dataset_shift_answers_for_each_other_dataset():
    (question,) = ask("dataset_shift", FLAT, Choices(test_sets=("sketch", "renditions")))
    assert [(answer.target, answer.group) for answer in question.answers] == [
        ("source", ("test_images", "trained_classes")),
        ("sketch", ("test_datasets", "sketch")),
        ("renditions", ("test_datasets", "renditions")),
    ]


@pytest.mark.parametrize(
    ("protocol", "layout", "choices", "words"),
    [
        ("domain_shift", FLAT, Choices(), "no domain folders"),
        ("in_the_wild", LAYOUT, Choices(targets=("chalk",)), "'chalk' is no domain folder; known: ink, oil, pen"),
        ("dataset_shift", FLAT, Choices(), "name at least two"),
        ("dataset_shift", FLAT, Choices(test_sets=("dots", "ink", "dots")), "'dots' would name two columns"),
        ("dataset_shift", FLAT, Choices(test_sets=("source",)), "'source' would name two columns"),
    ],
)
def test_a_protocol_says_why_it_cannot_be_asked(protocol, layout, choices, words):
    with pytest.raises(DatasetInvalid, match=words):
        ask(protocol, layout, choices)


def test_cells_of_one_question_method_and_seed_share_a_run():
    methods = tuple(map(Method.parse, ("finetune", "alignclip@authors_code:bma_beta=0.1")))
    grid = Grid(dataset="animals", protocol="unseen_classes", methods=methods, seeds=(0, 1))
    cells = grid.cells(FLAT)
    assert len(cells) == len({cell.key for cell in cells}) == 2 * 2 * 2
    assert len({cell.run_name for cell in cells}) == 2 * 2
    assert cells[2].run_name == "starter/animals/unseen_classes/base_new/alignclip@authors_code_bma_beta=0.1/seed-0"


def test_every_method_has_the_same_budget_but_for_what_it_names():
    recipe = {"num_steps": 9, "bma_beta": 0.5, "averaging": "bma"}
    budget = {"values": {"num_steps": 7}, "recipe": recipe, "recipe_of": {"clipood": {"margin": 0.1}}}
    assert config_of("few_shot", FLAT, **budget).num_steps == 7
    assert config_of("few_shot", FLAT, method="clipood", **budget).margin == 0.1
    assert config_of("few_shot", FLAT, method="alignclip:bma_beta=0.1", **budget).bma_beta == 0.1
    assert config_of("few_shot", FLAT, method="zero_shot", **budget).num_steps == 0
    assert config_of("few_shot", FLAT, method="finetune", **budget).averaging == "none"  # what makes it finetune


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_is_a_method_and_says_what_it_trains(algorithm):
    assert Method.parse(algorithm).algorithm == algorithm
    assert what_is_trained(config_of("few_shot", FLAT, method=algorithm))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alinclip", "Unknown method"),
        ("finetune:head", "no FIELD=VALUE"),
        ("finetune:hed=1", "Unknown hyper-parameter"),
    ],
)
def test_a_method_that_cannot_be_read_is_refused(text, words):
    with pytest.raises(ConfigInvalid, match=words):
        Method.parse(text)


def test_a_thinner_dataset_has_the_same_images_everywhere():
    few = thin_out(LAYOUT, 2)
    assert len(few) == 3 * 5 * 2
    other_order = read_layout(sample.path for sample in reversed(LAYOUT.samples))
    assert thin_out(other_order, 2) == few


def row(method="alignclip", target="base", seed=0, accuracy=0.5, **fields):
    given = {"protocol": "unseen_classes", "dataset": "pets", "n": 10, "zero_shot": 0.4, "beside": {}, "split": "all"}
    given |= {"split_sha256": "00", "trained": "image tower", "num_steps": 3, "seconds": 1.0, "command": "alignclip"}
    return Row(**given | {"method": method, "target": target, "seed": seed, "accuracy": accuracy} | fields)


def test_rows_survive_a_line_that_was_cut_off_and_the_last_of_a_cell_counts(tmp_path):
    file = tmp_path / "results.jsonl"
    again, other = row(accuracy=0.6), row(seed=1)
    file.write_bytes(row().to_line() + other.to_line() + again.to_line() + b'{"method": "ali')
    assert read_rows(file) == [again, other]
    file.write_bytes(b"what?\n")
    with pytest.raises(ArtifactCorrupt, match="line 1"):
        read_rows(file)


def test_tables_have_both_conventions_of_h_and_the_deviation_over_seeds():
    rows = [row(target="base", seed=s, accuracy=a) for s, a in enumerate((0.8, 0.6))]
    rows += [row(target="new", seed=s, accuracy=a) for s, a in enumerate((0.4, 0.6))]
    (table,) = make_tables(rows, {"pets": {"AlignCLIP": {"base": 84.5, "new": 74.8, "H of averages": 79.37}}})
    assert table.columns == ("method", "base", "new", "H of averages", "mean of H", "seeds", "trained")
    h = 100 * harmonic_mean(0.7, 0.5)
    mean_of_h = 100 * (harmonic_mean(0.8, 0.4) + 0.6) / 2
    assert table.lines[0][:3] == ("alignclip", "70.0 ± 14.1", "50.0 ± 14.1")
    assert table.lines[0][3] == f"{h:.1f}"
    assert table.lines[0][4].startswith(f"{mean_of_h:.1f} ± ")
    assert table.lines[1][:5] == ("AlignCLIP (paper)", "84.5", "74.8", "79.37", "–")
    assert "| alignclip | 70.0 ± 14.1 |" in table.to_markdown()
    assert table.to_csv().splitlines()[0].startswith("method,base,new,")


def test_averages_are_over_the_seeds_that_have_every_target():
    rows = [
        row(protocol="domain_shift", target=target, seed=seed, accuracy=accuracy, beside={"out_split": 0.1})
        for target, seed, accuracy in (("ink", 0, 0.4), ("oil", 0, 0.6), ("ink", 1, 0.9))
    ]
    table, beside = make_tables(rows)
    assert table.lines[0][1:4] == ("65.0 ± 35.4", "60.0", "50.0")
    assert beside.title == "domain shift on pets: 20 % out-split"
