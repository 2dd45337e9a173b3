// The files of export.js, loaded on the first export.
import { toCoco, toLabelStudioTasks, yoloFiles } from "./boxes-write.js";
import { element as make } from "./dom.js";
import { annotated } from "./picture.js";
import { colourOf } from "./store.js";
import { ExportError, ZipWriter, stemOf, uniqueName } from "./zip.js";

const KEEP_MS = 60_000; // a download may begin late, after a dialog

/** Hand the user a file; returns its name. */
function save(blob, name) {
  const file = uniqueName(name, new Set());
  const link = make("a", { href: URL.createObjectURL(blob), download: file });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), KEEP_MS);
  return file;
}

const saveJson = (value, name) => save(new Blob([`${JSON.stringify(value, null, 1)}\n`], { type: "application/json" }), name);
const usableOf = ({ ready }) => ready.filter(({ records }) => records.records);
const recordsOf = (entries) => entries.map(({ records }) => records);
const nameOf = (request) => (request.all ? "hindsight" : stemOf(usableOf(request)[0].image.name));
const draw = ({ image, records }, state) => annotated(image.picture ?? image.blob, records, (label) => colourOf(state, label), state.masks);

async function pictures({ state, say }, entries, name) {
  const zip = new ZipWriter();
  const taken = new Set();
  const refused = [];
  for (const [index, entry] of entries.entries()) {
    say(`Drawing ${index + 1} of ${entries.length}…`);
    try {
      const picture = await draw(entry, state);
      zip.add(uniqueName(`${stemOf(entry.image.name)}.png`, taken), new Uint8Array(await picture.arrayBuffer()));
    } catch (error) {
      if (error.name !== "ExportError") throw error;
      refused.push(`${entry.image.name}: ${error.message}`); // the others are still worth having
    }
  }
  if (refused.length === entries.length) throw new ExportError(refused[0]);
  return [save(zip.finish(), `${name}.pictures.zip`), ...refused].join("; without ");
}

/** Each takes {state, ready: [{image, records}], all, prefix, say} and returns the name of what it saved. */
export const exporters = {
  coco: (request) => saveJson(toCoco(recordsOf(request.ready), request.state.model.classes), `${nameOf(request)}.coco.json`),
  labelstudio: (request) => saveJson(
    toLabelStudioTasks(recordsOf(usableOf(request)), request.state.model, request.prefix), `${nameOf(request)}.label-studio.json`),
  yolo: (request) => {
    const zip = new ZipWriter();
    for (const [file, text] of yoloFiles(recordsOf(usableOf(request)), request.state.model.classes)) {
      zip.add(file, new TextEncoder().encode(text));
    }
    return save(zip.finish(), `${nameOf(request)}.yolo.zip`);
  },
  png: async (request) => {
    const entries = usableOf(request);
    if (request.all) return pictures(request, entries, nameOf(request));
    return save(await draw(entries[0], request.state), `${nameOf(request)}.annotated.png`);
  },
};
