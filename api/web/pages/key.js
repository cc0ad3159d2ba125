// The API key: asked for once, tried at once, kept until the tab is closed.

import { ApiError, get, key } from "../lib/api.js";
import { useAction } from "../lib/hooks.js";
import { html, useState } from "../lib/html.js";
import { PageHead, Problem } from "../parts/controls.js";

export function KeyPage({ refusal, onKey }) {
  const [value, setValue] = useState("");
  const { run, isBusy, error } = useAction(async (event) => {
    event.preventDefault();
    const given = value.trim();
    if (!given) throw new ApiError(0, { message: "The field is empty; paste the key." });
    key.set(given);
    try {
      await get("/fine_tuning/jobs?limit=1");
    } catch (failure) {
      key.clear();
      throw failure;
    }
    onKey(given);
  });
  const shown = error ?? refusal;
  return html`<div class="key-page">
    <${PageHead} title="Welcome" lead="Fine-tune CLIP on your own pictures without losing other domains and untrained classes. The service asks for its API key first." />
    <form class="card stack" onSubmit=${run}>
      <div class="field">
        <label for="key">API key</label>
        <input id="key" type="password" autocomplete="current-password" spellcheck=${false} value=${value}
          aria-describedby="key-hint" onInput=${(event) => setValue(event.target.value)} />
        <span class="hint" id="key-hint">
          <code>alignclip serve</code> wrote it to the file <code>api_key</code> in its folder, as it says when it starts.
          On a shared service, ask for one; <code>alignclip keys create</code> makes it.
        </span>
      </div>
      <${Problem} error=${shown} hint=${hintOf(shown)} />
      <div><button class="button main" type="submit" aria-disabled=${isBusy}>Open</button></div>
    </form>
    <p class="small soft">The key stays in this tab: it is sent to this service alone, and is gone when the tab is closed.</p>
  </div>`;
}

function hintOf(error) {
  if (error?.status === 401) return "Compare it with the file, to the last letter; if it was revoked or has expired, ask for a new one.";
  return error?.status === 0 ? "" : undefined;
}
