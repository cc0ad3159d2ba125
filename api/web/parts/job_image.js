// A picture of a job's dataset: fetched with the key, and not before it comes near the screen.

import { send } from "../lib/api.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";

const NEAR = "400px";

/** The answer with one picture. */
export const fetchImage = (job, { path, source = "dataset" }, signal) =>
  send("GET", `/fine_tuning/jobs/${encodeURIComponent(job.id)}/images?${new URLSearchParams({ path, source })}`, { signal });

/** Whether the error says that no picture of the dataset can be shown. */
export const isNotAtHand = (error) => error.code === "image_not_at_hand";

export function JobImage({ job, path, source, alt }) {
  const box = useRef(null);
  const [url, setUrl] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    let made = null;
    const show = async () => {
      try {
        const answer = await fetchImage(job, { path, source }, abort.signal);
        made = URL.createObjectURL(await answer.blob());
        if (!abort.signal.aborted) setUrl(made);
      } catch {
        // its room stays empty; the path stands beside it
      }
    };
    const watch = new IntersectionObserver(([entry], observer) => entry.isIntersecting && (observer.disconnect(), show()), { rootMargin: NEAR });
    watch.observe(box.current);
    return () => {
      abort.abort();
      watch.disconnect();
      if (made) URL.revokeObjectURL(made);
    };
  }, [job.id, path, source]);
  return html`<div class="job-image" ref=${box}>${url && html`<img src=${url} alt=${alt} />`}</div>`;
}
