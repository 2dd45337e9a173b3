// What is on screen as records to export: detections that pass the filters, or, in the mode "own boxes", a person's own.
import { shown } from "./store.js";

/** {name, width, height, own, records, unclassed} of one image, {name, problem} of one that failed, null of one not answered. */
export function recordsOf(state, image) {
  const { name, width, height } = image;
  if (image.state === "failed" && (!width || state.mode !== "own boxes")) {
    const { message: title, status, detail } = image.error;
    return { name, problem: { title, status, detail } };
  }
  if (!width) return null;
  if (state.mode !== "own boxes") {
    if (!image.detections) return null;
    // The server's order is kept: it is the one in which its own formats list the boxes.
    const records = shown(state, image).sort((a, b) => a.index - b.index).map(({ detection }) => detection);
    return { name, width, height, own: false, records, unclassed: 0 };
  }
  const boxes = image.opinion?.boxes ?? [];
  const numberOf = new Map(state.model.classes.map((entry, index) => [entry.name, index]));
  const records = boxes.filter(({ label }) => numberOf.has(label)).map(({ box, label, opinion }) => ({
    box, label, label_id: numberOf.get(label), class_score: opinion?.class_scores[label] ?? null,
    iou: opinion?.iou ?? null, purity: opinion?.purity ?? null, integrity: opinion?.integrity ?? null,
  }));
  return { name, width, height, own: true, records, unclassed: boxes.length - records.length };
}
