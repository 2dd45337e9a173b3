// The server's HTTP interface as this page uses it. Every address is relative to the page, so a path prefix in
// front of the server works.

export function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return url;
}

export const sampleAddress = (model, file) =>
  address(`models/${encodeURIComponent(model)}/samples/${encodeURIComponent(file)}`);

/** An answer that is not a result: RFC 9457 problem details, or no answer at all (status 0). */
export class Problem extends Error {
  constructor({ title, detail = "", status = 0, retryAfter = null }) {
    super(title);
    Object.assign(this, { title, detail, status, retryAfter });
  }
}

// The API key, where the server wants one: kept for this tab alone, and only until it is closed.
const KEY = "hindsight-api-key";
let askForKey = async () => null;

/** `ask(detail)` is called when the server wants a key; it resolves to one, or to null. */
export const onKeyNeeded = (ask) => { askForKey = ask; };
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

async function answerOf(url, options = {}) {
  let response;
  const key = sessionStorage.getItem(KEY);
  const sent = key === null ? options : { ...options, headers: { ...options.headers, "x-api-key": key } };
  try {
    response = await fetch(url, sent);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "No answer from the server", detail: "Check that it is still running, then try again." });
  }
  if (response.ok) return response;
  const type = response.headers.get("content-type") ?? "";
  const body = type.includes("json") ? await response.json().catch(() => ({})) : {};
  if (response.status === 401) {
    const given = await askForKey(body.detail ?? "");
    options.signal?.throwIfAborted();
    if (given !== null) {
      sessionStorage.setItem(KEY, given);
      return answerOf(url, options);
    }
  }
  throw new Problem({
    title: body.title || response.statusText || "The request failed",
    detail: body.detail ?? "The answer gave no reason.",
    status: response.status,
    retryAfter: response.headers.get("retry-after"),
  });
}

export const fetchModels = async () => (await answerOf(address("models"))).json();

export const fetchSample = async (model, file, signal) =>
  (await answerOf(sampleAddress(model, file), { signal })).blob();

/** POST /detect with the raw bytes. Returns the answer and the milliseconds until its last byte was here. */
export async function detect(blob, query, signal) {
  const started = performance.now();
  const headers = { "content-type": blob.type || "application/octet-stream" };
  const response = await answerOf(address("detect", query), { method: "POST", body: blob, headers, signal });
  const answer = await response.json();
  return { answer, roundTrip: performance.now() - started };
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

/** The shell command that asks for what the page shows. A sample is fetched first, so that the command runs as it is. */
export function curlCommand(source, query) {
  const target = quoted(address("detect", query));
  const secret = hasKey() ? ' -H "X-API-Key: $HINDSIGHT_API_KEY"' : "";
  const header = `-H ${quoted(`Content-Type: ${source.type}`)}${secret}`;
  if (source.address) return `curl -s${secret} ${quoted(source.address)} |\n  curl -s --data-binary @- ${header} \\\n  ${target}`;
  return `curl -s --data-binary ${quoted(`@${source.name}`)} ${header} \\\n  ${target}`;
}
