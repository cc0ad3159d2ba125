// What classifies here, and the aliases by which programs call it.

import { get, send } from "../lib/api.js";
import { percent, plural, points, tone, when } from "../lib/format.js";
import { useAction, useEvery, useLoaded } from "../lib/hooks.js";
import { html, useEffect, useState } from "../lib/html.js";
import { CANDIDATE, PRODUCTION, modelName, modelOptions, sortedModels } from "../lib/models.js";
import { href } from "../lib/route.js";
import { Card, PageHead, Placeholder, Problem, Select } from "../parts/controls.js";

const REFRESH_SECONDS = 10;

export function ModelsPage() {
  const { data, error, reload } = useLoaded(loadAll, []);
  useEvery(REFRESH_SECONDS, reload); // other tabs and programs move aliases, too
  return html`<${PageHead} title="Models" lead="Everything that classifies here, and the aliases by which programs call it." />
    <div class="stack">
      <${Problem} error=${error} isOver=${Boolean(data)} />
      ${data ? html`<${Aliases} ...${data} onChange=${reload} /><${List} ...${data} />` : !error && html`<${Placeholder} height=${420} />`}
    </div>`;
}

async function loadAll(signal) {
  const [models, aliases] = await Promise.all([get("/models", { signal }), get("/aliases", { signal })]);
  return { models: sortedModels(models.data), aliases: aliases.data };
}

/** `production` and `candidate` stand there before they are set: most services want just these. */
function Aliases({ models, aliases, onChange }) {
  const [said, setSaid] = useState("");
  const { run, isBusy, error } = useAction(async (method, name, model) => {
    await send(method, `/aliases/${encodeURIComponent(name)}`, { body: model && { model } });
    const target = models.find((one) => one.id === model);
    setSaid(target ? `${name} now stands for ${modelName(target)}.` : `${name} stands for nothing any more.`);
    onChange();
  });
  const names = [...new Set([PRODUCTION, CANDIDATE, ...aliases.map((alias) => alias.id)])];
  const targetOf = (name) => aliases.find((alias) => alias.id === name);
  const candidate = targetOf(CANDIDATE)?.model;
  const canPromote = candidate && candidate !== targetOf(PRODUCTION)?.model;
  return html`<${Card} title="Aliases" note="a request may call a model by its alias; an alias moves in one step: every request finds the old model or the new one">
    <ul class="aliases" aria-label="Aliases">
      ${names.map((name) => {
        const alias = targetOf(name);
        return html`<${Alias} key=${name} name=${name} alias=${alias} models=${models} isBusy=${isBusy} onSet=${(model) => run("PUT", name, model)} onRemove=${() => run("DELETE", name)} onPromote=${name === CANDIDATE && canPromote && (() => run("PUT", PRODUCTION, candidate))} />`;
      })}
    </ul>
    <p class="small soft said" role="status">${said}</p>
    <${Problem} error=${error} />
    <${AnotherAlias} models=${models} isBusy=${isBusy} onSet=${(name, model) => run("PUT", name, model)} />
  <//>`;
}

function Alias({ name, alias, models, isBusy, onSet, onRemove, onPromote }) {
  const [choice, setChoice] = useState(null); // until it is what the alias stands for
  useEffect(() => setChoice(null), [alias?.model]);
  const chosen = choice ?? alias?.model ?? "";
  const isNew = chosen && chosen !== alias?.model;
  const options = alias ? modelOptions(models) : [["", "nothing yet"], ...modelOptions(models)];
  return html`<li>
    <div><b>${name}</b><div class="small soft">${alias ? `since ${when(alias.changed_at)}` : "not set"}</div></div>
    <${Select} label="Model of ${name}" value=${chosen} onChange=${setChoice} options=${options} />
    <div class="row">
      <button type="button" class="button ${isNew ? "main" : ""}" aria-label="${alias ? "Move" : "Set"} ${name}" aria-disabled=${isBusy || !isNew} onClick=${() => isNew && onSet(chosen)}>${alias ? "Move" : "Set"}</button>
      ${onPromote && html`<button type="button" class="button" aria-disabled=${isBusy} onClick=${onPromote}>Promote to production</button>`}
      ${alias && html`<button type="button" class="plain" aria-label="Remove ${name}" aria-disabled=${isBusy} onClick=${onRemove}>Remove</button>`}
    </div>
  </li>`;
}

function AnotherAlias({ models, isBusy, onSet }) {
  const [name, setName] = useState("");
  const [model, setModel] = useState(models[0]?.id ?? "");
  const add = (event) => {
    event.preventDefault();
    if (!name.trim()) return;
    onSet(name.trim(), model);
    setName("");
  };
  return html`<details>
    <summary>Another alias</summary>
    <form class="aliases-form" onSubmit=${add}>
      <input type="text" aria-label="New alias" value=${name} placeholder="experiment-7" spellcheck=${false} onInput=${(event) => setName(event.target.value)} />
      <${Select} label="Model of the new alias" value=${model} onChange=${setModel} options=${modelOptions(models)} />
      <button type="submit" class="button" aria-disabled=${isBusy || !name.trim()}>Add</button>
    </form>
  </details>`;
}

function List({ models, aliases }) {
  const isTuned = models.some((model) => model.base_model);
  return html`${!isTuned && html`<div class="empty"><h2>No tuned model yet</h2><p>A finished job makes one. Until then the base models classify, as they were before any training.</p><a class="button main" href=${href(["new"])}>Make a job</a></div>`}
    <${Card} title="Models" note="tuned ones first, newest first">
      <ul class="models" aria-label="Models">${models.map((model) => html`<${Row} key=${model.id} model=${model} aliases=${aliases.filter((alias) => alias.model === model.id)} />`)}</ul>
    <//>`;
}

function Row({ model, aliases }) {
  const found = model.result?.headline;
  return html`<li>
    <div>
      <h3>${modelName(model)} ${aliases.map((alias) => html`<span class="tag">${alias.id}</span> `)}</h3>
      <div class="small soft">${model.base_model ? html`<code>${model.id}</code>` : model.description}</div>
    </div>
    <div class="small soft nowrap">${model.class_names ? plural(Object.keys(model.class_names).length, "class", "classes") : "any words"}</div>
    <div class="numbers">${found?.tuned != null && html`<b>${percent(found.tuned)}</b> <span class=${tone(found.gain)}>${points(found.gain)}</span><div class="small soft">validation accuracy</div>`}</div>
    <div class="row"><a class="button" href=${href(["try"], { model: model.id })} aria-label="Try ${modelName(model)}">Try</a>${model.job_id && html`<a href=${href(["jobs", model.job_id])} aria-label="Job of ${modelName(model)}">Job</a>`}</div>
  </li>`;
}
