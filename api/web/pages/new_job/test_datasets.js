// The other datasets on which the weights are measured: added one by one, each with a name in the results.

import { plural } from "../../lib/format.js";
import { html, useEffect, useRef, useState } from "../../lib/html.js";
import { faultIn, makeTest } from "../../lib/test_datasets.js";
import { Field, Select } from "../../parts/controls.js";
import { DropDataset, Reference, uploadOptions, useUploads } from "./data.js";

/**
 * `onChange` gets a function from the old ones to the new ones. `error` is what was wrong when it was last looked;
 * `refusal`, the error of a press on Start, takes the focus too.
 */
export function TestDatasets({ tests, onChange, error, refusal }) {
  const uploads = useUploads();
  const box = useRef(null);
  const [said, setSaid] = useState("");
  const fault = faultIn(tests, refusal) ?? faultIn(tests, error);
  const wordOf = (dataset) => uploads.list.find(({ id }) => id === dataset)?.filename ?? dataset;
  const add = (dataset, word = wordOf(dataset)) => {
    onChange((old) => [...old, makeTest({ dataset })]); // others may have come while it was uploaded
    setSaid(`${word} was added.`);
  };
  const remove = (test) => {
    onChange((old) => old.filter((one) => one.key !== test.key));
    setSaid(`${wordOf(test.dataset)} was removed.`);
  };
  const rename = (test, name) => onChange((old) => old.map((one) => (one.key === test.key ? { ...one, name } : one)));
  useEffect(() => {
    if (!faultIn(tests, refusal)) return;
    box.current.closest("details")?.setAttribute("open", "");
    box.current.parentNode.querySelector("[data-is-wrong]").focus();
  }, [refusal]);
  return html`<fieldset class="stack test-datasets" tabindex="-1" ref=${box} ...${wrongIf(fault && fault.place === undefined)}>
    <legend class="label">Test datasets</legend>
    ${fault && fault.place === undefined && html`<${Fault} fault=${fault} />`}
    ${tests.length > 0 &&
    html`<div class="stack tight">
      <ul class="tests" aria-label="Test datasets">
        ${tests.map((test, index) => html`<${Test} key=${test.key} test=${test} word=${wordOf(test.dataset)} fault=${fault?.place === index ? fault : null} onName=${(name) => rename(test, name)} onRemove=${() => remove(test)} />`)}
      </ul>
      <p class="small soft" id="test-name-hint">So it is called in the results. Empty: as its file or folder.</p>
    </div>`}
    <p class="hidden-text" role="status">${said}</p>
    <${DropDataset} id="test-archive" title="Drop a zip or a folder to test on" uploads=${uploads} onChoose=${add} />
    <div class="two"><${Earlier} uploads=${uploads} onAdd=${add} /><${Reference} id="test-reference" label="Or add a reference" word=${html`Add<span class="hidden-text"> the reference</span>`} isEmptied onUse=${add} /></div>
  </fieldset>`;
}

const wrongIf = (isWrong) => (isWrong ? { "data-is-wrong": true, "aria-describedby": "test-fault" } : {});

const Fault = ({ fault }) => html`<p class="fault" id="test-fault" role="alert">${fault.message}</p>`;

function Test({ test, word, fault, onName, onRemove }) {
  const id = `test-name-${test.key}`;
  const isName = fault?.part === "name";
  return html`<li><div class="test" role="group" tabindex="-1" aria-label=${word} ...${wrongIf(fault && !isName)}>
    <div class="dataset"><b>${word}</b>${test.classNames && html` <span class="small soft">with words for ${plural(Object.keys(test.classNames).length, "folder")}</span>`}</div>
    <div class="called"><label for=${id}><span class="hidden-text">${word} is </span>called</label>
      <input id=${id} type="text" value=${test.name} maxlength="64" spellcheck=${false} aria-invalid=${isName} onInput=${(event) => onName(event.target.value)} aria-describedby="test-name-hint" ...${wrongIf(isName)} /></div>
    <button type="button" class="plain" aria-label="Remove ${word}" onClick=${onRemove}>Remove</button>
    ${fault && html`<${Fault} fault=${fault} />`}
  </div></li>`;
}

function Earlier({ uploads, onAdd }) {
  const [id, setId] = useState("");
  return html`<${Field} id="test-earlier" label="Or add an earlier upload">
    <div class="joined">
      <${Select} id="test-earlier" value=${id} onChange=${setId} options=${uploadOptions(uploads)} />
      <button type="button" class="button" aria-disabled=${!id} onClick=${() => id && (onAdd(id), setId(""))}>Add<span class="hidden-text"> the upload</span></button>
    </div>
  <//>`;
}
