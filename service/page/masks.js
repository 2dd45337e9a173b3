// Masks: COCO's run-length codes as outlines that SVG and canvas fill alike, and the layer that shows them under the boxes.
// Loaded with the first answer that has some.
import { svgElement } from "./dom.js";

const SLICE_MS = 8; // of outlines at a time: between slices the page answers to hands and draws
const broken = (why) => new Error(`no run-length code: ${why}`);

/** The numbers of COCO's compressed counts: five bits a character, the sixth says that the number goes on. */
function expanded(text) {
  const counts = [];
  for (let at = 0; at < text.length;) {
    let [value, unit, bits] = [0, 1, 32];
    for (; bits & 32; unit *= 32, at += 1) {
      bits = text.charCodeAt(at) - 48;
      if (!(bits >= 0 && bits < 64) || unit > 2 ** 50) throw broken("a number does not end"); // NaN: nor does the text
      value += (bits & 31) * unit;
    }
    if (bits & 16) value -= unit; // the last five bits have the sign
    counts.push(counts.length > 2 ? value + counts.at(-2) : value);
  }
  return counts;
}

/** Columns of the image -> where, going down, the object begins and ends in them, in turn. */
function columnsOf({ size, counts }) {
  const [height, width] = size ?? [];
  const runs = typeof counts === "string" ? expanded(counts) : counts;
  if (!Array.isArray(runs) || !runs.every((run) => Number.isInteger(run) && run >= 0)) throw broken("counts are no runs");
  if (runs.reduce((sum, run) => sum + run, 0) !== height * width) throw broken("the runs do not cover the image");
  const columns = new Map();
  let position = 0;
  for (const [index, run] of runs.entries()) {
    const end = position + run;
    while (index % 2 && position < end) {
      const column = Math.floor(position / height);
      const stop = Math.min(end, (column + 1) * height);
      const ends = columns.get(column) ?? [];
      const [top, bottom] = [position - column * height, stop - column * height];
      if (ends.at(-1) === top) ends[ends.length - 1] = bottom; // a background of no pixels was between the two
      else ends.push(top, bottom);
      columns.set(column, ends);
      position = stop;
    }
    position = end;
  }
  return columns;
}

/** What stands in just one of two rising lists, rising. */
function different(a, b) {
  const found = [];
  for (let [i, j] = [0, 0]; i < a.length || j < b.length;) {
    if (a[i] === b[j]) [i, j] = [i + 1, j + 1];
    else if (j === b.length || a[i] < b[j]) found.push(a[i++]);
    else found.push(b[j++]);
  }
  return found;
}

/**
 * SVG path data around the pixels of a mask, in image pixels, for the fill rule evenodd; "" around none. `code`: COCO's
 * {size: [height, width], counts}, compressed (text) or not (numbers). Throws Error for anything else.
 */
export function outlineOf(code) {
  const columns = columnsOf(code);
  if (!columns.size) return "";
  const key = (x, y) => x * (code.size[0] + 1) + y;
  const [down, across] = [new Map(), new Map()]; // corner -> y, or x, of the corner that an edge leads to
  const begun = new Map(); // y -> the x from which an edge goes right
  let before = [];
  const last = Math.max(...columns.keys());
  for (let x = Math.min(...columns.keys()); x <= last + 1; x += 1) {
    const here = columns.get(x) ?? [];
    const corners = different(before, here); // where two columns differ: edges go down, and those going right begin or end
    for (let i = 0; i < corners.length; i += 2) {
      down.set(key(x, corners[i]), corners[i + 1]).set(key(x, corners[i + 1]), corners[i]);
    }
    for (const y of corners) {
      if (begun.has(y)) {
        across.set(key(begun.get(y), y), x).set(key(x, y), begun.get(y));
        begun.delete(y);
      } else begun.set(y, x);
    }
    before = here;
  }
  let path = "";
  for (const start of down.keys()) { // what a loop has taken is not met again
    let [x, y] = [Math.floor(start / (code.size[0] + 1)), start % (code.size[0] + 1)];
    path += `M${x} ${y}`;
    while (down.has(key(x, y))) {
      const next = down.get(key(x, y));
      down.delete(key(x, y));
      down.delete(key(x, next));
      x = across.get(key(x, next));
      y = next;
      path += `V${y}H${x}`;
    }
    path += "z";
  }
  return path;
}

const known = new WeakMap(); // code -> outline: modes and exports show the same masks again

export function knownOutline(code) {
  if (!known.has(code)) known.set(code, outlineOf(code));
  return known.get(code);
}

const breath = () => new Promise((resolve) => { setTimeout(resolve); });

export class MaskLayer {
  #nodes = new Map(); // key -> path
  #items = null;
  #visible = new Set();
  #active = null;

  constructor(layer) {
    this.layer = layer;
  }

  /** Draw the masks of `items` (see BoxLayer.load), a few at a time; resolves to how many could not be read. */
  async load(items) {
    this.#items = items;
    this.#nodes = new Map();
    this.layer.replaceChildren();
    let unreadable = 0;
    let until = 0;
    // The strongest last: where masks overlap it is the one that is seen.
    for (const item of items.filter(({ detection }) => detection.segmentation).sort((a, b) => a.detection.score - b.detection.score)) {
      if (performance.now() > until) {
        await breath();
        if (this.#items !== items) return 0; // others are wanted now
        until = performance.now() + SLICE_MS;
      }
      try {
        this.#add(item);
      } catch {
        unreadable += 1;
      }
    }
    return unreadable;
  }

  #add({ key, detection, colour, change }) {
    const node = svgElement("path", { class: "mask", "data-mask": key, d: knownOutline(detection.segmentation), "fill-rule": "evenodd" });
    if (change) node.setAttribute("data-change", change);
    node.style.fill = colour;
    node.style.stroke = colour;
    this.#nodes.set(key, node);
    node.classList.toggle("off", !this.#visible.has(key));
    node.classList.toggle("active", this.#active === key);
    this.layer.append(node);
  }

  /** Show the masks of the boxes that are shown, a Set of keys. */
  show(visible) {
    this.#visible = visible;
    for (const [key, node] of this.#nodes) node.classList.toggle("off", !visible.has(key));
  }

  mark(active) {
    this.#nodes.get(this.#active)?.classList.remove("active");
    this.#nodes.get(active)?.classList.add("active");
    this.#active = active;
  }
}
