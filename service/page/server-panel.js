// How the server does, live. What it takes is loaded when the panel is first opened.
import { element as make } from "./dom.js";

export function mount(element, store, api) {
  const details = make("details", { className: "server" }, make("summary", {}, "Live figures"));
  details.addEventListener("toggle", async () => {
    try {
      (await import("./server-figures.js")).mount(details, api);
    } catch (error) {
      details.append(make("p", { role: "alert" }, "This part of the page could not be loaded. Reload the page once the server is back."));
      throw error;
    }
  }, { once: true });
  element.append(details);
}
