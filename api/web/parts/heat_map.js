// A matrix as coloured squares: hover or arrow keys say whose value it is.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../lib/html.js";
import { useWidth } from "../lib/hooks.js";
import { colourOf, useTheme } from "../lib/theme.js";

// Nine steps of viridis: ordered by lightness too, so it can be read in grey and by the colour-blind.
const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [110, 206, 88], [253, 231, 37]];
const MOST_CELL = 40;
const MOST_SIDE = 460; // of few classes; of many, as long as their cells are not smaller than this:
const LEAST_BOUNDED_CELL = 22;
const LEAST_LABELLED_CELL = 9;
const LEAST_PARTED_CELL = 5; // smaller ones have no gaps between them
const MOST_LABEL = 132;
const KEYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

/**
 * `value(row, column)` of the labels in their `order`; null is left empty. `say(row, column)` is the sentence about a
 * cell. `range` are the values of the darkest and the brightest colour.
 */
export function HeatMap({ labels, order, value, say, range, label, rowWord = "", format }) {
  const [box, width] = useWidth();
  const theme = useTheme();
  const canvas = useRef(null);
  const [at, setAt] = useState(null); // [row, column] in the order that is shown
  const shape = shapeOf(labels, order, width);
  const cellOf = (event) => {
    const { left, top } = canvas.current.getBoundingClientRect();
    const [row, column] = [event.clientY - top, event.clientX - left - shape.margin].map((place) => Math.floor(place / shape.cell));
    return [row, column].every((index) => index >= 0 && index < order.length) ? [row, column] : null;
  };
  const move = (event) => {
    const step = KEYS[event.key];
    if (!step) return;
    event.preventDefault();
    setAt((old) => (old ?? [0, -step[1]]).map((index, axis) => Math.min(Math.max(index + step[axis], 0), order.length - 1)));
  };
  const squares = useRef(null); // drawn once; moving over them only moves the mark
  useLayoutEffect(() => {
    if (width) squares.current = drawSquares({ order, value, range, ...shape });
  }, [order, value, range, width, theme]);
  useLayoutEffect(() => {
    if (width) draw(canvas.current, squares.current, { labels, order, at, ...shape });
  }, [labels, order, value, range, at, width, theme]);
  const said = at ? say(order[at[0]], order[at[1]]) : `Point at a square, or use the arrow keys.`;
  return html`<div class="heat" ref=${box}>
    <div class="heat-head">
      <div class="heat-said" aria-live="polite">${at ? html`<b>${said}</b>` : html`<span class="soft">${said}</span>`}</div>
      <${Scale} range=${range} format=${format} />
    </div>
    <canvas
      ref=${canvas}
      tabindex="0"
      role="application"
      aria-roledescription="heat map"
      aria-label="${label}, ${order.length} by ${order.length}. The arrow keys go from square to square."
      onPointerMove=${(event) => setAt(cellOf(event))}
      onPointerDown=${(event) => setAt(cellOf(event))}
      onPointerLeave=${() => setAt(null)}
      onKeyDown=${move}
    ></canvas>
    ${rowWord && html`<p class="small soft">${rowWord}</p>`}
  </div>`;
}

function Scale({ range, format }) {
  const canvas = useRef(null);
  useEffect(() => {
    const context = canvas.current.getContext("2d");
    for (let x = 0; x < 120; x += 1) {
      context.fillStyle = `rgb(${colourAt(x / 119)})`;
      context.fillRect(x, 0, 1, 10);
    }
  }, []);
  return html`<div class="heat-scale">${format(range[0])}<canvas ref=${canvas} width="120" height="10" aria-hidden="true"></canvas>${format(range[1])}</div>`;
}

function shapeOf(labels, order, width) {
  const longest = Math.max(...labels.map((name) => name.length));
  const margin = Math.min(7 * longest + 14, MOST_LABEL, width * 0.3);
  const most = Math.min(MOST_CELL, Math.max(LEAST_BOUNDED_CELL, MOST_SIDE / order.length));
  const labelled = Math.min(most, (width - margin) / order.length);
  const hasLabels = labelled >= LEAST_LABELLED_CELL;
  return { margin: hasLabels ? margin : 0, cell: hasLabels ? labelled : Math.min(most, width / order.length), hasLabels };
}

const shareOf = (found, range) => (found - range[0]) / (range[1] - range[0] || 1);

function drawSquares({ order, value, range, cell }) {
  if (cell <= LEAST_PARTED_CELL) return drawPixels({ order, value, range });
  const canvas = document.createElement("canvas");
  const context = fit(canvas, cell * order.length, cell * order.length);
  const empty = colourOf("--sunken");
  order.forEach((row, y) =>
    order.forEach((column, x) => {
      const found = value(row, column);
      context.fillStyle = found == null ? empty : `rgb(${colourAt(shareOf(found, range))})`;
      context.fillRect(x * cell, y * cell, cell - 1, cell - 1);
    }),
  );
  return canvas;
}

/** Many classes: a pixel each, which is made larger or smaller when it is drawn. */
function drawPixels({ order, value, range }) {
  const canvas = Object.assign(document.createElement("canvas"), { width: order.length, height: order.length });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(order.length, order.length);
  order.forEach((row, y) =>
    order.forEach((column, x) => {
      const found = value(row, column);
      if (found != null) picture.data.set([...colourAt(shareOf(found, range)), 255], 4 * (y * order.length + x));
    }),
  );
  context.putImageData(picture, 0, 0);
  return canvas;
}

function draw(canvas, squares, { labels, order, at, cell, margin, hasLabels }) {
  const side = cell * order.length;
  const context = fit(canvas, margin + side, side + margin);
  context.imageSmoothingEnabled = cell < 1 || cell > LEAST_PARTED_CELL;
  context.drawImage(squares, margin, 0, side, side);
  if (hasLabels) drawLabels(context, { labels, order, at, cell, margin, side });
  if (!at) return;
  context.strokeStyle = colourOf("--ink");
  context.lineWidth = 2;
  context.strokeRect(margin + at[1] * cell - 1, at[0] * cell - 1, cell + 1, cell + 1);
}

function drawLabels(context, { labels, order, at, cell, margin, side }) {
  const size = Math.min(12.5, Math.max(9, cell - 1));
  context.textAlign = "right";
  context.textBaseline = "middle";
  const write = (index, isMarked, x, y, turn) => {
    context.save();
    context.translate(x, y);
    context.rotate(turn);
    context.font = `${isMarked ? 620 : 400} ${size}px Inter, system-ui, sans-serif`;
    context.fillStyle = colourOf(isMarked ? "--ink" : "--ink-soft");
    context.fillText(cut(context, labels[index], margin - 12), 0, 0);
    context.restore();
  };
  order.forEach((index, place) => {
    const middle = place * cell + cell / 2;
    write(index, at?.[0] === place, margin - 7, middle, 0);
    write(index, at?.[1] === place, margin + middle, side + 7, -Math.PI / 2);
  });
}

function cut(context, name, room) {
  if (context.measureText(name).width <= room) return name;
  let end = name.length;
  while (end > 1 && context.measureText(`${name.slice(0, end)}…`).width > room) end -= 1;
  return `${name.slice(0, end)}…`;
}

/** A canvas of this size in CSS pixels, sharp on every screen. */
function fit(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.clearRect(0, 0, width, height);
  return context;
}

/** [red, green, blue] of a share of the range. */
function colourAt(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[low].map((channel, index) => Math.round(channel + (place - low) * (VIRIDIS[low + 1][index] - channel)));
}
