// The three ways images come in: chosen, dropped anywhere on the page (folders too), or pasted.
import { byId } from "./dom.js";

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

/** Call `use` with the Files that the user hands over at once. */
export function wireIntake(use) {
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
    take(await droppedFiles(event.dataTransfer));
  });
  addEventListener("paste", (event) => {
    if (event.target.closest?.("input, textarea")) return;
    take([...(event.clipboardData?.files ?? [])]);
  });
}

/** The files dropped. Of a folder: the pictures in it, by name; whatever else lies there was not meant. */
async function droppedFiles({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...files];
  const found = [];
  for (const entry of entries) {
    if (entry.isDirectory) found.push(...(await filesIn(entry)).filter(({ type }) => type.startsWith("image/")));
    else found.push(await fileOf(entry));
  }
  return found;
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
