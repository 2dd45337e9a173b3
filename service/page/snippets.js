// The current request as code: curl, Python with our client, Python alone.
import { clientCode, curlCode, plainCode } from "./code.js";
import { copyText, element as make } from "./dom.js";
import { currentImage } from "./store.js";

const WAYS = [["curl", "curl", curlCode], ["client", "Python client", clientCode], ["plain", "Python alone", plainCode]];
const COPIED_MS = 1600;
const tidy = (value) => Math.round(value * 1000) / 1000; // px: a file's numbers may have sixteen digits

export function mount(element, store, api) {
  const text = make("pre", { tabIndex: 0, id: "snippet", "aria-label": "This request as code" });
  const note = make("p", { className: "muted", id: "snippet-note" });
  const choices = WAYS.map(([value], index) => make("input", {
    type: "radio", name: "snippet-way", value, checked: index === 0, onchange: () => render(),
  }));
  const copy = make("button", {
    type: "button", className: "button", id: "snippet-copy",
    onclick: async () => {
      copy.textContent = await copyText(text);
      setTimeout(() => { copy.textContent = "Copy"; }, COPIED_MS);
    },
  }, "Copy");
  element.append(
    make("fieldset", { className: "segments-control" }, make("legend", { className: "visually-hidden" }, "Language"),
      ...WAYS.map(([, name], index) => make("label", {}, choices[index], make("span", {}, name)))),
    make("div", { className: "code-block" }, text, copy), note);

  /** What the page shows: {asked}, a request (see code.js), or {missing}, why there is none. */
  function request(state) {
    const image = currentImage(state);
    const { model, filters: { iou, purity, integrity } } = state;
    if (!image || !model) return { missing: "Open an image, and its request is here." };
    const own = state.mode === "own boxes";
    const boxes = own ? (image.opinion?.boxes ?? []).map(({ box }) => box.map(tidy)) : [];
    const query = own ? { model: model.name } : api.shownQuery(state);
    if (own && !model.has_localization) return { missing: `${model.name} gives no second opinion: there is nothing to ask for.` };
    if (own && !boxes.length) return { missing: "Draw a box, and its request is here." };
    if (query.classes === "") return { missing: "Every class is hidden: there is nothing to ask for." };
    return { asked: {
      operation: own ? "rescore" : "detect", base: new URL(".", document.baseURI).href, boxes, query, name: image.name,
      type: api.typeOf(image.blob), sample: image.address && String(image.address),
      least: own ? {} : { iou, purity, integrity }, keyed: api.hasKey(),
    } };
  }

  function render() {
    const state = store.get();
    const { asked, missing } = request(state);
    const [way, , write] = WAYS[choices.findIndex(({ checked }) => checked)];
    text.textContent = asked ? write(asked) : "";
    copy.disabled = !asked;
    const filtered = asked && Object.values(asked.least).some((least) => least > 0);
    const most = state.model?.max_rescore_boxes ?? Infinity;
    note.textContent = [
      missing,
      asked && !asked.sample && "Run it in the folder of the image.",
      asked && way === "client" && "Where Hindsight is installed: pip install . in a copy of its repository.",
      asked?.keyed && "Your key is read from HINDSIGHT_API_KEY.",
      filtered && way === "curl" && "The least IoU, purity and integrity are filters of this page: the server has no such options.",
      asked && asked.boxes.length > most && `The model takes at most ${most} boxes in one request: send them in parts.`,
    ].filter(Boolean).join(" ");
  }

  store.subscribe(render, "images", "current", "model", "options", "filters", "mode");
  render();
}
