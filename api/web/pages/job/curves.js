// Loss and accuracy over the steps, and what came of it in each group of images and classes.

import { groupWord, number, percent, plural, points, tone } from "../../lib/format.js";
import { html, useMemo, useState } from "../../lib/html.js";
import { isFinished } from "../../lib/stream.js";
import { Chart } from "../../parts/chart.js";
import { Card } from "../../parts/controls.js";

export const COLOURS = [1, 2, 3, 4, 5, 6].map((index) => `--series-${index}`);
const LATER = { empty: "Comes with the first evaluation." };
const WEIGHTS = { raw: "Raw", bma: "Average (BMA)", swad: "Average (SWAD)" };

export const wholePercent = (share) => `${Number((100 * share).toFixed(1))}%`;
const SHARES = { format: percent, axisFormat: wholePercent };

export function CurvesTab({ job, train, evaluations }) {
  const losses = useMemo(() => lossLines(train), [train]);
  const accuracies = useMemo(() => accuracyLines(evaluations, job.hyperparameters.averaging), [evaluations]);
  const domains = useMemo(() => domainLines(evaluations), [evaluations]);
  const sync = `job-${job.id}`;
  const batches = useMemo(() => batchLines(train), [train]);
  const [wasFinished] = useState(isFinished(job)); // what comes to its end while one looks pushes nothing away
  const groups = job.result && html`<${Groups} result=${job.result} />`;
  const charts = [
    ["Loss", "and its three terms, before their weights", { lines: losses, label: "Loss", from: 0, format: (value) => number(Number(value.toFixed(3))) }],
    ["Accuracy", "on the held-out images of the trained classes", { lines: accuracies, label: "Accuracy", ...SHARES, ...LATER }],
    ["By domain", "of the weights that are kept", { lines: domains, label: "Accuracy by domain", ...SHARES, ...LATER }],
    ["Training batches", "accuracy while training", { lines: batches, label: "Accuracy of the training batches", ...SHARES }],
  ].filter(([, , { lines }]) => !wasFinished || lines.some(({ points }) => points.length));
  return html`<div class="stack">
    ${wasFinished && groups}
    ${charts.length > 0
      ? html`<div class="two">
          ${charts.map(([title, note, chart]) => html`<${Card} key=${title} title=${title} note=${note}><${Chart} sync=${sync} until=${job.progress.num_steps} ...${chart} /><//>`)}
        </div>`
      : html`<div class="empty"><h2>No curves</h2><p class="soft">The job ended before its first step. Retry begins it again.</p></div>`}
    ${!wasFinished && groups}
  </div>`;
}

/** Zero-shot and tuned in every group: trained and new classes, trained and new domains. */
function Groups({ result }) {
  const rows = Object.entries(result.tuned).flatMap(([domains, groups]) =>
    Object.entries(groups).map(([classes, after]) => ({ domains, classes, after, before: result.zero_shot[domains][classes] })),
  );
  return html`<${Card} title="What was gained, and what was lost" note="accuracy on images that were not trained on, among the classes of each row">
    <div class="scroll" tabindex="0" role="region" aria-label="Accuracy by group">
      <table>
        <thead><tr><th scope="col">Images</th><th scope="col">Classes</th><th scope="col" class="right">Images</th><th scope="col" class="right">Zero-shot</th><th scope="col" class="right">Tuned</th><th scope="col" class="right">Change</th><th scope="col"><span class="hidden-text">Drawn</span></th></tr></thead>
        <tbody>
          ${rows.map(
            ({ domains, classes, before, after }) => html`<tr>
              <th scope="row">${groupWord(domains)} <span class="small soft">${domainNames(after)}</span></th>
              <td>${groupWord(classes)}</td>
              <td class="right">${after.num_images}</td>
              <td class="right">${percent(before.accuracy)}</td>
              <td class="right">${percent(after.accuracy)} <span class="small soft">± ${(100 * after.standard_error).toFixed(1)}</span></td>
              <td class="right ${tone(after.accuracy - before.accuracy)}">${points(after.accuracy - before.accuracy)}</td>
              <td><${Dumbbell} before=${before.accuracy} after=${after.accuracy} /></td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${result.headline?.harmonic_mean &&
    html`<p class="small soft">Harmonic mean of trained and new classes: ${percent(result.headline.harmonic_mean.zero_shot)} before, ${percent(result.headline.harmonic_mean.tuned)} after.</p>`}
  <//>`;
}

function domainNames(evaluation) {
  const names = Object.keys(evaluation.per_domain ?? {}).filter(Boolean);
  return names.length > 3 ? plural(names.length, "domain") : names.join(", ");
}

export function Dumbbell({ before, after }) {
  const [low, high] = before < after ? [before, after] : [after, before];
  return html`<div class="dumbbell" aria-hidden="true">
    <i class=${after < before ? "down" : ""} style=${{ left: `${100 * low}%`, width: `${100 * (high - low)}%` }}></i>
    <b style=${{ left: `${100 * before}%` }}></b><b class="after" style=${{ left: `${100 * after}%` }}></b>
  </div>`;
}

function lossLines(train) {
  const line = (label, colour, name) => ({ label, colour, points: train.filter((one) => one.values[name] != null).map((one) => [one.step, one.values[name]]) });
  return [
    line("Total", "--ink", "loss"),
    line("SLS", COLOURS[0], "smoothing_loss"),
    line("AL", COLOURS[1], "layer_alignment_loss"),
    line("AS", COLOURS[2], "similarity_alignment_loss"),
  ];
}

const batchLines = (train) => [{ label: "Batch", colour: COLOURS[0], points: train.map((one) => [one.step, one.values.accuracy]) }];

/** All that will come are there from the beginning, so that their keys are. */
function accuracyLines(evaluations, averaging) {
  const tuned = Object.entries(WEIGHTS)
    .map(([name, label], index) => ({
      name,
      label,
      colour: index ? COLOURS[0] : COLOURS[1],
      hasPoints: true,
      points: evaluations.filter((one) => one.values[name]).map((one) => [one.step, one.values[name].accuracy]),
    }))
    .filter((line) => line.points.length || line.name === "raw" || line.name === averaging);
  const base = evaluations.find((one) => one.values.zero_shot)?.values.zero_shot.accuracy;
  const end = Math.max(1, ...evaluations.map((one) => one.step));
  return [{ label: "Zero-shot", colour: "--before", isDashed: true, points: base == null ? [] : [[0, base], [end, base]] }, ...tuned];
}

function domainLines(evaluations) {
  const kept = evaluations.map((one) => [one.step, (one.values.bma ?? one.values.swad ?? one.values.raw ?? one.values.zero_shot)?.per_domain ?? {}]);
  const names = [...new Set(kept.flatMap(([, domains]) => Object.keys(domains)))];
  return names.map((name, index) => ({
    label: name || "all images",
    colour: COLOURS[index % COLOURS.length],
    hasPoints: true,
    points: kept.filter(([, domains]) => domains[name] != null).map(([step, domains]) => [step, domains[name]]),
  }));
}
