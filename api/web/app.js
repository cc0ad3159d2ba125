// The shell: the way between the pages, the person's key, light and dark.

import { key, onKeyRefused } from "./lib/api.js";
import { keepFocus } from "./lib/focus.js";
import { html, render, useEffect, useRef, useState } from "./lib/html.js";
import { href, useRoute } from "./lib/route.js";
import { toggleTheme, useTheme } from "./lib/theme.js";
import { ClassificationPage } from "./pages/classification.js";
import { ClassificationsPage } from "./pages/classifications.js";
import { ComparePage } from "./pages/compare.js";
import { EvaluationPage } from "./pages/evaluation.js";
import { EvaluationsPage } from "./pages/evaluations.js";
import { JobPage } from "./pages/job.js";
import { JobsPage } from "./pages/jobs.js";
import { KeyPage } from "./pages/key.js";
import { ModelsPage } from "./pages/models.js";
import { NewEvaluationPage } from "./pages/new_evaluation.js";
import { NewJobPage } from "./pages/new_job.js";
import { TryPage } from "./pages/try.js";
import { PageHead } from "./parts/controls.js";

const PLACES = [
  ["jobs", "Jobs"],
  ["new", "New job"],
  ["compare", "Compare"],
  ["evaluations", "Evaluations"],
  ["models", "Models"],
  ["try", "Try"],
];

/** Which of them a page belongs to. */
const placeOf = (name) => (name === "classifications" ? "try" : name);

function App() {
  const route = useRoute();
  const [hasKey, setHasKey] = useState(Boolean(key.get()));
  const [isOpen, setIsOpen] = useState(hasKey); // stays while another key is asked for: what was filled in is still there
  const [refusal, setRefusal] = useState(null);
  const isRefused = useRef(false);
  useEffect(() => {
    onKeyRefused((error) => {
      key.clear();
      isRefused.current = true;
      setRefusal(error);
      setHasKey(false);
    });
  }, []);
  const leave = () => {
    key.clear();
    setRefusal(null);
    setHasKey(false);
    setIsOpen(false);
  };
  const enter = (value) => {
    key.set(value);
    setRefusal(null);
    setHasKey(true);
    setIsOpen(true);
  };
  useEffect(() => {
    if (!hasKey || !isRefused.current) return;
    isRefused.current = false;
    const heading = document.querySelector("h1");
    heading.focus({ preventScroll: true });
    document.title = `${heading.textContent} · AlignCLIP`;
    dispatchEvent(new Event("key"));
  }, [hasKey]);
  return html`<a class="skip" href="#main" onClick=${toMain}>To the content</a>
    <${Top} place=${route.parts[0]} onLeave=${hasKey ? leave : null} />
    <main id="main">
      ${!hasKey && html`<${KeyPage} refusal=${refusal} onKey=${enter} />`}
      ${isOpen && html`<div hidden=${!hasKey}><${Page} route=${route} /></div>`}
    </main>`;
}

function Top({ place, onLeave }) {
  const theme = useTheme();
  return html`<header class="top">
    <div class="top-inner">
      <a class="brand" href=${href(["jobs"])}><img src="/web/icon.svg" alt="" width="24" height="24" />AlignCLIP</a>
      <nav class="places" aria-label="Pages">
        ${PLACES.map(([name, word]) => html`<a href=${href([name])} aria-current=${placeOf(place) === name ? "page" : undefined}>${word}</a>`)}
      </nav>
      <div class="top-tools">
        <button type="button" class="plain" onClick=${toggleTheme} aria-label="Use ${theme === "dark" ? "light" : "dark"} colours">
          ${theme === "dark" ? "Light" : "Dark"}
        </button>
        ${onLeave && html`<button type="button" class="plain" onClick=${onLeave}>Forget key</button>`}
      </div>
    </div>
  </header>`;
}

function Page({ route }) {
  const [place, id, tab] = route.parts;
  if (place === "jobs" && id) return html`<${JobPage} key=${id} id=${id} tab=${tab} />`;
  if (place === "jobs") return html`<${JobsPage} />`;
  if (place === "new") return html`<${NewJobPage} query=${route.query} />`;
  if (place === "evaluations" && id === "new") return html`<${NewEvaluationPage} query=${route.query} />`;
  if (place === "evaluations" && id) return html`<${EvaluationPage} key=${id} id=${id} />`;
  if (place === "evaluations") return html`<${EvaluationsPage} />`;
  if (place === "models") return html`<${ModelsPage} />`;
  if (place === "classifications" && id) return html`<${ClassificationPage} key=${id} id=${id} />`;
  if (place === "classifications") return html`<${ClassificationsPage} />`;
  if (place === "try") return html`<${TryPage} query=${route.query} />`;
  if (place === "compare") return html`<${ComparePage} query=${route.query} />`;
  return html`<${PageHead} title="Nothing here" lead=${html`This address leads nowhere. <a href=${href(["jobs"])}>To the jobs</a>`} />`;
}

/** The address is a place in the page already; a skip link may not change it. */
function toMain(event) {
  event.preventDefault();
  document.querySelector("h1")?.focus();
}

const root = document.getElementById("app");
render(html`<${App} />`, root);
keepFocus(root);
