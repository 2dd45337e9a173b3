// What the model thinks of a person's boxes: asking POST /rescore, and saying it in words. No DOM.
import { decimals } from "./dom.js";
import { isOff, meaningOf } from "./fit.js";
import { isPassing, waitFor } from "./patience.js";

const NOTHING_THERE = 0.1; // best class score below which the model sees none of its classes in the box
const NEAR = 0.1; // IoU with a box of the model's from which it is about the same thing
const SURE = 0.5; // class score from which another class than the given one is worth a word
const COUNT_MS = 1000; // between looks at the clock of a wait
const WAIT_MS = 300; // after an edit: who still drags or types is not done

export function iouOf([ax1, ay1, ax2, ay2], [bx1, by1, bx2, by2]) {
  const shared = Math.max(0, Math.min(ax2, bx2) - Math.max(ax1, bx1)) * Math.max(0, Math.min(ay2, by2) - Math.max(ay1, by1));
  return shared ? shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared) : 0;
}

/** The model's own box that overlaps most with `box`: {detection, overlap}, or null where none does. */
export function nearestOf(box, detections) {
  let best = null;
  for (const detection of detections ?? []) {
    const overlap = iouOf(box, detection.box);
    if (overlap > (best?.overlap ?? 0)) best = { detection, overlap };
  }
  return best;
}

/** The class that the model would rather give, or null. */
export function otherClass(label, opinion) {
  const given = opinion.class_scores[label];
  return label !== null && opinion.label !== label && opinion.class_score >= SURE && opinion.class_score > (given ?? 0)
    ? opinion.label : null;
}

/**
 * Whether the model sees nothing in the box: no class scores, and no box of its own is near. (A low class score alone says
 * little: of a box that is badly placed on its object, the classifier says background, too.)
 */
export const seesNothing = (opinion, nearest) => opinion.class_score < NOTHING_THERE && (nearest?.overlap ?? 0) < NEAR;

/** One plain line about a box of class `label`; `nearest`: see nearestOf. */
export function remarkOf(label, opinion, nearest) {
  if (seesNothing(opinion, nearest)) {
    return `may be no object: the best class is ${opinion.label} ${decimals(opinion.class_score)}`;
  }
  const other = otherClass(label, opinion);
  const doubt = other && `may be a different class: ${other} ${decimals(opinion.class_score)}`;
  if (!doubt) return meaningOf(opinion);
  return isOff(opinion) ? `${meaningOf(opinion)}; ${doubt}` : doubt;
}

const byIoU = (a, b) => (a.opinion?.iou ?? 2) - (b.opinion?.iou ?? 2) || a.entry.id - b.entry.id;

/** How much the model doubts a row's class: the lead of its own choice over the given class; below 0 where it agrees. */
function doubtOf({ entry, opinion }) {
  if (!opinion) return -2;
  const given = opinion.class_scores[entry.label] ?? 0;
  return otherClass(entry.label, opinion) ? opinion.class_score - given : -1;
}

/** Orders of rows {entry, opinion}; those without an opinion yet come last. */
export const ORDERS = {
  fit: (rows) => [...rows].sort(byIoU),
  class: (rows) => [...rows].sort((a, b) => doubtOf(b) - doubtOf(a) || byIoU(a, b)),
};

const keyOf = (box) => box.join();

/**
 * Opinions by model, image and box, asked for when they are missing. `ask(image, boxes, signal)` -> [opinion] speaks HTTP;
 * `changed()` is called when something is new, `ticked()` while a wait is counted down. A `refresh` that wants something else
 * ends the one before it.
 */
export class Opinions {
  #known = new Map(); // `${model} ${image id}` -> Map(box key -> opinion)
  #pending = new AbortController();
  #timer = 0;
  #wanted = "";
  busy = false;
  waiting = null; // {until (Date.now() milliseconds), lost}, while a server that could not answer is given time
  #hurry = () => {}; // ends such a wait
  problem = null;

  constructor({ ask, changed, ticked = changed }) {
    Object.assign(this, { ask, changed, ticked });
    addEventListener("online", () => this.#hurry());
  }

  of(model, imageId, box) { return this.#known.get(`${model} ${imageId}`)?.get(keyOf(box)) ?? null; }

  #keep(model, imageId, box, opinion) {
    const key = `${model} ${imageId}`;
    if (!this.#known.has(key)) this.#known.set(key, new Map());
    this.#known.get(key).set(keyOf(box), opinion);
  }

  /** Ask for what is missing of `jobs` [{image, boxes: [[x1, y1, x2, y2]]}], in order; `most` boxes fit into one request. */
  refresh(model, jobs, most, { force = false, soon = false } = {}) {
    const wanted = JSON.stringify([model, ...jobs.map(({ image, boxes }) => [image.id, boxes])]);
    if (wanted === this.#wanted && !force) return; // under way, or done, or failed and said so
    this.#wanted = wanted;
    this.#pending.abort();
    clearTimeout(this.#timer);
    const missing = jobs
      .map(({ image, boxes }) => ({ image, boxes: boxes.filter((box) => !this.of(model, image.id, box)) }))
      .filter(({ boxes }) => boxes.length);
    Object.assign(this, { busy: missing.length > 0, waiting: null, problem: null });
    this.changed();
    if (!this.busy) return;
    this.#pending = new AbortController();
    const { signal } = this.#pending;
    this.#timer = setTimeout(() => this.#run(model, missing, most, signal), soon ? 0 : WAIT_MS);
  }

  /** Nobody looks any more: what is under way ends, and the next `refresh` begins anew. */
  stop() {
    this.#wanted = "";
    this.#pending.abort();
    clearTimeout(this.#timer);
    Object.assign(this, { busy: false, waiting: null, problem: null });
  }

  async #run(model, missing, most, signal) {
    try {
      for (const { image, boxes } of missing) {
        for (let at = 0; at < boxes.length; at += most) {
          const part = boxes.slice(at, at + most);
          const answers = await this.#patiently(() => this.ask(image, part, signal), signal);
          if (signal.aborted) return;
          part.forEach((box, index) => this.#keep(model, image.id, box, answers[index]));
          this.changed();
        }
      }
      this.busy = false;
    } catch (error) {
      if (signal.aborted) return;
      this.busy = false;
      this.problem = error;
    }
    this.changed();
  }

  async #patiently(work, signal) {
    for (let tries = 0; ; tries += 1) {
      try {
        return await work();
      } catch (error) {
        const seconds = isPassing(error) ? waitFor(error, tries) : null;
        if (signal.aborted || seconds === null) throw error;
        this.waiting = { until: Date.now() + 1000 * seconds, lost: error.lost };
        const counting = setInterval(this.ticked, COUNT_MS);
        this.changed();
        await new Promise((resolve) => {
          this.#hurry = resolve;
          setTimeout(resolve, 1000 * seconds);
          signal.addEventListener("abort", resolve, { once: true });
        });
        clearInterval(counting);
        signal.throwIfAborted();
        this.waiting = null;
        this.changed();
      }
    }
  }
}
