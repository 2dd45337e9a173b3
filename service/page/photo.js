// The current image's pixels on the stages. Its size is the server's as soon as there is an answer; until then the browser's.
import { byId } from "./dom.js";

let shown = null; // {id, url, width, height, previewed}

const sizeOf = (url) => new Promise((resolve) => {
  const probe = new Image();
  probe.onload = () => resolve({ width: probe.naturalWidth, height: probe.naturalHeight });
  probe.onerror = () => resolve(null); // a format that the server knows and this browser does not, or no image at all
  probe.src = url;
});

function say(text) {
  byId("placeholder").hidden = text === "";
  byId("placeholder").textContent = text;
}

/** Show `image` (an ImageEntry, or null) on all of `stages`; another image than before is seen whole. */
export async function showPicture(image, stages, camera) {
  const { id = null, url = null, width = null, height = null, name = "" } = image ?? {};
  if (shown?.id === id && shown.url === url && shown.width === width && shown.height === height) return;
  const another = shown?.id !== id;
  const wanted = { id, url, width, height };
  shown = wanted;
  byId("photo").setAttribute("aria-label", image ? `Photo ${name}` : "");
  if (another) camera.fit();
  if (!url) {
    for (const stage of stages) stage.clear();
    say(image ? "Fetching the image…" : "Add an image, drop one here, or paste it");
    return;
  }
  if (width !== null) for (const stage of stages) stage.show(url, { width, height });
  else if (another) for (const stage of stages) stage.clear();
  const found = await sizeOf(url);
  if (shown !== wanted) return;
  say(found ? "" : `${name}: no preview`);
  for (const stage of stages) {
    if (!found) stage.clear();
    else if (width === null) stage.show(url, found);
  }
}
