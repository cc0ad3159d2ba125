// Where the person is: `#/jobs/ftjob-1/classes?group=...` is {parts: ["jobs", "ftjob-1", "classes"], query}.

import { useEffect, useState } from "./html.js";

export function currentRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  return { parts: parts.length ? parts : ["jobs"], query: Object.fromEntries(new URLSearchParams(query)) };
}

/** The address of a place; parts are escaped, empty query values left out. */
export function href(parts, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value);
  const search = given.length ? `?${new URLSearchParams(given)}` : "";
  return `#/${parts.map(encodeURIComponent).join("/")}${search}`;
}

export const go = (parts, query) => (location.hash = href(parts, query));

export function useRoute() {
  const [route, setRoute] = useState(currentRoute);
  useEffect(() => {
    const update = () => setRoute(currentRoute());
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return route;
}
