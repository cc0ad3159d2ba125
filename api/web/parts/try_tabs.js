// The two ways to ask a model: some pictures at once, or all of a dataset.

import { html } from "../lib/html.js";
import { href } from "../lib/route.js";

const WAYS = [
  ["try", "Own pictures"],
  ["classifications", "A whole dataset"],
];

export const TryTabs = ({ place }) =>
  html`<nav class="tabs" aria-label="What is classified">
    ${WAYS.map(([name, word]) => html`<a href=${href([name])} aria-current=${name === place ? "page" : undefined}>${word}</a>`)}
  </nav>`;
