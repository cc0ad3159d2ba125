// Where a model looks in a picture, and which patches resemble a label; before training beside it.

import { post } from "../lib/api.js";
import { useLoaded } from "../lib/hooks.js";
import { html, useState } from "../lib/html.js";
import { Placeholder, Problem, Select } from "./controls.js";

const MAPS = [
  ["cls_attention", "Attention of the class token"],
  ["dv_similarity", "Patches like the label (D-V branch)"],
  ["patch_similarity", "Patches like the label (main branch)"],
];

export function Explanation({ model, file, labels, best }) {
  const [chosen, setChosen] = useState(null);
  const label = labels.includes(chosen) ? chosen : best;
  const { data, error } = useLoaded((signal) => explain(model, file, label, signal), [model.id, file, label]);
  const sides = data && (data.compared ? [["Zero-shot", data.compared], ["Tuned", data]] : [["Zero-shot", data]]);
  return html`<div class="stack">
    <div class="row">
      <label for="label-${file.name}" class="soft small">For the label</label>
      <div><${Select} id="label-${file.name}" value=${label} onChange=${setChosen} options=${(labels.includes(best) ? labels : [best, ...labels]).map((name) => [name, name])} /></div>
    </div>
    <${Problem} error=${error} />
    ${!data && !error && html`<${Placeholder} height=${260} />`}
    ${data &&
    html`<p class="small soft numbers">Cosine of the whole picture with the label: ${sides.map(([side, { similarity }]) => `${side.toLowerCase()} ${similarity.toFixed(3)}`).join(", ")}</p>
      <div class="maps ${sides.length > 1 ? "" : "single"}">
      ${MAPS.map(([name, word]) =>
        sides.map(
          ([side, found]) => html`<figure><img src=${found.pictures[name]} alt="${word}, ${side.toLowerCase()}, for ${label}" /><figcaption class="small"><b>${side}</b><br /><span class="soft">${word}</span></figcaption></figure>`,
        ),
      )}
    </div>`}
  </div>`;
}

function explain(model, file, label, signal) {
  const form = new FormData();
  form.append("image", file);
  form.append("label", label);
  if (model.base_model) form.append("compare_with", model.base_model);
  return post(`/models/${encodeURIComponent(model.id)}/explain`, form, { signal });
}
