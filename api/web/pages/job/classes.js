// Class by class: which got better, which got worse, and what is taken for what.

import { percent, plural, points, tone } from "../../lib/format.js";
import { html, useCallback, useMemo, useState } from "../../lib/html.js";
import { Card, Select } from "../../parts/controls.js";
import { Later, useGroup } from "../../parts/groups.js";
import { HeatMap } from "../../parts/heat_map.js";
import { Dumbbell } from "./curves.js";

const SHARES = [0, 1];
const ORDERS = [["change", "change"], ["after", "tuned accuracy"], ["name", "name"]];

export function ClassesTab({ job }) {
  const [group, control] = useGroup(job.result);
  const [order, setOrder] = useState("change");
  if (!group) return html`<${Later} job=${job} />`;
  const rows = rowsOf(group, job.class_names, order);
  const better = rows.filter((row) => row.change > 0.0005).length;
  const worse = rows.filter((row) => row.change < -0.0005).length;
  return html`<div class="stack">
    <div class="row">${control}<div><${Select} label="Sort by" value=${order} onChange=${setOrder} options=${ORDERS.map(([key, word]) => [key, `Sorted by ${word}`])} /></div>
      <span class="soft"><b class="good">${better}</b> better, <b class="bad">${worse}</b> worse, ${plural(rows.length - better - worse, "class", "classes")} as before</span>
    </div>
    <${Card} title="Accuracy of each class" note="grey: zero-shot; blue: tuned">
      <div class="scroll" tabindex="0" role="region" aria-label="Accuracy of each class">
        <table>
          <thead><tr><th scope="col">Class</th><th scope="col" class="right">Zero-shot</th><th scope="col" class="right">Tuned</th><th scope="col" class="right">Change</th><th scope="col"><span class="hidden-text">Drawn</span></th></tr></thead>
          <tbody>
            ${rows.map(
              (row) => html`<tr key=${row.folder}>
                <th scope="row">${row.name}</th>
                <td class="right">${percent(row.before)}</td>
                <td class="right">${percent(row.after)}</td>
                <td class="right ${tone(row.change)}">${points(row.change)}</td>
                <td class="drawn"><${Dumbbell} before=${row.before} after=${row.after} /></td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>
    <//>
    <${Confusion} key=${group.name} group=${group} classNames=${job.class_names} />
  </div>`;
}

function rowsOf({ before, after }, classNames, order) {
  const rows = Object.keys(after.per_class).map((folder) => ({
    folder,
    name: classNames[folder] ?? folder,
    before: before.per_class[folder],
    after: after.per_class[folder],
    change: after.per_class[folder] - before.per_class[folder],
  }));
  const key = { change: (row) => row.change, after: (row) => row.after };
  return rows.sort((a, b) => (key[order] ? key[order](b) - key[order](a) : 0) || a.name.localeCompare(b.name));
}

/** Rows are the truth, columns what the model said. */
function Confusion({ group, classNames }) {
  const [which, setWhich] = useState("after");
  const confusion = group[which].confusion;
  const table = useMemo(() => confusion && tableOf(confusion), [confusion]);
  const value = useCallback((row, column) => table.counts[row].get(column)?.share ?? null, [table]);
  const order = useMemo(() => confusion?.labels.map((_, index) => index), [confusion]);
  if (!confusion) return null;
  const names = confusion.labels.map((folder) => classNames[folder] ?? folder);
  const say = (row, column) => {
    const num = table.counts[row].get(column)?.num ?? 0;
    return row === column ? `${names[row]}: ${num} of ${table.totals[row]} right` : `${names[row]} taken for ${names[column]}: ${num} of ${table.totals[row]}`;
  };
  return html`<${Card} title="What is taken for what" note="rows: the truth; columns: the answer">
    <div class="row"><div><${Select} label="Model" value=${which} onChange=${setWhich} options=${[["after", "Tuned"], ["before", "Zero-shot"]]} /></div></div>
    <div class="beside">
      <${HeatMap} labels=${names} order=${order} value=${value} range=${SHARES} say=${say} label="Confusion matrix" format=${(share) => percent(share, 0)} />
      <div><${Worst} table=${table} names=${names} /></div>
    </div>
  <//>`;
}

function Worst({ table, names }) {
  const mistakes = table.counts
    .flatMap((row, truth) => [...row].filter(([said]) => said !== truth).map(([said, { num }]) => ({ truth, said, num })))
    .sort((a, b) => b.num - a.num)
    .slice(0, 6);
  if (!mistakes.length) return html`<p>No mistakes.</p>`;
  return html`<h3>Most frequent mistakes</h3>
    <ul class="small numbers">${mistakes.map(({ truth, said, num }) => html`<li>${names[truth]} taken for ${names[said]} <span class="soft">${num} of ${table.totals[truth]}</span></li>`)}</ul>`;
}

function tableOf({ labels, counts }) {
  const totals = labels.map(() => 0);
  for (const [truth, , num] of counts) totals[truth] += num;
  const rows = labels.map(() => new Map());
  for (const [truth, said, num] of counts) rows[truth].set(said, { num, share: num / totals[truth] });
  return { totals, counts: rows };
}
