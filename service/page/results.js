// What the current image shows in the modes "detections" and "own boxes": the stage, the table, the detail card and the line
// that counts. Everything here follows the store.
import { showDetail } from "./detail.js";
import { byId, decimals, element, inLine } from "./dom.js";
import { LOWEST_SCORE } from "./query.js";
import { Table, sortAfterClick, sorted } from "./table.js";
import { colourOf, currentImage, passes } from "./store.js";

export class Results {
  constructor(store, boxes) {
    this.store = store;
    this.boxes = boxes;
    this.handlers = {
      hover: (hovered) => store.set({ hovered }),
      select: (selected) => store.set({ selected, hovered: null }),
    };
    this.table = new Table(byId("table"), {
      ...this.handlers,
      sort: (key) => store.set({ sort: sortAfterClick(store.get().sort, key) }),
      reset: () => store.set({ filters: { score: 0, iou: 0, purity: 0, integrity: 0, hidden: new Set() } }),
    });
    this.loaded = null; // the detections that boxes and table were made for
    this.drawn = []; // what of the state is on screen
    store.subscribe(() => this.render(), "images", "current", "filters", "sort", "mode", "pause");
    store.subscribe(() => this.#mark(), "hovered", "selected");
  }

  /** Boxes in the order that the table shows. */
  get order() {
    return this.table.order;
  }

  render() {
    const state = this.store.get();
    const image = currentImage(state);
    const seen = [image, state.filters, state.sort, state.mode === "compare", state.pause === null];
    if (seen.every((value, at) => value === this.drawn[at])) return; // another image's news
    this.drawn = seen;
    showTimings(image);
    if (state.mode === "compare") {
      this.loaded = null; // the stage is used for something else
      return;
    }
    this.boxes.handlers = this.handlers;
    const detections = image?.detections ?? null;
    const items = (detections ?? []).map((detection, index) => ({
      key: index, index, detection, colour: colourOf(state, detection.label),
      text: `${inLine(detection.label)} ${decimals(detection.score)}`, short: decimals(detection.score),
    }));
    let chosen = state.selected;
    if (detections !== this.loaded) {
      if (this.loaded) chosen = null; // its index means another box now
      this.loaded = detections;
      this.boxes.load(items);
      this.table.load(items);
    }
    const visible = sorted(items.filter(({ detection }) => passes(state, detection)), state.sort);
    const order = visible.map(({ index }) => index);
    this.boxes.show(order);
    this.table.show(order, state.sort, items.length
      ? `None of the ${items.length} boxes passes the filters.` : emptyText(state, image));
    byId("count").textContent = detections ? `${order.length} of ${items.length} shown` : "";
    this.boxes.layer.setAttribute("aria-label", `Detected boxes, ${order.length}`);
    const selected = order.includes(chosen) ? chosen : best(visible);
    const hovered = order.includes(state.hovered) ? state.hovered : null;
    this.store.set({ selected, hovered });
    this.#mark();
  }

  #mark() {
    const state = this.store.get();
    if (state.mode === "compare") return;
    const image = currentImage(state);
    const active = state.hovered ?? state.selected;
    this.boxes.mark(active, state.selected);
    this.table.mark(active, state.selected);
    const detection = active === null ? null : image?.detections?.[active];
    const none = image?.detections?.length === 0 || image?.state === "failed" ? "No box to look at." : undefined;
    showDetail(byId("detail"), detection, detection && colourOf(state, detection.label), "", none);
  }
}

const best = (items) => (
  items.length ? items.reduce((a, b) => (b.detection.score > a.detection.score ? b : a)).index : null);

const MOST_NAMES = 8;

/** What stands in place of the table. */
function emptyText({ model, pause }, image) {
  if (!image) return "Add an image to see its boxes.";
  if (image.state === "failed") return "This image has no boxes: see above.";
  if (image.state !== "done") return pause ? "Waiting: see above." : "Detecting…";
  const names = model.classes.slice(0, MOST_NAMES).map(({ name }) => inLine(name)).join(", ");
  const more = model.classes.length > MOST_NAMES ? ` and ${model.classes.length - MOST_NAMES} more classes` : "";
  const least = Math.min(LOWEST_SCORE, model.defaults.score_threshold);
  return element("span", {}, `No boxes, not even of score ${least}. This model finds ${names}${more}, in images like those it was trained on. `,
    element("button", { type: "button", className: "button", onclick: () => byId("card-button").click() }, "See what the model is for"));
}

function showTimings(image) {
  const { request } = image ?? {};
  const entries = request ? [
    ["model", `${request.model} ${request.version}`],
    ["image", `${image.width} × ${image.height}`],
    ...[...Object.entries(request.timings), ["round trip", request.roundTrip]]
      .map(([stage, value]) => [stage.replaceAll("_", " "), `${value.toFixed(1)} ms`]),
  ] : [];
  byId("timings").replaceChildren(...entries.map(([name, value]) => (
    element("div", {}, element("dt", {}, name), element("dd", {}, value)))));
}
