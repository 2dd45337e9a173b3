// Prometheus' text format, and what two looks at it say about the time between them. Pure.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$/;
const LABEL = /\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?/y;
const MOST_CHARACTERS = 5_000_000;
const ESCAPES = { n: "\n", "\\": "\\", '"': '"' };

/** The number as Prometheus writes it, NaN for what is none. */
function numberOf(text) {
  const infinite = /^([+-]?)Inf$/i.exec(text);
  if (infinite) return infinite[1] === "-" ? -Infinity : Infinity;
  return text === "" ? NaN : Number(text);
}

function labelsOf(text) {
  const labels = new Map();
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < text.length) {
    const found = LABEL.exec(text);
    if (!found) return null;
    labels.set(found[1], found[2].replace(/\\(.)/g, (whole, character) => ESCAPES[character] ?? whole));
  }
  return labels;
}

/** Map(name -> [{labels: Map, value}]). Throws SyntaxError for text that is no exposition. */
export function parseMetrics(text) {
  if (text.length > MOST_CHARACTERS) throw new SyntaxError("the answer is too long to be this server's metrics");
  const families = new Map();
  for (const line of text.split("\n")) {
    if (!line || line.startsWith("#")) continue;
    const [, name, inner = "", number] = LINE.exec(line) ?? [];
    const labels = name && labelsOf(inner);
    if (!labels) throw new SyntaxError(`not a line of Prometheus text: ${line.slice(0, 80)}`);
    if (!families.has(name)) families.set(name, []);
    families.get(name).push({ labels, value: numberOf(number) });
  }
  return families;
}

const STAGES = ["decode", "letterbox", "queue", "transfer", "model", "postprocess"];
const WORK = new Set(["POST"]); // images come by POST; the rest is this page, probes and monitoring
const HISTOGRAMS = [["batch", "hindsight_batch_size"], ["stages", "hindsight_stage_seconds"]];

/**
 * One look at the server: at (ms), started (s), counters (key -> value: all that only grow), gauges by model.
 * Series that several devices have are added up.
 */
export function lookAt(families, at) {
  const counters = new Map();
  const add = (key, value) => counters.set(key, (counters.get(key) ?? 0) + value);
  const series = (name) => families.get(name) ?? [];
  const models = new Set();
  const queue = new Map();
  for (const { labels, value } of series("hindsight_requests_total")) {
    if (!WORK.has(labels.get("method"))) continue;
    add("requests", value);
    if (/^[45]/.test(labels.get("status"))) add("refused", value);
  }
  for (const { labels, value } of series("hindsight_queue_depth")) {
    models.add(labels.get("model"));
    queue.set(labels.get("model"), (queue.get(labels.get("model")) ?? 0) + value);
  }
  for (const { labels, value } of series("hindsight_images_total")) {
    models.add(labels.get("model"));
    add(`images ${labels.get("model")}`, value);
  }
  for (const [kind, name] of HISTOGRAMS) {
    for (const part of ["sum", "count", "bucket"]) {
      for (const { labels, value } of series(`${name}_${part}`)) {
        models.add(labels.get("model"));
        add([kind, labels.get("model"), labels.get("stage") ?? "", part, labels.get("le") ?? ""].join("\n"), value);
      }
    }
  }
  const gauge = (name) => series(name).reduce((sum, { value }) => sum + value, 0);
  return {
    at, counters, queue, models: [...models].sort(),
    started: families.has("process_start_time_seconds") ? gauge("process_start_time_seconds") : null,
    workers: { ready: gauge("hindsight_worker_ready"), all: series("hindsight_worker_ready").length },
    version: series("hindsight_build_info")[0]?.labels.get("version") ?? "",
  };
}

/** Whether the server was started anew between two looks: its counters then say nothing about the time between. */
export const restarted = (before, after) => before.started !== after.started
  || [...before.counters].some(([key, value]) => (after.counters.get(key) ?? 0) < value);

/**
 * The rates between two looks of one run of the server: requests and refusals a second, images waiting, mean batch (null if
 * none ran), and by model the same with stages [{stage, mean, most}] in seconds (`most`: 95 % took no longer).
 */
export function ratesOf(before, after) {
  const seconds = Math.max((after.at - before.at) / 1000, 1e-3);
  const grown = (key) => (after.counters.get(key) ?? 0) - (before.counters.get(key) ?? 0);
  const mean = (kind, model, stage) => {
    const count = grown([kind, model, stage, "count", ""].join("\n"));
    return count > 0 ? grown([kind, model, stage, "sum", ""].join("\n")) / count : null;
  };
  const bucketsOf = (model, stage) => [...after.counters.keys()]
    .map((key) => key.split("\n"))
    .filter(([kind, ofModel, ofStage, part]) => kind === "stages" && ofModel === model && ofStage === stage && part === "bucket")
    .map((parts) => [numberOf(parts[4]), grown(parts.join("\n"))]);
  const models = after.models.map((name) => ({
    name,
    images: grown(`images ${name}`) / seconds,
    waiting: after.queue.get(name) ?? 0,
    batch: mean("batch", name, ""),
    stages: STAGES.map((stage) => ({
      stage, mean: mean("stages", name, stage), most: quantile(0.95, bucketsOf(name, stage)),
    })).filter(({ mean: value }) => value !== null),
  }));
  const overAll = (part) => after.models.reduce((sum, name) => sum + grown(["batch", name, "", part, ""].join("\n")), 0);
  return {
    batch: overAll("count") > 0 ? overAll("sum") / overAll("count") : null,
    requests: grown("requests") / seconds,
    refused: grown("refused") / seconds,
    images: models.reduce((sum, { images }) => sum + images, 0),
    waiting: models.reduce((sum, { waiting }) => sum + waiting, 0),
    models,
  };
}

/** The quantile of cumulative buckets [[upper bound, count]], as PromQL estimates it; null without any count. */
export function quantile(share, buckets) {
  const sorted = [...buckets].sort(([a], [b]) => a - b);
  const total = sorted.at(-1)?.[1] ?? 0;
  if (!(total > 0)) return null;
  const wanted = share * total;
  let [low, below] = [0, 0];
  for (const [high, upTo] of sorted) {
    if (upTo >= wanted) {
      if (high === Infinity) return low; // beyond the last bound nothing is known
      return low + (high - low) * (upTo > below ? (wanted - below) / (upTo - below) : 1);
    }
    [low, below] = [high, upTo];
  }
  return low;
}
