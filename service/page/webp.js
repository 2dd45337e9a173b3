// WebP pictures with an EXIF orientation, for upright.js: whether this browser turns them, and turning them where it does not.

const ORIENTATION = 0x0112; // EXIF's tag
const MOST_CHUNKS = 64;
// A WebP of 1 x 2 pixels whose EXIF says to turn it: what a browser makes of it tells what it makes of others.
const PROBE = "data:image/webp;base64,UklGRk4AAABXRUJQVlA4WAoAAAAIAAAAAAAAAQAAVlA4TA4AAAAvAEAAAAcQEf0PRET/A0VYSUYaAAAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA=";
// orientation -> [a, b, c, d] of the matrix that makes it upright
const TURNS = {
  2: [-1, 0, 0, 1], 3: [-1, 0, 0, -1], 4: [1, 0, 0, -1], 5: [0, 1, 1, 0], 6: [0, 1, -1, 0], 7: [0, -1, -1, 0], 8: [0, -1, 1, 0],
};

const viewOf = async (blob, start, end) => new DataView(await blob.slice(start, end).arrayBuffer());
const textAt = (view, at) => (view.byteLength < at + 4 ? "" : String.fromCharCode(...new Uint8Array(view.buffer, at, 4)));

/** The EXIF orientation of a WebP with EXIF data, 1 to 8. */
async function orientationIn(blob) {
  let at = 12;
  for (let chunk = 0; chunk < MOST_CHUNKS && at + 8 <= blob.size; chunk += 1) {
    const header = await viewOf(blob, at, at + 8);
    const size = header.getUint32(4, true);
    if (textAt(header, 0) === "EXIF") return orientationOf(await viewOf(blob, at + 8, at + 8 + size));
    at += 8 + size + (size % 2);
  }
  return 1;
}

/** Of EXIF data: a TIFF header and its first directory. */
function orientationOf(view) {
  try {
    const start = textAt(view, 0) === "Exif" ? 6 : 0;
    const little = view.getUint16(start) === 0x4949;
    const directory = start + view.getUint32(start + 4, little);
    for (let entry = 0; entry < view.getUint16(directory, little); entry += 1) {
      const at = directory + 2 + 12 * entry;
      if (view.getUint16(at, little) === ORIENTATION) return TURNS[view.getUint16(at + 8, little)] ? view.getUint16(at + 8, little) : 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // cut short: it says nothing
  }
  return 1;
}

let turning = null;

/** Whether this browser turns WebP pictures by itself. */
function turnsWebp() {
  turning ??= new Promise((resolve) => {
    const probe = new Image();
    probe.onload = () => resolve(probe.naturalWidth > probe.naturalHeight);
    probe.onerror = () => resolve(true); // it shows no WebP at all
    probe.src = PROBE;
  });
  return turning;
}

/** A WebP upright, as a PNG; null where the browser shows it so by itself, or cannot. */
export async function uprightOf(blob) {
  const orientation = await orientationIn(blob);
  return orientation === 1 || await turnsWebp() ? null : turned(blob, orientation);
}

async function turned(blob, orientation) {
  const bitmap = await createImageBitmap(blob).catch(() => null);
  if (!bitmap) return null;
  const [a, b, c, d] = TURNS[orientation];
  const [width, height] = a ? [bitmap.width, bitmap.height] : [bitmap.height, bitmap.width];
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  if (!context) return null;
  context.setTransform(a, b, c, d, a + c < 0 ? width : 0, b + d < 0 ? height : 0);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const picture = await new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
  canvas.width = canvas.height = 0; // gives its memory back at once
  return picture;
}
