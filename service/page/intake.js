// The three ways images come in: chosen, dropped anywhere on the page (folders too), or pasted.
import { byId } from "./dom.js";

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

const PICTURE = /\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|heic|heif)$/i; // browsers know no type for some of them

/** Call `use` with the Files that the user hands over at once; `say` what could not be taken. */
export function wireIntake(use, say) {
  const take = (files) => { if (files.length) use(files); };
  byId("file").addEventListener("change", ({ target }) => {
    take([...target.files]);
    target.value = ""; // so that choosing the same file again is a change
  });
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    byId("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").hidden = true;
  });
  addEventListener("drop", async (event) => {
    byId("drop").hidden = true;
    if (!carriesFiles(event)) return;
    event.preventDefault();
    const { files, problem } = await droppedFiles(event.dataTransfer);
    if (problem) say(problem);
    take(files);
  });
  addEventListener("paste", (event) => {
    if (event.target.closest?.("input, textarea")) return;
    take([...(event.clipboardData?.files ?? [])]);
  });
}

/** {files, problem} of what was dropped. Of a folder: the pictures in it, by name; whatever else lies there was not meant. */
async function droppedFiles({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return { files: [...files], problem: "" };
  const found = [];
  let problem = "";
  for (const entry of entries) {
    try {
      const taken = entry.isDirectory
        ? (await filesIn(entry)).filter(({ type, name }) => type.startsWith("image/") || PICTURE.test(name)) : [await fileOf(entry)];
      if (!taken.length) problem = `No image in ${entry.name}`;
      found.push(...taken);
    } catch (error) {
      problem = `${entry.name} cannot be read (${error.name})`; // the others can
    }
  }
  return { files: found, problem };
}

const fileOf = (entry) => new Promise((resolve, reject) => { entry.file(resolve, reject); });

async function filesIn(folder) {
  const reader = folder.createReader();
  const files = [];
  for (;;) {
    const entries = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (entries.length === 0) break;
    for (const entry of entries) files.push(...(entry.isDirectory ? await filesIn(entry) : [await fileOf(entry)]));
  }
  return files.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}
