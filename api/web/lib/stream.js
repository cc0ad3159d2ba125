// Server-sent events read by fetch, so that the key stands in a header and never in an address.

import { send } from "./api.js";

const LONGEST_WAIT_SECONDS = 10;

/**
 * Read a job's stream until the job has ended, and again from where it broke off.
 *
 * `onMessage(name, data)` gets each message, `onConnection(isConnected)` tells whether news can come. `lastEventId`
 * begins behind a message. Errors that another try would not mend are thrown; `signal` ends it without one.
 */
export async function followJob(jobId, { signal, onMessage, onConnection = () => {}, lastEventId = "" }) {
  let numFailures = 0;
  while (!signal.aborted) {
    try {
      const headers = lastEventId ? { "last-event-id": lastEventId } : {};
      const response = await send("GET", `/fine_tuning/jobs/${encodeURIComponent(jobId)}/stream`, { headers, signal });
      onConnection(true);
      numFailures = 0;
      let last = null;
      for await (const message of messagesOf(response.body)) {
        if (message.id) lastEventId = message.id;
        if (!message.data) continue;
        last = { name: message.event, data: JSON.parse(message.data) };
        onMessage(last.name, last.data);
      }
      if (last?.name === "job" && isFinished(last.data)) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    }
    onConnection(false);
    numFailures += 1;
    await wait(Math.min(2 ** numFailures / 2, LONGEST_WAIT_SECONDS), signal);
  }
}

/** An id for `lastEventId` that leaves out the numbers up to a step. */
export const behindStep = (step) => `ftevent-0.${step}.${step}`;

export const isFinished = (job) => ["succeeded", "failed", "cancelled"].includes(job.status);

async function* messagesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) yield parse(block);
  }
}

function parse(block) {
  const message = { event: "message", id: "", data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 1) continue; // a comment that keeps the connection open
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
    if (name === "data") message.data += (message.data && "\n") + value;
    else if (name in message) message[name] = value;
  }
  return message;
}

const wait = (seconds, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
