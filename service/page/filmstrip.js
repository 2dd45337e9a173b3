// The strip of images: a tile each, with its state. Arrow keys move along it, Delete removes a tile of the user's own.
import { byId, element, steppedKey } from "./dom.js";
import { canRetry } from "./patience.js";
import { passes } from "./store.js";

export class Filmstrip {
  /** `handlers`: pick(id), remove(id), clear(), stop(), goOn(), retry(). */
  constructor(store, handlers) {
    this.store = store;
    this.handlers = handlers;
    this.strip = byId("film");
    this.tiles = new Map(); // image id -> {item, button, picture, badge, url}
    this.strip.addEventListener("keydown", (event) => this.#step(event));
    byId("clear").addEventListener("click", () => {
      handlers.clear();
      this.focusSoon(); // the button hides itself
    });
    byId("stop").addEventListener("click", () => (store.get().pause?.stopped ? handlers.goOn() : handlers.stop()));
    byId("retry-all").addEventListener("click", () => {
      handlers.retry();
      this.focusSoon();
    });
    store.subscribe(() => this.render(), "images", "current", "filters", "mode", "pause");
  }

  render() {
    const state = this.store.get();
    for (const [id, { item }] of this.tiles) {
      if (state.images.some((image) => image.id === id)) continue;
      item.remove();
      this.tiles.delete(id);
    }
    for (const image of state.images) this.#update(image, state);
    const order = state.images.map(({ id }) => this.tiles.get(id).item);
    if (order.some((item, at) => item !== this.strip.children[at])) this.strip.replaceChildren(...order);
    if (this.current !== state.current) {
      this.current = state.current;
      const item = this.tiles.get(state.current)?.item;
      if (item) this.strip.scrollTo({ left: item.offsetLeft - (this.strip.clientWidth - item.offsetWidth) / 2 });
    }
    byId("film-count").textContent = progressOf(state.images);
    byId("film-name").textContent = byId("film-name").title = state.images.find(({ id }) => id === state.current)?.name ?? "";
    byId("clear").hidden = !state.images.some((image) => image.sample === null);
    const open = state.images.filter((image) => image.sample === null && (image.state === "waiting" || image.state === "running")).length;
    const { pause } = state;
    byId("stop").hidden = !pause?.stopped && (open < 2 || pause?.until === null); // else nothing is under way
    byId("stop").textContent = pause?.stopped ? "Go on" : "Stop";
    const again = state.images.filter((image) => image.state === "failed" && canRetry(image.error)).length;
    byId("retry-all").hidden = again === 0;
    byId("retry-all").textContent = `Try ${again} again`;
  }

  #update(image, state) {
    const tile = this.tiles.get(image.id) ?? this.#make(image);
    const here = image.id === state.current;
    const own = state.mode === "own boxes";
    const count = own ? image.opinion?.boxes.length ?? 0
      : (image.detections ?? []).filter((detection) => passes(state, detection)).length;
    if (image.url && tile.url !== image.url) {
      tile.url = image.url;
      tile.picture.src = image.url;
    }
    const [mark, words] = badgeOf(image, count, own);
    tile.item.dataset.state = image.state;
    if (tile.badge.textContent !== mark) tile.badge.textContent = mark;
    tile.button.setAttribute("aria-pressed", here);
    tile.button.tabIndex = here || (state.current === null && image === state.images[0]) ? 0 : -1;
    tile.button.setAttribute("aria-label", `${image.sample ? "Sample " : ""}${image.name}: ${words}`);
    tile.button.title = `${image.name}: ${words}`;
  }

  #make(image) {
    const picture = element("img", { alt: "", loading: "lazy", decoding: "async", draggable: false });
    picture.addEventListener("error", () => { picture.hidden = true; });
    const badge = element("span", { className: "badge" });
    const button = element("button", {
      type: "button", className: "tile", "data-file": image.name, onclick: () => this.handlers.pick(image.id),
    }, picture, badge);
    const item = element("li", { "data-id": image.id }, button);
    if (image.sample === null) {
      item.append(element("button", {
        type: "button", className: "remove", tabIndex: -1, "aria-label": `Remove ${image.name}`, title: "Remove (Delete)",
        onclick: () => {
          this.handlers.remove(image.id);
          this.focusSoon(); // the tile was the button's home
        },
      }, "×"));
    }
    const tile = { item, button, picture, badge, url: null };
    this.tiles.set(image.id, tile);
    return tile;
  }

  #step(event) {
    const { images, current } = this.store.get();
    const id = Number(event.target.closest("li")?.dataset.id);
    if ((event.key === "Delete" || event.key === "Backspace") && images.find((image) => image.id === id)?.sample === null) {
      event.preventDefault();
      this.handlers.remove(id);
      this.focusSoon();
      return;
    }
    const next = steppedKey(event, images.map((image) => image.id), current);
    if (next === null) return;
    this.handlers.pick(next);
    this.focusSoon();
  }

  /** Focus the current image's tile, when it is drawn. */
  focusSoon() {
    queueMicrotask(() => this.tiles.get(this.store.get().current)?.button.focus());
  }
}

/** What a tile says in its corner, and in words. */
function badgeOf({ state, error, detections }, count, own) {
  const boxes = `${count} ${own ? "own " : ""}${count === 1 ? "box" : "boxes"}`;
  if (own && detections) return [count ? `${count}` : "", boxes];
  switch (state) {
    case "failed": return ["!", `refused. ${error.title}. ${error.detail}`];
    case "done": return [`${count}`, boxes];
    case "running": return [detections ? `${count}` : "…", "detecting"];
    default: return [detections ? `${count}` : "", "waiting"];
  }
}

function progressOf(images) {
  const number = (state) => images.filter((image) => image.state === state).length;
  const [done, failed] = [number("done"), number("failed")];
  const open = images.length - done - failed;
  const parts = [`${images.length}`];
  if (open) parts.push(`${open} to go`);
  if (failed) parts.push(`${failed} refused`);
  return images.length ? parts.join(", ") : "";
}
