// From pictures to a running job: choose them, look at what they are, choose a method, see what it takes, start.

import { get, post } from "../lib/api.js";
import { useAction, useDelayed, useLoaded } from "../lib/hooks.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { EMPTY_FORM, dataBody, formOf, jobBody } from "../lib/job_form.js";
import { go } from "../lib/route.js";
import { askingAbout, isOfTests } from "../lib/test_datasets.js";
import { PageHead, Placeholder, Problem, Step } from "../parts/controls.js";
import { ChooseData } from "./new_job/data.js";
import { Estimate } from "./new_job/estimate.js";
import { ChooseMethod } from "./new_job/method.js";
import { DatasetReport } from "./new_job/report.js";
import { TestDatasets } from "./new_job/test_datasets.js";

const PAUSE_MILLISECONDS = 500; // after the last change, before the service is asked
const REPORT_PAUSE_MILLISECONDS = 1200; // it looks at every picture
const BUSY_MILLISECONDS = 3000; // before it is asked again

export function NewJobPage({ query }) {
  const given = useLoaded((signal) => loadAll(query.clone, signal), [query.clone]);
  if (given.data) return html`<${Form} key=${query.clone} ...${given.data} clone=${query.clone} />`;
  return html`<${PageHead} title="New job" />${given.error ? html`<${Problem} error=${given.error} />` : html`<${Placeholder} height=${420} />`}`;
}

async function loadAll(clone, signal) {
  const [models, options, job] = await Promise.all([
    get("/models", { signal }),
    get("/fine_tuning/options", { signal }),
    clone ? get(`/fine_tuning/jobs/${encodeURIComponent(clone)}`, { signal }) : null,
  ]);
  return { models: models.data.filter((model) => !model.base_model), options, job };
}

function Form({ models, options, job, clone }) {
  const [form, setForm] = useState(() => (job ? formOf(job, options) : { ...EMPTY_FORM, model: models[0]?.id ?? "" }));
  const change = (values) => setForm((old) => ({ ...old, ...(typeof values === "function" ? values(old) : values) }));
  const { report, error: reportError, isBusy } = useReport(form);
  const estimate = useEstimate(form, report);
  const start = useAction(async () => {
    const made = await askingAbout(form.testDatasets, post("/fine_tuning/jobs", jobBody(form)));
    go(["jobs", made.id]);
  });
  const isFatal = report?.findings.some(({ severity }) => severity === "fatal");
  const elsewhere = (error) => (isOfTests(error) ? null : error); // those of the test datasets stand beside them
  return html`<${PageHead} title=${clone ? "New job like another" : "New job"} lead="Your pictures, a base model, a method. Nothing is trained before you press Start." />
    <div class="stack steps">
      <${Step} number="1" title="Pictures">
        <${ChooseData} form=${form} change=${change} />
        ${form.dataset && html`<${OtherDatasets} form=${form} change=${change} error=${estimate.error} refusal=${start.error} />`}
      <//>
      ${form.dataset &&
      html`<${Step} number="2" title="Model and method"><${ChooseMethod} form=${form} change=${change} models=${models} options=${options} /><//>
        <${Step} number="3" title="What the pictures are">
        <${Problem} error=${reportError} />
        ${!report && !reportError && html`<p class="soft" role="status">Looking at every picture …</p><${Placeholder} height=${320} />`}
        ${report && html`<${DatasetReport} report=${report} isBusy=${isBusy} form=${form} change=${change} />`}
      <//>`}
      ${form.dataset &&
      (report || reportError) &&
      html`<${Step} number="4" title="Start">
          <div class="stack">
            <${Estimate} estimate=${estimate.estimate} error=${elsewhere(estimate.error)} />
            <div><button type="button" class="button main" aria-disabled=${start.isBusy || isFatal} onClick=${() => isFatal || start.run()}>${start.isBusy ? "Starting …" : "Start the job"}</button></div>
            ${isFatal && html`<p class="small bad">Mend the findings marked as fatal first.</p>`}
            <${Problem} error=${elsewhere(start.error)} />
          </div>
        <//>`}
    </div>`;
}

/** Most jobs have none: they are tested on a share of their own pictures. */
function OtherDatasets({ form, change, error, refusal }) {
  const [wasOpen] = useState(form.testDatasets.length > 0); // and then as the person leaves it
  return html`<details class="more" open=${wasOpen}>
    <summary>Measure it on other datasets, too</summary>
    <${TestDatasets} tests=${form.testDatasets} onChange=${(update) => change((old) => ({ testDatasets: update(old.testDatasets) }))} error=${error} refusal=${refusal} />
  </details>`;
}

/**
 * The report on the chosen pictures; the old one stays until the next has come. Making one takes as long as looking at
 * every picture, so one is asked for at a time, and what was changed meanwhile is asked next.
 */
function useReport(form) {
  const body = form.dataset && form.model ? JSON.stringify({ dataset: form.dataset, ...dataBody(form) }) : "";
  const [state, setState] = useState({ report: null, error: null, isBusy: false });
  const newest = useRef(body);
  const isAsking = useRef(false);
  newest.current = body;
  useEffect(() => () => (newest.current = null), []);
  useEffect(() => setState((old) => ({ ...old, report: null, error: null })), [form.dataset]);
  useDelayed(body, REPORT_PAUSE_MILLISECONDS, async () => {
    if (isAsking.current || !newest.current) return;
    isAsking.current = true;
    for (let asked = null; newest.current && asked !== newest.current; ) {
      asked = newest.current;
      setState((old) => ({ ...old, error: null, isBusy: true }));
      const answer = await askForReport(asked);
      if (asked === newest.current) setState((old) => ({ ...old, ...answer, isBusy: false }));
    }
    isAsking.current = false;
  });
  return state;
}

/** {report, error}; waits while the service looks at somebody else's pictures. */
async function askForReport(body) {
  while (true) {
    try {
      return { report: await post("/datasets", JSON.parse(body)), error: null };
    } catch (error) {
      if (error.status !== 429) return { error };
      await new Promise((resolve) => setTimeout(resolve, BUSY_MILLISECONDS));
    }
  }
}

/** What the job would take, asked anew after every change. */
function useEstimate(form, report) {
  const [state, setState] = useState({ estimate: null, error: null });
  const asked = JSON.stringify([form, Boolean(report)]);
  useDelayed(asked, PAUSE_MILLISECONDS, async (signal) => {
    if (!form.dataset || !form.model || !report) return;
    try {
      const estimate = await askingAbout(form.testDatasets, post("/fine_tuning/estimate", jobBody(form), { signal }));
      if (!signal.aborted) setState({ estimate, error: null });
    } catch (error) {
      if (!signal.aborted) setState((old) => ({ ...old, error }));
    }
  });
  return state;
}
