// Hindsight's page: this module makes the parts and wires them together. The state is in store.js; models.js knows the models;
// queue.js asks the server; stage.js, boxes.js and labels.js draw; results.js and compare_view.js decide what; the other parts
// are named for what they show.
import * as http from "./api.js";
import { BoxLayer } from "./boxes.js";
import { Camera } from "./camera.js";
import { byId, element } from "./dom.js";
import { Filmstrip } from "./filmstrip.js";
import { Filters } from "./filters.js";
import { wireIntake } from "./intake.js";
import { wireKey } from "./key.js";
import { wireKeyboard } from "./keyboard.js";
import { Models } from "./models.js";
import { say, wireNotice } from "./notice.js";
import { showPicture } from "./photo.js";
import { sentQuery, shownQuery } from "./query.js";
import { DetectionQueue } from "./queue.js";
import { Results } from "./results.js";
import { Stage } from "./stage.js";
import { FIRST_STATE, createStore, currentImage, newImage } from "./store.js";
import { keepUpright } from "./upright.js";

const ZOOM_STEP = 1.4;
const PARTS = [
  ["own-boxes", "./own-boxes.js"], ["export", "./export.js"], ["snippets", "./snippets.js"], ["server-panel", "./server-panel.js"],
]; // section of the page -> the module that fills it
const NO_COMPARING = "This model gives no IoU to rank by";
const ANNOTATIONS = /\.(json|txt|xml)$/i; // boxes of the user's own: not for the detector

const store = createStore(FIRST_STATE);
const camera = new Camera();
const stage = new Stage(byId("stage"), camera, () => store.get().mode !== "own boxes");
const rivalStage = new Stage(byId("rival-stage"), camera);
const boxes = new BoxLayer(stage, (trouble) => { byId("masks-note").textContent = trouble; });
const rivalBoxes = new BoxLayer(rivalStage);
const queue = new DetectionQueue(store, () => models.refresh());
const filters = new Filters(store, () => queue.restart());
const models = new Models(store, queue, filters, say);
const results = new Results(store, boxes);
let compare = null; // a CompareView, once compare mode has been asked for
new Filmstrip(store, { pick, remove, clear, stop: () => queue.stop(), goOn: () => queue.resume(), retry: () => queue.retryAll() });

// Images ----------------------------------------------------------------------------------------------------------

function pick(id) {
  if (id !== store.get().current) store.set({ current: id, selected: null, hovered: null });
}

/** Take in files of the user's: they stand before the samples, and the first of them is looked at. */
function addImages(files) {
  const annotations = files.filter(({ name }) => ANNOTATIONS.test(name));
  const pictures = files.filter((file) => !annotations.includes(file));
  if (annotations.length) {
    if (api.useAnnotations) api.useAnnotations(annotations);
    else say(`${annotations[0].name} is no image`);
  }
  if (pictures.length) addPictures(pictures);
}

function addPictures(files) {
  const added = files.map((file) => newImage({ name: file.name || "pasted image", blob: file }));
  const { images } = store.get();
  const own = images.filter(({ sample }) => sample === null);
  const samples = images.filter(({ sample }) => sample !== null);
  store.set({ images: [...own, ...added, ...samples], current: added[0].id, selected: null, hovered: null });
}

function drop(leaves) {
  const { images, current } = store.get();
  for (const image of images) if (leaves(image) && image.url) URL.revokeObjectURL(image.url);
  const kept = images.filter((image) => !leaves(image));
  const at = images.findIndex(({ id }) => id === current);
  const next = images.slice(at).concat(images.slice(0, at).reverse()).find((image) => !leaves(image)) ?? null;
  store.set({ images: kept, current: next?.id ?? null, ...(next?.id === current ? {} : { selected: null, hovered: null }) });
}

function remove(id) {
  drop((image) => image.id === id);
}

function clear() {
  drop((image) => image.sample === null);
}

// Modes and controls ----------------------------------------------------------------------------------------------

function setMode(mode) {
  const input = document.querySelector(`input[name="mode"][value="${mode}"]`);
  if (input.disabled) say(`${NO_COMPARING}, so there is nothing to compare`);
  else store.set({ mode });
}

/** Parts that few visits need are loaded when they are first asked for. */
async function later(module) {
  try {
    return await import(module);
  } catch (error) {
    say("This part could not be loaded: is the server still running?");
    throw error;
  }
}

async function loadCompare() {
  if (compare || store.get().mode !== "compare") return;
  compare = new (await later("./compare_view.js")).CompareView(store, boxes, rivalBoxes, queue);
  compare.render();
}

function renderMode() {
  const { mode, model } = store.get();
  for (const input of document.querySelectorAll('input[name="mode"]')) {
    input.checked = input.value === mode;
    if (input.value !== "compare") continue;
    input.disabled = !model?.has_localization;
    input.parentElement.title = input.disabled ? NO_COMPARING : "";
  }
  const own = mode === "own boxes";
  boxes.setInert(own);
  byId("own-boxes").hidden = !own;
  document.querySelector(".legend").hidden = model !== null && !model.has_localization;
  byId("stages").dataset.mode = mode;
  byId("table-title").textContent = own ? "The model's boxes" : "Boxes";
  byId("filter-heading").textContent = own ? "Show the model's boxes with at least" : "Show boxes with at least";
  byId("masks-toggle").hidden = !model?.has_masks;
}

/** On a phone, own boxes have the page to themselves: the table and the filters of the model's boxes are folded away. */
function unfold() {
  const unfolded = document.querySelector("main").classList.toggle("unfolded");
  byId("unfold").setAttribute("aria-expanded", unfolded);
  byId("unfold").textContent = unfolded ? "Hide the model's boxes and filters" : "Show the model's boxes and filters";
}

function wireControls() {
  byId("card-button").addEventListener("click", async () => (await later("./model_card.js")).showModelCard(store.get().model));
  byId("retry").addEventListener("click", () => {
    const { pause, current } = store.get();
    if (pause) queue.resume();
    else queue.retry(current);
  });
  for (const input of document.querySelectorAll('input[name="mode"]')) {
    input.addEventListener("change", () => setMode(input.value));
  }
  byId("zoom-in").addEventListener("click", () => camera.zoomBy(ZOOM_STEP));
  byId("zoom-out").addEventListener("click", () => camera.zoomBy(1 / ZOOM_STEP));
  byId("zoom-fit").addEventListener("click", () => camera.fit());
  byId("labels").addEventListener("change", ({ target }) => {
    for (const layer of [boxes, rivalBoxes]) layer.labels.setAll(target.checked);
  });
  byId("masks").addEventListener("change", ({ target }) => store.set({ masks: target.checked }));
  byId("unfold").addEventListener("click", unfold);
  stage.onView(({ pixel }) => {
    const known = stage.hasPhoto || currentImage(store.get())?.width; // else the stage counts in no image's pixels
    byId("zoom-level").textContent = known ? `${Math.round(100 / pixel)} %` : "";
  });
  store.subscribe(renderMode, "mode", "model");
  store.subscribe(loadCompare, "mode");
  store.subscribe(({ masks }) => byId("stages").classList.toggle("maskless", !masks), "masks");
  store.subscribe(() => showPicture(currentImage(store.get()), [stage, rivalStage], camera), "images", "current");
}

wireControls();
keepUpright(store);
wireNotice(store);
wireKey();
wireIntake(addImages, say);
wireKeyboard({
  step: (by) => {
    const order = compare?.on ? compare.order : results.order;
    if (order.length === 0) return;
    const at = order.indexOf(boxes.selected);
    boxes.focus(order[Math.min(Math.max(at + by, 0), order.length - 1)]);
  },
  image: (by) => {
    const { images, current } = store.get();
    const at = images.findIndex(({ id }) => id === current) + by;
    if (images[at]) pick(images[at].id);
  },
  zoom: (factor) => camera.zoomBy(factor),
  fit: () => camera.fit(),
  pan: (x, y) => stage.step(x, y),
  zoomToBox: () => {
    const box = boxes.items.get(boxes.selected)?.detection.box;
    if (box) stage.lookAt(box);
  },
  mode: setMode,
  swap: () => compare?.swap(),
  labels: () => byId("labels").click(),
  masks: () => { if (store.get().model?.has_masks) byId("masks").click(); },
});

/** What modules get that are mounted into the page's sections. They may set `useAnnotations(files)`: boxes handed over as files. */
const api = {
  ...http, sentQuery, shownQuery, addImages, say,
  stage: {
    svg: stage.svg, layer: byId("own-layer"), toImage: (event) => stage.toImage(event), pixel: () => stage.pixel(),
    onView: (listener) => stage.onView(listener),
  },
};

/** Fill one of the page's other sections; where that fails, say so there and offer to try again. */
async function mountPart(id, module, tries = 0) {
  const section = byId(id);
  try {
    // A browser remembers that a module failed: it has to be asked for by another address.
    const { mount } = await import(tries ? `${module}?try=${tries}` : module);
    mount(section, store, api);
  } catch (error) {
    reportError(error);
    const trouble = element("p", { role: "alert" }, "This part could not be loaded. ", element("button", {
      type: "button", className: "button", onclick: () => { trouble.remove(); mountPart(id, module, tries + 1); },
    }, "Load it again"));
    section.append(trouble);
  }
}

/** Fill them once the first image is not kept waiting by it. */
function mountParts() {
  for (const [id, module] of PARTS) mountPart(id, module);
}

const stopWaiting = store.subscribe(() => {
  const { images, model } = store.get();
  if (!model || (images.length && !images.some(({ state }) => state === "done" || state === "failed"))) return;
  stopWaiting();
  mountParts();
}, "images", "model");

await models.start();
