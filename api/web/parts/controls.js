// Small parts that every page uses.

import { hintFor } from "../lib/api.js";
import { statusWord } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";

/** The head of a page. Its heading takes the focus, so that a screen reader begins there. */
export function PageHead({ title, lead, children }) {
  const heading = useRef(null);
  const isKnown = useRef(false);
  useEffect(() => {
    document.title = `${title} · AlignCLIP`;
    const hasGoneOn = isKnown.current && document.activeElement !== heading.current;
    isKnown.current = true;
    if (!hasGoneOn) heading.current.focus({ preventScroll: true });
  }, [title]);
  return html`<div class="page-head">
    <div>
      <h1 tabindex="-1" ref=${heading}>${title}</h1>
      ${lead && html`<div class="lead">${lead}</div>`}
    </div>
    ${children && html`<div class="actions">${children}</div>`}
  </div>`;
}

export const Status = ({ job }) => html`<span class="status ${job.status}">${statusWord(job)}</span>`;

export function Progress({ job, label = "Training steps" }) {
  const { step, num_steps } = job.progress;
  const share = job.status === "succeeded" ? 1 : num_steps ? Math.min(step / num_steps, 1) : 0;
  return html`<div
    class="bar ${job.status}"
    role="progressbar"
    aria-label=${label}
    aria-valuemin="0"
    aria-valuemax=${num_steps}
    aria-valuenow=${step}
  >
    <div style=${{ width: `${100 * share}%` }}></div>
  </div>`;
}

/** An error with what to do about it; `isOver` the page where it comes by itself, so that it pushes nothing away. */
export function Problem({ error, hint, isOver = false, onClose }) {
  const [closed, setClosed] = useState(null); // what it said; asked for again, it says it again
  useEffect(() => void (error || setClosed(null)), [Boolean(error)]);
  if (!error || error.message === closed) return null;
  const advice = hint ?? hintFor(error);
  const close = onClose ?? (isOver && (() => setClosed(error.message)));
  return html`<div class="notice bad ${isOver ? "is-over" : ""}" role="alert">
    <p>${error.message}</p>
    ${advice && html`<p class="hint">${advice}</p>`}
    ${close && html`<button type="button" class="plain" onClick=${close}>Close</button>`}
  </div>`;
}

/** Why something failed: over the page while one looks on, in its place once it is closed, or was there before. */
export function Failure({ error, hint }) {
  const [isKnown, setIsKnown] = useState(Boolean(error));
  useEffect(() => void (error || setIsKnown(false)), [Boolean(error)]);
  return html`<${Problem} error=${error} hint=${hint} isOver=${!isKnown} onClose=${isKnown ? null : () => setIsKnown(true)} />`;
}

/** `level` is that of its heading. */
export const Card = ({ title, note, level = 2, children, ...rest }) =>
  html`<section class="card" ...${rest}>
    ${title && html`<header><${`h${level}`}>${title}<//>${note && html`<span class="small soft">${note}</span>`}</header>`}
    ${children}
  </section>`;

/** Room for what is on its way, so that nothing jumps when it comes. */
export const Placeholder = ({ height }) =>
  html`<div class="placeholder" style=${{ height: `${height}px` }} aria-busy="true"><span class="hidden-text">Loading</span></div>`;

/** One of the numbered steps of a form. */
export const Step = ({ number, title, children }) =>
  html`<section class="step" aria-label=${title}><h2><span class="step-number" aria-hidden="true">${number}</span>${title}</h2><div>${children}</div></section>`;

/** A labelled control; `children` gets the ids to tie it to its words. */
export function Field({ label, hint, id, children }) {
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${children}
    ${hint && html`<span class="hint" id="${id}-hint">${hint}</span>`}
  </div>`;
}

export function Select({ id, value, options, onChange, label, describedBy }) {
  return html`<select id=${id} value=${value} aria-label=${label} aria-describedby=${describedBy} onChange=${(event) => onChange(event.target.value)}>
    ${options.map(([key, word]) => html`<option value=${key} selected=${key === value}>${word}</option>`)}
  </select>`;
}

/** A place to drop files on, or to choose them with the keyboard. */
export function Drop({ id, title, hint, accept, multiple = false, onFiles }) {
  const [isOver, setIsOver] = useState(false);
  const take = (event) => {
    event.preventDefault();
    setIsOver(false);
    onFiles(event.dataTransfer);
  };
  const choose = (event) => {
    onFiles(event.target);
    event.target.value = "";
  };
  return html`<div
    class="drop ${isOver ? "is-over" : ""}"
    onDragOver=${(event) => (event.preventDefault(), setIsOver(true))}
    onDragLeave=${() => setIsOver(false)}
    onDrop=${take}
  >
    <input type="file" id=${id} accept=${accept} multiple=${multiple} onChange=${choose} />
    <div><b>${title}</b></div>
    <label for=${id} class="button">Choose ${multiple ? "files" : "a file"}</label>
    ${hint && html`<div class="small soft">${hint}</div>`}
  </div>`;
}

/** Labels and their shares as bars, with a word beside where there is one; the true label stands out. */
export const Shares = ({ items, truth }) =>
  html`<ul class="shares">
    ${items.map(
      ([name, share, beside]) => html`<li class=${name === truth ? "is-true" : ""}>
        <i style=${{ width: `${100 * Math.min(1, Math.max(share, 0.004))}%` }}></i>
        <span class="name" title=${name}>${name}${name === truth && html`<span class="hidden-text"> (the truth)</span>`}${beside && html` <span class="beside-name">${beside}</span>`}</span>
        <span class="numbers">${(100 * share).toFixed(1)}%</span>
      </li>`,
    )}
  </ul>`;
