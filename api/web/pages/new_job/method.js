// The base model, the algorithm, and the few settings that most jobs change; all others by name.

import { html } from "../../lib/html.js";
import { shown } from "../job/settings.js";
import { Field, Select } from "../../parts/controls.js";

export const ALGORITHM_WORDS = {
  alignclip: "The paper's method: keeps other domains and new classes.",
  clipood: "Margin and moving average; no alignment.",
  finetune: "Plain fine-tuning: the honest baseline.",
  label_smoothing: "Plain fine-tuning with uniform label smoothing.",
  wise_ft: "Plain fine-tuning, then half of the way back to the base model.",
  coral: "Brings the feature statistics of the domains together.",
  miro: "Keeps the features near those of the base model.",
  coop: "Learns the words of the prompt; the image tower stays.",
  cocoop: "CoOp with a prompt for each picture.",
  dpl: "Prompts made from the pictures of a domain.",
  zero_shot: "Trains nothing; measures the base model.",
};

export function ChooseMethod({ form, change, models, options }) {
  const set = (name) => (event) => change({ [name]: event.target.value });
  const presets = Object.keys(options.presets);
  return html`<div class="stack">
    <fieldset>
      <legend class="hidden-text">Algorithm</legend>
      <div class="choices">
        ${Object.entries(options.algorithms).map(
          ([name, changes]) => html`<label class="choice">
            <input type="radio" name="algorithm" value=${name} checked=${form.algorithm === name} onChange=${set("algorithm")} /><b>${name}</b>
            <span class="small soft">${ALGORITHM_WORDS[name] ?? summary(changes)}</span>
          </label>`,
        )}
      </div>
    </fieldset>
    <div class="fields">
      <${Field} id="base-model" label="Base model"><${Select} id="base-model" value=${form.model} onChange=${(model) => change({ model })} options=${models.map(({ id }) => [id, id])} /><//>
      <${Field} id="preset" label="Preset" hint=${form.preset ? summary(options.presets[form.preset] ?? {}) || "the printed equations" : "the model card's choice"}>
        <${Select} id="preset" describedBy="preset-hint" value=${form.preset} onChange=${(preset) => change({ preset })} options=${[["", "Default"], ...[...new Set([...presets, form.preset].filter(Boolean))].map((name) => [name, name])]} />
      <//>
      <div class="field"><label for="length">Length</label>
        <div class="joined"><input id="length" type="number" min="1" value=${form.length} placeholder="default" aria-describedby="length-hint" onInput=${set("length")} /><${Select} label="Unit of the length" value=${form.lengthUnit} onChange=${(lengthUnit) => change({ lengthUnit })} options=${[["n_epochs", "epochs"], ["num_steps", "steps"]]} /></div>
        <span class="hint" id="length-hint">Empty: as long as the model card says.</span>
      </div>
      <${Field} id="suffix" label="Name" hint="Becomes a part of the model's id."><input id="suffix" type="text" value=${form.suffix} placeholder="pets" aria-describedby="suffix-hint" onInput=${set("suffix")} /><//>
    </div>
    <details>
      <summary>More settings</summary>
      <div class="fields">
        <${Field} id="seed" label="Seed"><input id="seed" type="number" min="0" value=${form.seed} placeholder="0" onInput=${set("seed")} /><//>
        <${Field} id="validation" label="Held out for validation" hint="Share of each class in each domain."><input id="validation" type="number" min="0" max="0.9" step="0.05" value=${form.validationFraction} placeholder="0.2" aria-describedby="validation-hint" onInput=${set("validationFraction")} /><//>
        <${Field} id="templates" label="Templates" hint="One a line, each with {}; or the name of a set."><textarea id="templates" value=${form.templates} placeholder="a photo of a {}." aria-describedby="templates-hint" onInput=${set("templates")}></textarea><//>
        <${Field} id="more" label="Hyper-parameters" hint=${`One a line. Names: ${Object.keys(options.hyperparameters).slice(0, 5).join(", ")} … (docs/options.md)`}><textarea id="more" value=${form.more} placeholder="smoothing = 0.2" spellcheck=${false} aria-describedby="more-hint" onInput=${set("more")}></textarea><//>
      </div>
    </details>
  </div>`;
}

const summary = (changes) => Object.entries(changes).map(([name, value]) => `${name} ${shown(value)}`).join(", ");
