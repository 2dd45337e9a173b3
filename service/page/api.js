// The server's HTTP interface as this page uses it. Every address is relative to the page, so a path prefix in
// front of the server works.

export function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return url;
}

export const sampleAddress = (model, file) =>
  address(`models/${encodeURIComponent(model)}/samples/${encodeURIComponent(file)}`);

/** An answer that is not a result: RFC 9457 problem details. `lost`: there was no answer at all (status 0). */
export class Problem extends Error {
  constructor({ title, detail = "", status = 0, retryAfter = null, lost = false }) {
    super(title);
    Object.assign(this, { title, detail, status, retryAfter, lost });
  }
}

// The API key, where the server wants one: kept for this tab alone, and only until it is closed.
const KEY = "hindsight-api-key";
let askForKey = async () => null;

/** `ask(detail)` is called when the server wants a key; it resolves to one, or to null. */
export const onKeyNeeded = (ask) => { askForKey = ask; };
export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keyHeaders = () => (hasKey() ? { "x-api-key": sessionStorage.getItem(KEY) } : {});

const noAnswer = () => (
  new Problem({ title: "No answer from the server", detail: "Check that it is still running.", lost: true }));

/** fetch with the key; asks for one where the server wants it. Throws Problem for whatever is not a success. */
export async function request(url, options = {}) {
  let response;
  const key = sessionStorage.getItem(KEY);
  try {
    response = await fetch(url, { ...options, headers: { ...options.headers, ...keyHeaders() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw noAnswer();
  }
  if (response.ok) return response;
  const type = response.headers.get("content-type") ?? "";
  const body = type.includes("json") ? await response.json().catch(() => ({})) : {};
  if (response.status === 401) {
    if (sessionStorage.getItem(KEY) !== key) return request(url, options); // given meanwhile, for another request
    const given = await askForKey(body.detail ?? "");
    options.signal?.throwIfAborted();
    if (given !== null) {
      sessionStorage.setItem(KEY, given);
      return request(url, options);
    }
  }
  throw new Problem({
    title: body.title || response.statusText || "The request failed",
    detail: body.detail ?? "The answer gave no reason.",
    status: response.status,
    retryAfter: response.headers.get("retry-after"),
  });
}

export const fetchModels = async () => (await request(address("models"))).json();

export const fetchSample = async (model, file, signal) =>
  (await request(sampleAddress(model, file), { signal })).blob();

/** A file that was changed or removed since it was added fails as a lost network does; reading it tells which it is. */
async function checkReadable(blob) {
  try {
    await blob.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem({ title: "The file cannot be read", detail: "It was changed or removed after it was added." });
  }
}

/** POST /detect with the raw bytes. Returns the answer and the milliseconds until its last byte was here. */
export async function detect(blob, query, signal) {
  const started = performance.now();
  const headers = { "content-type": blob.type || "application/octet-stream" };
  try {
    const response = await request(address("detect", query), { method: "POST", body: blob, headers, signal });
    return { answer: await response.json(), roundTrip: performance.now() - started };
  } catch (error) {
    if (error.lost) await checkReadable(blob);
    if (error instanceof Problem || error.name === "AbortError") throw error;
    if (!(error instanceof SyntaxError)) throw noAnswer(); // it broke off
    throw new Problem({ title: "The answer could not be used", detail: `Expected JSON from /detect. ${error.message}` });
  }
}
