// All evaluations, newest first: which method for which question.

import { get } from "../lib/api.js";
import { evaluationName, protocolWord } from "../lib/evaluation.js";
import { plural, when } from "../lib/format.js";
import { useEvery, useLoaded } from "../lib/hooks.js";
import { html, useState } from "../lib/html.js";
import { href } from "../lib/route.js";
import { isFinished } from "../lib/stream.js";
import { PageHead, Placeholder, Problem, Progress, Status } from "../parts/controls.js";

const PAGE = 20;
const REFRESH_SECONDS = 5;

export function EvaluationsPage() {
  const [limit, setLimit] = useState(PAGE);
  const { data, error, reload } = useLoaded((signal) => get(`/evaluations?limit=${limit}`, { signal }), [limit]);
  const found = data?.data;
  useEvery(REFRESH_SECONDS, () => (found?.every(isFinished) && !error) || reload());
  return html`<${PageHead} title="Evaluations" lead="Which method holds on your pictures? An evaluation asks all of them the same question."><a class="button main" href=${href(["evaluations", "new"])}>New evaluation</a><//>
    <div class="stack">
      <${Problem} error=${error} isOver=${Boolean(data)} />
      ${!found && !error && html`<${Placeholder} height=${210} />`} ${found?.length === 0 && html`<${FirstSteps} />`}
      ${found?.length > 0 && html`<ul class="jobs plain" aria-label="Evaluations">${found.map((one) => html`<${Row} key=${one.id} evaluation=${one} />`)}</ul>`}
      ${data?.has_more && html`<div><button type="button" class="button" onClick=${() => setLimit(limit + PAGE)}>Show older evaluations</button></div>`}
    </div>`;
}

function Row({ evaluation }) {
  const methods = new Set(evaluation.cells.map((cell) => cell.method)).size;
  const seeds = new Set(evaluation.cells.map((cell) => cell.seed)).size;
  return html`<li>
    <div>
      <a class="name" href=${href(["evaluations", evaluation.id])}>${evaluationName(evaluation)}</a>
      <div class="small soft cut">${protocolWord(evaluation.protocol)} · ${plural(methods, "method")} · ${plural(seeds, "seed")} · ${when(evaluation.created_at)}</div>
    </div>
    <${Status} job=${evaluation} />
    <${Trainings} evaluation=${evaluation} />
  </li>`;
}

/** How many of its trainings have ended. */
export const Trainings = ({ evaluation }) =>
  html`<div class="progress">
    <${Progress} job=${{ status: evaluation.status, progress: { step: evaluation.num_finished, num_steps: evaluation.num_jobs } }} label="Trainings" />
    <div class="small soft numbers">${evaluation.num_finished} of ${plural(evaluation.num_jobs, "training")} ended</div>
  </div>`;

const FirstSteps = () =>
  html`<div class="empty">
    <h2>No evaluations yet</h2>
    <p>One job says how one method did. An evaluation says which method holds where it was not trained: on new domains, other datasets, new classes.</p>
    <ol>
      <li>Choose pictures and the question.</li>
      <li>Tick the methods; plain fine-tuning is the honest one to beat.</li>
      <li>Start: the table fills while the jobs end.</li>
    </ol>
    <a class="button main" href=${href(["evaluations", "new"])}>Make the first evaluation</a>
  </div>`;
