// All jobs, newest first, as they go on.

import { get } from "../lib/api.js";
import { duration, jobName, percent, plural, points, roughly, tone, when } from "../lib/format.js";
import { useEvery, useLoaded, withStep } from "../lib/hooks.js";
import { html, useEffect, useState } from "../lib/html.js";
import { href } from "../lib/route.js";
import { behindStep, followJob, isFinished } from "../lib/stream.js";
import { PageHead, Placeholder, Problem, Progress, Status } from "../parts/controls.js";

const PAGE = 20;
const REFRESH_SECONDS = 4;
const MOST_STREAMS = 3; // a browser opens six connections to one place

export function JobsPage() {
  const [limit, setLimit] = useState(PAGE);
  const { data, error, reload } = useLoaded((signal) => get(`/fine_tuning/jobs?limit=${limit}`, { signal }), [limit]);
  useEvery(REFRESH_SECONDS, reload);
  const jobs = useSteps(data?.data, reload);
  const [picked, setPicked] = useState(new Set());
  const pick = (id, isPicked) => setPicked((old) => new Set(isPicked ? [...old, id] : [...old].filter((one) => one !== id)));
  return html`<${PageHead} title="Jobs">
      <a class="button" href=${href(["compare"], { jobs: [...picked].join(",") })}>${picked.size > 1 ? `Compare ${picked.size} jobs` : "Compare"}</a>
      <a class="button main" href=${href(["new"])}>New job</a>
    <//>
    <div class="stack">
      <${Problem} error=${error} isOver=${Boolean(data)} />
      ${!jobs && !error && html`<${Placeholder} height=${210} />`} ${jobs?.length === 0 && html`<${FirstSteps} />`}
      ${jobs?.length > 0 &&
      html`<ul class="jobs" aria-label="Jobs">
        ${jobs.map((job) => html`<${Row} key=${job.id} job=${job} isPicked=${picked.has(job.id)} onPick=${pick} />`)}
      </ul>`}
      ${data?.has_more && html`<div><button class="button" onClick=${() => setLimit(limit + PAGE)}>Show older jobs</button></div>`}
    </div>`;
}

function Row({ job, isPicked, onPick }) {
  const name = jobName(job);
  return html`<li>
    <label class="pick"><input type="checkbox" checked=${isPicked} aria-label="Compare ${name}" onChange=${(event) => onPick(job.id, event.target.checked)} /></label>
    <div>
      <a class="name" href=${href(["jobs", job.id])}>${name}</a>
      <div class="small soft cut">${job.algorithm} on ${job.model} · ${plural(job.num_classes, "class", "classes")} · ${when(job.created_at)}</div>
    </div>
    <${Status} job=${job} />
    <div class="progress">
      <${Progress} job=${job} />
      <div class="small soft numbers cut words">${doing(job)}</div>
    </div>
    <div class="outcome right numbers"><${Outcome} job=${job} /></div>
  </li>`;
}

function Outcome({ job }) {
  const found = job.result?.headline;
  if (found?.tuned == null) return null;
  return html`<div><b>${percent(found.tuned)}</b> <span class=${tone(found.gain)}>${points(found.gain)}</span></div>
    <div class="small soft">validation accuracy</div>`;
}

/** What a job is doing or has done, in a few words. */
export function doing(job) {
  const { step, num_steps } = job.progress;
  const now = Date.now() / 1000;
  if (job.status === "queued") {
    if (!job.queue) return "Waits for a worker";
    const start = job.queue.estimated_start;
    return `Number ${job.queue.position} in the queue${start ? `, starts in ${roughly(Math.max(0, start - now))}` : "; no worker is known yet"}`;
  }
  if (job.status === "failed") return job.error?.message ?? "Failed";
  if (isFinished(job)) return job.started_at ? `${plural(step, "step")} in ${took(job)}` : "It never started";
  if (job.status === "paused") return `Paused at step ${step} of ${num_steps}`;
  if (!step) return phaseWords(job);
  const left = job.estimated_finish ? `, ${roughly(Math.max(0, job.estimated_finish - now))} left` : "";
  return `Step ${step} of ${num_steps}${left}`;
}

/** The time from the first worker to the end. */
export const took = (job) => duration(job.started_at && job.finished_at - job.started_at);

function phaseWords(job) {
  const words = { evaluating_zero_shot: "Measuring the model before training", loading: "Loading", staging: "Fetching and checking the dataset" };
  return words[job.phase] ?? job.phase.replaceAll("_", " ");
}

function FirstSteps() {
  return html`<div class="empty">
    <h2>No jobs yet</h2>
    <p>A job fine-tunes a CLIP model on your pictures and tells what was gained and what was lost.</p>
    <ol>
      <li>Sort pictures into folders, one a class: <code>cat/1.jpg</code>; or by domain first: <code>photo/cat/1.jpg</code>.</li>
      <li>Pack the folders into a zip.</li>
      <li>Drop it on the next page, look at the report, start.</li>
    </ol>
    <div class="row"><a class="button main" href=${href(["new"])}>Make the first job</a><a href=${href(["try"])}>or try a model that is there</a></div>
  </div>`;
}

/** The jobs with their newest steps, from the streams of those that run. */
function useSteps(jobs, onChange) {
  const [steps, setSteps] = useState({});
  const running = (jobs ?? []).filter((job) => job.status === "running").slice(0, MOST_STREAMS);
  const names = running.map((job) => job.id).join();
  useEffect(() => {
    const abort = new AbortController();
    for (const job of running) {
      let state = `${job.status} ${job.phase}`;
      const onMessage = (name, data) => {
        if (name === "metrics") setSteps((old) => ({ ...old, [job.id]: Math.max(old[job.id] ?? 0, data.step) }));
        else if (name === "job" && state !== (state = `${data.status} ${data.phase}`)) onChange();
      };
      followJob(job.id, { signal: abort.signal, lastEventId: behindStep(job.progress.step), onMessage }).catch(() => {});
    }
    return () => abort.abort();
  }, [names]);
  return jobs?.map((job) => (isFinished(job) ? job : withStep(job, [{ step: steps[job.id] ?? 0 }])));
}
