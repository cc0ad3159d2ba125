// The job's config with the paper's symbols.

import { SYMBOLS } from "../../lib/symbols.js";
import { number } from "../../lib/format.js";
import { html } from "../../lib/html.js";
import { Card } from "../../parts/controls.js";

export function SettingsTab({ job }) {
  const { batch_size, n_epochs, learning_rate_multiplier, ...own } = job.hyperparameters;
  return html`<div class="stack">
    <${Card} title="Data">
      <${Table} rows=${dataRows(job)} />
    <//>
    <${Card} title="Hyper-parameters" note="symbols and equations of the paper; docs/options.md says what each one does">
      <${Table} rows=${Object.entries(own).map(([name, value]) => [name, SYMBOLS[name] ?? "", shown(value)])} hasSymbols />
    <//>
    ${Object.keys(job.metadata ?? {}).length > 0 &&
    html`<${Card} title="Metadata"><${Table} rows=${Object.entries(job.metadata).map(([name, value]) => [name, "", value])} /><//>`}
  </div>`;
}

const Table = ({ rows, hasSymbols }) =>
  html`<div class="scroll" tabindex="0" role="region" aria-label="Settings">
    <table class="settings">
      <thead><tr><th scope="col">Name</th>${hasSymbols && html`<th scope="col">Symbol</th>`}<th scope="col">Value</th></tr></thead>
      <tbody>
        ${rows.map(([name, symbol, value]) => html`<tr><th scope="row"><code>${breakable(name)}</code></th>${hasSymbols && html`<td class="soft">${symbol}</td>`}<td>${value}</td></tr>`)}
      </tbody>
    </table>
  </div>`;

/** A name that may go on in the next line behind each of its words. */
const breakable = (name) => name.split("_").map((word, index) => html`${index > 0 && html`_<wbr />`}${word}`);

const dataRows = (job) => [
  ["training_file", "", job.training_file],
  ["validation_file", "", job.validation_file ?? "a share of the training images"],
  ["classes", "", Object.values(job.class_names).join(", ")],
  ["unseen_classes", "", job.unseen_classes.join(", ") || "none"],
  ["test_domains", "", job.test_domains.join(", ") || "none"],
  ["test_datasets", "", job.test_datasets.map(({ name, dataset }) => `${name}: ${dataset}`).join(", ") || "none"],
  ["templates", "", job.templates.join(" · ")],
  ["priority", "", job.priority],
];

export function shown(value) {
  if (value === null) return "unset";
  if (Array.isArray(value)) return value.join(", ") || "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? number(value) : String(value);
}
