// The form of a new evaluation as the body of the request that makes it, and back from one that is asked again.

import { jobsOf } from "./evaluation.js";
import { readLines } from "./job_form.js";
import { makeTest, testsBody } from "./test_datasets.js";

export const EMPTY_EVALUATION = {
  dataset: "",
  protocol: "domain_shift",
  testDatasets: [], // kept while another protocol is looked at
  methods: ["finetune", "clipood", "alignclip"],
  moreMethods: "",
  seeds: "0",
  model: "",
  numSteps: "",
  numShots: "",
  name: "",
  more: "",
};

export const methodsOf = (form) => [...new Set([...form.methods, ...split(form.moreMethods, "\n")])];

/** Whole numbers between commas. Others stay text, for the service to refuse by name. */
export const seedsOf = (form) => [...new Set(split(form.seeds, /[,\s]/))].map((text) => (/^\d+$/.test(text) ? Number(text) : text));

/** The datasets on which it tests: of the one protocol that has any. */
export const testsOf = (form) => (form.protocol === "dataset_shift" ? form.testDatasets : []);

/** The body of POST /v1/evaluations. Throws for a line that is no setting. */
export function evaluationBody(form) {
  return {
    name: form.name,
    protocol: form.protocol,
    dataset: form.dataset,
    methods: methodsOf(form),
    seeds: seedsOf(form),
    model: form.model,
    hyperparameters: valuesOf(form),
    test_datasets: testsBody(testsOf(form)),
    num_shots: form.numShots === "" ? undefined : Number(form.numShots),
  };
}

/** One of its jobs, to estimate what it takes; what the protocol divides is left out. */
export function firstJobBody(form) {
  const [algorithm, preset] = methodsOf(form).at(-1).split(":")[0].split("@");
  return { training_file: form.dataset, test_datasets: testsBody(testsOf(form)), model: form.model, algorithm, preset, ...valuesOf(form) };
}

/** The same question again; its hyper-parameters are in its jobs, and are given anew. */
export function evaluationFormOf(evaluation, { algorithms }) {
  const jobs = jobsOf(evaluation.cells);
  const methods = [...new Set(jobs.map(({ method }) => method))];
  return {
    ...EMPTY_EVALUATION,
    dataset: evaluation.dataset,
    protocol: evaluation.protocol,
    testDatasets: evaluation.test_datasets.map(makeTest),
    numShots: evaluation.num_shots == null ? "" : String(evaluation.num_shots),
    methods: methods.filter((name) => name in algorithms),
    moreMethods: methods.filter((name) => !(name in algorithms)).join("\n"),
    seeds: [...new Set(jobs.map(({ seed }) => seed))].join(", "),
    model: evaluation.model,
    name: evaluation.name,
  };
}

const valuesOf = (form) => ({ ...(form.numSteps === "" ? {} : { num_steps: Number(form.numSteps) }), ...readLines(form.more) });

const split = (text, mark) => text.split(mark).map((part) => part.trim()).filter(Boolean);
