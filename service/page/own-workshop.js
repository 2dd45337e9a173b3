// A person's own boxes: drawn or read from files, and the model's second opinion on them, the worst-fitting first.
// The lists live here; each image's `opinion` in the store mirrors them ({model, boxes: [{id, box, label, opinion}]}) for
// exports and code.
import { tooMuch, readBoxes, Problems } from "./boxes-read.js";
import { checkBox, missingFrom, placeBoxes } from "./boxes-place.js";
import { BoxList, middleBox } from "./editing.js";
import { fitOf } from "./fit.js";
import { ORDERS, Opinions, nearestOf, remarkOf } from "./opinions.js";
import { OwnLayer } from "./own-layer.js";
import { OwnPanel } from "./own-panel.js";
import { isRefused } from "./patience.js";
import { rescore } from "./rescore.js";
import { colourOf, currentImage, imageOf, shown as shownOf, updateImage } from "./store.js";

const NO_LIST = new BoxList();
const MAY_BE_ANY = /\.txt$/i; // a text may be about anything; who hands over the others means boxes

const noBoxesIn = ([{ name }, ...more]) => (
  more.length ? `${name} and ${more.length} more hold no boxes` : `${name} holds no boxes`);

/** Build the mode into `element`; returns {useAnnotations}. */
export function mount(element, store, api) {
  const lists = new Map(); // image id -> BoxList
  let selected = null;
  let waiting = []; // entries of a file whose images have not been looked at yet
  let newLabel; // the class that the next box gets (null: none); undefined until one is chosen
  let shown = 0; // id of the image that was current at the last render
  const opinions = new Opinions({ ask, changed: () => { for (const id of lists.keys()) publish(id); render(); }, ticked: () => render() });
  const modelKey = ({ model }) => `${model?.name}@${model?.version}`;

  const image = () => currentImage(store.get());
  const listOf = (id) => lists.get(id) ?? NO_LIST;
  const list = () => listOf(image()?.id);
  const classNames = () => store.get().model?.classes.map(({ name }) => name) ?? [];
  const active = () => store.get().mode === "own boxes" && Boolean(image()?.width);
  const labelForNew = () => (newLabel === undefined || (newLabel !== null && !classNames().includes(newLabel)) ? classNames()[0] ?? null : newLabel);
  const labelText = (label) => label ?? "no class";

  const panel = new OwnPanel(element, {
    add: () => active() && add(middleBox(image())),
    files: useAnnotations,
    copy: copyDetections,
    undo: () => replay("undo"), redo: () => replay("redo"), remove: () => remove(selected),
    clear: () => edit((boxes) => boxes.clear(), "All boxes of this image deleted"),
    relabel: (label) => relabel(label),
    corners,
    select: (imageId, id) => { store.set({ current: imageId }); selectIn(imageId, id); },
    retry: () => judge({ force: true }),
    takeNearest,
    changed: () => render(),
  });
  const layer = new OwnLayer(api.stage, {
    active, size: image, add, remove,
    change: (id, box, merging) => edit((boxes) => boxes.change(id, { box }, merging)),
    seal: () => list().seal(),
    select: (id) => selectIn(image().id, id),
    step: (by) => {
      const { boxes } = list();
      const at = boxes.findIndex(({ id }) => id === selected);
      const next = boxes[(at + by + boxes.length) % boxes.length];
      if (next) layer.focus(next.id);
    },
    classNumber: (number) => { if (number <= classNames().length) relabel(classNames()[number - 1]); },
  });

  // Editing -----------------------------------------------------------------------------------------------------

  function ensureList(id) {
    if (!lists.has(id)) lists.set(id, new BoxList());
    return lists.get(id);
  }

  /** Do `work` to the current image's list, then show and judge the result. */
  function edit(work, said = "") {
    if (!image()) return;
    work(ensureList(image().id));
    publish(image().id);
    render();
    judge();
    if (said) panel.say(said);
  }

  function add(box) {
    let id;
    edit((boxes) => { [id] = boxes.add([{ box, label: labelForNew() }]); });
    selectIn(image().id, id);
    layer.focus(id);
    panel.say(`Box added, ${labelText(list().find(id).label)}; ${list().boxes.length} in all`);
  }

  function remove(id) {
    const { boxes } = list();
    const at = boxes.findIndex((entry) => entry.id === id);
    if (at < 0) return;
    edit((all) => all.remove(id), "Box deleted");
    const next = list().boxes[Math.min(at, boxes.length - 2)];
    selectIn(image().id, next?.id ?? null);
    if (next) layer.focus(next.id);
    else panel.focusAdd();
  }

  function relabel(label) {
    newLabel = label;
    if (list().find(selected)) edit((boxes) => boxes.change(selected, { label }), `Class ${labelText(label)}`);
    else render();
  }

  function corners(box) {
    const { problem, box: fitting } = checkBox(box, image());
    if (problem) panel.problems([`The box ${problem}.`]);
    else edit((boxes) => boxes.change(selected, { box: fitting }));
    render();
  }

  function replay(direction) {
    edit((boxes) => boxes[direction](), direction === "undo" ? "Undone" : "Done again");
  }

  function selectIn(imageId, id) {
    if (imageId !== image()?.id || (id === selected && imageId === shown)) return;
    selected = id;
    render();
  }

  function copyDetections() {
    const records = shownOf(store.get(), image()).map(({ detection }) => ({ box: detection.box, label: detection.label }));
    const fresh = missingFrom(list().boxes, records);
    edit((boxes) => boxes.add(fresh), `${fresh.length} of the model's boxes copied`);
  }

  function takeNearest() {
    const entry = list().find(selected);
    const nearest = entry && nearestOf(entry.box, image().detections);
    if (nearest) edit((boxes) => boxes.change(entry.id, { box: nearest.detection.box }), "The model's box taken");
  }

  // Files -------------------------------------------------------------------------------------------------------

  /** Read annotation files [File]; what fits is added, what does not is said, what is there stays. */
  async function useAnnotations(files) {
    const shownHere = () => store.set({ mode: "own boxes" });
    const refused = tooMuch(files);
    if (refused) {
      shownHere();
      return panel.problems([refused]);
    }
    const problems = new Problems();
    const texts = [];
    for (const file of files) {
      try {
        texts.push({ name: file.name, text: await file.text() });
      } catch (error) {
        problems.add(file.name, `cannot be read (${error.name})`);
      }
    }
    const entries = readBoxes(texts, classNames(), problems);
    const harmless = files.every(({ name }) => !problems.about(name) || MAY_BE_ANY.test(name));
    const none = harmless && texts.length === files.length && !entries.some(({ boxes }) => boxes.length);
    if (none && store.get().mode !== "own boxes") {
      panel.problems(problems.lines); // for who goes there to see why
      return api.say(noBoxesIn(files));
    }
    shownHere();
    const found = settle(entries, problems);
    panel.problems(problems.lines);
    return panel.say(none ? noBoxesIn(files) : found);
  }

  /** Put entries where they belong; returns what to say. */
  function settle(entries, problems) {
    const state = store.get();
    const { placed, waiting: later } = placeBoxes(
      entries, { images: state.images, current: image(), classNames: classNames() }, problems);
    waiting = [...waiting, ...later];
    let [added, known] = [0, 0];
    const filled = new Map([...placed].filter(([, boxes]) => boxes.length));
    for (const [id, boxes] of filled) {
      const fresh = missingFrom(listOf(id).boxes, boxes);
      ensureList(id).add(fresh);
      [added, known] = [added + fresh.length, known + boxes.length - fresh.length];
      publish(id);
    }
    const [first] = filled.keys();
    if (first !== undefined && !filled.has(state.current)) store.set({ current: first });
    render();
    judge();
    const also = [known && `${known} were there already`, later.length && `boxes of ${later.length} images wait until those are detected`];
    return [`${added} ${added === 1 ? "box" : "boxes"} on ${filled.size} ${filled.size === 1 ? "image" : "images"} added`, ...also.filter(Boolean)].join("; ");
  }

  // The second opinion ------------------------------------------------------------------------------------------

  function ask({ blob }, boxes, signal) {
    return rescore(blob, boxes, { model: store.get().model.name }, signal);
  }

  function judge({ force = false, soon = false } = {}) {
    const state = store.get();
    // Else what is left of a run would be asked of the next model, under the name of this one.
    if (state.mode !== "own boxes" || !state.model?.has_localization) {
      opinions.stop();
      // A switch of models takes every image's `opinion` away; no answer will bring these back.
      for (const id of lists.keys()) if (imageOf(state, id)?.opinion === null) publish(id);
      return undefined;
    }
    const jobs = [...lists.keys()].map((id) => imageOf(state, id)).filter((entry) => entry?.blob && entry.width)
      .sort((a, b) => (b.id === state.current) - (a.id === state.current))
      .map((entry) => ({ image: entry, boxes: listOf(entry.id).boxes.map(({ box }) => box) }));
    return opinions.refresh(modelKey(state), jobs, state.model.max_rescore_boxes, { force, soon });
  }

  const judged = (imageId, entry) => opinions.of(modelKey(store.get()), imageId, entry.box);

  function publish(id) {
    const boxes = listOf(id).boxes.map((entry) => ({ ...entry, opinion: judged(id, entry) }));
    updateImage(store, id, { opinion: { model: modelKey(store.get()), boxes } });
  }

  // What is shown -----------------------------------------------------------------------------------------------

  function render() {
    const state = store.get();
    if (state.mode !== "own boxes") {
      layer.cancel();
      return layer.draw([], null, null);
    }
    const here = image();
    const { boxes } = list();
    if (here?.id !== shown || !list().find(selected)) selected = null;
    shown = here?.id;
    const entry = list().find(selected);
    const nearest = entry && nearestOf(entry.box, here.detections);
    const rows = (panel.wholeSet ? [...lists.keys()] : [here?.id]).map((id) => imageOf(state, id)).filter(Boolean)
      .flatMap((of) => listOf(of.id).boxes.map((item) => {
        const opinion = judged(of.id, item);
        return {
          image: of, entry: item, opinion, colour: colourOf(state, item.label), name: labelText(item.label),
          fit: opinion ? fitOf(opinion) : null, remark: opinion ? remarkOf(item.label, opinion, nearestOf(item.box, of.detections)) : null,
        };
      }));
    panel.draw({
      rows: ORDERS[panel.order](rows), selected: entry, image: here, nearest, opinion: entry && judged(here.id, entry),
      classNames: classNames(), newLabel: labelForNew(), judges: state.model?.has_localization ?? true,
      model: state.model?.name, canUndo: list().canUndo, canRedo: list().canRedo, opinions,
      held: waiting.some(({ imageId }) => imageId === here?.id),
    });
    return layer.draw(rows.filter((row) => row.image.id === here?.id).map(({ entry: item, colour, fit, name, remark }) => {
      const [x1, y1, x2, y2] = item.box.map(Math.round);
      return {
        id: item.id, box: item.box, colour, fit: fit ?? "unknown",
        name: `${name}, ${x2 - x1} by ${y2 - y1} pixels at ${x1}, ${y1}${remark ? `, ${remark}` : ""}`,
      };
    }), boxes.length ? selected : null, panel.showsNearest && nearest ? nearest.detection.box : null);
  }

  store.subscribe(({ images }) => {
    for (const id of lists.keys()) if (!images.some((entry) => entry.id === id)) lists.delete(id);
    const ready = waiting.filter(({ imageId }) => !images.some((entry) => entry.id === imageId && !entry.width && !isRefused(entry)));
    if (ready.length) {
      waiting = waiting.filter((entry) => !ready.includes(entry));
      const problems = new Problems();
      panel.say(settle(ready, problems));
      panel.problems(problems.lines, { keep: true });
    }
    render();
    judge({ soon: true });
  }, "images", "current", "model", "mode");
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") layer.cancel();
    if (!active() || !(event.ctrlKey || event.metaKey) || event.altKey || event.target.closest?.("input, textarea")) return;
    const key = event.key.toLowerCase();
    if (key !== "z" && key !== "y") return;
    event.preventDefault();
    replay(key === "y" || event.shiftKey ? "redo" : "undo");
  });
  render();
  judge({ soon: true });
  return { useAnnotations };
}
