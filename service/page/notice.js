// What the page says about the current image and the server: the status line, the banner of a problem, the countdown of a pause.
import { byId } from "./dom.js";
import { isOff } from "./fit.js";
import { currentImage, shown } from "./store.js";

let ticking = 0;

/** The banner: `problem` (Problem) or null. `until`: Date.now() milliseconds of the next try; null: the user says when. */
function showBanner(problem, until, canRetry) {
  clearInterval(ticking);
  byId("problem").hidden = !problem;
  if (!problem) return;
  const texts = {
    "problem-title": problem.title, "problem-detail": problem.detail,
    "problem-status": problem.status ? `HTTP ${problem.status}` : "",
  };
  for (const [id, text] of Object.entries(texts)) if (byId(id).textContent !== text) byId(id).textContent = text;
  byId("problem").dataset.kind = until === null ? "error" : "wait";
  byId("retry").hidden = !canRetry;
  byId("retry").textContent = until === null ? "Try again" : "Try now";
  const count = () => {
    byId("problem-wait").textContent = until === null ? "" : `next try in ${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s`;
  };
  count();
  if (until !== null) ticking = setInterval(count, 500);
}

const canRetry = ({ status }) => status === 0 || status >= 500 || status === 401 || status === 429;

export function wireNotice(store) {
  store.subscribe(() => {
    const state = store.get();
    const image = currentImage(state);
    const problem = state.pause?.problem ?? image?.error ?? null;
    const until = state.pause?.until ?? null;
    showBanner(problem, until, problem !== null && canRetry(problem));
    const status = statusOf(state, image);
    // What happens to own boxes is said by their own panel; twice would be noise to who listens.
    byId("status").setAttribute("aria-live", state.mode === "own boxes" ? "off" : "polite");
    if (byId("status").textContent !== status) byId("status").textContent = status;
    byId("stage").setAttribute("aria-busy", image?.state === "running" || image?.state === "waiting");
  }, "images", "current", "pause", "filters", "model", "mode");
}

/** Of own boxes: how many, and how many of them the model doubts to fit. */
function ownStatus({ opinion }) {
  const boxes = opinion?.boxes ?? [];
  const off = boxes.filter(({ opinion: judged }) => judged && isOff(judged)).length;
  const counted = `${boxes.length || "No"} own ${boxes.length === 1 ? "box" : "boxes"}${boxes.length ? "" : " yet"}`;
  return off ? `${counted}, ${off} off` : counted;
}

function statusOf(state, image) {
  if (state.pause) {
    if (state.pause.until === null) return "";
    return state.pause.problem.lost ? "No answer, trying again" : "The server is busy, waiting for it";
  }
  if (!image || image.state === "failed") return "";
  if (state.mode === "own boxes" && image.width) return ownStatus(image);
  if (image.state !== "done") return "Detecting…";
  const { length: count } = shown(state, image);
  return `${count} ${count === 1 ? "box" : "boxes"} in ${Math.round(image.request.roundTrip)} ms`;
}
