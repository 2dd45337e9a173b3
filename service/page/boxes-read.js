// Boxes from files: our JSON, COCO JSON, YOLO text, Pascal VOC XML. Text goes in; entries and problems come out:
// entry = {file, image (file name, or null: whichever is open), size ([width, height] that the file gives, or null),
//          boxes: [{box (xyxy pixels) or relative (centre x, y, width, height in shares), label (name or null), where}]}
// Nothing here touches what the page holds; boxes-place.js fits the entries to the open images.
import { XmlError, fromVoc } from "./boxes-voc.js";
import { baseName } from "./zip.js";

export const LIMITS = { bytes: 20_000_000, files: 2000, boxes: 5000 };
const SHOWN = 60; // characters of a foreign text in a message

export class Unreadable extends Error {}

export const short = (text) => {
  const flat = String(text).replace(/\s+/g, " ");
  return `“${flat.length > SHOWN ? `${flat.slice(0, SHOWN)}…` : flat}”`;
};
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isBox = (value) => Array.isArray(value) && value.length === 4 && value.every(isNumber);
const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isNames = (file) => /^(classes\.txt|labels\.txt|.*\.names)$/i.test(baseName(file));

/** What goes wrong, one line each. A file with a thousand mistakes takes a few lines and a count. */
export class Problems {
  static PER_FILE = 4;
  #counts = new Map();
  #lines = [];

  add(file, text) {
    const count = (this.#counts.get(file) ?? 0) + 1;
    this.#counts.set(file, count);
    if (count <= Problems.PER_FILE) this.#lines.push(`${file}: ${text}`);
  }

  about(file) {
    return this.#counts.has(file);
  }

  get lines() {
    const more = [...this.#counts].filter(([, count]) => count > Problems.PER_FILE)
      .map(([file, count]) => `${file}: and ${count - Problems.PER_FILE} more like these`);
    return [...this.#lines, ...more];
  }
}

/** What is wrong with the sizes of `files` ({name, size}), or null. Asked before any byte is read. */
export function tooMuch(files) {
  const total = files.reduce((sum, { size }) => sum + size, 0);
  const megabytes = (bytes) => `${Math.round(bytes / 1e6).toLocaleString("en")} MB`;
  if (files.length > LIMITS.files) return `${files.length} files; at most ${LIMITS.files} at a time can be read here.`;
  if (total > LIMITS.bytes) {
    return `${files.length === 1 ? files[0].name : "The files together"}: ${megabytes(total)}; at most `
      + `${megabytes(LIMITS.bytes)} can be read here. Split the file, or use \`hindsight audit\` for a whole data set.`;
  }
  return null;
}

/** Entries of `files` [{name, text}]. `classNames`: what YOLO's numbers mean unless a classes.txt is among the files. */
export function readBoxes(files, classNames, problems) {
  let names = classNames;
  for (const { name, text } of files.filter((file) => isNames(file.name))) {
    names = text.split(/\r?\n/).map((line) => line.trim());
    while (names.at(-1) === "") names.pop();
    if (names.length === 0) problems.add(name, "names no classes");
  }
  const entries = [];
  let room = LIMITS.boxes;
  for (const { name, text } of files.filter((file) => !isNames(file.name))) {
    try {
      for (const entry of parse(name, text, names, problems)) {
        if (entry.boxes.length > room) throw new Unreadable(`more than ${LIMITS.boxes.toLocaleString("en")} boxes at a time; the rest is left out`);
        room -= entry.boxes.length;
        entries.push({ file: name, ...entry });
      }
    } catch (error) {
      if (!(error instanceof Unreadable || error instanceof XmlError)) throw error;
      problems.add(name, error.message);
    }
  }
  return entries;
}

function parse(name, text, names, problems) {
  const start = text.trimStart()[0];
  if (start === undefined) return /\.txt$/i.test(name) ? [fromYolo(name, "", names, problems)] : refuse("is empty");
  if (/\.xml$/i.test(name) || start === "<") return [fromVoc(name, text)];
  if (/\.json$/i.test(name) || start === "{" || start === "[") return fromJson(name, text, problems);
  if (/\.txt$/i.test(name)) return [fromYolo(name, text, names, problems)];
  return refuse("is not one of the files that can be read: .json (ours or COCO), .txt (YOLO), .xml (Pascal VOC)");
}

function refuse(message) { throw new Unreadable(message); }

// JSON ------------------------------------------------------------------------------------------------------------

function fromJson(name, text, problems) {
  let document;
  try {
    document = JSON.parse(text);
  } catch (error) {
    return refuse(`is not JSON (${error.message.slice(0, 2 * SHOWN)})`);
  }
  if (Array.isArray(document)) {
    if (document.some((item) => isRecord(item) && "image_id" in item)) {
      return refuse("is a list of COCO results, which names no files; the annotation file with `images` is needed");
    }
    return [{ image: null, size: null, boxes: ours(name, document, problems) }];
  }
  if (!isRecord(document)) return refuse("holds neither an object nor a list");
  if (Array.isArray(document.annotations)) return fromCoco(name, document, problems);
  if (Array.isArray(document.detections)) return [fromAnswer(name, document, problems)];
  if (Array.isArray(document.results) && document.results.every((answer) => Array.isArray(answer?.detections))) {
    return document.results.map((answer, position) => (
      { ...fromAnswer(name, answer, problems), position, of: document.results.length }));
  }
  if (Array.isArray(document.boxes)) return [{ image: null, size: null, boxes: ours(name, document.boxes, problems) }];
  return refuse("has none of `boxes`, `detections`, `results` (ours) or `annotations` (COCO)");
}

function fromAnswer(name, answer, problems) {
  const { width, height } = isRecord(answer.image) ? answer.image : {};
  return {
    image: typeof answer.image?.name === "string" ? answer.image.name : null,
    size: isNumber(width) && isNumber(height) ? [width, height] : null,
    boxes: ours(name, answer.detections, problems),
  };
}

/** Our lists: [x1, y1, x2, y2], or objects with `box` and perhaps `label`. */
function ours(name, list, problems) {
  const boxes = [];
  list.forEach((item, index) => {
    const where = `box ${index + 1}`;
    const box = isRecord(item) ? item.box : item;
    if (isBox(box)) boxes.push({ box, label: typeof item.label === "string" ? item.label : null, where });
    else problems.add(name, `${where}: expected [x1, y1, x2, y2], got ${short(JSON.stringify(item))}`);
  });
  return boxes;
}

function fromCoco(name, document, problems) {
  if (!Array.isArray(document.images)) return refuse("has `annotations` but no list `images`");
  const categories = new Map(
    (Array.isArray(document.categories) ? document.categories : []).filter(isRecord).map((entry) => [entry.id, entry.name]));
  const entries = new Map();
  for (const image of document.images.filter(isRecord)) {
    const size = isNumber(image.width) && isNumber(image.height) ? [image.width, image.height] : null;
    entries.set(image.id, { image: typeof image.file_name === "string" ? image.file_name : null, size, boxes: [] });
  }
  let crowds = 0;
  document.annotations.forEach((annotation, index) => {
    const where = `annotation ${index + 1}`;
    if (!isRecord(annotation)) return problems.add(name, `${where} is no object`);
    const entry = entries.get(annotation.image_id);
    if (!entry) return problems.add(name, `${where}: no image has the id ${short(annotation.image_id)}`);
    if (annotation.iscrowd) { crowds += 1; return undefined; }
    if (!isBox(annotation.bbox)) {
      return problems.add(name, `${where}: expected bbox [x, y, width, height], got ${short(JSON.stringify(annotation.bbox))}`);
    }
    const [x, y, width, height] = annotation.bbox;
    const label = categories.get(annotation.category_id);
    if (typeof label !== "string") problems.add(name, `${where}: no category has the id ${short(annotation.category_id)}`);
    return entry.boxes.push({ box: [x, y, x + width, y + height], label: typeof label === "string" ? label : null, where });
  });
  if (crowds) problems.add(name, `${crowds} crowd regions (iscrowd) left out: they are no boxes of one object`);
  return [...entries.values()].filter((entry) => entry.boxes.length);
}

// YOLO ------------------------------------------------------------------------------------------------------------

function fromYolo(name, text, names, problems) {
  const boxes = [];
  text.split(/\r?\n/).forEach((line, index) => {
    if (!line.trim()) return;
    const where = `line ${index + 1}`;
    const words = line.trim().split(/\s+/);
    const values = words.map(Number);
    if (words.length > 6 && values.every(Number.isFinite)) {
      problems.add(name, `${where}: ${words.length} numbers are a polygon; only boxes can be read: class, cx, cy, width, height`);
    } else if (words.length < 5 || words.length > 6 || !values.every(Number.isFinite)) {
      problems.add(name, `${where}: expected class, cx, cy, width, height (shares of the image), got ${short(line)}`);
    } else if (values.slice(1, 5).some((value) => value < -0.01 || value > 1.01)) {
      problems.add(name, `${where}: cx, cy, width and height are shares of the image, 0 to 1; got ${short(line)}`);
    } else {
      const [number, ...relative] = values;
      const label = names[number] || `class ${number}`; // a number without a name: reported as an unknown class
      boxes.push({ relative: relative.slice(0, 4), label, where });
    }
  });
  return { image: name, byStem: true, size: null, boxes };
}
