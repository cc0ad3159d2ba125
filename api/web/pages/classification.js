// One classification of a dataset: how far it is, which labels were found, and the file of all answers.

import { get, post, send } from "../lib/api.js";
import { count, percent, plural, when } from "../lib/format.js";
import { useAction, useEvery, useLoaded } from "../lib/hooks.js";
import { html } from "../lib/html.js";
import { firstLines } from "../lib/lines.js";
import { href } from "../lib/route.js";
import { isFinished } from "../lib/stream.js";
import { Card, Failure, PageHead, Placeholder, Problem, Status } from "../parts/controls.js";
import { TryTabs } from "../parts/try_tabs.js";
import { Pictures } from "./classifications.js";

const REFRESH_SECONDS = 3;
const SHOWN_LINES = 50;

export function ClassificationPage({ id }) {
  const path = `/classifications/${encodeURIComponent(id)}`;
  const { data: one, error, reload } = useLoaded((signal) => get(path, { signal }), [path]);
  useEvery(REFRESH_SECONDS, () => (one && isFinished(one) && !error) || reload());
  const change = useAction(async (name) => {
    await post(`${path}/${name}`);
    reload();
  });
  const save = useAction(() => saveResults(path, id));
  if (!one) {
    return html`<${PageHead} title="Classification" /><${TryTabs} place="classifications" />${error ? html`<${Problem} error=${error} hint=${html`<a href=${href(["classifications"])}>To the classifications that are there</a>`} />` : html`<${Placeholder} height=${420} />`}`;
  }
  return html`<${PageHead} title="Classification" lead=${html`by ${one.model} · <span class="nowrap">${when(one.created_at)}</span><code class="id">${one.dataset}</code>`}>
      ${!isFinished(one) && html`<button type="button" class="button danger" aria-disabled=${change.isBusy || Boolean(one.cancel_requested_at)} onClick=${() => one.cancel_requested_at || change.run("cancel")}>Cancel</button>`}
      ${["failed", "cancelled"].includes(one.status) && html`<button type="button" class="button main" aria-disabled=${change.isBusy} onClick=${() => change.run("retry")}>Retry</button>`}
      ${one.result_file && html`<button type="button" class="button main" aria-disabled=${save.isBusy} onClick=${() => save.run()}>${save.isBusy ? "Fetching …" : "Save all answers"}</button>`}
    <//>
    <${TryTabs} place="classifications" />
    <div class="stack">
      <section class="stack tight" aria-label="Progress"><span role="status"><${Status} job=${one} /></span><${Pictures} one=${one} /></section>
      <${Failure} error=${one.error} hint="Retry goes on behind the answers that were kept." />
      <${Problem} error=${error ?? change.error ?? save.error} isOver />
      <${Figures} result=${one.result} />
      <${Labels} result=${one.result} />
      ${one.result_file && html`<${Answers} path=${path} numImages=${one.result?.num_images} />`}
    </div>`;
}

/** Through memory, as the key stands in a header and in no address. */
async function saveResults(path, id) {
  const answer = await send("GET", `${path}/results`);
  const url = URL.createObjectURL(await answer.blob());
  Object.assign(document.createElement("a"), { href: url, download: `${id}.jsonl` }).click();
  URL.revokeObjectURL(url);
}

const Figures = ({ result }) =>
  html`<dl class="figures roomy">
    <div><dt>Pictures</dt><dd>${result ? count(result.num_images) : "–"}</dd><dd class=${result?.num_failed ? "bad" : "soft"}>${result?.num_failed ? `${count(result.num_failed)} cannot be read` : "classified"}</dd></div>
    <div><dt>Labels</dt><dd>${result ? count(Object.keys(result.num_by_label).length) : "–"}</dd><dd>came first for a picture</dd></div>
    <div><dt>None of these</dt><dd>${result?.num_rejected == null ? "–" : count(result.num_rejected)}</dd><dd>${result && result.num_rejected == null ? "no threshold was fitted" : "below the model's threshold"}</dd></div>
    <div><dt>Accuracy</dt><dd>${percent(result?.accuracy)}</dd><dd>${!result ? "where folders name labels" : result.num_judged ? `of ${plural(result.num_judged, "picture")} in folders` : "no folder names a label"}</dd></div>
  </dl>`;

/** How many pictures took which label. */
function Labels({ result }) {
  const found = Object.entries(result?.num_by_label ?? {}).sort(([a, x], [b, y]) => y - x || a.localeCompare(b));
  const most = Math.max(1, ...found.map(([, num]) => num));
  return html`<${Card} title="Labels" note="how many pictures took which">
    ${!found.length && html`<p class="soft small">Comes when every picture is classified.</p>`}
    ${found.length > 0 &&
    html`<div class="long-list found-labels" tabindex="0" role="region" aria-label="Labels"><ul>
      ${found.map(([name, num]) => html`<li key=${name}><span class="cut">${name}</span><span class="mini-bar" aria-hidden="true"><i style=${{ width: `${(100 * num) / most}%` }}></i></span><span class="small numbers">${count(num)}</span></li>`)}
    </ul></div>`}
  <//>`;
}

/** The first lines of the file: enough to see whether it makes sense. */
function Answers({ path, numImages }) {
  const { data: lines, error } = useLoaded((signal) => firstLines(`${path}/results`, SHOWN_LINES, signal), [path]);
  return html`<${Card} title="Answers" note=${numImages > SHOWN_LINES ? `the first ${SHOWN_LINES} of ${count(numImages)}` : ""}>
    <${Problem} error=${error} />
    ${!lines && !error && html`<${Placeholder} height=${240} />`}
    ${lines &&
    html`<div class="scroll" tabindex="0" role="region" aria-label="Answers">
      <table>
        <thead><tr><th scope="col">Picture</th><th scope="col">Folder</th><th scope="col">Likeliest</th><th scope="col">Next</th></tr></thead>
        <tbody>${lines.map((line) => html`<${Answer} key=${line.path} line=${line} />`)}</tbody>
      </table>
    </div>`}
  <//>`;
}

function Answer({ line: { path, label, predictions, rejected, error } }) {
  if (error) return html`<tr><th scope="row"><code>${path}</code></th><td colspan="3" class="bad">${error}</td></tr>`;
  const [best, ...others] = predictions;
  return html`<tr>
    <th scope="row"><code>${path}</code></th>
    <td class="nowrap">${label ?? html`<span class="soft">–</span>`}</td>
    <td class="nowrap"><span class=${label && label !== best.label ? "bad" : ""}>${best.label} <span class="small numbers">${percent(best.score)}</span></span>${rejected && html` <span class="tag warn">none of these</span>`}</td>
    <td class="small soft numbers nowrap">${others.slice(0, 2).map((one) => `${one.label} ${percent(one.score)}`).join(", ")}</td>
  </tr>`;
}
