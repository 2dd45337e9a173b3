// Saves what is on screen for other tools: COCO JSON, YOLO text, Label Studio tasks, annotated pictures.
import { element as make } from "./dom.js";
import { recordsOf } from "./onscreen.js";
import { currentImage } from "./store.js";

const LOCAL_FILES = "/data/local-files/?d=";
const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

export function mount(element, store, api) {
  let busy = false;
  const said = make("p", { className: "muted", id: "export-said", role: "status" });
  const facts = make("p", { id: "export-facts" });
  const scopes = ["one", "all"].map((value) => make("input", {
    type: "radio", name: "export-scope", value, checked: value === "one", onchange: () => render(),
  }));
  const allText = make("span", {}, "All images");
  const prefix = make("input", { type: "text", id: "export-prefix", value: LOCAL_FILES, spellcheck: false, autocomplete: "off" });
  const formats = [["coco", "COCO JSON"], ["yolo", "YOLO"], ["labelstudio", "Label Studio"], ["png", "Annotated PNG"]];
  const buttons = formats.map(([format, text]) => make("button", {
    type: "button", className: "button", "data-format": format, onclick: () => run(format),
  }, text));
  element.append(
    make("fieldset", { className: "segments-control" }, make("legend", { className: "visually-hidden" }, "What to export"),
      make("label", {}, scopes[0], make("span", {}, "This image")), make("label", {}, scopes[1], allText)),
    facts, make("div", { className: "own-tools" }, ...buttons),
    make("details", { className: "muted" }, make("summary", {}, "Where Label Studio finds the images"),
      make("label", { htmlFor: "export-prefix" }, "Before each file's name: ", prefix)),
    said);

  const wanted = (state) => (scopes[1].checked ? state.images : [currentImage(state)].filter(Boolean));

  /** Images as records, and how many are left out. */
  function gather() {
    const state = store.get();
    const pairs = wanted(state).map((image) => ({ image, records: recordsOf(state, image) }));
    const ready = pairs.filter(({ records }) => records && (!records.own || records.records.length || records.unclassed));
    return { state, ready, missing: pairs.filter(({ records }) => !records).length };
  }

  function render() {
    const { state, ready, missing } = gather();
    allText.textContent = `All ${plural(state.images.length, "image")}`;
    const usable = ready.filter(({ records }) => records.records);
    const boxes = usable.reduce((sum, { records }) => sum + records.records.length, 0);
    const unclassed = usable.reduce((sum, { records }) => sum + records.unclassed, 0);
    const failed = ready.length - usable.length;
    facts.textContent = [
      `${plural(boxes, state.mode === "own boxes" ? "own box" : "box", state.mode === "own boxes" ? "own boxes" : "boxes")} on ${plural(usable.length, "image")}`,
      unclassed && `${unclassed} without a class left out`,
      failed && `${failed} failed`,
      missing && `${missing} without an answer yet left out`,
    ].filter(Boolean).join("; ");
    for (const node of buttons) node.disabled = busy || usable.length === 0;
  }

  async function run(format) {
    const { state, ready } = gather();
    busy = true;
    render();
    try {
      const { exporters } = await import("./export-files.js");
      const say = (text) => { said.textContent = text; };
      const saved = await exporters[format]({ state, ready, all: scopes[1].checked, prefix: prefix.value, say });
      say(`Saved ${saved}`);
    } catch (error) {
      said.textContent = `Nothing saved: ${error.message}`;
      if (error.name !== "ExportError") throw error;
    } finally {
      busy = false;
      render();
    }
  }

  store.subscribe(render);
  render();
}
