// Single keys for what is done most, and the dialog that lists them. They can be switched off there, for people whose
// software types letters at the page.
import { byId, element } from "./dom.js";

const SWITCH = "hindsight-single-keys"; // kept in this browser only when switched off
const STEP = 0.15; // of the stage, for one press

const LISTED = [
  ["Tab", "to the boxes, then on to the next part"],
  ["← → ↑ ↓", "previous and next box; along the images when the strip has the focus"],
  ["[  ]", "previous and next image"],
  ["+  −", "zoom in and out; so do wheel and pinch"],
  ["0", "fit the whole image"],
  ["Z", "zoom to the selected box"],
  ["Shift + arrows", "move what is seen; so does dragging"],
  ["D  C  O", "detections, compare, own boxes"],
  ["S", "in compare, swap view: show the other ranking"],
  ["L  M", "labels, masks on and off"],
  ["Delete", "on an image of yours: remove it"],
  ["?", "this list"],
];

const HELP = "Every box has four numbers. Class score: how sure the model is of the class. Purity: the share of the box that "
  + "is the object. Integrity: the share of the object inside the box. IoU: what the two make together. They are "
  + "predictions; the model has not seen the true box.";

const isOff = () => localStorage.getItem(SWITCH) === "off";

function typesInto(node) {
  return node?.closest?.("input:not([type=range], [type=radio], [type=checkbox], [type=file]), textarea, select, [contenteditable]");
}

/** `actions`: step(by), image(by), zoom(factor), fit(), zoomToBox(), pan(x, y), mode(name), swap(), labels(), masks(). */
export function wireKeyboard(actions) {
  byId("help-body").replaceChildren(
    element("p", {}, HELP),
    element("dl", { className: "facts keys" }, ...LISTED.flatMap(([keys, what]) => (
      [element("dt", {}, element("kbd", {}, keys)), element("dd", {}, what)]))));
  byId("single-keys").checked = !isOff();
  byId("single-keys").addEventListener("change", ({ target }) => {
    if (target.checked) localStorage.removeItem(SWITCH);
    else localStorage.setItem(SWITCH, "off");
  });
  const help = () => byId("help").showModal();
  byId("help-button").addEventListener("click", help);

  const pans = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  const singles = {
    "[": () => actions.image(-1), "]": () => actions.image(1), "+": () => actions.zoom(1.4), "=": () => actions.zoom(1.4),
    "-": () => actions.zoom(1 / 1.4), 0: actions.fit, z: actions.zoomToBox, d: () => actions.mode("detections"),
    c: () => actions.mode("compare"), o: () => actions.mode("own boxes"), s: actions.swap, l: actions.labels, m: actions.masks, "?": help,
  };
  addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]") || typesInto(target)) return;
    const onControl = target.closest?.("input, button, summary, a");
    let act = null;
    if (event.shiftKey && pans[key] && !target.closest?.("input")) act = () => actions.pan(...pans[key]);
    else if (!isOff()) {
      if (!onControl && (key === "ArrowLeft" || key === "ArrowRight")) act = () => actions.step(key === "ArrowLeft" ? -1 : 1);
      else act = singles[key.length === 1 ? key.toLowerCase() : key];
    }
    if (!act) return;
    event.preventDefault();
    act();
  });
}
