// Models and the names that stand for them, in people's words.

/** The tuned ones first, newest first. */
export const sortedModels = (models) => [...models].sort((a, b) => Boolean(b.base_model) - Boolean(a.base_model) || b.created - a.created);

/** Without the base model that it was tuned from. */
export const shortName = (model) => (model.base_model ? model.id.split(":")[3] || model.job_id || model.id : model.id);

export function modelName(model) {
  const share = model.alpha == null ? "" : `, ${model.alpha} of the tuned weights`;
  return model.base_model ? `${shortName(model)} (tuned ${model.base_model}${share})` : `${model.id} (zero-shot)`;
}

/** [id, words] of each for a `Select`; those that would read alike get the ends of their ids. */
export function modelOptions(models) {
  const words = models.map(modelName);
  return models.map((model, index) => [model.id, words.indexOf(words[index]) === words.lastIndexOf(words[index]) ? words[index] : `${words[index]}, ${model.id.slice(-4)}`]);
}

/** What stands over the answers of two models, or of one: [word, model] of each, the one that is looked at last. */
export function sidesOf(model, beside) {
  if (!beside) return [[model.base_model ? "Tuned" : "Zero-shot", model]];
  if (beside.id === model.base_model) return [["Zero-shot", beside], ["Tuned", model]];
  return [beside, model].map((one) => [shortName(one), one]);
}

export const PRODUCTION = "production";
export const CANDIDATE = "candidate";
