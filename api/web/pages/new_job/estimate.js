// What the job would take, before it is started.

import { bytes, count, duration, roughly } from "../../lib/format.js";
import { html } from "../../lib/html.js";
import { Problem } from "../../parts/controls.js";

export function Estimate({ estimate, error }) {
  const wait = estimate?.start_estimate == null ? null : Math.max(0, estimate.start_estimate - Date.now() / 1000);
  return html`<${Problem} error=${error} />
    <dl class="figures roomy">
      <div><dt>Time</dt><dd>${estimate ? duration(estimate.wall_seconds) : "–"}</dd><dd>${!estimate ? "once the pictures are read" : estimate.measured_on ? `measured on ${estimate.measured_on}` : "a guess: nothing was trained here yet"}</dd></div>
      <div><dt>Starts</dt><dd>${!estimate ? "–" : wait == null ? "unknown" : wait < 5 ? "at once" : `in ${roughly(wait)}`}</dd><dd>${estimate && wait == null ? "no worker is known" : "when a worker is free"}</dd></div>
      <div><dt>Steps</dt><dd>${estimate ? count(estimate.num_steps) : "–"}</dd><dd>${estimate ? `of ${estimate.batch_size} images` : "of a batch each"}</dd></div>
      <div><dt>Memory</dt><dd>${estimate ? bytes(estimate.peak_gpu_bytes) : "–"}</dd><dd>of the training device</dd></div>
      <div><dt>Disk</dt><dd>${estimate ? bytes(estimate.disk_bytes) : "–"}</dd><dd>checkpoints and model</dd></div>
    </dl>
    ${estimate && !estimate.allowed_to_proceed && html`<div class="notice warn"><p>It cannot start now: ${estimate.reasons.join(" ")}</p></div>`}`;
}
