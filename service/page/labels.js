// Label and score at each box, of one size whatever the zoom. Where labels would cover each other the better score keeps its
// place; zooming in makes room for the rest. The box that is looked at always has its label.
import { svgElement } from "./dom.js";

const FONT = "600 12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif";
const HEIGHT = 18; // CSS pixels
const PADDING = 5;
const STRIPE = 4; // of the class's colour
const NARROW = 520; // a stage of fewer CSS pixels has short labels: the stripe says the class

const measure = document.createElement("canvas").getContext("2d");
const widths = new Map();

function widthOf(text) {
  measure.font = FONT;
  if (!widths.has(text)) widths.set(text, Math.ceil(measure.measureText(text).width) + 2 * PADDING + STRIPE);
  return widths.get(text);
}

const overlap = (a, b) => (
  a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + HEIGHT && b.y < a.y + HEIGHT);

export class LabelLayer {
  constructor(stage, layer) {
    this.stage = stage;
    this.layer = layer;
    this.nodes = new Map();
    this.order = [];
    this.all = true;
    this.active = null;
    this.frame = 0;
    this.narrow = false; // a small stage: short texts
    stage.onView(() => this.#placeSoon());
  }

  load(items) {
    this.items = new Map(items.map((item) => [item.key, item]));
    this.nodes = new Map(items.map((item) => [item.key, label(item)]));
    this.#write();
    this.layer.replaceChildren(...this.nodes.values());
    this.active = null;
  }

  /** Label these boxes, the first ones first. */
  show(keys) {
    this.order = keys;
    this.#placeSoon();
  }

  /** Whether all boxes have labels, or only the active one. */
  setAll(all) {
    this.all = all;
    this.#placeSoon();
  }

  mark(active) {
    if (active === this.active) return;
    this.nodes.get(this.active)?.classList.remove("active");
    const node = this.nodes.get(active);
    node?.classList.add("active");
    if (node) this.layer.append(node); // painted last
    this.active = active;
    this.#placeSoon();
  }

  #placeSoon() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.#place();
    });
  }

  /** The texts, long or short, and their backgrounds. */
  #write() {
    for (const [key, node] of this.nodes) {
      const text = this.#textOf(key);
      node.querySelector("text").textContent = text;
      node.querySelector(".label-back").setAttribute("width", widthOf(text));
    }
  }

  #textOf(key) {
    const { text, short } = this.items.get(key);
    return this.narrow ? short : text;
  }

  #place() {
    const { view } = this.stage;
    const narrow = view !== undefined && view.width / view.pixel < NARROW;
    if (narrow !== this.narrow) {
      this.narrow = narrow;
      this.#write();
    }
    const wanted = new Set(this.order.includes(this.active) ? [this.active] : []);
    if (this.all) for (const key of this.order) wanted.add(key);
    for (const [key, node] of this.nodes) node.classList.toggle("off", !wanted.has(key));
    if (!view) return;
    const { pixel } = view;
    const placed = [];
    for (const key of wanted) {
      const { detection: { box: [x1, y1, x2, y2] } } = this.items.get(key);
      const node = this.nodes.get(key);
      const width = widthOf(this.#textOf(key));
      const [left, top] = [(x1 - view.x) / pixel, (y1 - view.y) / pixel];
      const [right, bottom] = [(x2 - view.x) / pixel, (y2 - view.y) / pixel];
      const outside = right < 0 || bottom < 0 || left > view.width / pixel || top > view.height / pixel;
      // Above the box; inside it where the stage ends. Never further right than the stage.
      const spot = {
        x: Math.max(Math.min(left, view.width / pixel - width), 0),
        y: top >= HEIGHT ? top - HEIGHT : Math.max(top, 0),
        width,
      };
      const hidden = outside || (key !== this.active && placed.some((other) => overlap(spot, other)));
      node.classList.toggle("off", hidden);
      if (hidden) continue;
      placed.push(spot);
      node.setAttribute("transform", `translate(${view.x + spot.x * pixel} ${view.y + spot.y * pixel}) scale(${pixel})`);
    }
  }
}

function label({ key, colour, change }) {
  const node = svgElement("g", { class: "label off", "data-label": key });
  if (change) node.setAttribute("data-change", change);
  const stripe = svgElement("rect", { width: STRIPE, height: HEIGHT, rx: 1 });
  stripe.style.fill = colour;
  const words = svgElement("text", { x: STRIPE + PADDING, y: 13 });
  node.append(svgElement("rect", { class: "label-back", height: HEIGHT, rx: 2 }), stripe, words);
  return node;
}
