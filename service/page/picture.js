// An image with its boxes drawn on it, at full resolution: the page's counterpart of the server's annotate=true.
// Places and sizes follow hindsight/draw.py.
import { inLine } from "./dom.js";
import { isOff } from "./fit.js";
import { ExportError } from "./zip.js";

const TINT = 0.4; // share of the class's colour over a mask
const BRIGHT = 140; // luma 0..255 from which black text reads better than white

const overlap = (a, b) => (
  Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1])));

/** Where a text of [width, height] goes: above the box, below it or inside along an edge, where it hides least of `taken`. */
export function freePlace([x1, y1, x2, y2], [width, height], [canvasWidth, canvasHeight], taken) {
  let best = null;
  for (const y of [y1 - height, y2, y1, y2 - height]) {
    for (const x of [x1, x2 - width]) {
      const left = Math.max(0, Math.min(x, canvasWidth - width));
      const top = Math.max(0, Math.min(y, canvasHeight - height));
      const place = [left, top, left + width, top + height];
      // Pushed up or down into the canvas it would stand apart from its box.
      const cost = (top === y ? 0 : 1e18) + taken.reduce((sum, other) => sum + overlap(place, other), 0);
      if (!best || cost < best.cost) best = { cost, place };
    }
  }
  return best.place;
}

function readableOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue >= BRIGHT ? "#000" : "#fff";
}

const MOST_SHARE = 0.5; // of the picture's width that a class's name may take

/** What stands at a box; of a long name as much as there is room for. */
function textOf({ label, score, iou }, context) {
  let name = inLine(label);
  for (let most = 31; most > 3 && context.measureText(name).width > MOST_SHARE * context.canvas.width; most -= 1) name = inLine(label, most);
  return [score === undefined ? name : `${name} ${score.toFixed(2)}`, ...(typeof iou === "number" ? [`IoU ${iou.toFixed(2)}`] : [])].join("  ");
}

/** Tint the masks' pixels; where masks overlap, with the strongest one's colour. */
async function drawMasks(context, records, colourOf) {
  const { knownOutline } = await import("./masks.js");
  const layer = document.createElement("canvas");
  Object.assign(layer, { width: context.canvas.width, height: context.canvas.height });
  const tint = layer.getContext("2d");
  if (!tint) throw new ExportError("this browser has no room for the masks: switch them off");
  for (const record of [...records].reverse()) {
    if (!record.segmentation) continue;
    tint.fillStyle = colourOf(record.label);
    try {
      tint.fill(new Path2D(knownOutline(record.segmentation)), "evenodd");
    } catch (error) {
      throw new ExportError(`a mask cannot be read (${error.message}): switch masks off`);
    }
  }
  context.globalAlpha = TINT;
  context.drawImage(layer, 0, 0);
  context.globalAlpha = 1;
  layer.width = layer.height = 0; // gives its memory back at once
}

function drawBoxes(context, records, colourOf) {
  const { width, height } = context.canvas;
  const short = Math.min(width, height);
  const line = Math.max(1, Math.round(short / 250));
  const size = Math.max(10, Math.round(short / 40));
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.lineWidth = line;
  for (const record of [...records].reverse()) { // the strongest on top
    const [x1, y1, x2, y2] = record.box;
    context.strokeStyle = colourOf(record.label);
    const judged = { purity: record.purity ?? null, integrity: record.integrity ?? null };
    context.setLineDash(isOff(judged) ? [4 * line, 3 * line] : []);
    context.strokeRect(x1 + line / 2, y1 + line / 2, Math.max(x2 - x1 - line, 1), Math.max(y2 - y1 - line, 1));
  }
  const taken = [];
  for (const record of records) {
    const text = textOf(record, context);
    const place = freePlace(record.box, [context.measureText(text).width + 2 * line, 1.2 * size + 2 * line], [width, height], taken);
    taken.push(place);
    const colour = colourOf(record.label);
    context.fillStyle = colour;
    context.fillRect(place[0], place[1], place[2] - place[0], place[3] - place[1]);
    context.fillStyle = readableOn(colour);
    context.fillText(text, place[0] + line, (place[1] + place[3]) / 2);
  }
}

/** A PNG Blob of the image `blob` with `records` drawn, their masks only if `masks`. Throws ExportError where the browser cannot show or hold the picture. */
export async function annotated(blob, { width, height, records }, colourOf, masks) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob); // upright, by its EXIF orientation, as the server counts its pixels
  } catch {
    throw new ExportError("this browser cannot decode the image");
  }
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  if (!context) throw new ExportError(`this browser has no room for a picture of ${width} x ${height} pixels`);
  context.fillStyle = "#fff"; // transparency is put on white, as the server does
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  if (masks && records.some(({ segmentation }) => segmentation)) await drawMasks(context, records, colourOf);
  drawBoxes(context, records, colourOf);
  const picture = await new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
  canvas.width = canvas.height = 0; // gives its memory back at once
  if (!picture) throw new ExportError(`this browser has no room for a picture of ${width} x ${height} pixels`);
  return picture;
}
