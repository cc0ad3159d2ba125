"""What the demo shows at its end: the figures, one picture with its predictions, and how to go on."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from rich.table import Table
from rich.text import Text

from tools.demo.pictures import NEW_STYLE, TRAINED_STYLE

STYLES = {"trained_domains": f"trained style ({TRAINED_STYLE})", "test_domains": f"new style ({NEW_STYLE})"}
CLASSES = {"trained_classes": "trained", "unseen_classes": "never trained", "all_classes": "all together"}
SHOWN_COLUMNS = 44
INK = " ░▒▓█"  # from white to black


def figures_table(job: Mapping[str, Any]) -> Table:
    """Accuracy before and after in a new style, on new classes and on both, which are the paper's three questions."""
    table = Table(
        title="Accuracy among the classes of each row, on pictures that were not trained on, ± one standard error"
    )
    for heading in ("style", "classes"):
        table.add_column(heading)
    for heading in ("pictures", "chance", "zero-shot", "AlignCLIP", "gain"):
        table.add_column(heading, justify="right")
    num_all, num_unseen = job["num_classes"], len(job["unseen_classes"])
    num_classes = {"trained_classes": num_all - num_unseen, "unseen_classes": num_unseen, "all_classes": num_all}
    for domains, style in STYLES.items():
        for classes, words in CLASSES.items():
            before, after = (job["result"][weights][domains][classes] for weights in ("zero_shot", "tuned"))
            table.add_row(
                style,
                f"{num_classes[classes]} {words}",
                str(after["num_images"]),
                f"{1 / num_classes[classes]:.1%}",
                _with_error(before),
                _with_error(after),
                f"{100 * (after['accuracy'] - before['accuracy']):+.1f}",
                end_section=classes == "all_classes",
            )
    return table


def picture_as_text(png: bytes) -> Text:
    """The picture in characters, dark where it is dark."""
    image = Image.open(io.BytesIO(png)).convert("L")
    image = image.crop(image.point(lambda value: 255 * (value < 250)).getbbox())
    rows = max(1, round(SHOWN_COLUMNS * image.height / image.width / 2))  # a character is twice as high as wide
    image = image.resize((SHOWN_COLUMNS, rows), Image.Resampling.BOX)
    shades = [INK[round((255 - value) / 255 * (len(INK) - 1))] for value in image.tobytes()]
    lines = ["".join(shades[start : start + SHOWN_COLUMNS]) for start in range(0, len(shades), SHOWN_COLUMNS)]
    return Text("\n".join(lines))


def predictions_table(predictions: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """The likeliest labels of one picture, side by side for each model."""
    table = Table(*predictions, box=None, pad_edge=False, header_style="bold")
    for row in zip(*predictions.values(), strict=True):
        table.add_row(*(f"{one['score']:>6.1%}  {one['label']}" for one in row))
    return table


def _with_error(evaluation: Mapping[str, Any]) -> str:
    return f"{evaluation['accuracy']:.1%} ± {100 * evaluation['standard_error']:.1f}"
