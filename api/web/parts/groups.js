// A choice among the groups that a finished job was evaluated on.

import { groupWord } from "../lib/format.js";
import { html, useState } from "../lib/html.js";
import { isFinished } from "../lib/stream.js";
import { Select } from "./controls.js";

/** [group, control]: {before, after} evaluations of the chosen group, and what chooses it. */
export function useGroup(result) {
  const names = Object.entries(result?.tuned ?? {}).flatMap(([domains, groups]) => Object.keys(groups).map((classes) => `${domains}/${classes}`));
  const [name, setName] = useState(null);
  const chosen = names.includes(name) ? name : names[0];
  if (!chosen) return [null, null];
  const [domains, classes] = chosen.split("/");
  const options = names.map((one) => [one, one.split("/").map(groupWord).join(", ")]);
  const control = html`<div><${Select} label="Images and classes" value=${chosen} options=${options} onChange=${setName} /></div>`;
  return [{ name: chosen, before: result.zero_shot[domains][classes], after: result.tuned[domains][classes] }, control];
}

/** What stands where a result is missing: it comes, or has not come. */
export const Later = ({ job }) =>
  isFinished(job)
    ? html`<div class="empty"><h2>No result</h2><p class="soft">The job ended before its model was measured. Retry goes on from its last checkpoint.</p></div>`
    : html`<div class="empty"><h2>Comes with the result</h2><p class="soft">The finished model is measured on every held-out image; then this page compares it with zero-shot.</p></div>`;
