// The three ways a photo comes in: chosen, dropped anywhere on the page, or pasted.
import { byId } from "./dom.js";

const carriesFile = (event) => event.dataTransfer?.types.includes("Files");

/** Call `use` with each File that the user hands over. */
export function wireIntake(use) {
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files.length) use(target.files[0]);
    target.value = ""; // so that choosing the same file again is a change
  });
  addEventListener("dragover", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    byId("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    byId("drop").hidden = true;
    if (event.dataTransfer.files.length) use(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) use(file);
  });
}
