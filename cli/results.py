"""A job's or a run's result as a table: accuracy before and after, on each group of images that it measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

DOMAINS = {"trained_domains": "trained", "test_images": "trained, test images", "test_domains": "test"}
CLASSES = {"trained_classes": "trained", "unseen_classes": "unseen", "all_classes": "all together"}


def result_table(result: Mapping[str, Any]) -> Table:
    """One row per group of images; groups without images are absent from the result and from the table."""
    table = Table("domains", "classes", box=None, pad_edge=False, header_style="bold")
    for heading in ("images", "zero-shot", "tuned", "gain"):
        table.add_column(heading, justify="right")
    for domains, domains_word in DOMAINS.items():
        for classes, classes_word in CLASSES.items():
            tuned = result["tuned"].get(domains, {}).get(classes)
            before = result["zero_shot"].get(domains, {}).get(classes)
            if tuned is None or before is None:
                continue
            gain = tuned["accuracy"] - before["accuracy"]
            numbers = (f"{before['accuracy']:.1%}", f"{tuned['accuracy']:.1%}", f"{100 * gain:+.1f}")
            table.add_row(domains_word, classes_word, str(tuned["num_images"]), *numbers)
    return table
