// Gets every image that waits detected: a few at a time, the one on the stage first. What passes by itself (a full server,
// a lost network, a key that is not enough) pauses the whole queue and loses nothing; what is the image's own fault stays with
// that image.
import { Problem, detect, fetchSample } from "./api.js";
import { canRetry, isPassing, waitFor } from "./patience.js";
import { sentQuery } from "./query.js";
import { currentImage, imageOf, updateImage } from "./store.js";

const MOST_AT_ONCE = 3; // enough to keep a fast server busy while it decodes, few enough to stay out of other callers' way
const QUICK_MS = 1000; // what all that are asked at once should take: a slow server is asked for one image after the other

export class DetectionQueue {
  /** `outdated()` is called when an answer is of another version of the model than the one that is known. */
  constructor(store, outdated) {
    this.store = store;
    this.outdated = outdated;
    this.running = new Map(); // image id -> AbortController
    this.atOnce = 1; // until it is known how fast the server is
    this.pauses = 0; // in a row, with no answer between them
    store.subscribe(() => this.#pump(), "images", "current", "pause", "model");
    addEventListener("online", () => { if (store.get().pause?.problem.lost) this.resume(); });
  }

  /** Ask for every image again, because what is asked has changed. What was refused would be refused again. */
  restart() {
    this.abort();
    const images = this.store.get().images.map((image) => (image.state === "failed" ? image : { ...image, state: "waiting" }));
    this.store.set({ images });
  }

  /** Ask for one image again. */
  retry(id) {
    updateImage(this.store, id, { state: "waiting", error: null });
  }

  /** Ask again for all images that failed, but for those whose file is at fault. */
  retryAll() {
    const again = ({ state, error }) => state === "failed" && canRetry(error);
    this.store.set({
      images: this.store.get().images.map((image) => (again(image) ? { ...image, state: "waiting", error: null } : image)),
    });
  }

  /** Drop what is on its way, and ask for nothing until `resume`. */
  stop() {
    this.abort();
    const images = this.store.get().images.map((image) => (image.state === "running" ? { ...image, state: "waiting" } : image));
    this.store.set({ images, pause: { problem: new Problem({ title: "Stopped by the user" }), until: null, stopped: true } });
  }

  /** Ask for nothing until the time that `problem` names, or, if it names none, until `resume`. */
  hold(problem) {
    if (this.store.get().pause) return;
    const wait = waitFor(problem, this.pauses);
    this.atOnce = 1;
    this.pauses += 1;
    if (wait === null) {
      this.store.set({ pause: { problem, until: null } });
      return;
    }
    const pause = { problem, until: Date.now() + 1000 * wait };
    this.store.set({ pause });
    setTimeout(() => { if (this.store.get().pause === pause) this.store.set({ pause: null }); }, 1000 * wait);
  }

  /** End a pause now. */
  resume() {
    this.pauses = 0;
    this.store.set({ pause: null });
  }

  /** Drop all answers on their way. The images they were for have to be set waiting. */
  abort() {
    for (const controller of this.running.values()) controller.abort();
    this.running.clear();
  }

  #pump() {
    const state = this.store.get();
    for (const [id, controller] of this.running) {
      if (imageOf(state, id)) continue;
      controller.abort(); // the image was removed
      this.running.delete(id);
    }
    if (!state.model) return;
    const waiting = state.images.filter((image) => image.state === "waiting" && !this.running.has(image.id));
    if (state.pause?.stopped && !waiting.length) this.resume();
    if (state.pause) return;
    const first = currentImage(state);
    if (waiting.includes(first)) waiting.unshift(first);
    for (const image of new Set(waiting)) {
      if (this.running.size >= this.atOnce) return;
      this.#run(image);
    }
  }

  async #run({ id, sample, blob: known }) {
    const { store } = this;
    const state = store.get();
    const controller = new AbortController();
    const { signal } = controller;
    this.running.set(id, controller);
    updateImage(store, id, { state: "running", error: null });
    try {
      let blob = known;
      if (!blob) {
        blob = await fetchSample(state.model.name, sample, signal);
        signal.throwIfAborted();
        updateImage(store, id, { blob, url: URL.createObjectURL(blob) });
      }
      const query = sentQuery(state);
      const { answer, roundTrip } = await detect(blob, query, signal);
      signal.throwIfAborted();
      this.pauses = 0;
      this.atOnce = Math.min(Math.max(Math.floor(QUICK_MS / roundTrip), 1), MOST_AT_ONCE);
      const { model, version, image: { width, height }, detections, timings_ms: timings } = answer;
      const request = { query, model, version, timings, roundTrip };
      updateImage(store, id, { state: "done", width, height, detections, request });
      if (version !== state.model.version) this.outdated();
    } catch (error) {
      if (signal.aborted) return; // restarted, or removed: the queue has forgotten this run
      const problem = error instanceof Problem
        ? error : new Problem({ title: "The answer could not be used", detail: `${error}` });
      if (isPassing(problem)) {
        updateImage(store, id, { state: "waiting" });
        this.hold(problem);
      } else {
        updateImage(store, id, { state: "failed", error: problem, detections: null });
      }
    } finally {
      if (this.running.get(id) === controller) {
        this.running.delete(id);
        this.#pump();
      }
    }
  }
}
