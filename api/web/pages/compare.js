// Several jobs: their curves over each other, their results in one table, and the settings in which they differ.

import { get } from "../lib/api.js";
import { groupWord, jobName, percent, points, statusWord, tone, when } from "../lib/format.js";
import { useEvery, useGet, useLoaded } from "../lib/hooks.js";
import { html, useMemo, useRef, useState } from "../lib/html.js";
import { go, href } from "../lib/route.js";
import { isFinished } from "../lib/stream.js";
import { Chart } from "../parts/chart.js";
import { Card, PageHead, Placeholder, Problem, Select, Status } from "../parts/controls.js";
import { COLOURS, wholePercent } from "./job/curves.js";
import { shown } from "./job/settings.js";
import { took } from "./jobs.js";

const MOST_JOBS = COLOURS.length;
const REFRESH_SECONDS = 5;
const kept = (values) => values.bma ?? values.swad ?? values.raw ?? values.zero_shot;
const CURVES = {
  accuracy: ["Validation accuracy", "evaluation", (values) => kept(values)?.accuracy, percent, wholePercent],
  validation_loss: ["Validation loss", "evaluation", (values) => kept(values)?.loss],
  loss: ["Training loss", "train", (values) => values.loss],
  smoothing_loss: ["SLS term", "train", (values) => values.smoothing_loss],
  layer_alignment_loss: ["AL term", "train", (values) => values.layer_alignment_loss],
  similarity_alignment_loss: ["AS term", "train", (values) => values.similarity_alignment_loss],
};

export function ComparePage({ query }) {
  const { jobs, error } = useJobs();
  const first = useRef(null); // which are compared before any is picked: those that were the newest when the page was opened
  if (!jobs) return html`<${PageHead} title="Compare jobs" />${error ? html`<${Problem} error=${error} />` : html`<${Placeholder} height=${420} />`}`;
  const wanted = (query.jobs ?? "").split(",").filter((id) => jobs.some((job) => job.id === id));
  first.current ??= jobs.slice(0, 2).map((job) => job.id);
  const picked = (wanted.length || query.jobs != null ? wanted : first.current).slice(0, MOST_JOBS);
  const pick = (ids) => go(["compare"], { jobs: ids.join(",") || "none" });
  return html`<${PageHead} title="Compare jobs" />
    <div class="stack">
      ${jobs.length > 0 && html`<${Choice} jobs=${jobs} picked=${picked} onPick=${pick} />`}
      ${!jobs.length && html`<div class="empty"><h2>No jobs yet</h2><p><a href=${href(["new"])}>Make the first job</a>; two or more can be compared here.</p></div>`}
      ${jobs.length > 0 && !picked.length && html`<p class="soft">Tick the jobs to compare.</p>`}
      ${picked.length > 0 && html`<${Comparison} ids=${picked} />`}
    </div>`;
}

/** {jobs, error}: the newest ones first; those that come later stand behind them, so that nothing moves. */
function useJobs() {
  const { data, error, reload } = useGet("/fine_tuning/jobs?limit=100");
  useEvery(REFRESH_SECONDS, reload);
  const seen = useRef(new Map());
  const jobs = useMemo(() => {
    for (const job of data?.data ?? []) seen.current.set(job.id, job);
    return data && [...seen.current.values()];
  }, [data]);
  return { jobs, error };
}

function Choice({ jobs, picked, onPick }) {
  const [isOpen] = useState(picked.length < 2); // and then as the person leaves it
  const toggle = (id) => (event) => onPick(event.target.checked ? [...picked, id] : picked.filter((one) => one !== id));
  return html`<details class="card" open=${isOpen}>
    <summary>Choose jobs (${picked.length} of ${jobs.length})</summary>
    <ul class="choices">
      ${jobs.map(
        (job) => html`<li><label class="choice">
          <input type="checkbox" checked=${picked.includes(job.id)} disabled=${!picked.includes(job.id) && picked.length >= MOST_JOBS} onChange=${toggle(job.id)} />
          <b class="cut">${jobName(job)}</b><span class="small soft">${job.algorithm}, ${when(job.created_at)}${job.status !== "succeeded" && ` · ${statusWord(job)}`}</span>
        </label></li>`,
      )}
    </ul>
  </details>`;
}

function Comparison({ ids }) {
  const { data, error, reload } = useLoaded((signal) => Promise.all(ids.map((id) => loadJob(id, signal))), [ids.join()]);
  useEvery(REFRESH_SECONDS, () => data?.every(({ job }) => isFinished(job)) || reload());
  const [curve, setCurve] = useState("accuracy");
  const lines = useMemo(() => (data ? data.map((one, index) => lineOf(one, curve, index, data)) : []), [data, curve]);
  if (!data) return error ? html`<${Problem} error=${error} />` : html`<${Placeholder} height=${480} />`;
  const [title, , , format, axisFormat] = CURVES[curve];
  return html`<${Problem} error=${error} />
    <${Card}>
      <div class="row"><div><${Select} label="Curve" value=${curve} onChange=${setCurve} options=${Object.entries(CURVES).map(([name, [word]]) => [name, word])} /></div></div>
      <${Chart} key=${curve} lines=${lines} label=${title} format=${format} axisFormat=${axisFormat} />
    <//>
    <${Results} jobs=${data.map(({ job }) => job)} />
    <${Differences} jobs=${data.map(({ job }) => job)} />`;
}

async function loadJob(id, signal) {
  const path = `/fine_tuning/jobs/${encodeURIComponent(id)}`;
  const [job, metrics] = await Promise.all([get(path, { signal }), get(`${path}/metrics?limit=10000`, { signal })]);
  return { job, metrics: metrics.data };
}

function lineOf({ job, metrics }, curve, index, all) {
  const [, kind, read] = CURVES[curve];
  const points = metrics.filter((one) => one.kind === kind && read(one.values) != null).map((one) => [one.step, read(one.values)]);
  return { label: nameAmong(job, all.map((one) => one.job)), colour: COLOURS[index], hasPoints: kind === "evaluation", points };
}

/** A job's name, and enough of its id where another one has the same. */
function nameAmong(job, jobs) {
  return jobs.some((one) => one !== job && jobName(one) === jobName(job)) ? `${jobName(job)} (${job.id.slice(-4)})` : jobName(job);
}

function Results({ jobs }) {
  const groups = [...new Set(jobs.flatMap((job) => Object.entries(job.result?.tuned ?? {}).flatMap(([domains, found]) => Object.keys(found).map((classes) => `${domains}/${classes}`))))];
  return html`<${Card} title="Results" note="accuracy after training, and its change from zero-shot">
    <div class="scroll" tabindex="0" role="region" aria-label="Results">
      <table>
        <thead><tr><th scope="col">Job</th><th scope="col">Status</th>${groups.map((group) => html`<th scope="col" class="right">${group.split("/").map(groupWord).join(", ")}</th>`)}<th scope="col" class="right">Took</th></tr></thead>
        <tbody>
          ${jobs.map(
            (job, index) => html`<tr>
              <th scope="row" class="nowrap"><span class="swatch" style=${{ background: `var(${COLOURS[index]})` }}></span><a href=${href(["jobs", job.id])}>${nameAmong(job, jobs)}</a></th>
              <td><${Status} job=${job} /></td>
              ${groups.map((group) => html`<${Cell} result=${job.result} group=${group} best=${bestOf(jobs, group)} />`)}
              <td class="right nowrap">${job.finished_at ? took(job) : "–"}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${!groups.length && html`<p class="soft small">${jobs.every(isFinished) ? "None of them has a result." : "Results come when a job has ended."}</p>`}
  <//>`;
}

const accuracyIn = (result, which, group) => group.split("/").reduce((found, name) => found?.[name], result?.[which])?.accuracy;

function bestOf(jobs, group) {
  return Math.max(...jobs.map((job) => accuracyIn(job.result, "tuned", group) ?? -1));
}

function Cell({ result, group, best }) {
  const [after, before] = [accuracyIn(result, "tuned", group), accuracyIn(result, "zero_shot", group)];
  if (after == null) return html`<td class="right soft">–</td>`;
  return html`<td class="right nowrap">${after === best ? html`<b>${percent(after)}</b>` : percent(after)} <span class="small ${tone(after - before)}">${points(after - before)}</span></td>`;
}

function Differences({ jobs }) {
  const all = jobs.map((job) => ({ model: job.model, algorithm: job.algorithm, preset: job.preset, seed: job.seed, dataset: job.training_file, test_domains: job.test_domains, test_datasets: job.test_datasets.map(({ name }) => name), unseen_classes: job.unseen_classes, templates: job.templates, ...job.hyperparameters }));
  const names = Object.keys(all[0]).filter((name) => new Set(all.map((values) => JSON.stringify(values[name]))).size > 1 && name !== "batch_size");
  if (jobs.length < 2) return null;
  return html`<${Card} title="Settings in which they differ">
    ${!names.length
      ? html`<p class="soft">None.</p>`
      : html`<div class="scroll" tabindex="0" role="region" aria-label="Settings in which they differ">
          <table>
            <thead><tr><th scope="col">Setting</th>${jobs.map((job) => html`<th scope="col">${nameAmong(job, jobs)}</th>`)}</tr></thead>
            <tbody>${names.map((name) => html`<tr><th scope="row"><code>${name}</code></th>${all.map((values) => html`<td>${shown(values[name])}</td>`)}</tr>`)}</tbody>
          </table>
        </div>`}
  <//>`;
}
