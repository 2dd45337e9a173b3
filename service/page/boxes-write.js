// Boxes in other tools' formats, in the very shape of the server's own (service/formats.py; a test compares the two).
// An image here is {name, width, height, records, own}: records as in POST /detect's `detections`, in order; `own` says
// that a person drew them: then they carry no score, and are annotations, not predictions. One that failed has `problem`
// instead of records.
import { stemOf, uniqueName } from "./zip.js";

const OPINION = ["score", "class_score", "iou", "purity", "integrity"];

/** Decimal text as Python's format(value, ".Nf") writes it: toFixed, but an exact half goes to the even neighbour. */
export function fixed(value, digits) {
  const [whole, rest] = [value.toFixed(digits + 1), value.toFixed(digits + 25).slice(-24)];
  const half = whole.endsWith("5") && /^0+$/.test(rest);
  const below = whole.slice(0, digits ? -1 : -2);
  return half && /[02468]$/.test(below) ? below : value.toFixed(digits);
}

export const rounded = (value, digits) => Number(fixed(value, digits));

const opinionOf = (record, own) => Object.fromEntries(
  OPINION.filter((key) => !(own && key === "score")).map((key) => [key, record[key] ?? null]));

/** Pixels that COCO's run-length code covers: every second run. hindsight/masks.py says how they are written. */
function maskArea({ counts }) {
  const runs = [];
  for (let place = 0; place < counts.length;) {
    let [run, scale, bits] = [0, 1, 0];
    do {
      bits = counts.charCodeAt(place++) - 48;
      run += (bits & 31) * scale;
      scale *= 32;
    } while (bits & 32);
    if (bits & 16) run -= scale;
    runs.push(runs.length > 2 ? run + runs.at(-2) : run);
  }
  return runs.reduce((sum, run, index) => sum + (index % 2 ? run : 0), 0);
}

/** One COCO document. The page knows what the server does not: `file_name`. */
export function toCoco(images, classes) {
  const annotations = [];
  const entries = images.map(({ name, width, height, records, own, problem }, imageId) => {
    if (problem) return { id: imageId, file_name: name, problem };
    for (const record of records) {
      const [x1, y1, x2, y2] = record.box;
      const [boxWidth, boxHeight] = [rounded(x2 - x1, 3), rounded(y2 - y1, 3)];
      annotations.push({
        id: annotations.length + 1,
        image_id: imageId,
        category_id: record.label_id + 1,
        bbox: [x1, y1, boxWidth, boxHeight],
        area: record.segmentation ? maskArea(record.segmentation) : rounded(boxWidth * boxHeight, 3),
        iscrowd: 0,
        ...opinionOf(record, own),
        ...(record.segmentation ? { segmentation: record.segmentation } : {}),
      });
    }
    return { id: imageId, width, height, file_name: name };
  });
  const categories = classes.map(({ name }, index) => ({ id: index + 1, name }));
  return { images: entries, categories, annotations };
}

/** YOLO text: class id, centre, width and height relative to the image, and the score where there is one. */
export function toYolo({ width, height, records, own }) {
  return records.map(({ box: [x1, y1, x2, y2], label_id: label, score }) => {
    const values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height];
    if (!own) values.push(score);
    return `${label} ${values.map((value) => fixed(value, 6)).join(" ")}\n`;
  }).join("");
}

export const classesText = (classes) => classes.map(({ name }) => `${name}\n`).join("");

/** [name, text] of the files of a YOLO export: one for each image, and classes.txt. */
export function yoloFiles(images, classes) {
  const taken = new Set(["classes.txt"]);
  const files = images.map((image) => [uniqueName(`${stemOf(image.name)}.txt`, taken), toYolo(image)]);
  return [...files, ["classes.txt", classesText(classes)]];
}

function regionMeta(record) {
  const { class_score, iou, purity, integrity } = record;
  const said = [["purity", purity], ["integrity", integrity], ["IoU", iou]]
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `${name} ${fixed(value, 2)}`).join(", ");
  const numbers = { class_score: class_score ?? null, iou: iou ?? null, purity: purity ?? null, integrity: integrity ?? null };
  return said ? { ...numbers, text: [said] } : numbers;
}

/** A Label Studio prediction of a detector's boxes; of a person's, an annotation, which has no scores. */
export function toLabelStudio({ width, height, records, own }, model) {
  const result = records.map((record, index) => {
    const [x1, y1, x2, y2] = record.box;
    return {
      id: `box-${index}`,
      from_name: "label",
      to_name: "image",
      type: "rectanglelabels",
      original_width: width,
      original_height: height,
      image_rotation: 0,
      ...(own ? {} : { score: record.score }),
      value: {
        x: (100 * x1) / width,
        y: (100 * y1) / height,
        width: (100 * (x2 - x1)) / width,
        height: (100 * (y2 - y1)) / height,
        rotation: 0,
        rectanglelabels: [record.label],
      },
      meta: regionMeta(record),
    };
  });
  if (own) return { result };
  const score = records.length ? records.reduce((sum, record) => sum + record.score, 0) / records.length : 0;
  return { model_version: `${model.name} ${model.version}`, score, result };
}

/** Label Studio's list of tasks; `prefix` + the file's name is where its image is, for Label Studio. */
export const toLabelStudioTasks = (images, model, prefix) => images.map((image) => ({
  data: { image: prefix + (prefix.includes("?") ? encodeURIComponent(image.name) : encodeURI(image.name)) },
  [image.own ? "annotations" : "predictions"]: [toLabelStudio(image, model)],
}));
