// Which models there are, and which one is in use. The list is read on opening, and again when the user comes back to the window
// or goes to the list, and when an answer shows that it is out of date.
import * as http from "./api.js";
import { byId, element } from "./dom.js";
import { newImage } from "./store.js";

const FRESH_MS = 1000; // a list younger than this is not read again

/** What of an entry of GET /models makes answers differ: all but the versions that lie beside it. */
const sameModel = (a, b) => JSON.stringify({ ...a, versions: null }) === JSON.stringify({ ...b, versions: null });

export class Models {
  /** `say(text)`: a line for the user. */
  constructor(store, queue, filters, say) {
    Object.assign(this, { store, queue, filters, say, reading: false, read: 0 });
    const look = () => { if (document.visibilityState === "visible" && performance.now() - this.read > FRESH_MS) this.refresh(); };
    byId("model").addEventListener("focus", look);
    byId("model").addEventListener("change", ({ target }) => this.use(target.value));
    addEventListener("focus", look);
    document.addEventListener("visibilitychange", look);
    store.subscribe(({ pause, models }) => { if (!pause && models.length === 0) this.start(); }, "pause");
    http.onModelGone(() => this.refresh());
  }

  /** Switch to another model: its samples, its defaults; the user's own images are detected anew, the current one first. */
  use(name) {
    this.queue.abort();
    const { models, images, current, mode } = this.store.get();
    const model = models.find((entry) => entry.name === name);
    for (const { sample, url } of images) if (sample !== null && url) URL.revokeObjectURL(url);
    const own = images.filter(({ sample }) => sample === null).map((image) => ({
      ...image, state: "waiting", detections: null, request: null, rivals: null, opinion: null, error: null,
    }));
    const samples = model.samples.map((file) => (
      newImage({ name: file, sample: file, address: http.sampleAddress(name, file).href })));
    const all = [...own, ...samples];
    this.store.set({
      model, images: all, current: (all.find(({ id }) => id === current) ?? samples[0] ?? all[0])?.id ?? null,
      selected: null, hovered: null, mode: mode === "compare" && !model.has_localization ? "detections" : mode,
    });
    this.filters.startFor(model);
    byId("model").value = name;
    byId("card-button").disabled = false;
  }

  /** Read the list for the first time. */
  async start() {
    try {
      this.#have(await http.fetchModels());
    } catch (error) {
      if (!(error instanceof http.Problem)) throw error;
      this.queue.hold(error);
    }
  }

  /** Read it again, quietly: what goes wrong here will show when something is asked of the server. */
  async refresh() {
    if (this.reading || !this.store.get().model) return;
    this.reading = true;
    try {
      this.#have(await http.fetchModels({ asks: false }));
    } catch (error) {
      if (!(error instanceof http.Problem)) throw error;
    } finally {
      this.reading = false;
      this.read = performance.now();
    }
  }

  #have({ models, default: preferred }) {
    const { models: known, model: before } = this.store.get();
    if (models.length === 0) {
      this.queue.hold(new http.Problem({ title: "No model is loaded", detail: "Load one, then try again.", status: 503 }));
      return;
    }
    const select = byId("model");
    if (models.map(({ name }) => name).join("\n") !== known.map(({ name }) => name).join("\n")) {
      select.replaceChildren(...models.map(({ name }) => element("option", { value: name }, name)));
      select.disabled = models.length < 2;
    }
    this.store.set({ models });
    const now = models.find(({ name }) => name === before?.name);
    if (now && sameModel(now, before)) {
      select.value = now.name;
      if (JSON.stringify(now) !== JSON.stringify(before)) this.store.set({ model: now });
      return;
    }
    const next = now ?? models.find(({ name }) => name === preferred) ?? models[0];
    this.use(next.name);
    if (!before) return;
    this.say(now ? `${now.name} is version ${now.version} now: asking anew` : `${before.name} is no longer loaded; ${next.name} is in use`);
    if (this.store.get().pause?.problem.kind === "model-not-found") this.queue.resume();
  }
}
