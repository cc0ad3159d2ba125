// What happened: events, attempts, checkpoints, the trainer's log.

import { getText } from "../../lib/api.js";
import { clock, duration, percent, when } from "../../lib/format.js";
import { useEnd, useEvery, useGet, useLoaded } from "../../lib/hooks.js";
import { html } from "../../lib/html.js";
import { isFinished } from "../../lib/stream.js";
import { Card, Placeholder, Problem } from "../../parts/controls.js";

const REFRESH_SECONDS = 5;

export function HistoryTab({ job, events }) {
  const path = `/fine_tuning/jobs/${encodeURIComponent(job.id)}`;
  const runs = useGet(`${path}/runs`);
  const checkpoints = useGet(`${path}/checkpoints`);
  const log = useLoaded((signal) => getText(`${path}/logs`, { signal }), [path]);
  useEvery(REFRESH_SECONDS, () => isFinished(job) || [runs, checkpoints, log].forEach((one) => one.reload()));
  const eventsBox = useEnd(events.length);
  const logBox = useEnd(log.data);
  return html`<div class="stack">
    <${Card} title="Events" note="the newest at the end">
      <div class="events-box" tabindex="0" role="region" aria-label="Events" ref=${eventsBox}><ul class="events">
        ${events.map((event) => html`<li key=${event.id} class=${event.level}><time class="soft numbers" title=${when(event.created_at)}>${clock(event.created_at)}</time><span>${event.message}</span></li>`)}
        ${!events.length && html`<li><span class="soft">Nothing yet; it begins when a worker takes the job.</span></li>`}
      </ul></div>
    <//>
    <div class="two">
      <${Card} title="Checkpoints" note="kept resume points"><${List} of=${checkpoints} label="Checkpoints" none=${isFinished(job) ? "None was kept." : "The first comes with the training."} Row=${Checkpoint} /><//>
      <${Card} title="Attempts" note="of workers at this job"><${List} of=${runs} label="Attempts" none=${isFinished(job) ? "No worker took the job." : "No worker has taken the job yet."} Row=${Run} /><//>
    </div>
    <${Card} title="Trainer's log">
      <${Problem} error=${log.error} />
      ${log.data === null ? html`<${Placeholder} height=${120} />` : html`<pre class="log" tabindex="0" aria-label="Trainer's log" ref=${logBox}>${log.data || (isFinished(job) ? "Empty: the trainer did not start." : "Empty before the trainer starts.")}</pre>`}
    <//>
  </div>`;
}

/** Oldest first: what comes moves nothing that is being read. */
function List({ of, none, label, Row }) {
  const items = [...(of.data?.data ?? [])].reverse();
  const box = useEnd(items.length);
  return html`<div class="events-box low" tabindex="0" role="region" aria-label=${label} aria-busy=${!of.data && !of.error} ref=${box}>
    <${Problem} error=${of.error} />
    ${of.data && !items.length && html`<p class="soft small">${none}</p>`}
    <ul class="events">${items.map((item) => html`<${Row} key=${item.id} item=${item} />`)}</ul>
  </div>`;
}

const Checkpoint = ({ item }) =>
  html`<li><span class="numbers">Step ${item.step_number}</span><span class="soft small">${accuracy(item)}${when(item.created_at)}</span></li>`;

function accuracy({ metrics }) {
  const found = metrics.full_valid_mean_token_accuracy ?? metrics.accuracy;
  return typeof found === "number" ? `${percent(found)} · ` : "";
}

const Run = ({ item }) =>
  html`<li>
    <span>${item.outcome ?? "works"}</span>
    <span class="soft small">${item.host}, ${item.device} · ${when(item.started_at)}${item.ended_at ? ` · ${duration(item.ended_at - item.started_at)}` : ""}</span>
  </li>`;
