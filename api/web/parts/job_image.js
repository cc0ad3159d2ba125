// A picture of a job's dataset: fetched with the key, and not before it comes near the screen.

import { send } from "../lib/api.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";

const NEAR = "400px";

/** `onAway` gets the error where the dataset is not at hand: then its other pictures need not be asked for. */
export function JobImage({ job, path, source = "dataset", alt, onAway }) {
  const box = useRef(null);
  const [url, setUrl] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    let made = null;
    const show = async () => {
      try {
        const answer = await send("GET", `/fine_tuning/jobs/${encodeURIComponent(job.id)}/images?${new URLSearchParams({ path, source })}`, { signal: abort.signal });
        made = URL.createObjectURL(await answer.blob());
        if (!abort.signal.aborted) setUrl(made);
      } catch (error) {
        if (!abort.signal.aborted && error.code === "image_not_at_hand") onAway?.(error);
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
