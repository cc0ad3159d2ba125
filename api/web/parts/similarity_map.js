// The class-similarity matrix: how near the names of the classes are as the text tower reads them.

import { clusterOrder } from "../lib/cluster.js";
import { html, useCallback, useMemo, useState } from "../lib/html.js";
import { Select } from "./controls.js";
import { HeatMap } from "./heat_map.js";

const MOST_PAIRS = 5;

export function SimilarityMap({ labels, matrix }) {
  const [ordering, setOrdering] = useState("cluster");
  const order = useMemo(() => {
    if (ordering === "cluster") return clusterOrder(matrix);
    const places = labels.map((_, index) => index);
    return ordering === "name" ? places.sort((a, b) => labels[a].localeCompare(labels[b])) : places;
  }, [labels, matrix, ordering]);
  const range = useMemo(() => rangeOf(matrix), [matrix]);
  const value = useCallback((row, column) => matrix[row][column], [matrix]);
  const pairs = useMemo(() => nearestPairs(labels, matrix), [labels, matrix]);
  return html`<div class="beside"><div class="stack">
    <div class="row">
      <label for="order" class="soft small">Sorted by</label>
      <div><${Select} id="order" value=${ordering} onChange=${setOrdering} options=${[["cluster", "likeness"], ["name", "name"]]} /></div>
    </div>
    <${HeatMap}
      labels=${labels}
      order=${order}
      value=${value}
      range=${range}
      format=${(found) => found.toFixed(2)}
      label="Class similarity"
      say=${(row, column) => `${labels[row]} × ${labels[column]}: ${matrix[row][column].toFixed(3)}`}
    />
    </div>
    ${pairs.length > 0 &&
    html`<div>
      <h3>Nearest pairs</h3>
      <p class="small soft">Names this close are hard to tell apart; clearer words help.</p>
      <ul class="small numbers">${pairs.map(([a, b, found]) => html`<li>${labels[a]} – ${labels[b]} <span class="soft">${found.toFixed(3)}</span></li>`)}</ul>
    </div>`}
  </div>`;
}

/** Without the diagonal, which is 1 everywhere and would leave no colours for the rest. */
function rangeOf(matrix) {
  const others = matrix.flatMap((row, y) => row.filter((_, x) => x !== y));
  const low = others.reduce((a, b) => Math.min(a, b), 1);
  const high = others.reduce((a, b) => Math.max(a, b), -1);
  return low < high ? [low, high] : [0, 1];
}

function nearestPairs(labels, matrix) {
  let best = [];
  for (let a = 0; a < labels.length; a += 1) {
    for (let b = a + 1; b < labels.length; b += 1) {
      if (best.length === MOST_PAIRS && matrix[a][b] <= best.at(-1)[2]) continue;
      best = [...best, [a, b, matrix[a][b]]].sort((one, other) => other[2] - one[2]).slice(0, MOST_PAIRS);
    }
  }
  return best;
}
