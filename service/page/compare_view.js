// Compare mode on screen: the same image ranked by class score (asked with iou_weight = 0) and by hindsight, as two stages side
// by side or as one that swaps, with a table of the differences. Boxes and rows are linked by the row's number.
import { Problem, detect } from "./api.js";
import { compareRankings, changeOf, summaryOf } from "./compare.js";
import { showDetail } from "./detail.js";
import { byId, decimals, element } from "./dom.js";
import { isPassing } from "./patience.js";
import { rivalQuery } from "./query.js";
import { colourOf, currentImage, updateImage } from "./store.js";

const MARKS = { enters: "enters", leaves: "leaves", refits: "other box" };
const HEADINGS = ["Change", "Class", "By class score", "By hindsight", "Class score", "IoU", "Score"];
const TOUCHED = ["images", "current", "mode", "options", "filters", "pause", "model"];

export class CompareView {
  /** `boxes` and `rivalBoxes`: the BoxLayers of the two stages. */
  constructor(store, boxes, rivalBoxes, queue) {
    Object.assign(this, { store, boxes, rivalBoxes, queue });
    this.swapped = false; // swap view: the class score's side is on the stage
    this.rows = [];
    this.hovered = this.selected = null; // rows
    this.asked = { key: null, controller: null };
    this.handlers = {
      hover: (row) => { this.hovered = row; this.#mark(); },
      select: (row) => {
        if (row === null) return;
        Object.assign(this, { selected: row, hovered: null });
        this.#mark();
      },
    };
    this.#wire();
    store.subscribe(() => this.render(), ...TOUCHED);
  }

  get on() {
    return this.store.get().mode === "compare";
  }

  /** "side" | "swap" */
  get view() {
    return document.querySelector('input[name="compare-view"]:checked').value;
  }

  /** The rows whose boxes are on the main stage, as keys move through them. */
  get order() {
    return this.boxes.order;
  }

  swap() {
    if (!this.on || this.view !== "swap") return;
    this.swapped = !this.swapped;
    this.#draw();
  }

  render() {
    const state = this.store.get();
    const { on } = this;
    for (const id of ["compare-bar", "compare-table"]) byId(id).hidden = !on;
    byId("table").hidden = on;
    byId("rival-stage").hidden = !on || this.view === "swap";
    byId("caption").hidden = !on;
    byId("swap").hidden = this.view === "side";
    byId("stages").classList.toggle("pair", on && this.view === "side");
    if (!on) {
      this.asked.controller?.abort();
      this.asked.key = null;
      this.drawn = [];
      return;
    }
    const image = currentImage(state);
    const rivals = this.#rivalsOf(state, image);
    const seen = [image?.id, image?.detections, rivals, state.filters, state.options];
    if (this.drawn?.length && seen.every((value, at) => value === this.drawn[at])) return;
    this.drawn = seen;
    const known = image?.detections && rivals?.detections;
    const allowed = (detections) => detections.filter(({ label }) => !state.filters.hidden.has(label));
    this.count = known ? allowed(image.detections).filter(({ score }) => score >= state.filters.score).length : 0;
    this.rows = known ? compareRankings(allowed(rivals.detections), allowed(image.detections), this.count) : [];
    this.hovered = null;
    this.selected = this.rows.length ? 0 : null;
    byId("compare-summary").textContent = this.#summary(state, image, rivals, known);
    byId("compare-again").hidden = !rivals?.problem;
    byId("count").textContent = known ? `${this.rows.length} compared` : "";
    this.#draw();
  }

  #summary(state, image, rivals, known) {
    if (known && state.options.iou_weight === 0) return "Both sides rank by class score: raise the IoU weight w.";
    if (known && this.count === 0) return "No box passes the filters.";
    if (known) return summaryOf(this.rows, this.count);
    if (rivals?.problem) return `${rivals.problem.title}: ${rivals.problem.detail}`;
    if (image?.state === "failed") return "This image was refused: there is nothing to compare.";
    return image ? "Asking for the ranking by class score…" : "Add an image to compare.";
  }

  /** The class score's ranking of the image, or null: then it is asked for. */
  #rivalsOf(state, image) {
    if (!image || !state.model.has_localization) return null;
    const query = rivalQuery(state);
    const key = JSON.stringify(query);
    if (image.rivals?.key === key) return image.rivals;
    if (image.state !== "done") return null;
    const wanted = `${image.id} ${key}`;
    if (!state.pause && this.asked.key !== wanted) {
      this.asked.controller?.abort();
      this.asked = { key: wanted, controller: new AbortController() };
      this.#ask(image, query, key, this.asked);
    }
    return null;
  }

  async #ask(image, query, key, asked) {
    const { signal } = asked.controller;
    let rivals = { key, detections: null, problem: null };
    try {
      const { answer } = await detect(image.blob, query, signal);
      rivals = { ...rivals, detections: answer.detections };
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      asked.key = null;
      if (isPassing(error)) return this.queue.hold(error); // asked again when the pause ends
      rivals = { ...rivals, problem: error };
    }
    if (!signal.aborted) updateImage(this.store, image.id, { rivals });
  }

  #draw() {
    const state = this.store.get();
    const side = (name) => this.rows.flatMap((row, key) => (row[name] ? [this.#item(state, row, name, key)] : []));
    const primary = this.view === "swap" && this.swapped ? "a" : "b";
    this.#fill(this.boxes, side(primary));
    this.#fill(this.rivalBoxes, this.view === "side" ? side("a") : []);
    byId("caption").textContent = primary === "a"
      ? "Ranked by class score" : `Ranked by hindsight, w = ${decimals(state.options.iou_weight)}`;
    byId("swap").setAttribute("aria-pressed", primary === "a");
    byId("swap").textContent = primary === "a" ? "Show hindsight" : "Show class score";
    this.#drawTable(state);
    this.#mark();
  }

  #item(state, { change, a, b }, name, key) {
    const { detection, rank } = { a, b }[name];
    const move = { rises: ` ▲${a?.rank - b?.rank}`, falls: ` ▼${b?.rank - a?.rank}` }[change] ?? "";
    const mark = MARKS[change] ? ` ${MARKS[change]}` : name === "b" ? move : "";
    const text = `${rank}${mark}`;
    return { key, rank, detection, change, text, short: text, colour: colourOf(state, detection.label) };
  }

  #fill(layer, items) {
    layer.handlers = this.handlers;
    layer.load(items);
    layer.show([...items].sort((x, y) => x.rank - y.rank).map(({ key }) => key));
  }

  #drawTable(state) {
    const heading = (name, at) => element("th", { scope: "col", className: at < 2 ? "text" : "" }, name);
    this.lines = this.rows.map((row, key) => this.#line(state, row, key));
    const table = element("table", { "aria-labelledby": "table-heading" },
      element("thead", {}, element("tr", {}, ...HEADINGS.map(heading))), element("tbody", {}, ...this.lines));
    byId("compare-table").replaceChildren(table);
  }

  #line(state, { change, a, b, elsewhere }, key) {
    const { detection } = b ?? a;
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = colourOf(state, detection.label);
    const pick = element("button", { type: "button", className: "row-pick" }, MARKS[change] ?? change);
    const both = (name) => (change === "refits"
      ? `${decimals(a.detection[name])} → ${decimals(b.detection[name])}` : decimals(detection[name]));
    const beyond = elsewhere === null ? "–" : `(${elsewhere})`;
    return element("tr", { "data-index": key, "data-change": change },
      element("th", { scope: "row" }, pick),
      element("td", { className: "text" }, swatch, detection.label),
      element("td", {}, a ? `${a.rank}` : beyond),
      element("td", {}, b ? `${b.rank}` : beyond),
      ...["class_score", "iou"].map((name) => element("td", {}, both(name))),
      element("td", {}, b ? decimals(b.detection.score) : "–"));
  }

  #mark() {
    if (!this.on) return;
    const state = this.store.get();
    const active = this.hovered ?? this.selected;
    this.boxes.mark(active, this.selected);
    this.rivalBoxes.mark(active, this.selected);
    for (const [key, line] of this.lines.entries()) line.classList.toggle("active", key === active);
    const row = this.rows[active];
    const detection = row && (row.b ?? row.a).detection;
    showDetail(byId("detail"), detection, detection && colourOf(state, detection.label), row && changeOf(row));
  }

  #wire() {
    const keyOf = (node) => {
      const line = node?.closest?.("tr[data-index]");
      return line ? Number(line.dataset.index) : null;
    };
    const table = byId("compare-table");
    table.addEventListener("pointerover", ({ target }) => this.handlers.hover(keyOf(target)));
    table.addEventListener("pointerleave", () => this.handlers.hover(null));
    table.addEventListener("focusin", ({ target }) => this.handlers.select(keyOf(target)));
    table.addEventListener("click", ({ target }) => target.closest("tr")?.querySelector("button")?.focus({ preventScroll: true }));
    for (const input of document.querySelectorAll('input[name="compare-view"]')) {
      input.addEventListener("change", () => {
        this.swapped = false;
        this.drawn = [];
        this.render();
      });
    }
    byId("swap").addEventListener("click", () => this.swap());
    byId("compare-again").addEventListener("click", () => updateImage(this.store, this.store.get().current, { rivals: null }));
  }
}
