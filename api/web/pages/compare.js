import { html } from "../lib/html.js";
export const ComparePage = () => html`<p>…</p>`;
