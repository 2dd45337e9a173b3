// The sliders and class boxes. The four on top filter what is on screen, live; the two below are asked of the server, once the
// hand rests.
import { byId, decimals, element, svgElement } from "./dom.js";
import { currentImage, reaches } from "./store.js";

const ASK_DELAY_MS = 250;
const BINS = 25;
const FILTERS = [["score", "Score"], ["iou", "IoU"], ["purity", "Purity"], ["integrity", "Integrity"]];
const OPTIONS = [["iou-weight", "iou_weight"], ["nms-threshold", "nms_threshold"]];

export class Filters {
  /** `ask()` is called when the server has to be asked anew. */
  constructor(store, ask) {
    this.store = store;
    this.ask = ask;
    this.timer = 0;
    this.bars = new Map(); // filter -> its histogram
    this.chips = new Map(); // class -> {input, count}
    byId("filters").replaceChildren(...FILTERS.map((filter) => this.#slider(filter)));
    for (const [id, name] of OPTIONS) {
      byId(id).addEventListener("input", ({ target }) => {
        store.set({ options: { ...store.get().options, [name]: target.valueAsNumber } });
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.ask(), ASK_DELAY_MS);
      });
    }
    byId("reset").addEventListener("click", () => this.#reset());
    store.subscribe(() => this.render(), "model", "mode", "filters", "options");
    store.subscribe(() => this.#renderFound(), "images", "current", "filters", "model");
  }

  #slider([key, name]) {
    const id = `min-${key}`;
    const input = element("input", { type: "range", id, min: "0", max: "1", step: "0.01", value: "0" });
    input.addEventListener("input", () => this.#set({ [key]: input.valueAsNumber }));
    const bars = svgElement("path", {});
    const histogram = svgElement("svg", { class: "histogram", viewBox: `0 0 ${BINS} 10`, preserveAspectRatio: "none", "aria-hidden": "true" });
    histogram.append(bars);
    this.bars.set(key, bars);
    return element("div", { className: "slider" }, element("label", { htmlFor: id }, name),
      element("span", { id: `${id}-value`, className: "value" }), histogram, input);
  }

  #set(patch) {
    this.store.set({ filters: { ...this.store.get().filters, ...patch } });
  }

  /** Filters and options as `model` has them. A request that waits for the hand to rest is forgotten. */
  startFor(model) {
    clearTimeout(this.timer);
    const { score_threshold: score, iou_weight, nms_threshold } = model.defaults;
    this.store.set({
      filters: { score, iou: 0, purity: 0, integrity: 0, hidden: new Set() }, options: { iou_weight, nms_threshold },
    });
  }

  #reset() {
    const { options: before, model } = this.store.get();
    this.startFor(model);
    const { options } = this.store.get();
    if (OPTIONS.some(([, name]) => options[name] !== before[name])) this.ask();
  }

  render() {
    const { model, mode, filters, options } = this.store.get();
    const comparing = mode === "compare";
    for (const [key] of FILTERS) {
      const input = byId(`min-${key}`);
      if (input.valueAsNumber.toFixed(2) !== filters[key].toFixed(2)) input.value = filters[key];
      byId(`min-${key}-value`).textContent = decimals(filters[key]);
      input.disabled = key !== "score" && (comparing || !model?.has_localization);
      if (!model?.has_localization) input.title = "This model does not judge its boxes";
      else input.title = input.disabled ? "Not used in compare mode: both sides show their best boxes" : "";
    }
    for (const [id, name] of OPTIONS) {
      if (byId(id).valueAsNumber.toFixed(2) !== options[name].toFixed(2)) byId(id).value = options[name];
      byId(`${id}-value`).textContent = decimals(options[name]);
    }
    byId("iou-weight").disabled = !model?.has_localization;
    byId("formula").hidden = model !== null && !model.has_localization;
    byId("no-formula").hidden = !byId("formula").hidden;
  }

  #renderFound() {
    const state = this.store.get();
    const detections = currentImage(state)?.detections ?? null;
    if (detections !== this.counted) {
      this.counted = detections;
      for (const [key, path] of this.bars) {
        path.setAttribute("d", histogramPath((detections ?? []).map((detection) => detection[key])));
      }
      this.#makeChips(state, detections ?? []);
    }
    const counts = new Map();
    for (const detection of detections ?? []) {
      if (reaches(state, detection)) counts.set(detection.label, (counts.get(detection.label) ?? 0) + 1);
    }
    for (const [name, { input, count }] of this.chips) {
      input.checked = !state.filters.hidden.has(name);
      count.textContent = counts.get(name) ?? 0;
    }
  }

  /** A box to tick for each class that was found. */
  #makeChips(state, detections) {
    const focused = document.activeElement?.closest("#classes input")?.value;
    const found = new Set(detections.map(({ label }) => label));
    this.chips = new Map();
    const chips = (state.model?.classes ?? []).filter(({ name }) => found.has(name)).map(({ name, colour }) => {
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = colour;
      const input = element("input", { type: "checkbox", value: name });
      input.addEventListener("change", () => {
        const hidden = new Set(this.store.get().filters.hidden);
        if (input.checked) hidden.delete(name);
        else hidden.add(name);
        this.#set({ hidden });
      });
      const count = element("small", {});
      this.chips.set(name, { input, count });
      return element("label", { className: "chip" }, input, swatch, name, count);
    });
    byId("classes").replaceChildren(byId("classes").firstElementChild, ...chips);
    this.chips.get(focused)?.input.focus();
  }
}

/** The outline of a histogram of values 0..1, BINS wide and 10 high. */
export function histogramPath(values) {
  const counts = new Array(BINS).fill(0);
  for (const value of values) if (value !== null) counts[Math.min(Math.floor(value * BINS), BINS - 1)] += 1;
  const most = Math.max(...counts, 1);
  return counts.map((count, bin) => (count ? `M${bin} 10v${-(10 * count) / most}h1V10z` : "")).join("");
}
