// One job: what it does, how well, and what can be done with it.

import { post } from "../lib/api.js";
import { briefly, jobName, percent, phaseWord, plural, points, tone, when } from "../lib/format.js";
import { useAction, useJob } from "../lib/hooks.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { href } from "../lib/route.js";
import { isFinished } from "../lib/stream.js";
import { Failure, PageHead, Placeholder, Problem, Progress, Status } from "../parts/controls.js";
import { ClassesTab } from "./job/classes.js";
import { CurvesTab } from "./job/curves.js";
import { HistoryTab } from "./job/history.js";
import { MistakesTab } from "./job/mistakes.js";
import { SettingsTab } from "./job/settings.js";
import { SimilarityTab } from "./job/similarity.js";
import { doing, took } from "./jobs.js";

const TABS = [
  ["curves", "Curves", CurvesTab],
  ["classes", "Classes", ClassesTab],
  ["mistakes", "Mistakes", MistakesTab],
  ["similarity", "Similarity", SimilarityTab],
  ["settings", "Settings", SettingsTab],
  ["history", "History", HistoryTab],
];

export function JobPage({ id, tab = "curves" }) {
  const news = useJob(id);
  const { job, error, isConnected } = news;
  if (!job) {
    return html`<${PageHead} title="Job" />${error ? html`<${Problem} error=${error} hint=${html`<a href=${href(["jobs"])}>To the jobs that are there</a>`} />` : html`<${Placeholder} height=${420} />`}`;
  }
  const Tab = (TABS.find(([name]) => name === tab) ?? TABS[0])[2];
  return html`<${PageHead} title=${jobName(job)} lead=${html`<${Origin} job=${job} />`}><${Actions} job=${job} onChange=${news.restart} /><//>
    <div class="stack">
      <${Doing} job=${job} isConnected=${isConnected} />
      <${Failure} error=${job.error} hint="Once that is mended, Retry goes on from the last checkpoint; Clone lets you change the settings first." />
      <${Problem} error=${error} isOver />
      <${Figures} job=${job} train=${news.train} evaluations=${news.evaluations} />
    </div>
    <${Tabs} id=${id} tab=${tab} />
    <${Tab} key=${tab} ...${news} />`;
}

function Tabs({ id, tab }) {
  const row = useRef(null);
  useEffect(() => {
    const current = row.current.querySelector("[aria-current]");
    row.current.scrollLeft = current ? current.offsetLeft - row.current.offsetLeft - 40 : 0; // on a phone not all fit
  }, [tab]);
  return html`<nav class="tabs" aria-label="About this job" ref=${row}>
    ${TABS.map(([name, word]) => html`<a href=${href(["jobs", id, name])} aria-current=${name === tab ? "page" : undefined}>${word}</a>`)}
  </nav>`;
}

const Origin = ({ job }) =>
  html`${job.algorithm} on ${job.model}, preset ${job.preset} · ${plural(job.num_classes, "class", "classes")} · seed ${job.seed} · <span class="nowrap">${when(job.created_at)}</span>${job.metadata?.evaluation && html` · <a href=${href(["evaluations", job.metadata.evaluation])}>its evaluation</a>`}${jobName(job) !== job.id && html`<code class="id">${job.id}</code>`}`;

function Doing({ job, isConnected }) {
  return html`<section class="stack tight" aria-label="Progress">
    <div class="doing">
      <span role="status"><${Status} job=${job} /></span>
      <span class="soft numbers cut">${job.status === "failed" ? `At step ${job.progress.step} of ${job.progress.num_steps}` : doing(job)}</span>
      <span class="small soft numbers">${isConnected || isFinished(job) ? inPhase(job) : "Connection lost; trying again …"}</span>
    </div>
    <${Progress} job=${job} />
  </section>`;
}

const inPhase = (job) => (job.status === "running" ? phaseWord(job.phase) : "");

function Actions({ job, onChange }) {
  const [last, setLast] = useState(null);
  const { run, isBusy, error } = useAction(async (name) => {
    setLast(name);
    await post(`/fine_tuning/jobs/${encodeURIComponent(job.id)}/${name}`);
    onChange();
  });
  const isWished = !isFinished(job) && (job.cancel_requested_at || job.pause_requested_at);
  const button = (name, word, more = "") =>
    html`<button type="button" class="button ${more}" aria-disabled=${isBusy || Boolean(isWished)} onClick=${() => isWished || run(name)}>${isBusy && last === name ? `${word} …` : word}</button>`;
  const turn = { paused: ["resume", "Resume", "main"], failed: ["retry", "Retry", "main"], cancelled: ["retry", "Retry", "main"], succeeded: null };
  const first = job.status in turn ? turn[job.status] : ["pause", "Pause"]; // one button whose word changes: it keeps the focus
  return html`${first && button(...first)} ${!isFinished(job) && button("cancel", "Cancel", "danger")}
    ${job.fine_tuned_model && html`<a class="button main" href=${href(["try"], { model: job.fine_tuned_model })}>Try the model</a>`}
    <a class="button" href=${href(["new"], { clone: job.id })}>Clone</a>
    <${Problem} error=${error} isOver />`;
}

/** The few numbers that answer "how well does it go?"; the boxes stand from the beginning, so nothing jumps. */
function Figures({ job, train, evaluations }) {
  const found = job.result?.headline ?? {};
  const before = found.zero_shot ?? evaluations.find((one) => one.values.zero_shot)?.values.zero_shot.accuracy;
  const after = found.tuned ?? lastAccuracy(evaluations);
  const gain = before == null || after == null ? null : after - before;
  const speed = train.at(-1)?.values.images_per_second;
  const now = Date.now() / 1000;
  return html`<dl class="figures steady">
    <div><dt>Zero-shot</dt><dd>${percent(before)}</dd><dd>validation accuracy</dd></div>
    <div><dt>Tuned</dt><dd>${percent(after)}</dd><dd class=${tone(gain)}>${gain == null ? (isFinished(job) ? "not measured" : "after the first evaluation") : `${points(gain)} points`}${found.standard_error ? html`<span class="soft"> ± ${(100 * found.standard_error).toFixed(1)}</span>` : ""}</dd></div>
    <div><dt>Loss</dt><dd>${train.length ? train.at(-1).values.loss.toFixed(3) : "–"}</dd><dd>of the last step</dd></div>
    <div><dt>Speed</dt><dd>${speed ? speed.toFixed(1) : "–"}</dd><dd>images a second</dd></div>
    <div><dt>${isFinished(job) ? "Took" : "Left"}</dt><dd>${isFinished(job) ? took(job) : job.estimated_finish ? briefly(Math.max(0, job.estimated_finish - now)) : "–"}</dd><dd>${plural(job.progress.num_steps, "step")} of ${plural(job.hyperparameters.batch_size, "image")}</dd></div>
  </dl>`;
}

/** Of the weights that are kept, as far as they are known. */
function lastAccuracy(evaluations) {
  for (const { values } of [...evaluations].reverse()) {
    const kept = values.bma ?? values.swad ?? values.raw;
    if (kept) return kept.accuracy;
  }
  return null;
}
