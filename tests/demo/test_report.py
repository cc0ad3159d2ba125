import io

from rich.console import Console

from tools.demo.pictures import NEW_STYLE, draw_openmoji, noto_drawer
from tools.demo.report import SHOWN_COLUMNS, figures_table, picture_as_text, predictions_table


def evaluation(accuracy, num_images):
    error = (accuracy * (1 - accuracy) / num_images) ** 0.5
    return {"accuracy": accuracy, "num_images": num_images, "standard_error": error}


def groups(trained, unseen):
    return {
        "trained_classes": evaluation(trained, 100),
        "unseen_classes": evaluation(unseen, 64),
        "all_classes": evaluation(0.5, 164),
    }


def printed(renderable):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_table_has_a_row_for_each_of_the_questions():
    job = {
        "num_classes": 14,
        "unseen_classes": ["a", "b", "c", "d"],
        "result": {
            "zero_shot": {"trained_domains": groups(0.2, 0.5), "test_domains": groups(0.1, 0.25)},
            "tuned": {"trained_domains": groups(0.6, 0.375), "test_domains": groups(0.4, 0.25)},
        },
    }
    rows = [line for line in printed(figures_table(job)).splitlines() if "style (" in line]
    assert len(rows) == 6
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows]
    assert cells[0][1:] == ["10 trained", "100", "10.0%", "20.0% ± 4.0", "60.0% ± 4.9", "+40.0"]
    assert cells[1][1:] == ["4 never trained", "64", "25.0%", "50.0% ± 6.2", "37.5% ± 6.1", "-12.5"]
    assert NEW_STYLE in cells[4][0]
    assert cells[4][-1] == "+0.0"
    assert cells[5][1:4] == ["14 all together", "164", "7.1%"]


def test_picture_becomes_lines_of_one_width_with_its_dark_parts_dark():
    for png in (noto_drawer()("🎸"), draw_openmoji("🐳"), noto_drawer()("🌑")):
        lines = picture_as_text(png).plain.split("\n")
        assert {len(line) for line in lines} == {SHOWN_COLUMNS}
        assert "█" in "".join(lines)


def test_predictions_stand_side_by_side():
    predictions = {
        "zero-shot": [{"label": "tool", "score": 0.5}, {"label": "hat", "score": 0.25}],
        "AlignCLIP": [{"label": "musical instrument", "score": 0.875}, {"label": "tool", "score": 0.05}],
    }
    lines = printed(predictions_table(predictions)).splitlines()
    assert lines[0].split() == ["zero-shot", "AlignCLIP"]
    assert lines[1].split() == ["50.0%", "tool", "87.5%", "musical", "instrument"]
