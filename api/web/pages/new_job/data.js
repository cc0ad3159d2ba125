// Where the pictures come from: a zip or a folder that is dropped, an earlier upload, or a reference.

import { upload } from "../../lib/api.js";
import { bytes, when } from "../../lib/format.js";
import { useAction, useGet } from "../../lib/hooks.js";
import { html, useState } from "../../lib/html.js";
import { filesOf, zip } from "../../lib/zip.js";
import { Drop, Field, Problem, Select } from "../../parts/controls.js";

export function ChooseData({ form, change }) {
  const uploads = useUploads();
  const choose = (dataset) => change({ dataset, testDomains: [], unseenClasses: [], classNames: {} });
  const chosen = uploads.list.find((file) => file.id === form.dataset);
  return html`<div class="stack">
    <${DropDataset} id="archive" title="Drop a zip or a folder of pictures" uploads=${uploads} onChoose=${choose}>
      ${form.dataset && html`<span class="small">Chosen: <b>${chosen?.filename ?? form.dataset}</b>${chosen && ` · ${bytes(chosen.bytes)}`}</span>`}
    <//>
    <div class="two">
      <${Field} id="earlier" label="Or an earlier upload"><${Select} id="earlier" value=${chosen?.id ?? ""} onChange=${choose} options=${uploadOptions(uploads)} /><//>
      <${Reference} id="reference" label="Or a reference" word="Use" value=${form.dataset.startsWith("file-") ? "" : form.dataset} onUse=${choose} />
    </div>
  </div>`;
}

/** {list, reload} of the person's uploads, newest first. */
export function useUploads() {
  const { data, reload } = useGet("/files?purpose=fine-tune&limit=50");
  return { list: data?.data ?? [], reload };
}

export const uploadOptions = ({ list }) => [["", list.length ? "Choose …" : "None yet"], ...list.map((file) => [file.id, `${file.filename}, ${bytes(file.bytes)}, ${when(file.created_at)}`])];

/** A place for a zip or a folder, which is uploaded; below it how far that is, else `children`. `onChoose` gets its id and name. */
export function DropDataset({ id, title, uploads, onChoose, children }) {
  const [state, setState] = useState(null); // words, and a share where it is known
  const { run, error } = useAction(async (source) => {
    try {
      setState({ word: "Packing the folder" });
      const { name, blob } = await archiveOf(source);
      const body = new FormData();
      body.append("purpose", "fine-tune");
      body.append("file", blob, name);
      const file = await upload("/files", body, (share) => setState({ word: share < 1 ? "Uploading" : "Checking the archive", share }));
      uploads.reload();
      onChoose(file.id, file.filename);
    } finally {
      setState(null);
    }
  });
  return html`<${Drop} id=${id} title=${title} accept=".zip,application/zip" onFiles=${run} hint=${html`One folder a class, <code>cat/1.jpg</code>; or by domain first, <code>photo/cat/1.jpg</code>.`} />
    <div class="upload-state">
      ${state ? html`<div class="stack tight"><span class="small"><span role="status">${state.word}</span>${state.share == null ? " …" : ` ${Math.round(100 * state.share)}%`}</span><div class="bar"><div style=${{ width: `${100 * (state.share ?? 0)}%` }}></div></div></div>` : children}
    </div>
    <${Problem} error=${error} />`;
}

export function Reference({ id, label, word, value = "", isEmptied = false, onUse }) {
  const [text, setText] = useState(value);
  const use = (event) => {
    event.preventDefault();
    if (!text.trim()) return;
    onUse(text.trim());
    if (isEmptied) setText("");
  };
  return html`<form class="field" onSubmit=${use}>
    <label for=${id}>${label}</label>
    <div class="joined"><input id=${id} type="text" value=${text} placeholder="pets, s3://bucket/pets.zip" aria-describedby="${id}-hint" onInput=${(event) => setText(event.target.value)} /><button class="button" type="submit">${word}</button></div>
    <span class="hint" id="${id}-hint">A dataset that whoever runs the service has opened.</span>
  </form>`;
}

/** The zip that was dropped, or one of the folder. Throws for anything else, saying what would do. */
async function archiveOf(source) {
  const [file] = source.files;
  if (source.files.length === 1 && /\.zip$/i.test(file.name)) return { name: file.name, blob: file };
  const found = source.items ? await filesOf(source) : [];
  if (!found.some(({ path }) => path.includes("/"))) throw new Error("Drop one zip, or one folder with a folder for each class.");
  return { name: `${found[0].path.split("/")[0]}.zip`, blob: await zip(found) };
}
