// Fits the entries of boxes-read.js to the open images: by file name, by size, by the model's classes. Pure.
import { short } from "./boxes-read.js";
import { isRefused } from "./patience.js";
import { baseName, stemOf } from "./zip.js";

const ROUNDING = 1; // px: other tools write boxes whose last digit lies just outside (hindsight/boxes.py)

/** {box} clipped to the image, or {problem}: the rules of hindsight/boxes.py, so that /rescore takes what passes. */
export function checkBox(box, { width, height }) {
  const [x1, y1, x2, y2] = box;
  const said = `[${box.map((value) => Math.round(100 * value) / 100).join(", ")}]`;
  if (!box.every(Number.isFinite)) return { problem: `${said} has a coordinate that is no number` };
  if (x2 <= x1 || y2 <= y1) return { problem: `${said} is empty or inverted` };
  const leaves = { problem: `${said} leaves the image, which is ${width} x ${height} pixels` };
  if (Math.min(x1, y1) < -ROUNDING || x2 > width + ROUNDING || y2 > height + ROUNDING) return leaves;
  const clipped = [Math.max(x1, 0), Math.max(y1, 0), Math.min(x2, width), Math.min(y2, height)];
  return clipped[2] <= clipped[0] || clipped[3] <= clipped[1] ? leaves : { box: clipped };
}

/** The model's class called `label`: exactly, or but for capitals and spaces; null where there is none. */
export function classCalled(label, classNames) {
  if (classNames.includes(label)) return label;
  const plain = (text) => text.trim().toLowerCase();
  const like = classNames.filter((name) => plain(name) === plain(label));
  return like.length === 1 ? like[0] : null;
}

/** The image an entry is about: {image}, or {problem}. */
function imageFor(entry, images, current) {
  if (entry.imageId !== undefined) { // it has waited
    const image = images.find(({ id }) => id === entry.imageId);
    return image ? { image } : { problem: "its image has been taken away" };
  }
  if (entry.position !== undefined) { // answers without names, in the order in which the images were sent
    if (entry.of !== images.length) {
      return { problem: `holds ${entry.of} answers without file names, but ${images.length} images are open` };
    }
    return { image: images[entry.position] };
  }
  if (entry.image === null) return current ? { image: current } : { problem: "names no image, and none is open" };
  const wanted = baseName(entry.image);
  let found = images.filter(({ name }) => baseName(name) === wanted);
  if (!found.length) found = images.filter(({ name }) => stemOf(name) === stemOf(wanted));
  if (found.length > 1) return { problem: `${found.length} open images are called ${short(wanted)}` };
  return found.length ? { image: found[0] } : { problem: `no open image is called ${short(entry.byStem ? stemOf(wanted) : wanted)}` };
}

/**
 * {placed: Map(image id -> [{box, label}]), waiting: entries of images whose size is not known yet}. What does not fit goes to
 * `problems`. A box of an unknown class is taken without a class.
 */
export function placeBoxes(entries, { images, current, classNames }, problems) {
  const placed = new Map();
  const waiting = [];
  const unknown = new Map(); // file -> label -> count
  for (const entry of entries) {
    const { image, problem } = imageFor(entry, images, current);
    if (problem) {
      problems.add(entry.file, problem);
    } else if (!image.width && isRefused(image)) {
      problems.add(entry.file, "its image was refused");
    } else if (!image.width) {
      waiting.push({ ...entry, imageId: image.id });
    } else if (entry.size && (entry.size[0] !== image.width || entry.size[1] !== image.height)) {
      problems.add(entry.file, `is for ${short(image.name)} of ${entry.size.join(" x ")} pixels; the open one has ${image.width} x ${image.height}`);
    } else {
      const boxes = placed.get(image.id) ?? [];
      placed.set(image.id, boxes);
      for (const item of entry.boxes) {
        const checked = checkBox(item.box ?? inPixels(item.relative, image), image);
        if (checked.problem) {
          problems.add(entry.file, `${item.where}: ${checked.problem}`);
          continue;
        }
        const label = item.label === null ? null : classCalled(item.label, classNames);
        if (item.label !== null && label === null) count(unknown, entry.file, item.label);
        boxes.push({ box: checked.box, label });
      }
    }
  }
  for (const [file, labels] of unknown) {
    for (const [label, times] of labels) {
      const known = short(classNames.join(", "));
      problems.add(file, `${short(label)} is no class of this model (${known.slice(1, -1)}): ${times === 1 ? "1 box" : `${times} boxes`} taken without a class`);
    }
  }
  return { placed, waiting };
}

function inPixels([cx, cy, w, h], { width, height }) {
  return [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height];
}

function count(counts, file, label) {
  const labels = counts.get(file) ?? new Map();
  counts.set(file, labels.set(label, (labels.get(label) ?? 0) + 1));
}

const keyOf = ({ box, label }) => `${box.map((value) => Math.round(value)).join()} ${label}`;

/** Those of `boxes` that `there` does not hold already, to the pixel: a file that is read twice doubles nothing. */
export function missingFrom(there, boxes) {
  const known = new Set(there.map(keyOf));
  return boxes.filter((item) => !known.has(keyOf(item)));
}
