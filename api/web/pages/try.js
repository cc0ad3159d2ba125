import { html } from "../lib/html.js";
export const TryPage = () => html`<p>…</p>`;
