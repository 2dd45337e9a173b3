// The dialog that asks for an API key when the server wants one.
import { onKeyNeeded } from "./api.js";
import { byId } from "./dom.js";

let open = null; // the answer being waited for: several requests that need a key ask once

function ask(detail) {
  open ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-detail").textContent = detail;
    byId("key").value = "";
    dialog.returnValue = "cancel"; // what Escape leaves
    dialog.addEventListener("close", () => {
      open = null;
      const key = byId("key").value.trim();
      byId("key").value = "";
      resolve(dialog.returnValue === "use" && key ? key : null);
    }, { once: true });
    dialog.showModal();
  });
  return open;
}

export const wireKey = () => onKeyNeeded(ask);
