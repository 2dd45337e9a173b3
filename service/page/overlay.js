// The boxes over the photo: one SVG group a detection, in image pixels; one tab stop, arrow keys move between boxes.
import { byId, decimals, steppedKey, svgElement } from "./dom.js";
import { fitOf, meaningOf } from "./fit.js";

const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);

export class Overlay {
  /** `handlers`: hover(index | null), select(index). */
  constructor(handlers) {
    this.handlers = handlers;
    this.svg = byId("boxes");
    this.tag = byId("tag");
    this.order = [];
    this.groups = new Map();
    this.svg.addEventListener("keydown", (event) => this.#step(event));
    new ResizeObserver(() => this.#placeTag()).observe(this.svg);
  }

  /** Draw `items` ([{index, detection, colour}], in reading order) over an image of `size`. */
  draw(items, size) {
    const focused = document.activeElement?.closest("#boxes g")?.dataset.index;
    this.svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
    this.order = items.map((item) => item.index);
    this.items = new Map(items.map((item) => [item.index, item]));
    // Small boxes are painted last, so that a box inside another one can be pointed at.
    const painted = [...items].sort((a, b) => area(b.detection.box) - area(a.detection.box));
    this.groups = new Map(painted.map((item) => [item.index, this.#group(item)]));
    this.svg.replaceChildren(...this.groups.values());
    if (focused !== undefined) this.groups.get(Number(focused))?.focus();
  }

  #group({ index, detection, colour }) {
    const [x1, y1, x2, y2] = detection.box;
    const rectangle = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
    const fit = fitOf(detection);
    const group = svgElement("g", {
      role: "option", tabindex: "-1", "data-index": index, "data-fit": fit ?? "unknown",
      "aria-label": `${detection.label}, score ${decimals(detection.score)}, ${meaningOf(detection)}`,
    });
    const edge = svgElement("rect", { ...rectangle, class: "edge" });
    edge.style.stroke = colour;
    const tint = svgElement("rect", { ...rectangle, class: "tint" });
    tint.style.fill = colour;
    group.append(tint, svgElement("rect", { ...rectangle, class: "halo" }), edge);
    group.addEventListener("pointerenter", () => this.handlers.hover(index));
    group.addEventListener("pointerleave", () => this.handlers.hover(null));
    group.addEventListener("focus", () => this.handlers.select(index));
    group.addEventListener("click", () => group.focus());
    return group;
  }

  #step(event) {
    const current = Number(document.activeElement.dataset.index);
    const next = steppedKey(event, this.order, current);
    if (next !== null) this.groups.get(next).focus();
  }

  /** Mark one box as looked at; it becomes the tab stop. */
  mark(active, selected) {
    const stop = this.groups.has(selected) ? selected : this.order[0];
    for (const [index, group] of this.groups) {
      group.classList.toggle("active", index === active);
      group.setAttribute("aria-selected", index === selected);
      group.setAttribute("tabindex", index === stop ? "0" : "-1");
    }
    this.active = active;
    this.#placeTag();
  }

  #placeTag() {
    const group = this.groups.get(this.active);
    this.tag.hidden = !group;
    if (!group) return;
    const { detection, colour } = this.items.get(this.active);
    this.tag.textContent = `${detection.label} ${decimals(detection.score)}`;
    this.tag.style.borderColor = colour;
    const stage = this.svg.getBoundingClientRect();
    const box = group.querySelector(".edge").getBoundingClientRect();
    const above = box.top - stage.top - this.tag.offsetHeight - 2;
    const left = Math.min(box.left - stage.left, stage.width - this.tag.offsetWidth - 2);
    const top = above >= 0 ? above : Math.min(box.bottom - stage.top + 2, stage.height - this.tag.offsetHeight - 2);
    this.tag.style.transform = `translate(${Math.round(Math.max(left, 0))}px, ${Math.round(top)}px)`;
  }
}
