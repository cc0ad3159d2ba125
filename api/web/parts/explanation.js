// Where a model looks in a picture, and which patches resemble a label; before training beside it.

import { post } from "../lib/api.js";
import { useLoaded } from "../lib/hooks.js";
import { html, useState } from "../lib/html.js";
import { Problem, Select } from "./controls.js";

const MAPS = [
  ["cls_attention", "Attention of the class token"],
  ["dv_similarity", "Patches like the label (D-V branch)"],
  ["patch_similarity", "Patches like the label (main branch)"],
];

/** `sides`: [word, model] of one or two models. */
export function Explanation({ sides, file, labels, best }) {
  const [chosen, setChosen] = useState(null);
  const label = labels.includes(chosen) ? chosen : best;
  const ids = sides.map(([, model]) => model.id);
  const { data, error } = useLoaded((signal) => explain(ids, file, label, signal), [ids.join(), file, label]);
  const found = data?.ids === ids.join() ? sides.map(([word], index) => [word, index === sides.length - 1 ? data : data.compared]) : null;
  const shown = found ?? sides.map(([word]) => [word, null]); // the room of the maps is there before them
  return html`<div class="stack">
    <div class="row">
      <label for="label-${file.name}" class="soft small">For the label</label>
      <div><${Select} id="label-${file.name}" value=${label} onChange=${setChosen} options=${(labels.includes(best) ? labels : [best, ...labels]).map((name) => [name, name])} /></div>
    </div>
    <${Problem} error=${error} />
    ${(found || !error) &&
    html`<p class="small soft numbers">Cosine of the whole picture with the label: ${shown.map(([side, one]) => `${side} ${one ? one.similarity.toFixed(3) : "…"}`).join(", ")}</p>
      <div class="maps ${shown.length > 1 ? "" : "single"}" aria-busy=${!found}>
      ${MAPS.map(([name, word]) =>
        shown.map(
          ([side, one]) => html`<figure>${one ? html`<img src=${one.pictures[name]} alt="${word}, ${side}, for ${label}" />` : html`<div class="map-room"></div>`}<figcaption class="small"><b>${side}</b><br /><span class="soft">${word}</span></figcaption></figure>`,
        ),
      )}
    </div>`}
  </div>`;
}

/** What the last of the models looks at, and in `compared` the one before it. */
async function explain(ids, file, label, signal) {
  const form = new FormData();
  form.append("image", file);
  form.append("label", label);
  if (ids.length > 1) form.append("compare_with", ids[0]);
  return { ids: ids.join(), ...(await post(`/models/${encodeURIComponent(ids.at(-1))}/explain`, form, { signal })) };
}
