// All pictures of a dataset, classified by a model: what was asked for, and how far it is.

import { get, post } from "../lib/api.js";
import { count, plural, roughly, when } from "../lib/format.js";
import { useAction, useEvery, useLoaded } from "../lib/hooks.js";
import { html, useMemo, useState } from "../lib/html.js";
import { splitLabels } from "../lib/labels.js";
import { modelOptions, shortName, sortedModels } from "../lib/models.js";
import { go, href } from "../lib/route.js";
import { isFinished } from "../lib/stream.js";
import { Card, Field, PageHead, Placeholder, Problem, Progress, Select, Status } from "../parts/controls.js";
import { TryTabs } from "../parts/try_tabs.js";
import { ChooseData } from "./new_job/data.js";

const PAGE = 20;
const REFRESH_SECONDS = 4;

export function ClassificationsPage() {
  const [limit, setLimit] = useState(PAGE);
  const { data, error, reload } = useLoaded((signal) => loadAll(limit, signal), [limit]);
  useEvery(REFRESH_SECONDS, () => (data?.list.every(isFinished) && !error) || reload());
  return html`<${PageHead} title="Classify a dataset" lead="Every picture of it, by one model. Nothing is trained." />
    <${TryTabs} place="classifications" />
    <div class="stack">
      <${Problem} error=${error} isOver=${Boolean(data)} />
      ${!data && !error && html`<${Placeholder} height=${420} />`}
      ${data && html`<${NewClassification} models=${data.models} />`}
      ${data?.list.length === 0 && html`<div class="empty"><h2>No dataset was classified yet</h2><p>Choose pictures and a model above. You get the likeliest labels of each picture as a file, how many pictures took which label and, where the folders name the truth, the accuracy.</p></div>`}
      ${data?.list.length > 0 && html`<ul class="jobs plain" aria-label="Classifications">${data.list.map((one) => html`<${Row} key=${one.id} one=${one} models=${data.models} files=${data.files} />`)}</ul>`}
      ${data?.hasMore && html`<div><button type="button" class="button" onClick=${() => setLimit(limit + PAGE)}>Show older ones</button></div>`}
    </div>`;
}

async function loadAll(limit, signal) {
  const paths = [`/classifications?limit=${limit}`, "/models", "/files?purpose=fine-tune&limit=100"];
  const [found, models, files] = await Promise.all(paths.map((path) => get(path, { signal })));
  return { list: found.data, hasMore: found.has_more, models: sortedModels(models.data), files: files.data };
}

function NewClassification({ models }) {
  const [form, setForm] = useState({ dataset: "", model: models[0]?.id ?? "", labels: "" });
  const change = (values) => setForm((old) => ({ ...old, ...values }));
  const start = useAction(async () => {
    const labels = splitLabels(form.labels);
    const made = await post("/classifications", { model: form.model, dataset: form.dataset, ...(labels.length ? { labels } : {}) });
    go(["classifications", made.id]);
  });
  const model = models.find((one) => one.id === form.model);
  const own = useMemo(() => Object.values(model?.class_names ?? {}), [model]);
  return html`<${Card}>
    <div class="stack">
      <${ChooseData} form=${form} change=${change} />
      <div class="two">
        <${Field} id="model" label="Model"><${Select} id="model" value=${form.model} onChange=${(id) => change({ model: id })} options=${modelOptions(models)} /><//>
        <${Field} id="labels" label="Labels" hint=${own.length ? `Empty: the ${own.length} classes of the model.` : "At least two, between commas."}>
          <textarea id="labels" value=${form.labels} placeholder=${own.slice(0, 6).join(", ") || "cat, dog, bicycle"} aria-describedby="labels-hint" onInput=${(event) => change({ labels: event.target.value })}></textarea>
        <//>
      </div>
      <${Problem} error=${start.error} />
      <div class="row"><button type="button" class="button main" aria-disabled=${start.isBusy || !form.dataset} onClick=${() => form.dataset && start.run()}>${start.isBusy ? "Starting …" : "Classify all"}</button>${!form.dataset && html`<span class="soft small">Choose the pictures first.</span>`}</div>
    </div>
  <//>`;
}

function Row({ one, models, files }) {
  const model = models.find(({ id }) => id === one.model);
  return html`<li>
    <div>
      <a class="name" href=${href(["classifications", one.id])}>${files.find(({ id }) => id === one.dataset)?.filename ?? one.dataset}</a>
      <div class="small soft cut">by ${model ? shortName(model) : one.model} · ${when(one.created_at)}</div>
    </div>
    <${Status} job=${one} />
    <${Pictures} one=${one} />
  </li>`;
}

/** How many of the pictures are done. */
export const Pictures = ({ one }) =>
  html`<div class="progress">
    <${Progress} job=${{ status: one.status, progress: { step: one.num_done, num_steps: one.num_images } }} label="Pictures" />
    <div class="small soft numbers">${one.num_images ? `${count(one.num_done)} of ${plural(one.num_images, "picture")}` : "The pictures are not counted yet"}${left(one)}</div>
  </div>`;

function left(one) {
  if (isFinished(one)) return "";
  const seconds = (one.estimated_finish ?? 0) - Date.now() / 1000;
  return one.queue ? `, number ${one.queue.position} in the queue` : seconds > 0 ? `, ${roughly(seconds)} left` : "";
}
