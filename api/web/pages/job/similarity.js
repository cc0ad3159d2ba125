// The matrix that the job takes its soft targets from.

import { useGet } from "../../lib/hooks.js";
import { html } from "../../lib/html.js";
import { Card, Placeholder, Problem } from "../../parts/controls.js";
import { SimilarityMap } from "../../parts/similarity_map.js";

export function SimilarityTab({ job }) {
  const { data, error } = useGet(`/fine_tuning/jobs/${encodeURIComponent(job.id)}/similarity`);
  return html`<${Card} title="Class similarity" note="cosine of the class names as the text tower reads them; the soft targets of training come from it">
    <${Problem} error=${error} />
    ${data ? html`<${SimilarityMap} labels=${data.class_names} matrix=${data.cosine} />` : !error && html`<${Placeholder} height=${560} />`}
  <//>`;
}
