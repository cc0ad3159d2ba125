// One evaluation: its table, as far as its jobs have come.

import { get, post } from "../lib/api.js";
import { evaluationName, gridOf, jobsOf, protocolWord, targetWord } from "../lib/evaluation.js";
import { percent, plural, points, tone, when } from "../lib/format.js";
import { useAction, useEvery, useLoaded } from "../lib/hooks.js";
import { html, useMemo } from "../lib/html.js";
import { href } from "../lib/route.js";
import { isFinished } from "../lib/stream.js";
import { Card, PageHead, Placeholder, Problem, Status } from "../parts/controls.js";
import { Trainings } from "./evaluations.js";

const REFRESH_SECONDS = 4;

export function EvaluationPage({ id }) {
  const path = `/evaluations/${encodeURIComponent(id)}`;
  const { data: evaluation, error, reload } = useLoaded((signal) => get(path, { signal }), [path]);
  useEvery(REFRESH_SECONDS, () => (evaluation && isFinished(evaluation) && !error) || reload());
  const change = useAction(async (place) => {
    await post(place);
    reload();
  });
  if (!evaluation) {
    return html`<${PageHead} title="Evaluation" />${error ? html`<${Problem} error=${error} hint=${html`<a href=${href(["evaluations"])}>To the evaluations that are there</a>`} />` : html`<${Placeholder} height=${420} />`}`;
  }
  const isOver = isFinished(evaluation);
  return html`<${PageHead} title=${evaluationName(evaluation)} lead=${html`<${Origin} evaluation=${evaluation} />`}>
      ${isOver
        ? evaluation.status !== "succeeded" && html`<button type="button" class="button main" aria-disabled=${change.isBusy} onClick=${() => change.run(`${path}/retry`)}>Retry all that failed</button>`
        : html`<button type="button" class="button danger" aria-disabled=${change.isBusy || Boolean(evaluation.cancel_requested_at)} onClick=${() => evaluation.cancel_requested_at || change.run(`${path}/cancel`)}>Cancel</button>`}
      <a class="button" href=${href(["evaluations", "new"], { like: id })}>Ask again</a>
    <//>
    <div class="stack">
      <section class="stack tight" aria-label="Progress"><span role="status"><${Status} job=${evaluation} /></span><${Trainings} evaluation=${evaluation} /></section>
      <${Problem} error=${error ?? change.error} isOver />
      <${Results} cells=${evaluation.cells} />
      <${Jobs} cells=${evaluation.cells} />
      ${evaluation.tables.length > 0 && html`<${Tables} tables=${evaluation.tables} />`}
      <${Failures} cells=${evaluation.cells} change=${change} />
    </div>`;
}

const Origin = ({ evaluation }) =>
  html`${protocolWord(evaluation.protocol)} · from ${evaluation.model} · <span class="nowrap">${when(evaluation.created_at)}</span><code class="id">${evaluation.dataset}</code>`;

/** Methods by targets; every square is there from the beginning, so that nothing moves when it is filled. */
function Results({ cells }) {
  const { targets, rows } = useMemo(() => gridOf(cells), [cells]);
  const bests = targets.map((_, column) => Math.max(...rows.map(({ figures }) => figures[column].accuracy ?? -1)));
  const zeroShot = targets.map((_, column) => rows.map(({ figures }) => figures[column].before).find((value) => value != null));
  return html`<${Card} title="Results" note="accuracy on images that did not train, mean ± deviation over the seeds; below it the change from zero-shot">
    <div class="scroll" tabindex="0" role="region" aria-label="Results">
      <table class="grid">
        <thead><tr><th scope="col">Method</th>${targets.map((target) => html`<th scope="col" class="right">${targetWord(target)}</th>`)}</tr></thead>
        <tbody>
          <tr><th scope="row" class="soft">before training</th>${zeroShot.map((value) => html`<td class="right">${percent(value)}</td>`)}</tr>
          ${rows.map(({ method, figures }) => html`<tr key=${method}><th scope="row">${method}</th>${figures.map((figure, column) => html`<${Figure} figure=${figure} isBest=${figure.accuracy != null && figure.accuracy === bests[column]} />`)}</tr>`)}
        </tbody>
      </table>
    </div>
  <//>`;
}

function Figure({ figure: { accuracy, deviation, before, numDone, numFailed, num }, isBest }) {
  const failed = numFailed > 0 && html`<span class="bad">, ${numFailed} failed</span>`;
  if (accuracy == null) return html`<td class="right soft nowrap">–<div class="small">${numDone} of ${num}${failed}</div></td>`;
  const shown = html`${percent(accuracy)}${deviation != null && html` <span class="small soft">± ${(100 * deviation).toFixed(1)}</span>`}`;
  return html`<td class="right nowrap">${isBest ? html`<b>${shown}</b>` : shown}
    <div class="small"><span class=${tone(accuracy - before)}>${points(accuracy - before)}</span>${numDone < num && html`<span class="soft">, ${numDone} of ${num}</span>`}${failed}</div>
  </td>`;
}

/** As `alignclip evaluate` writes them: with what is measured beside the answers. */
const Tables = ({ tables }) =>
  html`<details class="card">
    <summary>All tables in per cent, and as Markdown</summary>
    <div class="stack">
      ${tables.map(
        (table) => html`<div class="stack tight">
          <h3>${table.title}</h3>
          <div class="scroll" tabindex="0" role="region" aria-label=${table.title}>
            <table>
              <thead><tr>${table.columns.map((word, index) => html`<th scope="col" class=${index ? "right" : ""}>${word}</th>`)}</tr></thead>
              <tbody>${table.rows.map(([name, ...figures]) => html`<tr><th scope="row">${name}</th>${figures.map((figure) => html`<td class="right nowrap">${figure}</td>`)}</tr>`)}</tbody>
            </table>
          </div>
          <pre class="log" tabindex="0" aria-label="${table.title} as Markdown">${table.markdown}</pre>
        </div>`,
      )}
    </div>
  </details>`;

function Jobs({ cells }) {
  const jobs = useMemo(() => jobsOf(cells), [cells]);
  const ids = jobs.slice(0, 6).map(({ id }) => id);
  return html`<${Card} title="Trainings" note=${html`${plural(jobs.length, "ordinary job")}${ids.length > 1 && html`; <a href=${href(["compare"], { jobs: ids.join(",") })}>compare ${jobs.length > ids.length ? `the first ${ids.length}` : "them"}</a>`}`}>
    <div class="scroll long-list" tabindex="0" role="region" aria-label="Trainings">
      <table>
        <thead><tr><th scope="col">Method</th><th scope="col">Tested on</th><th scope="col">Seed</th><th scope="col">Status</th></tr></thead>
        <tbody>
          ${jobs.map(
            (job) => html`<tr key=${job.id}>
              <th scope="row"><a href=${href(["jobs", job.id])}>${job.method}</a></th><td>${job.targets.map(targetWord).join(", ")}</td><td>${job.seed}</td>
              <td><${Status} job=${job} /></td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  <//>`;
}

/** Why trainings have no figures, and what brings them. Last on the page: what fails while one reads moves nothing. */
function Failures({ cells, change }) {
  const failed = useMemo(() => jobsOf(cells).filter((job) => job.status === "failed"), [cells]);
  if (!failed.length) return null;
  const retry = ({ id }) => change.run(`/fine_tuning/jobs/${encodeURIComponent(id)}/retry`);
  return html`<${Card} title="What failed" note="Retry goes on from the last checkpoint, and the figure joins the table; where the settings are to blame, clone the job with others">
    <ul class="failures" aria-label="What failed">
      ${failed.map(
        (job) => html`<li key=${job.id}>
          <div><a href=${href(["jobs", job.id])}>${job.method}</a> <span class="soft small">${job.targets.map(targetWord).join(", ")}, seed ${job.seed}</span><p class="bad">${job.error}</p></div>
          <div class="row">
            <button type="button" class="button" aria-label="Retry ${job.method}, seed ${job.seed}" aria-disabled=${change.isBusy} onClick=${() => retry(job)}>Retry</button>
            <a href=${href(["new"], { clone: job.id })}>Clone</a>
          </div>
        </li>`,
      )}
    </ul>
  <//>`;
}
