// Requests to the API with the person's key, and errors in words that say what to do.

const KEY = "alignclip-key"; // in sessionStorage: it ends with the tab

let whenKeyRefused = () => {};

export class ApiError extends Error {
  constructor(status, { message, code = null, param = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

/** Tells who shall ask for another key when the API refuses this one. */
export function onKeyRefused(callback) {
  whenKeyRefused = callback;
}

/** GET a path below /v1, as JSON. */
export const get = async (path, options) => (await send("GET", path, options)).json();

/** POST JSON or a form to a path below /v1; the JSON that comes back. */
export const post = async (path, body, options) => (await send("POST", path, { body, ...options })).json();

/** GET a path below /v1, as text. */
export const getText = async (path, options) => (await send("GET", path, options)).text();

/** The answer of a request that succeeded. Throws an `ApiError`, or an AbortError where `signal` ended it. */
export async function send(method, path, { body, headers = {}, signal } = {}) {
  const given = key.get();
  if (!given) throw new ApiError(401, { message: "Another API key is asked for first.", code: "no_key" });
  const isForm = body instanceof FormData;
  let response;
  try {
    response = await fetch(`/v1${path}`, {
      method,
      signal,
      headers: {
        authorization: `Bearer ${given}`,
        ...(body !== undefined && !isForm ? { "content-type": "application/json" } : {}),
        ...headers,
      },
      body: body === undefined || isForm ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, {
      message: "The service does not answer. Is it still running? Look where you started it, then try again.",
      code: "unreachable",
    });
  }
  if (response.ok) return response;
  const error = new ApiError(response.status, await readError(response));
  if (response.status === 401 && given === key.get()) whenKeyRefused(error);
  throw error;
}

async function readError(response) {
  const body = await response.json().catch(() => null);
  const error = body?.error;
  if (typeof error === "string") return { message: error };
  return error?.message ? error : { message: `The service answered ${response.status} ${response.statusText}.` };
}

/** What a person can do about an error, in one sentence; "" where its message says it all. */
export function hintFor(error) {
  if (error.status === 429) return "Wait a moment, then try again.";
  if (error.status === 403) return "Ask whoever runs the service for a key that may do this.";
  if (error.status === 404 && error.code === "not_found") return "This service is older than the page's function.";
  if (error.status >= 500) return "Try again; if it stays, the service's log says why.";
  return "";
}

/** Upload a form with its progress from 0 to 1; fetch cannot tell it. */
export function upload(path, form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/v1${path}`);
    request.setRequestHeader("authorization", `Bearer ${key.get() ?? ""}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onerror = () =>
      reject(new ApiError(0, { message: "The upload broke off. Check the connection, then drop the file again." }));
    request.onload = () => {
      if (request.status < 300) return resolve(request.response);
      const error = request.response?.error ?? { message: `The service answered ${request.status}.` };
      const refused = new ApiError(request.status, error);
      if (request.status === 401) whenKeyRefused(refused);
      reject(refused);
    };
    request.send(form);
  });
}
