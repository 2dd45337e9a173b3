// The mode "own boxes": what it takes is loaded when the mode is first chosen, or a file with boxes is dropped.
import { element as make } from "./dom.js";

export function mount(element, store, api) {
  let workshop = null;

  function load() {
    workshop ??= import("./own-workshop.js").then((module) => module.mount(element, store, api)).catch((error) => {
      workshop = null;
      element.append(make("p", { role: "alert" }, "This part of the page could not be loaded. Reload the page once the server is back."));
      throw error;
    });
    return workshop;
  }

  const chosen = ({ mode }) => { if (mode === "own boxes") load(); };
  store.subscribe(chosen, "mode");
  chosen(store.get());
  /** Take annotation files [File] that were dropped on the page or chosen among images. */
  api.useAnnotations = async (files) => (await load()).useAnnotations(files);
}
