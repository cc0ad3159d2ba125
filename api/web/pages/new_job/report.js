// The report on a dataset: what is in it, what is wrong with it, what the names of its classes mean to the text tower.

import { count, plural } from "../../lib/format.js";
import { html, useState } from "../../lib/html.js";
import { Card } from "../../parts/controls.js";
import { SimilarityMap } from "../../parts/similarity_map.js";

const FEWEST = 5; // images; a class with fewer can hardly be measured

export function DatasetReport({ report, isBusy, form, change }) {
  const toggle = (field, name) => (event) => change({ [field]: event.target.checked ? [...form[field], name] : form[field].filter((one) => one !== name) });
  const named = report.domains.filter(({ name }) => name);
  return html`<div class="stack" aria-busy=${isBusy}>
    <dl class="figures">
      <div><dt>Images</dt><dd>${count(report.num_images)}</dd></div>
      <div><dt>Classes</dt><dd>${report.classes.length}</dd></div>
      <div><dt>Domains</dt><dd>${named.length || "one"}</dd></div>
      ${inOrder(report.splits).map(({ name, num_images }) => html`<div><dt>${splitWord(name)}</dt><dd>${count(num_images)}</dd></div>`)}
    </dl>
    <p class="small soft" role="status">${isBusy ? "Looking at the pictures again …" : looked(report)}</p>
    <${Findings} findings=${report.findings} />
    ${report.classes.length > 0 &&
    html`<div class="two">
      <${Card} level=3 title="Classes" note="tick those that shall be tested and never trained">
        <${Classes} report=${report} form=${form} onToggle=${(name) => toggle("unseenClasses", name)} />
      <//>
      <div class="stack from-top">
        ${named.length > 1 &&
        html`<${Card} level=3 title="Domains" note="tick those that shall be tested and never trained">
          <ul class="stack tight" aria-label="Domains">${named.map(({ name, num_images }) => html`<li><label class="check"><input type="checkbox" checked=${form.testDomains.includes(name)} onChange=${toggle("testDomains", name)} /><span>${name}</span> <span class="soft small">${plural(num_images, "image")}</span></label></li>`)}</ul>
        <//>`}
        <${Names} report=${report} form=${form} change=${change} />
      </div>
    </div>`}
    ${report.similarity.labels.length > 1 &&
    html`<details class="card" open>
      <summary>Class similarity: how near the names are to the text tower</summary>
      <${SimilarityMap} labels=${report.similarity.labels} matrix=${report.similarity.matrix} />
    </details>`}
  </div>`;
}

const SPLITS = ["train", "validation", "test_domains", "unseen_classes"]; // others behind them
const inOrder = (splits) => [...splits].sort((a, b) => (SPLITS.indexOf(a.name) + 9) % 9 - ((SPLITS.indexOf(b.name) + 9) % 9));
const splitWord = (name) => name.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase());

function looked({ num_checked, num_compared, num_images, sizes }) {
  const which = num_checked === num_images ? "Every picture was" : `${count(num_checked)} of ${count(num_images)} pictures were`;
  return `${which} decoded${sizes.width ? `; median size ${sizes.width.median} × ${sizes.height.median} pixels` : ""}. The base model compared ${count(num_compared)} with their labels.`;
}

function Findings({ findings }) {
  if (!findings.length) return html`<p class="good">Nothing is wrong with it.</p>`;
  const ordered = [...findings].sort((a, b) => (a.severity === "fatal" ? 0 : 1) - (b.severity === "fatal" ? 0 : 1));
  return html`<ul class="stack tight" aria-label="Findings">
    ${ordered.map(
      (one) => html`<li class="notice ${one.severity === "fatal" ? "bad" : "warn"}">
        <p><span class="tag ${one.severity === "fatal" ? "bad" : "warn"}">${one.severity}</span> ${one.message}</p>
        ${one.hint && html`<p class="hint">${one.hint}</p>`}
        ${one.paths?.length > 0 &&
        html`<details><summary>${plural(one.num_paths, "file")}</summary><ul class="small">${one.paths.map((path) => html`<li><code>${path}</code></li>`)}${one.num_paths > one.paths.length ? html`<li class="soft">and ${count(one.num_paths - one.paths.length)} more</li>` : ""}</ul></details>`}
      </li>`,
    )}
  </ul>`;
}

function Classes({ report, form, onToggle }) {
  const most = Math.max(...report.classes.map((one) => one.num_images), 1);
  return html`<div class="long-list" tabindex="0" role="region" aria-label="Classes">
    <ul>
      ${report.classes.map(
        ({ name, display_name, num_images }) => html`<li>
          <label class="check"><input type="checkbox" checked=${form.unseenClasses.includes(name)} onChange=${onToggle(name)} /><span class="cut">${display_name}</span></label>
          <span class="mini-bar" aria-hidden="true"><i style=${{ width: `${(100 * num_images) / most}%` }}></i></span>
          <span class="small numbers ${num_images < FEWEST ? "bad" : "soft"}">${count(num_images)}</span>
        </li>`,
      )}
    </ul>
  </div>`;
}

/** Better words for folders: the text tower reads them, so they matter. */
function Names({ report, form, change }) {
  const [folder, setFolder] = useState(report.classes[0]?.name ?? "");
  const rename = (event) => {
    const word = event.target.value;
    const all = Object.fromEntries(report.classes.map((one) => [one.name, one.display_name]));
    change({ classNames: { ...all, ...form.classNames, [folder]: word || folder } });
  };
  const shown = form.classNames[folder] ?? report.classes.find((one) => one.name === folder)?.display_name ?? "";
  return html`<${Card} level=3 title="Words" note="the model knows a class by its name">
    <div class="stack tight">
      <div class="field"><label for="folder">Folder</label>
        <select id="folder" value=${folder} onChange=${(event) => setFolder(event.target.value)}>${report.classes.map(({ name }) => html`<option value=${name} selected=${name === folder}>${name}</option>`)}</select>
      </div>
      <div class="field"><label for="word">Is called</label><input id="word" type="text" value=${shown} onChange=${rename} /></div>
    </div>
  <//>`;
}
