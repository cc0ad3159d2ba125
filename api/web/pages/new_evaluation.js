// From a question to a grid of jobs: pictures, protocol, methods, seeds.

import { get, post } from "../lib/api.js";
import { PROTOCOLS } from "../lib/evaluation.js";
import { plural, roughly } from "../lib/format.js";
import { useAction, useDelayed, useLoaded } from "../lib/hooks.js";
import { html, useState } from "../lib/html.js";
import { EMPTY_EVALUATION, evaluationBody, evaluationFormOf, firstJobBody, methodsOf, seedsOf } from "../lib/evaluation_form.js";
import { go } from "../lib/route.js";
import { askingAbout, isOfTests } from "../lib/test_datasets.js";
import { Field, PageHead, Placeholder, Problem, Select, Step } from "../parts/controls.js";
import { ChooseData } from "./new_job/data.js";
import { ALGORITHM_WORDS } from "./new_job/method.js";
import { TestDatasets } from "./new_job/test_datasets.js";

const PAUSE_MILLISECONDS = 500;

export function NewEvaluationPage({ query }) {
  const given = useLoaded((signal) => loadAll(query.like, signal), [query.like]);
  if (given.data) return html`<${Form} key=${query.like} ...${given.data} />`;
  return html`<${PageHead} title="New evaluation" />${given.error ? html`<${Problem} error=${given.error} />` : html`<${Placeholder} height=${420} />`}`;
}

async function loadAll(like, signal) {
  const [models, options, earlier] = await Promise.all([
    get("/models", { signal }),
    get("/fine_tuning/options", { signal }),
    like ? get(`/evaluations/${encodeURIComponent(like)}`, { signal }) : null,
  ]);
  return { models: models.data.filter((model) => !model.base_model), options, earlier };
}

function Form({ models, options, earlier }) {
  const [form, setForm] = useState(() => (earlier ? evaluationFormOf(earlier, options) : { ...EMPTY_EVALUATION, model: models[0]?.id ?? "" }));
  const change = (values) => setForm((old) => ({ ...old, ...(typeof values === "function" ? values(old) : values) }));
  const one = useOneTraining(form);
  const start = useAction(async () => {
    const made = await askingAbout(form.testDatasets, post("/evaluations", evaluationBody(form)));
    go(["evaluations", made.id]);
  });
  const missing = whatIsMissing(form);
  const error = [start.error, one.error].find((found) => found && !isOfTests(found));
  return html`<${PageHead} title=${earlier ? "New evaluation like another" : "New evaluation"} lead="A question to your pictures, and the methods that shall answer it. Nothing is trained before you press Start." />
    <div class="stack steps">
      <${Step} number="1" title="Pictures"><${ChooseData} form=${form} change=${change} /><//>
      <${Step} number="2" title="Question"><${Question} form=${form} change=${change} error=${one.error} refusal=${start.error} /><//>
      <${Step} number="3" title="Methods"><${Methods} form=${form} change=${change} models=${models} options=${options} /><//>
      <${Step} number="4" title="Start">
        <div class="stack">
          <p role="status">${missing || inWords(form, one)}</p>
          <div><button type="button" class="button main" aria-disabled=${start.isBusy || Boolean(missing)} onClick=${() => missing || start.run()}>${start.isBusy ? "Starting …" : "Start the evaluation"}</button></div>
          <${Problem} error=${error} />
        </div>
      <//>
    </div>`;
}

function Question({ form, change, error, refusal }) {
  return html`<div class="stack">
    <fieldset>
      <legend class="hidden-text">Protocol</legend>
      <div class="choices wide">
        ${Object.entries(PROTOCOLS).map(
          ([name, [word, hint]]) => html`<label class="choice"><input type="radio" name="protocol" value=${name} checked=${form.protocol === name} onChange=${() => change({ protocol: name })} /><b>${word}</b><span class="small soft">${hint}</span></label>`,
        )}
      </div>
    </fieldset>
    ${form.protocol === "dataset_shift" && html`<${TestDatasets} tests=${form.testDatasets} onChange=${(update) => change((old) => ({ testDatasets: update(old.testDatasets) }))} error=${error} refusal=${refusal} />`}
    <div class="two"><${Field} id="shots" label="Training pictures of each class" hint=${`Empty: ${form.protocol === "few_shot" ? "16, as in the paper" : "all"}.`}><input id="shots" type="number" min="1" value=${form.numShots} aria-describedby="shots-hint" onInput=${(event) => change({ numShots: event.target.value })} /><//></div>
  </div>`;
}

function Methods({ form, change, models, options }) {
  const toggle = (name) => (event) => change({ methods: event.target.checked ? [...form.methods, name] : form.methods.filter((one) => one !== name) });
  const set = (name) => (event) => change({ [name]: event.target.value });
  return html`<div class="stack">
    <fieldset>
      <legend class="hidden-text">Methods</legend>
      <div class="choices">
        ${Object.keys(options.algorithms).map(
          (name) => html`<label class="choice"><input type="checkbox" checked=${form.methods.includes(name)} onChange=${toggle(name)} /><b>${name}</b><span class="small soft">${ALGORITHM_WORDS[name] ?? ""}</span></label>`,
        )}
      </div>
    </fieldset>
    <div class="fields">
      <${Field} id="base-model" label="Base model"><${Select} id="base-model" value=${form.model} onChange=${(model) => change({ model })} options=${models.map(({ id }) => [id, id])} /><//>
      <${Field} id="seeds" label="Seeds" hint="Each is a training of its own; three tell chance from gain."><input id="seeds" type="text" inputmode="numeric" value=${form.seeds} aria-describedby="seeds-hint" onInput=${set("seeds")} /><//>
      <${Field} id="steps" label="Steps" hint="Of every method alike. Empty: as the model card says."><input id="steps" type="number" min="1" value=${form.numSteps} placeholder="default" aria-describedby="steps-hint" onInput=${set("numSteps")} /><//>
      <${Field} id="name" label="Name" hint="For people."><input id="name" type="text" maxlength="256" value=${form.name} placeholder="which method for my sketches" aria-describedby="name-hint" onInput=${set("name")} /><//>
    </div>
    <details open=${Boolean(form.moreMethods || form.more)}>
      <summary>Presets and other values</summary>
      <div class="fields">
        <${Field} id="more-methods" label="More methods" hint=${`One a line, as ALGORITHM@PRESET:FIELD=VALUE. Presets: ${Object.keys(options.presets).join(", ")}.`}><textarea id="more-methods" value=${form.moreMethods} placeholder="alignclip@authors_code" spellcheck=${false} aria-describedby="more-methods-hint" onInput=${set("moreMethods")}></textarea><//>
        <${Field} id="more" label="Hyper-parameters of all" hint="One a line (docs/options.md)."><textarea id="more" value=${form.more} placeholder="batch_size = 16" spellcheck=${false} aria-describedby="more-hint" onInput=${set("more")}></textarea><//>
      </div>
    </details>
  </div>`;
}

/** What is to be done before it can start; "" when nothing is. */
function whatIsMissing(form) {
  if (!form.dataset) return "Choose the pictures first.";
  if (form.protocol === "dataset_shift" && !form.testDatasets.length) return "Add a dataset to test on.";
  return methodsOf(form).length && seedsOf(form).length ? "" : "Tick a method, and name a seed.";
}

/** How much is asked for, in a sentence. */
function inWords(form, { seconds }) {
  const num = methodsOf(form).length * seedsOf(form).length;
  const isEach = ["domain_shift", "in_the_wild"].includes(form.protocol);
  const time = seconds == null ? "" : ` One takes ${roughly(seconds)}, so ${isEach ? "each domain" : "all"} takes ${roughly(num * seconds)} of one worker.`;
  return `${plural(num, "training")}${isEach ? " for each domain" : ""}.${time}`;
}

/** What the first of the trainings would take: {seconds, error}. */
function useOneTraining(form) {
  const [state, setState] = useState({ seconds: null, error: null });
  useDelayed(JSON.stringify(form), PAUSE_MILLISECONDS, async (signal) => {
    if (!form.dataset || !form.model || !methodsOf(form).length) return;
    try {
      const { wall_seconds } = await askingAbout(form.testDatasets, post("/fine_tuning/estimate", firstJobBody(form), { signal }));
      if (!signal.aborted) setState({ seconds: wall_seconds, error: null });
    } catch (error) {
      if (!signal.aborted) setState({ seconds: null, error });
    }
  });
  return state;
}
