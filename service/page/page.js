// Hindsight's first page: pick a photo, see its boxes and how well each one fits. This module holds the state and wires
// the parts together; api.js speaks HTTP, overlay.js draws, table.js lists, detail.js explains one box.
import { Problem, curlCommand, detect, fetchModels, fetchSample, hasKey, sampleAddress } from "./api.js";
import { showDetail } from "./detail.js";
import { byId, copyText, decimals, element } from "./dom.js";
import { wireIntake } from "./intake.js";
import { wireKey } from "./key.js";
import { Overlay } from "./overlay.js";
import { Table, sorted } from "./table.js";

const FIRST_MINIMUM = 0.3; // the slider starts here unless the model's own threshold is higher: a calm first look
const RESEND_DELAY_MS = 150;
const BUSY_TRIES = 4; // a server that starts or is full says when to come back; after these tries it is shown as a problem
const LONGEST_WAIT_S = 5;

const state = {
  models: [], model: null,
  source: null, // {name, blob, type, address (samples only), url (an object URL for the photo)}
  answer: null, roundTrip: 0,
  hidden: new Set(), // class names filtered out
  sort: { key: "score", descending: true },
  hovered: null, selected: null,
};
let pending = new AbortController();
let resend = 0;

const overlay = new Overlay({ hover, select });
const table = new Table(byId("table"), { hover, select, sort: sortBy, reset: showAll });

// What is shown ---------------------------------------------------------------------------------------------------

const colourOf = (label) => state.model.classes.find((entry) => entry.name === label)?.colour ?? "gray";
const minimum = (id) => byId(id).valueAsNumber;

function shownItems() {
  const items = (state.answer?.detections ?? []).map((detection, index) => (
    { index, detection, colour: colourOf(detection.label) }));
  return sorted(items.filter(({ detection }) => (
    detection.score >= minimum("min-score")
    && (detection.iou ?? 1) >= minimum("min-iou")
    && !state.hidden.has(detection.label))), state.sort);
}

function render() {
  const items = shownItems();
  const total = state.answer?.detections.length ?? 0;
  if (!items.some((item) => item.index === state.selected)) state.selected = best(items);
  if (!items.some((item) => item.index === state.hovered)) state.hovered = null;
  overlay.draw(items, state.answer?.image ?? { width: 1, height: 1 });
  table.draw(items, state.sort, total);
  byId("count").textContent = state.answer ? `${items.length} of ${total} shown` : "";
  for (const id of ["min-score", "min-iou", "iou-weight", "nms-threshold"]) {
    byId(`${id}-value`).textContent = decimals(minimum(id));
  }
  byId("curl").textContent = state.source ? curlCommand(state.source, shownQuery()) : "";
  mark();
}

const best = (items) => (
  items.length ? items.reduce((a, b) => (b.detection.score > a.detection.score ? b : a)).index : null);

function mark() {
  const active = state.hovered ?? state.selected;
  overlay.mark(active, state.selected);
  table.mark(active, state.selected);
  const detection = active === null ? null : state.answer.detections[active];
  showDetail(byId("detail"), detection, detection && colourOf(detection.label));
}

function hover(index) {
  state.hovered = index;
  mark();
}

function select(index) {
  state.selected = index;
  state.hovered = null;
  mark();
}

function sortBy(key) {
  const descending = state.sort.key === key ? !state.sort.descending : !["label", "fit"].includes(key);
  state.sort = { key, descending };
  render();
}

function renderAnswer() {
  const { answer, roundTrip } = state;
  const count = answer.detections.length;
  const model = `${answer.model} ${answer.version}`;
  byId("status").textContent = `${count} ${count === 1 ? "box" : "boxes"} in ${Math.round(roundTrip)} ms`;
  const entries = [...Object.entries(answer.timings_ms), ["round trip", roundTrip]];
  byId("timings").replaceChildren(
    element("div", {}, element("dt", {}, "model"), element("dd", {}, model)),
    element("div", {}, element("dt", {}, "image"), element("dd", {}, `${answer.image.width} × ${answer.image.height}`)),
    ...entries.map(([stage, value]) => element("div", {},
      element("dt", {}, stage.replaceAll("_", " ")), element("dd", {}, `${value.toFixed(1)} ms`))));
  byId("boxes").setAttribute("aria-label", `Detected boxes, ${count}`);
  renderClasses();
}

function renderClasses() {
  const counts = Map.groupBy(state.answer?.detections ?? [], (detection) => detection.label);
  const chips = state.model.classes.filter(({ name }) => counts.has(name)).map(({ name, colour }) => {
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = colour;
    const input = element("input", { type: "checkbox", checked: !state.hidden.has(name), value: name });
    input.addEventListener("change", () => {
      if (input.checked) state.hidden.delete(name);
      else state.hidden.add(name);
      render();
    });
    return element("label", { className: "chip" }, input, swatch, name, element("small", {}, counts.get(name).length));
  });
  byId("classes").replaceChildren(byId("classes").firstElementChild, ...chips);
}

// Asking the server -----------------------------------------------------------------------------------------------

/** The options sent to the server: the model, and what differs from its defaults. */
function sentQuery() {
  const query = { model: state.model.name };
  for (const [id, name] of [["iou-weight", "iou_weight"], ["nms-threshold", "nms_threshold"]]) {
    if (minimum(id) !== state.model.defaults[name]) query[name] = minimum(id);
  }
  return query;
}

/** The options that would make the server answer what the page shows now. */
function shownQuery() {
  const query = sentQuery();
  if (minimum("min-score") > state.model.defaults.score_threshold) query.score_threshold = minimum("min-score");
  if (state.hidden.size) {
    query.classes = state.model.classes.map(({ name }) => name).filter((name) => !state.hidden.has(name)).join(",");
  }
  return query;
}

/** Run `work` with a signal that the next call aborts; show its problem, if any. */
async function exclusively(work) {
  pending.abort();
  clearTimeout(resend); // a slider's late request must not abort what was asked for after it
  pending = new AbortController();
  const { signal } = pending;
  byId("stage").setAttribute("aria-busy", "true");
  byId("status").textContent = "Detecting…";
  try {
    await work(signal);
    if (!signal.aborted) showProblem(null);
  } catch (error) {
    if (signal.aborted) return;
    showProblem(error instanceof Problem ? error : new Problem({ title: "The answer could not be used", detail: `${error}` }));
    if (!(error instanceof Problem)) throw error;
  } finally {
    if (!signal.aborted) byId("stage").setAttribute("aria-busy", "false");
  }
}

async function detectPatiently(signal) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await detect(state.source.blob, sentQuery(), signal);
    } catch (error) {
      const seconds = Number(error.retryAfter ?? Infinity);
      if (error.status !== 503 || tries === BUSY_TRIES || !(seconds <= LONGEST_WAIT_S)) throw error;
      byId("status").textContent = `The server is busy, next try in ${seconds} s`;
      await new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });
      signal.throwIfAborted();
    }
  }
}

async function detectSource(signal) {
  const { answer, roundTrip } = await detectPatiently(signal);
  if (signal.aborted) return;
  Object.assign(state, { answer, roundTrip, selected: null, hovered: null });
  byId("stage").style.aspectRatio = `${answer.image.width} / ${answer.image.height}`;
  renderAnswer();
  render();
}

function showProblem(problem) {
  byId("problem").hidden = !problem;
  if (!problem) return;
  const wait = problem.retryAfter ? ` Try again in ${problem.retryAfter} s.` : "";
  byId("problem-title").textContent = problem.title;
  byId("problem-detail").textContent = problem.detail + wait;
  byId("problem-status").textContent = problem.status ? `HTTP ${problem.status}` : "";
  byId("retry").hidden = problem.status >= 400 && problem.status < 500 && ![401, 429].includes(problem.status);
  byId("status").textContent = "";
  byId("timings").replaceChildren();
  state.answer = null;
  if (!state.model) return;
  renderClasses();
  render();
}

function showPhoto(source) {
  if (state.source) URL.revokeObjectURL(state.source.url);
  state.source = { ...source, type: source.blob.type || "application/octet-stream", url: URL.createObjectURL(source.blob) };
  state.answer = null;
  state.hidden.clear();
  const photo = byId("photo");
  photo.onload = () => {
    photo.hidden = false;
    byId("placeholder").hidden = true;
    if (!state.answer) byId("stage").style.aspectRatio = `${photo.naturalWidth} / ${photo.naturalHeight}`;
  };
  photo.onerror = () => {
    photo.hidden = true;
    byId("placeholder").hidden = false;
    byId("placeholder").textContent = `${source.name}: no preview`;
  };
  photo.src = state.source.url;
  photo.alt = `Photo ${source.name}`;
  for (const button of byId("samples").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.dataset.file === source.sample);
  }
  render();
}

const useFile = (blob) => exclusively((signal) => {
  showPhoto({ name: blob.name || "pasted image", blob });
  return detectSource(signal);
});

const useSample = (file) => exclusively(async (signal) => {
  const blob = await fetchSample(state.model.name, file, signal);
  if (signal.aborted) return;
  showPhoto({ name: file, blob, sample: file, address: sampleAddress(state.model.name, file) });
  await detectSource(signal);
});

async function useModel(name) {
  state.model = state.models.find((model) => model.name === name);
  const { defaults, samples, version } = state.model;
  byId("model-version").textContent = version;
  byId("samples").replaceChildren(...samples.map(sampleButton));
  resetFilters();
  state.answer = null;
  if (state.source && !state.source.sample) await exclusively(detectSource);
  else if (samples.length) await useSample(samples[0]);
  else render();
  byId("min-score").title = `The server sends scores of ${decimals(defaults.score_threshold)} and more`;
}

function sampleButton(file) {
  const image = element("img", { alt: "", loading: "lazy" });
  if (hasKey()) loadWithKey(image, state.model.name, file);
  else image.src = sampleAddress(state.model.name, file);
  const button = element("button", {
    type: "button", "data-file": file, "aria-pressed": "false", "aria-label": `Sample ${file}`, title: file,
    onclick: () => useSample(file),
  }, image);
  return element("li", {}, button);
}

/** An <img> sends no key, so its bytes are fetched. */
async function loadWithKey(image, model, file) {
  try {
    const address = URL.createObjectURL(await fetchSample(model, file));
    image.onload = () => URL.revokeObjectURL(address);
    image.src = address;
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // a thumbnail that fails stays empty; choosing it says why
  }
}

function resetFilters() {
  const { defaults, has_localization: judges } = state.model;
  byId("min-score").value = Math.max(FIRST_MINIMUM, defaults.score_threshold);
  byId("min-iou").value = 0;
  byId("iou-weight").value = defaults.iou_weight;
  byId("nms-threshold").value = defaults.nms_threshold;
  byId("min-iou").disabled = byId("iou-weight").disabled = !judges;
  state.hidden.clear();
}

function reset() {
  const before = JSON.stringify(sentQuery());
  resetFilters();
  renderClasses();
  if (JSON.stringify(sentQuery()) === before) render();
  else resendSoon();
}

function showAll() {
  byId("min-score").value = byId("min-iou").value = 0;
  state.hidden.clear();
  renderClasses();
  render();
}

// Controls --------------------------------------------------------------------------------------------------------

function resendSoon() {
  render();
  clearTimeout(resend);
  resend = setTimeout(() => state.source && exclusively(detectSource), RESEND_DELAY_MS);
}

function wireControls() {
  byId("model").addEventListener("change", ({ target }) => useModel(target.value));
  for (const id of ["min-score", "min-iou"]) byId(id).addEventListener("input", render);
  for (const id of ["iou-weight", "nms-threshold"]) byId(id).addEventListener("input", resendSoon);
  byId("retry").addEventListener("click", () => (state.source ? exclusively(detectSource) : start()));
  byId("reset").addEventListener("click", reset);
  byId("copy").addEventListener("click", async ({ target }) => {
    target.textContent = await copyText(byId("curl"));
    setTimeout(() => { target.textContent = "Copy curl"; }, 1600);
  });
}

async function start() {
  try {
    const { models, default: preferred } = await fetchModels();
    showProblem(null);
    state.models = models;
    byId("model").replaceChildren(...models.map(({ name }) => element("option", { value: name }, name)));
    byId("model").value = preferred;
    byId("model").disabled = models.length < 2;
    await useModel(preferred);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
  }
}

wireControls();
wireKey();
wireIntake(useFile);
await start();
