// The dialog that says what the model in use is, from GET /models.
import { byId, element } from "./dom.js";

const share = (value) => (typeof value === "number" && value >= 0 && value <= 1 ? value.toFixed(3) : `${value}`);

const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const spaced = (name) => name.replaceAll("_", " ");

const rows = (entries) => element("dl", { className: "facts" }, ...entries.flatMap(([name, value]) => (
  [element("dt", {}, name), element("dd", {}, value)])));

function metricsTable(metrics) {
  const numbers = Object.entries(metrics).filter(([, value]) => typeof value === "number");
  if (numbers.length === 0) return element("p", { className: "muted" }, "No measurements came with this model.");
  return element("table", { className: "metrics" },
    element("thead", {}, element("tr", {}, ...numbers.map(([name]) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, element("tr", {}, ...numbers.map(([, value]) => element("td", {}, share(value))))));
}

export function showModelCard(model) {
  const { defaults, input } = model;
  byId("card-heading").textContent = `${model.name} ${model.version}`;
  const classes = model.classes.map(({ name, colour }) => {
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = colour;
    return element("li", {}, swatch, name);
  });
  const remarks = Object.entries(model.metrics).filter(([, value]) => typeof value === "string")
    .map(([name, value]) => [spaced(name), value]);
  const data = Object.entries(model.training_data).map(([name, value]) => [spaced(name), plain(value)]);
  const loaded = model.versions.filter(({ state }) => state === "loaded").map(({ version }) => version);
  byId("card-body").replaceChildren(
    element("p", {}, model.description || "No description."),
    element("h3", {}, "Intended use"), element("p", {}, model.intended_use),
    element("h3", {}, "Training data"), data.length ? rows(data) : element("p", {}, "Not stated."),
    element("h3", {}, "Limits"), element("p", {}, model.limits),
    element("h3", {}, `Classes (${classes.length})`), element("ul", { className: "class-list" }, ...classes),
    element("h3", {}, "Measured"), metricsTable(model.metrics),
    rows([
      ...remarks,
      ["Judges its boxes", model.has_localization ? "yes: IoU, purity and integrity" : "no: class scores only"],
      ["Makes masks", model.has_masks ? "yes" : "no"],
      ["Image size", `short side ${input.short_side}, long side at most ${input.long_side} px`],
      ["Most boxes", `${model.max_detections} an image`],
      ["Defaults", `score ≥ ${defaults.score_threshold}, IoU weight ${defaults.iou_weight}, NMS ${defaults.nms_threshold}`],
      ["Versions loaded", loaded.join(", ") || model.version],
      ["Licence", model.licence],
    ]));
  byId("card").showModal();
  byId("card").scrollTop = 0; // the focus goes to the button at its end
}
