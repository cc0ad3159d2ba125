"""What the demo shows at its end: the figures, one picture with its predictions, and how to go on."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from rich.table import Table
from rich.text import Text

from tools.demo.pictures import NEW_STYLE, TRAINED_STYLE

ROWS = (  # key of the domains, of the classes; words for both
    ("trained_domains", "trained_classes", f"trained style ({TRAINED_STYLE})", "trained, other pictures"),
    ("trained_domains", "unseen_classes", f"trained style ({TRAINED_STYLE})", "never trained"),
    ("test_domains", "trained_classes", f"new style ({NEW_STYLE})", "trained"),
    ("test_domains", "unseen_classes", f"new style ({NEW_STYLE})", "never trained"),
)
SHOWN_COLUMNS = 44
INK = " ░▒▓█"  # from white to black


def figures_table(job: Mapping[str, Any]) -> Table:
    """Accuracy before and after in a new style, on new classes and on both, which are the paper's three questions."""
    table = Table(title="Accuracy on pictures that were not trained on, ± one standard error", title_justify="left")
    for heading in ("style", "classes"):
        table.add_column(heading)
    for heading in ("pictures", "chance", "zero-shot", "AlignCLIP", "gain"):
        table.add_column(heading, justify="right")
    result, num_unseen = job["result"], len(job["unseen_classes"])
    num_classes = {"trained_classes": job["num_classes"] - num_unseen, "unseen_classes": num_unseen}
    for domains, classes, style, words in ROWS:
        before, after = (result[weights][domains][classes] for weights in ("zero_shot", "tuned"))
        gain = 100 * (after["accuracy"] - before["accuracy"])
        table.add_row(
            style,
            f"{num_classes[classes]} {words}",
            str(after["num_images"]),
            f"{1 / num_classes[classes]:.1%}",
            _with_error(before),
            _with_error(after),
            f"{gain:+.1f}",
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
