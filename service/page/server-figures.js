// The live figures of server-panel.js, loaded when the panel is first opened: two looks at /metrics give the rates between
// them. Asked for only while the panel is open and the tab is seen.
import { element as make, svgElement } from "./dom.js";
import { lookAt, parseMetrics, ratesOf, restarted } from "./prometheus.js";

const EVERY_MS = 2000;
const FIRST_MS = 1000; // the second look, so that figures come soon
const PATIENCE_MS = 10_000;
const KEPT = 60; // points of a sparkline: two minutes
const [WIDTH, HEIGHT] = [120, 28];
const TILES = [["requests", "Requests/s"], ["images", "Images/s"], ["waiting", "Waiting"], ["batch", "Batch"]];

const number = (value) => {
  if (value === null) return "–";
  return value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 || Number.isInteger(value) ? 1 : 2);
};
const milliseconds = (seconds) => (seconds === null ? "–" : `${seconds >= 0.1 ? (1000 * seconds).toFixed(0) : (1000 * seconds).toFixed(1)} ms`);

/** Points of a polyline over values (null: nothing known, a gap drawn as 0), scaled to their own maximum. */
export function sparkPoints(values, width, height) {
  const top = Math.max(...values.map((value) => value ?? 0), 1e-9);
  const step = width / Math.max(KEPT - 1, 1);
  const start = width - step * (values.length - 1);
  return values.map((value, index) => `${(start + index * step).toFixed(1)},${(height - 1 - ((value ?? 0) / top) * (height - 2)).toFixed(1)}`).join(" ");
}

const WHY_NOT = {
  401: "The figures are for keys with the role metrics (or admin). Enter one to see them; it is kept until this page is closed.",
  403: "Your key may not read the figures: they are for keys with the role metrics (or admin). Enter such a key to see them; it is kept until this page is closed.",
  404: "This server has no figures on this port. An operator may have put them on an admin port, which this page cannot reach.",
};

/** Fill `details`, the panel, and keep it up to date. */
export function mount(details, api) {
  let timer = 0;
  let pending = null;
  let last = null; // the look before
  let key = null; // for /metrics alone; never used for images
  const history = new Map(TILES.map(([name]) => [name, []]));

  const state = make("p", { className: "muted", id: "server-state", role: "status" });
  const values = new Map();
  const lines = new Map();
  const tiles = make("div", { className: "figures", hidden: true }, ...TILES.map(([name, text]) => {
    const value = make("b", { "data-figure": name }, "–");
    const line = svgElement("polyline");
    const spark = svgElement("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true", preserveAspectRatio: "none" });
    spark.append(line);
    values.set(name, value);
    lines.set(name, line);
    return make("div", {}, make("span", { className: "muted" }, text), value, spark);
  }));
  const models = make("div", { className: "server-models" });
  const keyInput = make("input", { type: "password", id: "metrics-key", autocomplete: "off", spellcheck: false });
  const keyForm = make("form", {
    className: "own-tools", hidden: true,
    onsubmit: (event) => {
      event.preventDefault();
      key = keyInput.value.trim() || null;
      keyInput.value = "";
      look();
    },
  }, make("label", { htmlFor: "metrics-key" }, "Metrics key "), keyInput, make("button", { type: "submit", className: "button" }, "Use it"));
  const again = make("button", { type: "button", className: "button", hidden: true, onclick: () => look() }, "Try again");
  details.append(state, keyForm, again, tiles, models);

  const watching = () => details.open && document.visibilityState === "visible";

  function pause() {
    clearTimeout(timer);
    pending?.abort();
    pending = null;
    last = null; // rates over a time that was not watched would be an average of nobody knows what
  }

  async function look() {
    clearTimeout(timer);
    pending?.abort();
    if (!watching()) return;
    const mine = new AbortController();
    pending = mine;
    const patience = setTimeout(() => mine.abort("late"), PATIENCE_MS);
    let next = null;
    try {
      next = await step(mine.signal);
    } catch (error) {
      if (pending !== mine) return; // a later look has taken over
      last = null;
      const broken = error instanceof SyntaxError;
      show(broken ? `The figures could not be read: ${error.message}` : "No answer from the server; trying again.");
      next = broken ? null : EVERY_MS;
    } finally {
      clearTimeout(patience);
    }
    if (pending !== mine) return;
    if (next !== null && watching()) timer = setTimeout(look, next);
    else again.hidden = next !== null;
  }

  /** One look; returns the milliseconds until the next, or null for never. */
  async function step(signal) {
    const headers = key === null ? api.keyHeaders() : { "x-api-key": key };
    const response = await fetch(api.address("metrics"), { signal, headers, cache: "no-store" });
    const asksForKey = response.status === 401 || response.status === 403;
    keyForm.hidden = !asksForKey;
    again.hidden = true;
    if (!response.ok) {
      tiles.hidden = true;
      models.replaceChildren();
      show(WHY_NOT[response.status] ?? `The server answered ${response.status} instead of its figures.`);
      last = null;
      if (response.status >= 500 || response.status === 429) return EVERY_MS;
      return null;
    }
    const now = lookAt(parseMetrics(await response.text()), performance.now());
    const before = last;
    last = now;
    if (!before || restarted(before, now)) {
      show(before ? "The server has been restarted: measuring anew…" : "Measuring…");
      return FIRST_MS;
    }
    draw(ratesOf(before, now), now);
    return EVERY_MS;
  }

  const show = (text) => { if (state.textContent !== text) state.textContent = text; };

  function draw(rates, now) {
    show(`Hindsight ${now.version}, ${now.workers.ready} of ${now.workers.all} workers ready`);
    tiles.hidden = false;
    for (const [name] of TILES) {
      const kept = history.get(name);
      kept.push(rates[name]);
      if (kept.length > KEPT) kept.shift();
      values.get(name).textContent = number(rates[name]);
      lines.get(name).setAttribute("points", sparkPoints(kept, WIDTH, HEIGHT));
    }
    values.get("requests").parentElement.title = `${number(rates.refused)} refused or failed a second`;
    models.replaceChildren(...rates.models.map(table));
  }

  function table({ name, images, waiting, batch, stages }) {
    const longest = Math.max(...stages.map(({ mean }) => mean), 1e-9);
    const rows = stages.map(({ stage, mean, most }) => {
      const fill = make("span", { className: "fill" });
      fill.style.width = `${(100 * mean) / longest}%`;
      return make("tr", { "data-stage": stage }, make("th", { scope: "row" }, stage), make("td", {}, milliseconds(mean)), make("td", {}, milliseconds(most)),
        make("td", { className: "stage-bar", "aria-hidden": "true" }, make("span", { className: "meter" }, fill)));
    });
    const said = `${name}: ${number(images)} images/s, ${waiting} waiting, mean batch ${number(batch)}`;
    if (!rows.length) return make("p", { "data-model": name }, said, make("span", { className: "muted" }, "; nothing ran just now"));
    return make("table", { "data-model": name }, make("caption", {}, said),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Stage"), make("th", { scope: "col" }, "Mean"), make("th", { scope: "col" }, "95 % within"),
        make("td", { "aria-hidden": "true" }))),
      make("tbody", {}, ...rows));
  }

  const wake = () => (watching() ? look() : pause());
  details.addEventListener("toggle", wake);
  document.addEventListener("visibilitychange", wake);
  wake();
}
