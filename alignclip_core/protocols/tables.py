"""Rows to tables in the form of the paper's: methods by targets, mean ± deviation over seeds, and H of base and new."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from alignclip_core.protocols.cells import BASE, NEW
from alignclip_core.protocols.rows import Row

AVERAGE, OVER_DATASETS = "average", "all"
H_OF_AVERAGES, MEAN_OF_H = "H of averages", "mean of H"
PaperFigures = Mapping[str, Mapping[str, Mapping[str, float]]]
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


def make_tables(rows: Iterable[Row], paper: PaperFigures | None = None) -> list[Table]:
    """One table for each dataset and protocol, one for each kind of figure beside the answers, one over datasets.

    Where there are several base models, each method says from which it is tuned.
    The paper's own figures are lines of their own: {dataset, or "all" for that over datasets: {row: {column: per
    cent}}}.
    """
    paper = paper or {}
    rows = list(rows)
    if len({row.base_model for row in rows}) > 1:
        rows = [replace(row, method=f"{row.method} from {row.base_model}") for row in rows]
    grids: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        grids[row.dataset, row.protocol].append(row)
    tables: list[Table] = []
    for (dataset, protocol), grid in sorted(grids.items()):
        title = f"{protocol.replace('_', ' ')} on {dataset}"
        tables.append(_table(title, _accuracies(grid), paper.get(dataset, {}), grid))
        for name in dict.fromkeys(name for row in grid for name in row.beside):
            beside = {key: value for key, value in _accuracies(grid, name).items() if value}
            tables.append(_table(f"{title}: {BESIDE_WORDS[name]}", beside, {}, grid))
    return [*tables, *_over_datasets(grids, paper.get(OVER_DATASETS, {}))]


def _over_datasets(
    grids: Mapping[tuple[str, str], Sequence[Row]], printed: Mapping[str, Mapping[str, float]]
) -> Iterator[Table]:
    """A column for each dataset, the mean over its targets; of unseen classes base and new, the means over datasets."""
    for protocol in dict.fromkeys(protocol for _, protocol in grids):
        of_protocol = {dataset: rows for (dataset, other), rows in grids.items() if other == protocol}
        if len(of_protocol) < 2:
            continue
        rows = [row for grid in of_protocol.values() for row in grid]
        is_halved = {row.target for row in rows} == {BASE, NEW}
        values: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for row in rows:
            values[row.method, row.target if is_halved else row.dataset, row.seed].append(row.accuracy)
        means: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
        for (method, column, seed), found in values.items():
            means[method][column][seed] = mean(found)
        yield _table(f"{protocol.replace('_', ' ')} on {len(of_protocol)} datasets", means, printed, rows)


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
        counts = sorted(len(of_method.get(target, {})) for target in targets)
        num_seeds = str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]}–{counts[-1]}"
        lines.append((method, *figures, num_seeds, trained[method].trained))
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
