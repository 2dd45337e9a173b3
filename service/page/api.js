// The server's HTTP interface as this page uses it. Every address is relative to the page, so a path prefix in
// front of the server works.

export function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) for (const each of [value].flat()) url.searchParams.append(name, each);
  return url;
}

export const sampleAddress = (model, file) =>
  address(`models/${encodeURIComponent(model)}/samples/${encodeURIComponent(file)}`);

/**
 * An answer that is not a result: RFC 9457 problem details. `lost`: there was no answer at all (status 0). `kind`: what stands
 * after # in its type, such as "busy". `retryAfter`: seconds that the server names, or null.
 */
export class Problem extends Error {
  constructor({ title, detail = "", status = 0, retryAfter = null, lost = false, kind = "" }) {
    super(title);
    Object.assign(this, { title, detail, status, retryAfter, lost, kind });
  }
}

// For answers that say nothing themselves: a proxy's, mostly.
const UNSAID = {
  404: "There is no such address on this server.",
  413: "The image is larger than the server, or a proxy in front of it, takes.",
  502: "A proxy cannot reach the server. It may be restarting.",
  503: "The server, or a proxy in front of it, cannot answer now.",
  504: "A proxy has waited for the server's answer for too long.",
};
const SAVE_AS = " Save it as JPEG or PNG, then add it again.";

/** Seconds that a Retry-After says, a number or a date; null where it says none. */
function secondsOf(header) {
  if (header === null) return null;
  const seconds = /^\s*\d+\s*$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(Math.ceil(seconds), 1) : null;
}

let modelIsGone = () => {};

/** `act()` is called when the server does not have the model that it was asked for. */
export const onModelGone = (act) => { modelIsGone = act; };

/** The Problem that an HTTP error is. */
async function problemOf(response) {
  const { status, statusText, headers } = response;
  const type = headers.get("content-type") ?? "";
  const body = (type.includes("json") ? await response.json().catch(() => null) : null) ?? {};
  const text = (value) => (typeof value === "string" ? value : "");
  const kind = text(body.type).split("#")[1] ?? "";
  const detail = text(body.detail) || UNSAID[status] || "The answer gave no reason.";
  return new Problem({
    title: text(body.title) || statusText || "The request failed",
    detail: kind === "unsupported-image" ? `${/[.!?]$/.test(detail) ? detail : `${detail}.`}${SAVE_AS}` : detail,
    status, kind, retryAfter: secondsOf(headers.get("retry-after")),
  });
}

// The API key, where the server wants one: kept for this tab alone, and only until it is closed.
const KEY = "hindsight-api-key";
const NO_KEY = "Whoever runs this server can give you one."; // the server's own words are for who writes a client
let askForKey = async () => null;

/** `ask(detail)` is called when the server wants a key; it resolves to one, or to null. */
export const onKeyNeeded = (ask) => { askForKey = ask; };
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keyHeaders = () => (hasKey() ? { "x-api-key": sessionStorage.getItem(KEY) } : {});

const noAnswer = () => (
  new Problem({ title: "No answer from the server", detail: "Check that it is still running.", lost: true }));

/**
 * fetch with the key; asks for one (unless `asks` is false) where the server wants one, or one of another role. Throws Problem
 * for whatever is not a success.
 */
export async function request(url, { asks = true, ...options } = {}) {
  let response;
  const key = sessionStorage.getItem(KEY);
  try {
    response = await fetch(url, { ...options, headers: { ...options.headers, ...keyHeaders() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw noAnswer();
  }
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (problem.kind === "model-not-found") modelIsGone();
  if (problem.status === 401 && key === null) problem.detail = NO_KEY;
  if (asks && (problem.status === 401 || problem.kind === "not-allowed")) {
    if (sessionStorage.getItem(KEY) !== key) return request(url, options); // given meanwhile, for another request
    const given = await askForKey(problem.detail);
    if (given !== null) sessionStorage.setItem(KEY, given);
    options.signal?.throwIfAborted();
    if (given !== null) return request(url, options);
  }
  throw problem;
}

/** The JSON of an answer from `path` for which `check` holds. Throws Problem where there is none. */
export async function jsonOf(response, path, check) {
  let document;
  try {
    document = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!(error instanceof SyntaxError)) throw noAnswer(); // it broke off
    document = null;
  }
  if (document !== null && check(document)) return document;
  throw new Problem({
    title: "The answer could not be used",
    detail: `It is not what ${path} answers. Does something stand between this page and the server, such as a proxy or a login?`,
  });
}

export const fetchModels = async (options) => jsonOf(
  await request(address("models"), options), "/models", ({ models }) => Array.isArray(models));

export const fetchSample = async (model, file, signal) =>
  (await request(sampleAddress(model, file), { signal })).blob();

/** A file that was changed or removed since it was added fails as a lost network does; reading it tells which it is. */
export async function checkReadable(blob) {
  try {
    await blob.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem({ title: "The file cannot be read", detail: "It was changed or removed after it was added." });
  }
}

/** The content type to send: only images are read, and what is none is told by its bytes. */
export const typeOf = (blob) => (blob?.type.startsWith("image/") ? blob.type : "application/octet-stream");

/** POST /detect with the raw bytes. Returns the answer and the milliseconds until its last byte was here. */
export async function detect(blob, query, signal) {
  const started = performance.now();
  const headers = { "content-type": typeOf(blob) };
  try {
    const response = await request(address("detect", query), { method: "POST", body: blob, headers, signal });
    const answer = await jsonOf(response, "/detect", ({ image, detections }) => image?.width > 0 && Array.isArray(detections));
    return { answer, roundTrip: performance.now() - started };
  } catch (error) {
    if (error.lost) await checkReadable(blob);
    throw error;
  }
}
