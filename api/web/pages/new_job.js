import { html } from "../lib/html.js";
export const NewJobPage = () => html`<p>…</p>`;
