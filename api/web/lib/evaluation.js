// An evaluation's cells as a table of methods by targets, and its words.

export const PROTOCOLS = {
  domain_shift: ["New domains", "Each domain in turn is left out, and tested on. The pictures lie in domain/class folders."],
  dataset_shift: ["Other datasets", "The pictures train; other datasets are tested whole, each among its own classes."],
  unseen_classes: ["New classes", "Half of the classes train; the other half is tested, too."],
  in_the_wild: ["Both at once", "New classes in a domain that was left out, each domain in turn."],
  few_shot: ["Few pictures", "Some pictures of each class train, the others test."],
};

export const protocolWord = (protocol) => PROTOCOLS[protocol]?.[0] ?? protocol.replaceAll("_", " ");

export const evaluationName = (evaluation) => evaluation.name || `${protocolWord(evaluation.protocol)}, ${evaluation.id.slice(-4)}`;

const SUMMARIES = { average: (values) => mean(values), H: (values) => values.length / values.reduce((sum, value) => sum + 1 / value, 0) };
const TARGET_WORDS = { base: "Trained classes", new: "New classes", all: "All classes", source: "Own test images", average: "Average", H: "Harmonic mean" };

export const targetWord = (target) => TARGET_WORDS[target] ?? target;

/**
 * {targets, rows: [{method, figures}]} of the cells: the accuracies of each method on each target as far as its seeds
 * have come. Where there are several targets, the last sums them up: by the harmonic mean of trained and new classes,
 * else by the average.
 */
export function gridOf(cells) {
  const targets = [...new Set(cells.map((cell) => cell.target))];
  const methods = [...new Set(cells.map((cell) => cell.method))];
  const summary = targets.length < 2 ? null : targets.join() === "base,new" ? "H" : "average";
  const rows = methods.map((method) => {
    const figures = targets.map((target) => figureOf(cells.filter((cell) => cell.method === method && cell.target === target)));
    return { method, figures: summary ? [...figures, sumUp(figures, SUMMARIES[summary])] : figures };
  });
  return { targets: summary ? [...targets, summary] : targets, rows };
}

/** {accuracy, deviation, before, numDone, numFailed, num}; null where no seed has come. */
function figureOf(cells) {
  const done = cells.filter((cell) => cell.accuracy != null);
  const values = done.map((cell) => cell.accuracy);
  return { accuracy: mean(values), deviation: deviation(values), before: mean(done.map((cell) => cell.zero_shot)), numDone: done.length, numFailed: cells.filter((cell) => cell.status === "failed").length, num: cells.length };
}

/** Known once every target has a figure. */
function sumUp(figures, summary) {
  const isWhole = figures.every(({ accuracy }) => accuracy != null);
  const count = (name) => figures.reduce((sum, one) => sum + one[name], 0);
  const over = (name) => (isWhole ? summary(figures.map((one) => one[name])) : null);
  return { accuracy: over("accuracy"), deviation: null, before: over("before"), numDone: count("numDone"), numFailed: count("numFailed"), num: count("num") };
}

const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

/** Of a sample; null for less than two values. */
function deviation(values) {
  if (values.length < 2) return null;
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1));
}

/** Each job once, with the targets that it answers. */
export function jobsOf(cells) {
  const jobs = new Map();
  for (const { job_id, method, seed, status, error, target } of cells) {
    if (!jobs.has(job_id)) jobs.set(job_id, { id: job_id, method, seed, status, error, targets: [] });
    jobs.get(job_id).targets.push(target);
  }
  return [...jobs.values()];
}
