// The form of a new job as the body of the request that makes it, and back from a job that is cloned.

import { makeTest, testsBody } from "./test_datasets.js";

export const EMPTY_FORM = {
  dataset: "",
  model: "",
  algorithm: "alignclip",
  preset: "",
  suffix: "",
  seed: "",
  length: "",
  lengthUnit: "n_epochs",
  validationFraction: "",
  templates: "",
  testDomains: [],
  unseenClasses: [],
  classNames: {},
  testDatasets: [],
  more: "",
};

/** What the dataset report and the job both need to know. */
export function dataBody(form) {
  return compact({
    model: form.model,
    class_names: Object.keys(form.classNames).length ? form.classNames : undefined,
    templates: form.templates.includes("{}") ? splitLines(form.templates) : form.templates || undefined,
    test_domains: form.testDomains,
    unseen_classes: form.unseenClasses,
    validation_fraction: form.validationFraction === "" ? undefined : Number(form.validationFraction),
    seed: form.seed === "" ? undefined : Number(form.seed),
  });
}

/** The body of POST /v1/fine_tuning/jobs. Throws for a line that is no setting. */
export function jobBody(form) {
  return {
    training_file: form.dataset,
    ...dataBody(form),
    ...compact({ test_datasets: testsBody(form.testDatasets), algorithm: form.algorithm, preset: form.preset, suffix: form.suffix, [form.lengthUnit]: form.length === "" ? undefined : Number(form.length) }),
    ...readLines(form.more),
  };
}

/** The form of a job like another one; settings that algorithm and preset bring anyway are left to them. */
export function formOf(job, { hyperparameters, presets, algorithms }) {
  const expected = { ...hyperparameters, ...presets[job.preset], ...algorithms[job.algorithm] };
  const { num_steps, ...own } = Object.fromEntries(
    Object.keys(hyperparameters)
      .filter((name) => name === "num_steps" || JSON.stringify(job.hyperparameters[name]) !== JSON.stringify(expected[name]))
      .map((name) => [name, job.hyperparameters[name]]),
  );
  return {
    ...EMPTY_FORM,
    dataset: job.training_file,
    model: job.model,
    algorithm: job.algorithm,
    preset: job.preset,
    suffix: job.suffix ?? "",
    seed: String(job.seed),
    length: String(num_steps),
    lengthUnit: "num_steps",
    templates: job.templates.join("\n"),
    testDomains: job.test_domains,
    unseenClasses: job.unseen_classes,
    classNames: job.class_names,
    testDatasets: job.test_datasets.map(makeTest),
    more: writeLines(own),
  };
}

/** `name = value` on each line; values are JSON where they can be, else text. */
export function readLines(text) {
  const found = {};
  for (const line of splitLines(text)) {
    const [, name, value] = line.match(/^(\w+)\s*[=:]\s*(.+)$/) ?? [];
    if (!name) throw new Error(`"${line}" is no setting; write a line as: smoothing = 0.2`);
    found[name] = parseValue(value.trim());
  }
  return found;
}

const writeLines = (values) =>
  Object.entries(values)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name} = ${JSON.stringify(value)}`)
    .join("\n");

function parseValue(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const splitLines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

const isGiven = (value) => value !== undefined && value !== "" && !(Array.isArray(value) && !value.length);

const compact = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => isGiven(value)));

