// How sensible the mistakes are: the five likeliest classes of both models for the same pictures (figure 4).

import { number } from "../../lib/format.js";
import { useGet, useLoaded } from "../../lib/hooks.js";
import { html, useMemo, useState } from "../../lib/html.js";
import { Card, Placeholder, Shares } from "../../parts/controls.js";
import { Later, useGroup } from "../../parts/groups.js";
import { JobImage, fetchImage, isNotAtHand } from "../../parts/job_image.js";

const MEASURES = [
  ["error_similarity", "Mistakes are like the truth", "mean similarity of the wrong answer to the true class"],
  ["top5_similarity_to_truth", "The five likeliest are like the truth", "mean similarity of the top five to the true class"],
  ["top5_coherence", "The five likeliest are like each other", "mean similarity among the top five"],
];

export function MistakesTab({ job }) {
  const [group, control] = useGroup(job.result);
  const similarity = useGet(`/fine_tuning/jobs/${encodeURIComponent(job.id)}/similarity`).data;
  const pictures = useMemo(() => (group ? pairUp(group) : []), [group?.before, group?.after]);
  const [away, setAway] = useState(null); // why no picture can be shown
  const [first] = pictures;
  const isKnown = useLoaded(async (signal) => {
    if (first) await fetchImage(job, first, signal).catch((error) => void (isNotAtHand(error) && setAway(error)));
    return true; // the room for pictures is there before them, or not at all
  }, [first?.path, first?.source]).data;
  if (!group) return html`<${Later} job=${job} />`;
  const { before, after } = group;
  return html`<div class="stack">
    <div class="row">${control}</div>
    <${Card} title="How sensible are the mistakes?" note="a good model that errs answers with something like the truth">
      <div class="scroll" tabindex="0" role="region" aria-label="How sensible the mistakes are">
        <table>
          <thead><tr><th scope="col">Measure</th><th scope="col" class="right">Zero-shot</th><th scope="col" class="right">Tuned</th></tr></thead>
          <tbody>
            ${MEASURES.map(([name, word, hint]) => html`<tr><th scope="row">${word}<div class="small soft">${hint}</div></th><td class="right">${number(before[name])}</td><td class="right">${number(after[name])}</td></tr>`)}
            <tr><th scope="row">Two classes taken by chance<div class="small soft">what the numbers above would be without any sense</div></th><td class="right">${number(before.mean_class_similarity)}</td><td class="right">${number(after.mean_class_similarity)}</td></tr>
          </tbody>
        </table>
      </div>
    <//>
    ${pictures.length > 0 && html`<p class="small soft">The five likeliest classes of both models for the same pictures, with their probabilities; the small number behind a name is its similarity to the truth.</p>`}
    ${away && html`<p class="notice">${away.message} Their paths tell which they are.</p>`}
    ${!isKnown && html`<${Placeholder} height=${320} />`}
    <div class="two">${isKnown && pictures.map((one) => html`<${Picture} key=${one.path} ...${one} job=${job} similarity=${similarity} isAway=${Boolean(away)} />`)}</div>
    ${!pictures.length && html`<p class="soft">No single mistakes were kept for this group.</p>`}
  </div>`;
}

function Picture({ job, path, source, label, rows, similarity, isAway }) {
  const word = (folder) => job.class_names[folder] ?? folder;
  const likeness = likenessTo(word(label), similarity);
  return html`<${Card} title=${word(label)} note=${path}>
    <div class="mistake ${isAway ? "is-away" : ""}">
      ${!isAway && html`<${JobImage} job=${job} path=${path} source=${source} alt="The picture: ${word(label)}" />`}
      ${rows.map(
        ([model, top]) => html`<div>
          <h3 class="soft">${model}</h3>
          ${top
            ? html`<${Shares} truth=${word(label)} items=${top.map(([name, share]) => [word(name), share, likeness(word(name))])} />`
            : html`<p class="soft small">Right here, or not among the mistakes that were kept.</p>`}
        </div>`,
      )}
    </div>
  <//>`;
}

/** A function: how like the truth another class is. */
function likenessTo(truth, similarity) {
  const names = similarity?.class_names ?? [];
  const row = similarity?.cosine[names.indexOf(truth)];
  return (name) => (row && name !== truth && names.includes(name) ? html`<span class="hidden-text">, similarity to ${truth} </span>${row[names.indexOf(name)].toFixed(2)}` : null);
}

/** Pictures that either model kept, with what both say; those that both kept come first. */
function pairUp({ before, after }) {
  const [old, tuned] = [before, after].map((one) => new Map((one.mistakes ?? []).map((mistake) => [mistake.path, mistake])));
  const all = [...new Map([...tuned, ...old]).values()];
  const isInBoth = ({ path }) => Number(old.has(path) && tuned.has(path));
  return all
    .sort((a, b) => isInBoth(b) - isInBoth(a))
    .map(({ path, source, label }) => ({ path, source, label, rows: [["Zero-shot", old.get(path)?.top], ["Tuned", tuned.get(path)?.top]] }));
}
