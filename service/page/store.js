// The page's state in one place. `get()` gives the state, `set(patch)` replaces fields of it, `subscribe(listener, ...keys)`
// calls `listener(state)` after a change of any of `keys` (of anything, if none is named) and returns a function that ends
// it. State is never changed in place: whoever changes a field sets a new value. Several `set` calls in one go are one
// notification, in a microtask; `get()` has the new value at once.
//
// Fields
//   models     as GET /models lists them: [{name, version, description, classes: [{name, colour}], defaults, samples, ...}]
//   model      the one of `models` in use, or null before they are known
//   images     [ImageEntry], in the filmstrip's order
//   current    id of the image on the stage, or null
//   options    {iou_weight, nms_threshold}: what the server is asked for
//   filters    {score, iou, purity, integrity: least value shown; hidden: Set of class names not shown}
//   sort       {key, descending} of the table
//   hovered    index into the current image's detections, or null: pointed at, on the stage or in a table
//   selected   the same: chosen by click or key
//   mode       "detections" | "own boxes" | "compare"
//   masks      whether masks are shown, and drawn in exported pictures
//   pause      null, or {problem, until, stopped}: nothing is asked before `until` (Date.now() milliseconds; null: until told to);
//              `stopped`: because the user said so
//
// ImageEntry
//   id         number, never used twice
//   name       of the file
//   blob       its bytes; null for a sample that has not been fetched
//   picture    what to show in its place where the browser would show `blob` otherwise than the server counts its pixels; else null
//   url        what an <img> can show: an object URL; null as long as blob is
//   sample     file name of a shipped sample, else null
//   address    where the sample is to be had, else null
//   width, height  pixels as the server counts them (EXIF applied); null before the first answer
//   state      "waiting" | "running" | "done" | "failed"
//   detections as POST /detect answers them, with a low score threshold (the filters are applied by the page); null before.
//              While another answer is awaited they stay.
//   request    what was asked for them: the query of POST /detect as an object, plus model and version as answered,
//              timings (stage -> milliseconds) and roundTrip; null before
//   rivals     {key, detections, problem}: the same image ranked by class score alone, for compare mode; null before
//   opinion    what own-box modules keep of POST /rescore; the rest of the page leaves it alone
//   error      Problem (api.js), when state is "failed"

export function createStore(initial) {
  let state = Object.freeze({ ...initial });
  let changed = new Set();
  const listeners = new Set();

  function notify() {
    const keys = changed;
    changed = new Set();
    for (const entry of [...listeners]) {
      if (entry.keys.length && !entry.keys.some((key) => keys.has(key))) continue;
      try {
        entry.listener(state);
      } catch (error) {
        reportError(error); // one part's mistake must not stop the others
      }
    }
  }

  return {
    get: () => state,
    set(patch) {
      const keys = Object.keys(patch).filter((key) => patch[key] !== state[key]);
      if (keys.length === 0) return;
      if (changed.size === 0) queueMicrotask(notify);
      for (const key of keys) changed.add(key);
      state = Object.freeze({ ...state, ...patch });
    },
    subscribe(listener, ...keys) {
      const entry = { listener, keys };
      listeners.add(entry);
      return () => listeners.delete(entry);
    },
  };
}

export const FIRST_STATE = {
  models: [], model: null, images: [], current: null,
  options: { iou_weight: 0.5, nms_threshold: 0.5 },
  filters: { score: 0, iou: 0, purity: 0, integrity: 0, hidden: new Set() },
  sort: { key: "score", descending: true },
  hovered: null, selected: null, mode: "detections", masks: true, pause: null,
};

let lastId = 0;

/** A new ImageEntry. Give `blob` (a file of the user's), or `sample` and `address`. */
export function newImage({ name, blob = null, sample = null, address = null }) {
  lastId += 1;
  return {
    id: lastId, name, blob, picture: null, url: blob && URL.createObjectURL(blob), sample, address, width: null, height: null,
    state: "waiting", detections: null, request: null, rivals: null, opinion: null, error: null,
  };
}

export const imageOf = (state, id) => state.images.find((image) => image.id === id) ?? null;
export const currentImage = (state) => imageOf(state, state.current);

/** Change one image. One that is gone meanwhile is left gone. */
export function updateImage(store, id, patch) {
  store.set({ images: store.get().images.map((image) => (image.id === id ? { ...image, ...patch } : image)) });
}

/** Whether a detection has the least numbers asked for; one that the model does not give is not filtered by. */
export const reaches = ({ filters }, detection) => (
  ["score", "iou", "purity", "integrity"].every((key) => (detection[key] ?? 1) >= filters[key]));

/** Whether a detection passes all filters, the classes' too. */
export const passes = (state, detection) => reaches(state, detection) && !state.filters.hidden.has(detection.label);

/** What of an image is on screen: [{index (into its detections), detection}], best score first. */
export const shown = (state, image = currentImage(state)) => (image?.detections ?? [])
  .map((detection, index) => ({ index, detection }))
  .filter(({ detection }) => passes(state, detection))
  .sort((a, b) => b.detection.score - a.detection.score);

export const colourOf = (state, label) => state.model?.classes.find((entry) => entry.name === label)?.colour ?? "gray";
