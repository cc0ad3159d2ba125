// Own pictures and any labels: what the tuned model says, what it said before training, and where both look.

import { post } from "../lib/api.js";
import { splitLabels } from "../lib/labels.js";
import { useGet } from "../lib/hooks.js";
import { html, useEffect, useMemo, useRef, useState } from "../lib/html.js";
import { modelOptions, sidesOf, sortedModels } from "../lib/models.js";
import { Drop, Field, PageHead, Placeholder, Problem, Select, Shares } from "../parts/controls.js";
import { Explanation } from "../parts/explanation.js";
import { TryTabs } from "../parts/try_tabs.js";

const MOST_PICTURES = 24;
const SHOWN_LABELS = 5;

export function TryPage({ query }) {
  const { data, error } = useGet("/models");
  const models = useMemo(() => sortedModels(data?.data ?? []), [data]);
  if (!data) {
    return html`<${PageHead} title="Try a model" />${error ? html`<${Problem} error=${error} />` : html`<${Placeholder} height=${420} />`}`;
  }
  if (!models.length) return html`<${PageHead} title="Try a model" /><div class="empty"><h2>No model yet</h2><p>Pull one with <code>alignclip models pull</code>.</p></div>`;
  return html`<${Trial} models=${models} wanted=${query.model} />`;
}

function Trial({ models, wanted }) {
  const [id, setId] = useState(models.some((model) => model.id === wanted) ? wanted : models[0].id);
  const model = models.find((one) => one.id === id);
  const [besideId, setBesideId] = useState(null); // null: the model as it was before training
  const beside = models.find((one) => one.id === (besideId ?? model.base_model) && one !== model);
  const sides = sidesOf(model, beside);
  const own = Object.values(model.class_names ?? {});
  const [text, setText] = useState("");
  const [pictures, addPictures, removePicture] = usePictures();
  const labels = splitLabels(text);
  const answer = useAnswers(model, sides, labels, pictures);
  return html`<${PageHead} title="Try a model" lead="Drop pictures and name what could be on them: any words, trained or not." />
    <${TryTabs} place="try" />
    <div class="try">
      <form class="card stack try-form" onSubmit=${(event) => event.preventDefault()}>
        <${Field} id="model" label="Model" hint=${model.base_model ? "" : model.description}>
          <${Select} id="model" describedBy=${model.base_model ? undefined : "model-hint"} value=${id} onChange=${setId} options=${modelOptions(models)} />
        <//>
        <${Field} id="beside" label="Beside it">
          <${Select} id="beside" value=${beside?.id ?? ""} onChange=${setBesideId} options=${besideOptions(models, model)} />
        <//>
        <${Field} id="labels" label="Labels" hint=${own.length ? `Empty: the ${own.length} classes of the model.` : "At least two, between commas."}>
          <textarea id="labels" value=${text} placeholder=${own.slice(0, 6).join(", ") || "cat, dog, bicycle"} aria-describedby="labels-hint" onInput=${(event) => setText(event.target.value)}></textarea>
        <//>
        <${Drop} id="pictures" title="Drop pictures here" accept="image/*" multiple onFiles=${({ files }) => addPictures([...files])} hint="They are classified and forgotten." />
      </form>
      <div class="stack">
        <p class="hidden-text" role="status">${inShort(pictures, sides, answer)}</p>
        <${Problem} error=${answer.error} />
        ${!pictures.length && html`<${Teach} />`}
        ${pictures.map(
          (picture, index) => html`<${Picture} key=${picture.url} picture=${picture} sides=${sides} answers=${answer.of(index)} labels=${labels.length ? labels : own} onRemove=${() => removePicture(picture)} />`,
        )}
      </div>
    </div>`;
}

/** What a screen reader tells when the answers have come. */
function inShort(pictures, sides, answer) {
  const best = pictures.map(({ file }, index) => [file.name, answer.of(index)?.get(sides.at(-1)[1].id)?.predictions[0]?.label]);
  return best.every(([, label]) => label) ? best.map(([name, label]) => `${name}: ${label}`).join(". ") : "";
}

const Teach = () =>
  html`<div class="empty">
    <h2>No picture yet</h2>
    <p>Drop or choose one. You will see the likeliest labels of the model and of its base before training, and a map of where both look.</p>
  </div>`;

/** The model before training comes first: what training changed is asked most. */
function besideOptions(models, model) {
  const others = modelOptions(models).filter(([id]) => id !== model.id);
  const before = others.filter(([id]) => id === model.base_model).map(([id]) => [id, `${id}, as it was before training`]);
  return [...before, ["", "nothing"], ...others.filter(([id]) => id !== model.base_model)];
}

/** Pictures with addresses that the browser can show, given back when they go. */
function usePictures() {
  const [pictures, setPictures] = useState([]);
  const newest = useRef(pictures);
  newest.current = pictures;
  useEffect(() => () => newest.current.forEach(({ url }) => URL.revokeObjectURL(url)), []);
  const add = (files) => {
    const added = files.map((file) => ({ file, url: URL.createObjectURL(file) }));
    setPictures((old) => [...added, ...old].slice(0, MOST_PICTURES));
  };
  const remove = (picture) => {
    URL.revokeObjectURL(picture.url);
    setPictures((old) => old.filter((one) => one !== picture));
  };
  return [pictures, add, remove];
}

/** What each side says of every picture; asked again a moment after anything changes, old answers of the same models stay until then. */
function useAnswers(model, sides, labels, pictures) {
  const [state, setState] = useState({ answers: new Map(), error: null });
  const asked = JSON.stringify([sides.map(([, one]) => one.id), labels, pictures.map(({ url }) => url)]);
  useEffect(() => {
    const needsLabels = !model.class_names && labels.length < 2;
    if (!pictures.length || needsLabels || labels.length === 1) {
      const error = pictures.length ? { message: "Name at least two labels, between commas.", status: 0 } : null;
      return setState((old) => ({ ...old, error }));
    }
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const own = labels.length ? labels : Object.values(model.class_names);
        const found = await Promise.all(sides.map(([, one]) => classify(one.id, pictures, one === model ? labels : own, abort.signal)));
        const answers = new Map(pictures.map(({ url }, index) => [url, new Map(sides.map(([, one], side) => [one.id, found[side].data[index]]))]));
        setState({ answers, error: null });
      } catch (error) {
        if (!abort.signal.aborted) setState((old) => ({ ...old, error }));
      }
    }, 350);
    return () => (clearTimeout(timer), abort.abort());
  }, [asked]);
  return { error: state.error, of: (index) => state.answers.get(pictures[index].url) };
}

function classify(model, pictures, labels, signal) {
  const form = new FormData();
  for (const { file } of pictures) form.append("image", file);
  if (labels.length) form.append("labels", JSON.stringify(labels));
  form.append("top_k", String(Math.min(SHOWN_LABELS, labels.length || SHOWN_LABELS)));
  return post(`/models/${encodeURIComponent(model)}/classify`, form, { signal });
}

function Picture({ picture, sides, answers, labels, onRemove }) {
  const [isOpen, setIsOpen] = useState(false);
  const best = answers?.get(sides.at(-1)[1].id)?.predictions[0]?.label;
  return html`<section class="card picture" aria-label=${picture.file.name}>
    <div class="picture-head">
      <img src=${picture.url} alt="" />
      <div class="stack tight">
        <div class="row spread"><h2 class="cut">${picture.file.name}</h2><button type="button" class="plain" onClick=${onRemove} aria-label="Remove ${picture.file.name}">Remove</button></div>
        <div class="${sides.length > 1 ? "two" : ""}">${sides.map(([word, { id }]) => html`<${Answer} key=${id} name=${word} answer=${answers?.get(id)} />`)}</div>
      </div>
    </div>
    <details onToggle=${(event) => setIsOpen(event.target.open)}>
      <summary>Where it looks</summary>
      ${isOpen && best && html`<${Explanation} sides=${sides} file=${picture.file} labels=${labels} best=${best} />`}
    </details>
  </section>`;
}

function Answer({ name, answer }) {
  return html`<div class="answer">
    <h3 class="soft">${name}${answer?.rejected && html` <span class="tag warn">none of these</span>`}</h3>
    ${answer
      ? html`<${Shares} items=${answer.predictions.map(({ label, score }) => [label, score])} />`
      : html`<${Placeholder} height=${140} />`}
    ${answer?.rejected && html`<p class="small soft">Its best answer is less likely than the threshold that the job fitted.</p>`}
  </div>`;
}
