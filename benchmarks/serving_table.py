"""benchmarks/results/serving.json -> the tables in docs/serving.md: python -m benchmarks.serving_table."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.rows import RESULTS, Row
from benchmarks.serving import CLIENTS

DOCUMENT = Path(__file__).parents[1] / "docs" / "serving.md"
BEGIN, END = "<!-- made by make bench-serving -->", "<!-- end of what make bench-serving made -->"
ENDS = ("requests_per_second", "p50_milliseconds", "p99_milliseconds")
SERVERS = {
    "service": "this service, fastest mode",
    "service_fp32": "this service, fp32",
    "unbatched": "the same endpoint without batching",
    "naive": "without batching, torch in fp32",
    "transformers": "`transformers`' pipeline behind FastAPI",
    "litserve": "LitServe, our runtime and batch sizes",
    "starter": "this service, the starter",
}


def main() -> None:
    """Replace what stands between the two marks."""
    rows = [Row(**each) for each in json.loads((RESULTS / "serving.json").read_text())]
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{tables(rows)}\n{END}{after}")


def tables(rows: list[Row]) -> str:
    """Requests a second and latencies of every server, then the ratios."""
    values = {row.name: row.value for row in rows}
    lines = ["| requests/s (p50 / p99 ms) by clients |" + "".join(f" {number} |" for number in CLIENTS)]
    lines.append("| --- |" + " --- |" * len(CLIENTS))
    cells = set()
    for server, words in SERVERS.items():
        line = f"| {words} |"
        for number in CLIENTS:
            names = [f"serving_{server}_{number}_clients_{end}" for end in ENDS]
            rate, p50, p99 = (values[name] for name in names)
            line += f" {rate:.1f} ({p50:.0f} / {p99:.0f}) |"
            cells |= set(names)
        lines.append(line)
    lines += ["", "| row | value | |", "| --- | --- | --- |"]
    lines += [f"| `{row.name}` | {row.value:.2f} | {row.detail} |" for row in rows if row.name not in cells]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
