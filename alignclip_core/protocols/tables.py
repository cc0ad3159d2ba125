"""Rows to tables in the form of the paper's: methods by targets, mean ± deviation over seeds, and H of base and new."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from alignclip_core.protocols.cells import BASE, NEW
from alignclip_core.protocols.rows import Row

AVERAGE = "average"
H_OF_AVERAGES, MEAN_OF_H = "H of averages", "mean of H"
BESIDE_WORDS = {
    "in_split": "80 % in-split",
    "out_split": "20 % out-split",
    "base": "base classes alone",
    "new": "new classes alone",
}


@dataclass(frozen=True)
class Figure:
    """A number over seeds."""

    mean: float
    deviation: float | None  # sample standard deviation; None for one seed

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        """In per cent."""
        deviation = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{deviation}"


@dataclass(frozen=True)
class Table:
    """Words and figures, ready to be written in any form."""

    title: str
    columns: tuple[str, ...]  # the first names the rows
    lines: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        rows = [self.columns, ("---",) * len(self.columns), *self.lines]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)

    def to_csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.lines])
        return text.getvalue()


def harmonic_mean(base: float, new: float) -> float:
    """0 where both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


def make_tables(rows: Iterable[Row], paper: Mapping[str, Mapping[str, float]] | None = None) -> list[Table]:
    """One table for each dataset and protocol, and one for each kind of figure that stands beside the answers.

    `paper` holds the paper's own figures in per cent: {method: {column: figure}}; they are lines of their own.
    """
    grids: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        grids[row.dataset, row.protocol].append(row)
    tables: list[Table] = []
    for (dataset, protocol), grid in sorted(grids.items()):
        title = f"{protocol.replace('_', ' ')} on {dataset}"
        tables.append(_table(title, _accuracies(grid), _paper_of(paper, grid), grid))
        for name in dict.fromkeys(name for row in grid for name in row.beside):
            beside = {key: value for key, value in _accuracies(grid, name).items() if value}
            tables.append(_table(f"{title}: {BESIDE_WORDS[name]}", beside, {}, grid))
    return tables


Accuracies = Mapping[str, Mapping[str, Mapping[int, float]]]  # method, target, seed


def _accuracies(rows: Iterable[Row], beside: str | None = None) -> Accuracies:
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        value = row.accuracy if beside is None else row.beside.get(beside)
        if value is not None:
            found[row.method][row.target][row.seed] = value
    return found


def _table(title: str, accuracies: Accuracies, paper: Mapping[str, Mapping[str, float]], rows: Sequence[Row]) -> Table:
    targets = sorted({target for of_method in accuracies.values() for target in of_method})
    summaries = (H_OF_AVERAGES, MEAN_OF_H) if targets == [BASE, NEW] else (AVERAGE,) if len(targets) > 1 else ()
    trained = {row.method: row for row in rows}
    lines = []
    for method, of_method in accuracies.items():
        figures = [
            str(Figure.of(list(of_method[target].values()))) if of_method.get(target) else "–" for target in targets
        ]
        figures += [_summary(name, of_method, targets) for name in summaries]
        seeds = {seed for target in of_method.values() for seed in target}
        lines.append((method, *figures, str(len(seeds)), trained[method].trained))
    for method, printed in paper.items():
        shown = [f"{printed[column]:g}" if column in printed else "–" for column in (*targets, *summaries)]
        lines.append((f"{method} (paper)", *shown, "–", ""))
    return Table(title, ("method", *targets, *summaries, "seeds", "trained"), tuple(lines))


def _summary(name: str, of_method: Mapping[str, Mapping[int, float]], targets: Sequence[str]) -> str:
    """Over the seeds that have every target."""
    seeds = set.intersection(*(set(of_method.get(target, {})) for target in targets))
    if not seeds:
        return "–"
    if name == AVERAGE:
        return str(Figure.of([mean(of_method[target][seed] for target in targets) for seed in sorted(seeds)]))
    if name == MEAN_OF_H:
        return str(Figure.of([harmonic_mean(of_method[BASE][seed], of_method[NEW][seed]) for seed in sorted(seeds)]))
    return str(Figure(harmonic_mean(*(mean(of_method[half][seed] for seed in seeds) for half in (BASE, NEW))), None))


def _paper_of(
    paper: Mapping[str, Mapping[str, float]] | None, rows: Sequence[Row]
) -> Mapping[str, Mapping[str, float]]:
    columns = {row.target for row in rows} | {AVERAGE, H_OF_AVERAGES, MEAN_OF_H}
    return {name: figures for name, figures in (paper or {}).items() if columns & figures.keys()}
