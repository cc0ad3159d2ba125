"""docs/results.md: what stands between its marks is written from the rows, the rest by people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from alignclip_core.protocols.cells import BASE, NEW
from alignclip_core.protocols.rows import Row
from alignclip_core.protocols.tables import make_tables
from tools.results import budget

REFERENCE = "finetune"
"""The method whose rows every other's are compared with."""


def write_document(path: Path, spent: budget.Budget, rows: Sequence[Row]) -> None:
    """Replace the part of each dataset that has rows under this budget; one that has none yet is appended."""
    text = path.read_text() if path.is_file() else "# Results\n"
    for dataset in sorted({row.dataset for row in rows}):
        name = dataset if spent == budget.SHORT else f"{dataset}, {spent.num_steps} steps"
        begin, end = f"<!-- measured: {name} -->", f"<!-- end of {name} -->"
        lines = _lines(name, spent, [row for row in rows if row.dataset == dataset])
        part = f"{begin}\n" + "\n".join(lines) + f"\n{end}"
        before, found, rest = text.partition(begin)
        text = before + part + rest.partition(end)[2] if found else f"{text.rstrip()}\n\n{part}\n"
    path.write_text(text)


def _lines(name: str, spent: budget.Budget, rows: Sequence[Row]) -> Iterator[str]:
    yield f"## {name}\n"
    yield (
        f"Every method: at most {budget.IMAGES_PER_CLASS} images of each class in each domain, "
        f"{spent.num_steps} steps of {spent.values['global_batch_size']}, base model "
        f"`{budget.BASE_MODEL}`, its card's learning rate unless the algorithm "
        "has its own. Mean ± standard deviation over seeds, in per cent.\n"
    )
    for table in make_tables(rows):
        yield f"### {table.title}\n\n{table.to_markdown()}\n"
    yield f"### Margins over {REFERENCE} ({name})\n\n{_margins(rows)}\n"
    yield f"### How long, and on which images ({name})\n\n{_costs(rows)}\n\n{_splits(rows)}\n"
    yield f"A cell's own command, such as this one, is in its row of results.jsonl:\n\n```\n{rows[-1].command}\n```\n"


def _margins(rows: Sequence[Row]) -> str:
    """Mean difference of pairs of runs under one seed on the same images, ± its standard error."""
    references = {(row.protocol, row.target, row.seed): row.accuracy for row in rows if row.method == REFERENCE}
    differences: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        own = (row.protocol, row.target, row.seed)
        if row.method != REFERENCE and own in references:
            protocol = f"{row.protocol} ({row.target})" if row.target in (BASE, NEW) else row.protocol
            differences[protocol, row.method].append(100 * (row.accuracy - references[own]))
    lines = ["| protocol | method | points | pairs of runs |", "| --- | --- | --- | --- |"]
    for (protocol, method), found in sorted(differences.items()):
        error = f" ± {stdev(found) / sqrt(len(found)):.1f}" if len(found) > 1 else ""
        lines.append(f"| {protocol} | {method} | {mean(found):+.1f}{error} | {len(found)} |")
    return "\n".join(lines)


def _costs(rows: Sequence[Row]) -> str:
    """Mean seconds of a run: of each method, and of what it trains."""
    seconds: dict[tuple[str, str, str], dict[tuple[str, int], float]] = defaultdict(dict)
    for row in rows:
        run = row.target if row.protocol in ("domain_shift", "in_the_wild") else ""
        seconds[row.protocol, row.method, row.trained][run, row.seed] = row.seconds
    lines = ["| protocol | method | trained | runs | mean seconds of a run |", "| --- | --- | --- | --- | --- |"]
    for (protocol, method, trained), found in seconds.items():
        lines.append(f"| {protocol} | {method} | {trained} | {len(found)} | {mean(found.values()):.0f} |")
    return "\n".join(lines)


def _splits(rows: Sequence[Row]) -> str:
    """The digests of the splits; methods share them."""
    found: dict[tuple[str, str, int], tuple[str, int]] = {}
    for row in rows:
        found[row.protocol, row.target, row.seed] = (row.split_sha256, row.n)
    lines = ["| protocol | target | seed | images tested | sha256 of the split |", "| --- | --- | --- | --- | --- |"]
    for (protocol, target, seed), (digest, num_images) in sorted(found.items()):
        lines.append(f"| {protocol} | {target} | {seed} | {num_images} | {digest[:16]} |")
    return "\n".join(lines)
