// Lines over steps: uPlot with a key that switches lines and tells their values under the pointer.

import { number } from "../lib/format.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib/html.js";
import { useWidth } from "../lib/hooks.js";
import { colourOf, useTheme } from "../lib/theme.js";
import uPlot from "../vendor/uplot.js";

const HEIGHT = 232;
const MOST_TABLE_ROWS = 40;

/**
 * `lines`: [{label, colour, points: [[step, value]], isDashed}]; `format` writes a value, `axisFormat` one on the axis; `sync` names charts whose
 * pointers move together. Without a point it says `empty`. `from` is where the values
 * begin, `until` the last step that will come: lines grow into room that is there from the beginning.
 */
export function Chart({ lines, label, format = number, axisFormat = format, empty = "Comes with the first numbers.", sync, from, until }) {
  const [box, width] = useWidth();
  const theme = useTheme();
  const plot = useRef(null);
  const target = useRef(null);
  const [hidden, setHidden] = useState(new Set());
  const [at, setAt] = useState(null);
  const data = useMemo(() => columns(lines), [lines]);
  const shape = JSON.stringify([lines.map((line) => [line.label, line.colour, line.isDashed]), theme, sync, from, until]);

  useLayoutEffect(() => {
    if (!width || !data[0].length) return;
    const options = { lines, width, axisFormat, sync, from, until, onPointer: setAt };
    plot.current = new uPlot(optionsOf(options), data, target.current);
    return () => (plot.current.destroy(), (plot.current = null));
  }, [shape, width > 0, data[0].length > 0]);
  useEffect(() => void plot.current?.setData(data), [data]);
  useEffect(() => void (width && plot.current?.setSize({ width, height: HEIGHT })), [width]);
  useEffect(() => {
    lines.forEach((line, index) => plot.current?.setSeries(index + 1, { show: !hidden.has(line.label) }));
  }, [hidden, shape, width > 0, data[0].length > 0]);

  const toggle = (name) => setHidden((old) => (old.has(name) ? new Set([...old].filter((one) => one !== name)) : new Set([...old, name])));
  const shown = (index) => lastValue(data[index + 1], at);
  return html`<figure class="chart" ref=${box}>
    <div class="chart-plot" ref=${target} role="img" aria-label=${describe(label, lines, data, format)}>
      ${!data[0].length && html`<p class="soft small">${empty}</p>`}
    </div>
    <div class="keys" role="group" aria-label="Lines of ${label}">
      ${lines.map(
        (line, index) => html`<button key=${line.label} type="button" aria-pressed=${!hidden.has(line.label)} onClick=${() => toggle(line.label)}>
          <i class=${line.isDashed ? "dashed" : ""} style=${{ borderColor: `var(${line.colour})` }}></i>${line.label}
          <span class="value">${shown(index) == null ? "" : format(shown(index))}</span>
        </button>`,
      )}
    </div>
    ${data[0].length > 0 && html`<${Table} label=${label} lines=${lines} data=${data} format=${format} />`}
  </figure>`;
}

/** The same numbers for those who cannot see the lines, or want to copy them. */
function Table({ label, lines, data, format }) {
  const [isOpen, setIsOpen] = useState(false);
  const stride = Math.ceil(data[0].length / MOST_TABLE_ROWS);
  const rows = data[0].map((_, row) => row).filter((row) => row % stride === 0 || row === data[0].length - 1);
  return html`<details onToggle=${(event) => setIsOpen(event.target.open)}>
    <summary>Numbers</summary>
    ${isOpen &&
    html`<div class="scroll" tabindex="0" role="region" aria-label="Numbers of ${label}">
      <table>
        <thead><tr><th scope="col">Step</th>${lines.map((line) => html`<th scope="col" class="right">${line.label}</th>`)}</tr></thead>
        <tbody>
          ${rows.map(
            (row) => html`<tr>
              <th scope="row">${data[0][row]}</th>
              ${lines.map((_, index) => html`<td class="right">${data[index + 1][row] == null ? "" : format(data[index + 1][row])}</td>`)}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`}
  </details>`;
}

/** uPlot's columns: all steps, then a value or null of each line. */
function columns(lines) {
  const steps = [...new Set(lines.flatMap((line) => line.points.map(([step]) => step)))].sort((a, b) => a - b);
  const row = new Map(steps.map((step, index) => [step, index]));
  return [
    steps,
    ...lines.map((line) => {
      const column = new Array(steps.length).fill(null);
      for (const [step, value] of line.points) column[row.get(step)] = value;
      return column;
    }),
  ];
}

function lastValue(column, at) {
  for (let row = at ?? column.length - 1; row >= 0; row -= 1) if (column[row] != null) return column[row];
  return null;
}

function describe(label, lines, data, format) {
  const last = lines.map((line, index) => [line.label, lastValue(data[index + 1], null)]).filter(([, value]) => value != null);
  if (!last.length) return `${label}: no numbers yet`;
  return `${label} up to step ${data[0].at(-1)}. Last: ${last.map(([name, value]) => `${name} ${format(value)}`).join(", ")}`;
}

function optionsOf({ lines, width, axisFormat, sync, from, until, onPointer }) {
  const axis = {
    stroke: colourOf("--ink-soft"),
    font: "12px Inter, system-ui, sans-serif",
    ticks: { show: false },
    grid: { stroke: colourOf("--line"), width: 1 },
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    padding: [8, 22, 0, 0], // on the right, half of the last step's number
    cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false }, sync: sync ? { key: sync } : undefined },
    scales: { x: { time: false, range: until ? () => [0, until] : undefined }, y: { range: (_, low, high) => rangeOf(low, high, from) } },
    axes: [
      { ...axis, grid: { show: false }, size: 30, space: 64, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick.toLocaleString("en") : "")) },
      { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => axisFormat(tick)) },
    ],
    series: [{}, ...lines.map((line) => seriesOf(line))],
    hooks: { setCursor: [(plot) => onPointer(plot.cursor.idx ?? null)] },
  };
}

function seriesOf(line) {
  const colour = colourOf(line.colour);
  return {
    label: line.label,
    stroke: colour,
    width: line.isDashed ? 1.5 : 2,
    dash: line.isDashed ? [5, 4] : undefined,
    spanGaps: true,
    points: { show: (plot, index) => Boolean(line.hasPoints) || isAlone(plot.data[index]), size: 5, fill: colour },
  };
}

/** One value makes no line; it is drawn as a point. */
const isAlone = (column) => column.filter((value) => value != null).length === 1;

function rangeOf(low, high, from) {
  if (low == null) return [0, 1];
  const room = Math.max(0.06 * (high - low), 0.05 * Math.abs(high), 1e-6); // a flat line stands in the middle of some
  return [from ?? low - room, high + room];
}
