// The beginning of a JSON Lines file, which may be long.

import { send } from "./api.js";

/** The first lines of a GET, parsed; what follows is not fetched. */
export async function firstLines(path, most, signal) {
  const reader = (await send("GET", path, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let numLines = 0; numLines < most; ) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
    numLines += value.split("\n").length - 1;
  }
  await reader.cancel();
  return text.split("\n").slice(0, most).filter(Boolean).map((line) => JSON.parse(line));
}
