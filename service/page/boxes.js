// The boxes on one stage: an SVG group a detection, in image pixels; one tab stop, arrow keys move between boxes. All groups
// are made once for an answer; filters only show and hide them, so a slider stays smooth with hundreds of boxes.
import { decimals, steppedKey, svgElement } from "./dom.js";
import { fitOf, meaningOf } from "./fit.js";
import { LabelLayer } from "./labels.js";

const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);

export class BoxLayer {
  /** `handlers`, which whoever uses the layer sets: hover(key | null), select(key); `onMasks(text)`: what was wrong with masks. */
  constructor(stage, onMasks = () => {}) {
    this.handlers = { hover() {}, select() {} };
    this.onMasks = onMasks;
    this.host = stage.host;
    this.layer = stage.svg.querySelector(".detections");
    this.labels = new LabelLayer(stage, stage.svg.querySelector(".labels"));
    this.groups = new Map();
    this.items = new Map();
    this.order = [];
    this.active = this.selected = this.stop = null;
    this.inert = false;
    this.masks = null; // a MaskLayer, once there is a mask to show
    this.maskLayer = stage.svg.querySelector(".masks");
    this.#listen();
  }

  /**
   * Have these boxes: [{key, detection, colour, text, short, change}]. `key` names a box among its items, `text` is its
   * label, `short` the same for a small stage, `change` (compare mode) how its place differs between two rankings.
   */
  load(items) {
    const focused = this.#focusedKey();
    this.items = new Map(items.map((item) => [item.key, item]));
    // Small boxes are painted last, so that a box inside another one can be pointed at.
    const painted = [...items].sort((a, b) => area(b.detection.box) - area(a.detection.box));
    this.groups = new Map(painted.map((item) => [item.key, group(item)]));
    this.layer.replaceChildren(...this.groups.values());
    this.labels.load(items);
    this.order = [];
    this.active = this.selected = null;
    this.focusAfter = focused; // its box may be back after the next show()
    this.#loadMasks(items);
  }

  async #loadMasks(items) {
    this.loaded = items;
    if (!this.masks && !items.some(({ detection }) => detection.segmentation)) return;
    let trouble = "";
    try {
      const { MaskLayer } = await import("./masks.js");
      if (this.loaded !== items) return;
      this.masks ??= new MaskLayer(this.maskLayer);
      this.masks.show(new Set(this.order));
      this.masks.mark(this.active);
      const unreadable = await this.masks.load(items);
      if (unreadable) trouble = `(${unreadable} could not be read)`;
    } catch (error) {
      trouble = "(could not be loaded: reload the page)";
      reportError(error);
    }
    if (this.loaded === items) this.onMasks(trouble);
  }

  /** Show the boxes of these keys, in this reading order; hide the others. */
  show(keys) {
    const focused = this.focusAfter ?? this.#focusedKey();
    this.focusAfter = null;
    const visible = new Set(keys);
    for (const [key, node] of this.groups) node.classList.toggle("off", !visible.has(key));
    this.order = keys;
    this.labels.show(keys);
    this.masks?.show(visible);
    if (focused !== null && visible.has(focused)) this.groups.get(focused).focus({ preventScroll: true });
  }

  /** Mark one box as looked at, and one as the tab stop. */
  mark(active, selected) {
    for (const [key, name, on] of [[this.active, "active", false], [active, "active", true]]) {
      this.groups.get(key)?.classList.toggle(name, on);
    }
    this.groups.get(this.selected)?.setAttribute("aria-selected", "false");
    this.groups.get(this.stop)?.setAttribute("tabindex", "-1");
    this.stop = this.order.includes(selected) ? selected : this.order[0];
    this.groups.get(selected)?.setAttribute("aria-selected", "true");
    this.groups.get(this.stop)?.setAttribute("tabindex", this.inert ? "-1" : "0");
    this.active = active;
    this.selected = selected;
    this.labels.mark(active);
    this.masks?.mark(active);
  }

  /** While something else is worked on, the boxes are scenery: seen, but not for keys or screen readers. */
  setInert(inert) {
    if (inert) this.layer.setAttribute("aria-hidden", "true");
    else this.layer.removeAttribute("aria-hidden");
    this.inert = inert;
    this.mark(this.active, this.selected);
  }

  focus(key) {
    this.groups.get(key)?.focus({ preventScroll: true });
  }

  #focusedKey() {
    const node = document.activeElement?.closest("[data-index]");
    return node && this.layer.contains(node) ? Number(node.dataset.index) : null;
  }

  #listen() {
    const keyOf = (node) => {
      const found = node?.closest?.("[data-index]");
      return found && this.layer.contains(found) ? Number(found.dataset.index) : null;
    };
    this.layer.addEventListener("pointerover", ({ target }) => this.handlers.hover(keyOf(target)));
    this.layer.addEventListener("pointerout", ({ relatedTarget }) => {
      if (keyOf(relatedTarget) === null) this.handlers.hover(null);
    });
    this.host.addEventListener("focusin", ({ target }) => { // on an SVG element this listener would make a tab stop of it
      const key = keyOf(target);
      if (key !== null && key !== this.selected) this.handlers.select(key);
    });
    this.layer.addEventListener("click", ({ target }) => this.focus(keyOf(target)));
    this.layer.addEventListener("keydown", (event) => {
      const next = steppedKey(event, this.order, keyOf(event.target));
      if (next !== null) this.focus(next);
    });
  }
}

function group({ key, detection, colour, change }) {
  const [x1, y1, x2, y2] = detection.box;
  const rectangle = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
  const node = svgElement("g", {
    role: "option", tabindex: "-1", "aria-selected": "false", "data-index": key, "data-fit": fitOf(detection) ?? "unknown",
    "aria-label": `${detection.label}, score ${decimals(detection.score)}, ${meaningOf(detection)}`,
  });
  if (change) node.setAttribute("data-change", change);
  const edge = svgElement("rect", { ...rectangle, class: "edge" });
  edge.style.stroke = colour;
  const tint = svgElement("rect", { ...rectangle, class: "tint" });
  tint.style.fill = colour;
  node.append(tint, svgElement("rect", { ...rectangle, class: "halo" }), edge);
  return node;
}
