// The table of boxes: sortable by any column, linked with the boxes over the photo.
import { decimals, element, steppedKey } from "./dom.js";
import { fitOf } from "./fit.js";

const COLUMNS = [
  ["label", "Class"], ["fit", "Fit"], ["score", "Score"], ["class_score", "Class score"], ["iou", "IoU"],
  ["purity", "Purity"], ["integrity", "Integrity"], ["size", "Size (px)"],
];
const TEXT = new Set(["label", "fit"]);

const sizeOf = ({ box: [x1, y1, x2, y2] }) => [x2 - x1, y2 - y1];

function valueOf(detection, key) {
  if (key === "fit") return fitOf(detection);
  if (key === "size") return sizeOf(detection).reduce((width, height) => width * height);
  return detection[key];
}

/** `items` in the order of `sort` {key, descending}; boxes without a value come last, ties keep the server's order. */
export function sorted(items, { key, descending }) {
  const sign = descending ? -1 : 1;
  return [...items].sort((a, b) => {
    const [x, y] = [valueOf(a.detection, key), valueOf(b.detection, key)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.index - b.index;
  });
}

export class Table {
  /** `handlers`: hover(index | null), select(index), sort(key), reset(). */
  constructor(target, handlers) {
    this.target = target;
    this.handlers = handlers;
    this.order = [];
    this.rows = new Map();
    this.head = element("tr", {}, ...COLUMNS.map((column) => this.#heading(column)));
    this.body = element("tbody");
    this.body.addEventListener("keydown", (event) => this.#step(event));
    this.table = element("table", { "aria-labelledby": "table-heading" }, element("thead", {}, this.head), this.body);
    this.empty = element("p", { className: "empty" });
    this.lift = element("button", { type: "button", className: "button", onclick: () => handlers.reset() }, "Show all boxes");
    target.replaceChildren(this.table, this.empty);
  }

  #heading([key, name]) {
    const button = element("button", { type: "button", onclick: () => this.handlers.sort(key) }, name);
    return element("th", { scope: "col", "data-key": key, className: TEXT.has(key) ? "text" : "" }, button);
  }

  /** Show `items` (already sorted); `total` is how many the server sent. */
  draw(items, sort, total) {
    const focused = this.body.contains(document.activeElement) && document.activeElement.closest("tr").dataset.index;
    for (const heading of this.head.children) {
      const here = heading.dataset.key === sort.key;
      if (here) heading.setAttribute("aria-sort", sort.descending ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
    this.order = items.map((item) => item.index);
    this.rows = new Map(items.map((item) => [item.index, this.#row(item)]));
    this.body.replaceChildren(...this.rows.values());
    this.table.hidden = items.length === 0;
    this.empty.hidden = items.length > 0;
    if (total > 0) this.empty.replaceChildren(`None of the ${total} boxes passes the filters. `, this.lift);
    else this.empty.replaceChildren("No boxes.");
    if (focused) this.rows.get(Number(focused))?.querySelector("button").focus();
  }

  #row({ index, detection, colour }) {
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = colour;
    const pick = element("button", { type: "button", className: "row-pick", onfocus: () => this.handlers.select(index) },
      swatch, detection.label);
    const fit = fitOf(detection);
    const row = element("tr", { "data-index": index },
      element("th", { scope: "row" }, pick),
      element("td", { className: "text", "data-fit": fit ?? "unknown" }, fit?.replace(" and ", ", ") ?? "–"),
      ...["score", "class_score", "iou", "purity", "integrity"].map((key) => element("td", {}, decimals(detection[key]))),
      element("td", {}, sizeOf(detection).map(Math.round).join(" × ")));
    row.addEventListener("pointerenter", () => this.handlers.hover(index));
    row.addEventListener("pointerleave", () => this.handlers.hover(null));
    row.addEventListener("click", () => pick.focus({ preventScroll: true }));
    return row;
  }

  #step(event) {
    const current = Number(document.activeElement.closest("tr").dataset.index);
    const next = steppedKey(event, this.order, current);
    if (next !== null) this.rows.get(next).querySelector("button").focus();
  }

  mark(active, selected) {
    const stop = this.rows.has(selected) ? selected : this.order[0];
    for (const [index, row] of this.rows) {
      row.classList.toggle("active", index === active);
      row.querySelector("button").tabIndex = index === stop ? 0 : -1;
      row.querySelector("button").setAttribute("aria-pressed", index === selected);
    }
  }
}
