// What a person says about each finding: "wrong" or "fine". Kept in the browser under the box's own numbers, so that
// a box that was mended starts without a mark.

const data = JSON.parse(document.getElementById("data").textContent);
const STORE = `hindsight-audit:${data.data}:${data.split ?? ""}`;

const keyOf = (item) =>
  `${data.images[item.image].name}#${item.id ?? "missing"}@${(item.box ?? item.own).map(Math.round).join(",")}`;

let storable = true;
const marks = new Map();
try {
  for (const [key, mark] of Object.entries(JSON.parse(localStorage.getItem(STORE) ?? "{}"))) {
    if (mark === "wrong" || mark === "fine") marks.set(key, mark);
  }
} catch {
  storable = false;
}

const markOf = (item) => marks.get(keyOf(item)) ?? null;

function setMark(item, mark) {
  if (mark === null) marks.delete(keyOf(item));
  else marks.set(keyOf(item), mark);
  try {
    localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(marks)));
  } catch {
    storable = false;
  }
}

const xywh = ([x1, y1, x2, y2]) => [x1, y1, x2 - x1, y2 - y1].map((value) => Math.round(value * 100) / 100);

function markedItems() {
  return data.items.map((item) => ({ item, mark: markOf(item) })).filter(({ mark }) => mark !== null);
}

function exportedList() {
  return {
    format: "hindsight-audit-marks",
    data: data.data,
    split: data.split,
    model: data.model,
    marks: markedItems().map(({ item, mark }) => ({
      mark,
      annotation_id: item.id,
      image: data.images[item.image].name,
      image_id: data.images[item.image].id,
      class: data.categories[item.class].name,
      verdict: item.verdict,
      suspicion: item.suspicion,
      bbox: xywh(item.box ?? item.own),
      suggestion: item.box && item.own ? xywh(item.own) : null,
      where: item.where,
    })),
  };
}

function exportedCoco() {
  let next = data.nextId;
  const annotations = [];
  const used = new Set();
  for (const { item, mark } of markedItems()) {
    const isMissing = item.id === null;
    if (isMissing && mark === "fine") continue; // nothing is there and nothing should be
    const bbox = xywh(item.box ?? item.own);
    used.add(item.image);
    annotations.push({
      id: isMissing ? next++ : item.id,
      image_id: data.images[item.image].id,
      category_id: item.category,
      bbox,
      area: Math.round(bbox[2] * bbox[3] * 100) / 100,
      iscrowd: 0,
      mark: isMissing ? "missing" : mark,
      verdict: item.verdict,
      ...(isMissing || !item.own ? {} : { suggestion: { bbox: xywh(item.own), score: item.ownScore } }),
    });
  }
  const images = [...used].sort((a, b) => a - b).map((index) => data.images[index]);
  return {
    images: images.map(({ id, name, width, height }) => ({ id, file_name: name, width, height })),
    annotations,
    categories: data.categories,
  };
}

function download(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
