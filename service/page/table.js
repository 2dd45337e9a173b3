// The table of boxes: sortable by any column, linked with the boxes on the stage. Rows are made once for an answer; sorting
// and filters only move, show and hide them.
import { decimals, element, steppedKey } from "./dom.js";
import { fitOf } from "./fit.js";

const COLUMNS = [
  ["label", "Class"], ["fit", "Fit"], ["score", "Score"], ["class_score", "Class score"], ["iou", "IoU"],
  ["purity", "Purity"], ["integrity", "Integrity"], ["size", "Size (px)"],
];
const TEXT = new Set(["label", "fit"]);
const NUMBERS = ["score", "class_score", "iou", "purity", "integrity"];

const sizeOf = ({ box: [x1, y1, x2, y2] }) => [x2 - x1, y2 - y1];

function valueOf(detection, key) {
  if (key === "fit") return fitOf(detection);
  if (key === "size") return sizeOf(detection).reduce((width, height) => width * height);
  return detection[key];
}

/** `items` ([{index, detection}]) in the order of `sort`; boxes without a value come last, ties keep the server's order. */
export function sorted(items, { key, descending }) {
  const sign = descending ? -1 : 1;
  return [...items].sort((a, b) => {
    const [x, y] = [valueOf(a.detection, key), valueOf(b.detection, key)];
    if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.index - b.index;
  });
}

/** The order that a click on a column's heading gives: numbers start with the largest, words with A; again: reversed. */
export const sortAfterClick = (sort, key) => (
  { key, descending: sort.key === key ? !sort.descending : !TEXT.has(key) });

export class Table {
  /** `handlers`: hover(index | null), select(index), sort(key), reset(). */
  constructor(target, handlers) {
    this.handlers = handlers;
    this.order = [];
    this.rows = new Map();
    this.active = this.selected = null;
    this.head = element("tr", {}, ...COLUMNS.map((column) => this.#heading(column)));
    this.body = element("tbody");
    this.table = element("table", { "aria-labelledby": "table-heading" }, element("thead", {}, this.head), this.body);
    this.empty = element("p", { className: "empty" });
    this.lift = element("button", { type: "button", className: "button", onclick: () => handlers.reset() }, "Show all boxes");
    target.replaceChildren(this.table, this.empty);
    this.#listen();
  }

  #heading([key, name]) {
    const button = element("button", { type: "button", onclick: () => this.handlers.sort(key) }, name);
    return element("th", { scope: "col", "data-key": key, className: TEXT.has(key) ? "text" : "" }, button);
  }

  /** Have a row for each of `items` ([{index, detection, colour}]). A column in which no box has a value is left out. */
  load(items) {
    this.absent = new Set(items.length ? COLUMNS.map(([key]) => key)
      .filter((key) => items.every(({ detection }) => valueOf(detection, key) === null)) : []);
    for (const heading of this.head.children) heading.hidden = this.absent.has(heading.dataset.key);
    this.rows = new Map(items.map((item) => [item.index, this.#row(item)]));
    this.body.replaceChildren();
    this.active = this.selected = this.stop = null;
  }

  /** Show the rows of these indices, in this order. `empty`: what to say where there are none. */
  show(order, sort, empty) {
    const focused = this.#indexOf(document.activeElement);
    for (const heading of this.head.children) {
      if (heading.dataset.key === sort.key) heading.setAttribute("aria-sort", sort.descending ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
    this.order = order;
    const rows = order.map((index) => this.rows.get(index));
    if (rows.length !== this.body.children.length || rows.some((row, at) => row !== this.body.children[at])) {
      this.body.replaceChildren(...rows);
    }
    this.table.hidden = order.length === 0;
    this.empty.hidden = order.length > 0;
    this.empty.replaceChildren(empty, ...(this.rows.size ? [" ", this.lift] : []));
    if (focused !== null) this.#button(focused)?.focus({ preventScroll: true });
  }

  mark(active, selected) {
    this.rows.get(this.active)?.classList.remove("active");
    this.rows.get(active)?.classList.add("active");
    this.#button(this.selected)?.setAttribute("aria-pressed", "false");
    this.#button(selected)?.setAttribute("aria-pressed", "true");
    if (this.#button(this.stop)) this.#button(this.stop).tabIndex = -1;
    this.stop = this.order.includes(selected) ? selected : this.order[0] ?? null;
    if (this.#button(this.stop)) this.#button(this.stop).tabIndex = 0;
    Object.assign(this, { active, selected });
  }

  #button(index) {
    return this.rows.get(index)?.querySelector("button");
  }

  #row({ index, detection, colour }) {
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = colour;
    const pick = element("button", {
      type: "button", className: "row-pick", tabIndex: -1, "aria-pressed": "false", title: detection.label,
    }, swatch, detection.label);
    const fit = fitOf(detection);
    return element("tr", { "data-index": index },
      element("th", { scope: "row" }, pick),
      element("td", { className: "text", "data-fit": fit ?? "unknown", hidden: this.absent.has("fit") }, fit?.replace(" and ", ", ") ?? "–"),
      ...NUMBERS.map((key) => element("td", { hidden: this.absent.has(key) }, decimals(detection[key]))),
      element("td", {}, sizeOf(detection).map(Math.round).join(" × ")));
  }

  #indexOf(node) {
    const row = node?.closest?.("tr[data-index]");
    return row && this.body.contains(row) ? Number(row.dataset.index) : null;
  }

  #listen() {
    const { body, handlers } = this;
    body.addEventListener("pointerover", ({ target }) => handlers.hover(this.#indexOf(target)));
    body.addEventListener("pointerleave", () => handlers.hover(null));
    body.addEventListener("focusin", ({ target }) => {
      const index = this.#indexOf(target);
      if (index !== this.selected) handlers.select(index);
    });
    body.addEventListener("click", ({ target }) => this.#button(this.#indexOf(target))?.focus({ preventScroll: true }));
    body.addEventListener("keydown", (event) => {
      const next = steppedKey(event, this.order, this.#indexOf(event.target));
      if (next !== null) this.#button(next).focus();
    });
  }
}
