// What the page says about the current image and the server: the status line, the banner of a problem, the countdown of a pause.
import { byId } from "./dom.js";
import { isOff } from "./fit.js";
import { canRetry } from "./patience.js";
import { currentImage, shown } from "./store.js";

const GO_ON = "Go on"; // after the user's own Stop
const SAID_MS = 6000; // how long a line stays that is about something that was just done

let ticking = 0;
let said = { text: "", until: 0, timer: 0 };
let refresh = () => {};

/** Say one line about what was just done; after a while the line is about the image again. */
export function say(text) {
  clearTimeout(said.timer);
  said = { text, until: Date.now() + SAID_MS, timer: setTimeout(() => refresh(), SAID_MS) };
  refresh();
}

/**
 * The banner: `problem` (Problem) or null. `until`: Date.now() milliseconds of the next try; null: the user says when. `button`: what
 * the button to try again says; null: there is none.
 */
function showBanner(problem, until, button) {
  clearInterval(ticking);
  byId("problem").hidden = !problem;
  if (!problem) return;
  const texts = {
    "problem-title": problem.title, "problem-detail": problem.detail,
    "problem-status": problem.status ? `HTTP ${problem.status}` : "",
  };
  for (const [id, text] of Object.entries(texts)) if (byId(id).textContent !== text) byId(id).textContent = text;
  byId("problem").dataset.kind = until === null && button !== GO_ON ? "error" : "wait";
  byId("retry").hidden = button === null;
  if (button !== null) byId("retry").textContent = button;
  const count = () => {
    byId("problem-wait").textContent = until === null ? "" : `next try in ${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s`;
  };
  count();
  if (until !== null) ticking = setInterval(count, 500);
}

function waitingText({ images }) {
  const { length: count } = images.filter(({ state }) => state === "waiting");
  return `${count} ${count === 1 ? "image waits" : "images wait"}.`;
}

export function wireNotice(store) {
  refresh = () => {
    const state = store.get();
    const { pause } = state;
    const image = currentImage(state);
    const until = pause?.until ?? null;
    if (pause?.stopped) {
      showBanner({ ...pause.problem, title: "Stopped", detail: waitingText(state) }, null, GO_ON);
    } else {
      const problem = pause?.problem ?? image?.error ?? null;
      const helps = pause || (problem && canRetry(problem));
      showBanner(problem, until, helps ? (until === null ? "Try again" : "Try now") : null);
    }
    const status = Date.now() < said.until ? said.text : statusOf(state, image);
    // What happens to own boxes is said by their own panel; twice would be noise to who listens.
    byId("status").setAttribute("aria-live", state.mode === "own boxes" ? "off" : "polite");
    if (byId("status").textContent !== status) byId("status").textContent = status;
    byId("stage").setAttribute("aria-busy", image?.state === "running" || image?.state === "waiting");
  };
  store.subscribe(() => refresh(), "images", "current", "pause", "filters", "model", "mode");
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
