// A person's boxes on one image, with undo and redo. Pure: no DOM. Lists and boxes are never changed in place.
// A box is {id, box: [x1, y1, x2, y2] in image pixels, label: class name or null}.

const MOST_STEPS = 200;
export const LEAST_SIDE = 2; // px: less is a slip of the hand

let lastId = 0;

export class BoxList {
  #past = [];
  #future = [];
  #merging = null; // what the last step did: the same again extends it instead of being a step of its own
  boxes = [];

  get canUndo() { return this.#past.length > 0; }
  get canRedo() { return this.#future.length > 0; }
  find(id) { return this.boxes.find((entry) => entry.id === id) ?? null; }

  #commit(boxes, merging = null) {
    if (merging === null || merging !== this.#merging) {
      this.#past.push(this.boxes);
      if (this.#past.length > MOST_STEPS) this.#past.shift();
    }
    this.#merging = merging;
    this.#future = [];
    this.boxes = boxes;
  }

  /** Add boxes [{box, label}] as one step; returns their ids. */
  add(items) {
    const added = items.map(({ box, label }) => ({ id: (lastId += 1), box, label }));
    if (added.length) this.#commit([...this.boxes, ...added]);
    return added.map(({ id }) => id);
  }

  /** Change fields of one box. Changes with the same `merging` are one step until `seal()`. */
  change(id, patch, merging = null) {
    this.#commit(this.boxes.map((entry) => (entry.id === id ? { ...entry, ...patch } : entry)), merging && `${merging} ${id}`);
  }

  remove(id) { this.#commit(this.boxes.filter((entry) => entry.id !== id)); }
  clear() { if (this.boxes.length) this.#commit([]); }
  seal() { this.#merging = null; }

  undo() { this.#step(this.#past, this.#future); }
  redo() { this.#step(this.#future, this.#past); }

  #step(from, to) {
    if (!from.length) return;
    to.push(this.boxes);
    this.boxes = from.pop();
    this.#merging = null;
  }
}

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
const tidy = (value) => Math.round(value * 100) / 100;

/** The box between two corners, wherever they lie to each other; null when it is a slip of the hand. */
export function boxBetween([ax, ay], [bx, by]) {
  const box = [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)].map(tidy);
  return box[2] - box[0] < LEAST_SIDE || box[3] - box[1] < LEAST_SIDE ? null : box;
}

/** Moved, and kept whole inside the image. */
export function moved([x1, y1, x2, y2], dx, dy, { width, height }) {
  const [x, y] = [clamp(x1 + dx, 0, width - (x2 - x1)), clamp(y1 + dy, 0, height - (y2 - y1))];
  return [x, y, x + x2 - x1, y + y2 - y1].map(tidy);
}

/** Resized by a handle named for the edges that it moves ("n", "se", ...). An edge pulled over its opposite stops there. */
export function resized([x1, y1, x2, y2], handle, dx, dy, { width, height }) {
  return [
    handle.includes("w") ? clamp(x1 + dx, 0, x2 - LEAST_SIDE) : x1,
    handle.includes("n") ? clamp(y1 + dy, 0, y2 - LEAST_SIDE) : y1,
    handle.includes("e") ? clamp(x2 + dx, x1 + LEAST_SIDE, width) : x2,
    handle.includes("s") ? clamp(y2 + dy, y1 + LEAST_SIDE, height) : y2,
  ].map(tidy);
}

/** A box for who draws without a pointer: a quarter of the image's sides, in its middle. */
export function middleBox({ width, height }) {
  return [0.375 * width, 0.375 * height, 0.625 * width, 0.625 * height].map(tidy);
}
