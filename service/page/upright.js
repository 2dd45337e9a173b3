// Pictures that the browser shows otherwise than the server counts their pixels: Chromium turns a JPEG or PNG by its EXIF
// orientation, as the server does, but no WebP. Such a one is turned here, once, for everything that shows it.
import { imageOf, updateImage } from "./store.js";

const HAS_EXIF = 0x08; // in the flags of a WebP's VP8X chunk
const HEAD = /^RIFF....WEBPVP8X....(.)/s;

/** Whether `blob` is a WebP with EXIF data. */
async function isWebpWithExif(blob) {
  const head = String.fromCharCode(...new Uint8Array(await blob.slice(0, 24).arrayBuffer()));
  return Boolean((HEAD.exec(head)?.[1].charCodeAt(0) ?? 0) & HAS_EXIF);
}

/** From now on, give every image that needs it a `picture`, and its `url`. */
export function keepUpright(store) {
  const seen = new Set(); // ids
  async function look({ id, blob }) {
    if (!await isWebpWithExif(blob).catch(() => false)) return; // a file that cannot be read: whoever sends it says so
    const picture = await (await import("./webp.js")).uprightOf(blob);
    const image = imageOf(store.get(), id);
    if (!picture || !image) return;
    URL.revokeObjectURL(image.url);
    updateImage(store, id, { picture, url: URL.createObjectURL(picture) });
  }
  store.subscribe(({ images }) => {
    for (const image of images) {
      if (!image.blob || seen.has(image.id)) continue;
      seen.add(image.id);
      look(image);
    }
  }, "images");
}
