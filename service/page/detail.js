// The four numbers of one box as bars, one line of plain meaning, and the strip that shows where its IoU comes from.
import { decimals, element } from "./dom.js";
import { fitOf, meaningOf, percent, shares } from "./fit.js";

const INVITATION = "Point at a box, or reach it with Tab and the arrow keys.";
const BARS = [
  ["class_score", "Class score", "how sure of the class"],
  ["iou", "IoU", "overlap of box and object"],
  ["purity", "Purity", "share of the box on the object"],
  ["integrity", "Integrity", "share of the object inside"],
];

function bar(detection, [key, name, hint]) {
  const value = detection[key];
  const fill = element("span", { className: "fill" });
  fill.style.width = `${100 * value}%`;
  const label = element("span", { className: "name" }, name, element("small", {}, hint));
  const meter = element("span", { className: "meter", role: "meter", "aria-label": name }, fill);
  meter.setAttribute("aria-valuemin", 0);
  meter.setAttribute("aria-valuemax", 1);
  meter.setAttribute("aria-valuenow", value);
  meter.setAttribute("aria-valuetext", decimals(value));
  return element("div", { className: "bar", "data-key": key }, label, element("b", {}, decimals(value)), meter);
}

function strip(detection) {
  const { background, shared, outside } = shares(detection);
  const segment = (name, share) => {
    const node = element("span", { className: name });
    node.style.width = `${100 * share}%`;
    return node;
  };
  const bracket = (name, start, length) => {
    const node = element("span", { className: "bracket" }, name);
    node.style.marginLeft = `${100 * start}%`;
    node.style.width = `${100 * length}%`;
    return node;
  };
  const description = `Of box and object together, ${percent(background)} is background in the box, `
    + `${percent(shared)} is shared and ${percent(outside)} is object outside the box.`;
  return element("div", { className: "strip", role: "img", "aria-label": description },
    bracket("box", 0, background + shared),
    element("div", { className: "segments" },
      segment("background", background), segment("shared", shared), segment("outside", outside)),
    bracket("object", background, shared + outside));
}

/**
 * Fill `target` with `detection`, or with the line `none` where there is none. `note`: one more line (compare mode). Numbers that
 * the model does not give have no bar; the line of meaning says why.
 */
export function showDetail(target, detection, colour, note = "", none = INVITATION) {
  target.classList.toggle("none", !detection && none !== INVITATION);
  if (!detection) {
    target.replaceChildren(element("p", { className: "muted" }, none));
    return;
  }
  const swatch = element("i", { className: "swatch" });
  swatch.style.background = colour;
  const title = element("p", { className: "detail-title" },
    element("span", {}, swatch, detection.label),
    element("span", {}, "score ", element("b", {}, decimals(detection.score))));
  const fit = fitOf(detection);
  const bars = BARS.filter(([key]) => detection[key] !== null).map((row) => bar(detection, row));
  const parts = [title, ...bars, element("p", { className: "meaning", "data-fit": fit ?? "unknown" }, meaningOf(detection))];
  if (fit) parts.push(strip(detection));
  if (note) parts.push(element("p", { className: "note" }, note));
  target.replaceChildren(...parts);
}
