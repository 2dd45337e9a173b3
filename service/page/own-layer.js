// The person's boxes over the image: drawn, moved and resized with pointer or keys. Knows no lists: it reports what was done.
import { svgElement } from "./dom.js";
import { boxBetween, moved, resized } from "./editing.js";

const CORNERS = ["nw", "ne", "sw", "se"];
const EDGES = ["n", "e", "s", "w"];
const HANDLE_PX = 9; // what is seen of a handle
const GRASP_PX = 24; // what can be grasped
const ROOM_FOR_EDGES_PX = 72; // a smaller box has handles at its corners only
const CLICK_PX = 3; // a press that moves less is a click
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
const place = (node, [x1, y1, x2, y2]) => {
  for (const [name, value] of [["x", x1], ["y", y1], ["width", x2 - x1], ["height", y2 - y1]]) node.setAttribute(name, value);
};

export class OwnLayer {
  /**
   * `handlers`: active(), size() of the image, add(box), change(id, box, merging), seal(), select(id or null), remove(id),
   * step(by), classNumber(n). The state is what `draw` was given last.
   */
  constructor(stage, handlers) {
    Object.assign(this, { stage, handlers, layer: stage.layer, groups: new Map(), boxes: [], selected: null, drag: null });
    this.layer.setAttribute("role", "application"); // arrow keys belong to the boxes, not to a screen reader's cursor
    this.layer.setAttribute("aria-label", "Your boxes");
    this.layer.setAttribute("tabindex", "-1"); // Chromium puts what listens for focus events among the tab stops
    this.shapes = svgElement("g");
    this.ghost = svgElement("rect", { class: "own-ghost" });
    this.fresh = svgElement("rect", { class: "own-fresh" });
    this.handles = svgElement("g", { class: "own-handles", "aria-hidden": "true" });
    this.layer.append(this.ghost, this.shapes, this.handles, this.fresh);
    for (const name of ["pointerdown", "pointermove", "pointerup"]) {
      stage.svg.addEventListener(name, (event) => this[`_${name}`](event));
    }
    for (const name of ["pointercancel", "lostpointercapture"]) stage.svg.addEventListener(name, () => this.cancel());
    this.layer.addEventListener("keydown", (event) => this.#key(event));
    this.layer.addEventListener("keyup", () => handlers.seal());
    this.layer.addEventListener("focusout", () => handlers.seal());
    stage.onView(() => this.#placeHandles());
    this.#placeHandles();
  }

  /** Show `boxes` [{id, box, colour, fit, name}], one of them `selected`, and `ghost`, a box of the model's, or null. */
  draw(boxes, selected, ghost) {
    Object.assign(this, { boxes, selected });
    const painted = [...boxes].sort((a, b) => area(b.box) - area(a.box)); // small ones last: they can be pointed at
    const groups = new Map(painted.map((entry) => [entry.id, this.groups.get(entry.id) ?? this.#group(entry.id)]));
    const hadFocus = this.layer.contains(document.activeElement) ? document.activeElement : null;
    const order = [...groups.values()];
    if (order.length !== this.shapes.children.length || order.some((node, index) => this.shapes.children[index] !== node)) {
      this.shapes.replaceChildren(...order);
      if (hadFocus?.isConnected) hadFocus.focus({ preventScroll: true });
    }
    this.groups = groups;
    const stop = groups.has(selected) ? selected : boxes[0]?.id;
    for (const { id, box, colour, fit, name } of boxes) {
      const group = groups.get(id);
      const edge = group.querySelector(".edge");
      edge.style.stroke = colour;
      group.querySelector(".tint").style.fill = colour;
      if (id !== this.drag?.id) for (const rectangle of group.children) place(rectangle, box);
      group.dataset.fit = fit;
      group.setAttribute("aria-label", name);
      group.setAttribute("aria-pressed", id === selected);
      group.setAttribute("tabindex", id === stop ? "0" : "-1");
    }
    this.ghost.style.display = ghost ? "" : "none";
    if (ghost) place(this.ghost, ghost);
    this.#placeHandles();
  }

  focus(id) { this.groups.get(id)?.focus({ preventScroll: true }); }

  /** Forget a drag that is under way. */
  cancel() {
    if (!this.drag) return;
    const { id, original } = this.drag;
    this.drag = null;
    if (id && this.groups.has(id)) for (const rectangle of this.groups.get(id).children) place(rectangle, original);
    this.#placeHandles();
  }

  #group(id) {
    const group = svgElement("g", { "data-own": id, role: "button", "aria-roledescription": "box", class: "own-box" });
    group.append(...["tint", "halo", "edge"].map((name) => svgElement("rect", { class: name })));
    group.addEventListener("focus", () => this.handlers.select(id));
    return group;
  }

  #placeHandles() {
    const entry = this.boxes.find(({ id }) => id === this.selected);
    const box = this.drag?.box ?? entry?.box;
    this.fresh.style.display = this.drag?.kind === "draw" && box ? "" : "none";
    if (this.drag?.kind === "draw") {
      if (box) place(this.fresh, box);
      return;
    }
    if (!entry) return void this.handles.replaceChildren();
    const pixel = this.stage.pixel();
    const [x1, y1, x2, y2] = box;
    const small = Math.min(x2 - x1, y2 - y1) < ROOM_FOR_EDGES_PX * pixel;
    const at = (name, low, high, a, b) => (name.includes(low) ? a : name.includes(high) ? b : (a + b) / 2);
    const squares = (small ? CORNERS : [...EDGES, ...CORNERS]).flatMap((name) => {
      const [x, y] = [at(name, "w", "e", x1, x2), at(name, "n", "s", y1, y2)];
      return [["grasp", GRASP_PX], ["knob", HANDLE_PX]].map(([kind, size]) => {
        const half = (size * pixel) / 2;
        // A small box would vanish under its corners' grasp: there, it lies outside.
        const shift = kind === "grasp" && small ? half * 0.8 : 0;
        const [dx, dy] = [at(name, "w", "e", -shift, shift), at(name, "n", "s", -shift, shift)];
        const square = svgElement("rect", { class: kind, "data-handle": name });
        place(square, [x + dx - half, y + dy - half, x + dx + half, y + dy + half]);
        return square;
      });
    });
    this.handles.replaceChildren(...squares);
  }

  _pointerdown(event) {
    if (this.drag) return this.cancel(); // a second finger: that is a pinch
    if (!this.handlers.active() || event.button !== 0 || !event.isPrimary || event.defaultPrevented) return undefined;
    const start = this.stage.toImage(event);
    const client = [event.clientX, event.clientY];
    const handle = event.target.closest("[data-handle]")?.dataset.handle;
    const id = handle ? this.selected : Number(event.target.closest("[data-own]")?.dataset.own);
    if (!id || (event.shiftKey && !handle)) {
      this.drag = { kind: "draw", start, client, box: null };
    } else {
      if (id !== this.selected) this.handlers.select(id);
      this.focus(id);
      const original = this.boxes.find((entry) => entry.id === id).box;
      this.drag = { kind: handle ? "resize" : "move", id, handle, start, client, original, box: null };
    }
    this.stage.svg.setPointerCapture(event.pointerId);
    event.preventDefault(); // no text selection, no drag of the image
    return undefined;
  }

  _pointermove(event) {
    const { drag } = this;
    if (!drag || !event.isPrimary) return;
    const far = Math.hypot(event.clientX - drag.client[0], event.clientY - drag.client[1]) >= CLICK_PX;
    if (!far && !drag.box) return;
    const [x, y] = this.stage.toImage(event);
    const [dx, dy] = [x - drag.start[0], y - drag.start[1]];
    const size = this.handlers.size();
    if (drag.kind === "draw") drag.box = boxBetween(drag.start, [x, y]);
    else drag.box = drag.kind === "move" ? moved(drag.original, dx, dy, size) : resized(drag.original, drag.handle, dx, dy, size);
    if (drag.kind !== "draw") for (const rectangle of this.groups.get(drag.id)?.children ?? []) place(rectangle, drag.box);
    this.#placeHandles();
  }

  _pointerup(event) {
    const { drag } = this;
    if (!drag || !event.isPrimary) return;
    this.drag = null;
    if (drag.kind === "draw") {
      if (drag.box) this.handlers.add(drag.box);
      else if (!event.shiftKey) this.handlers.select(null);
    } else if (drag.box) {
      this.handlers.change(drag.id, drag.box, null);
    }
    if (drag.id) this.focus(drag.id); // a browser may have taken the focus away when the button went down
    this.#placeHandles();
  }

  #key(event) {
    const entry = this.boxes.find(({ id }) => String(id) === event.target.closest?.("[data-own]")?.dataset.own);
    if (!entry || !this.#perform(event, entry)) return;
    event.preventDefault();
    event.stopPropagation(); // the page has keys of its own
  }

  /** Whether the key meant something here. */
  #perform(event, { id, box }) {
    const resizes = event.ctrlKey || event.metaKey || event.altKey;
    const step = STEPS[event.key];
    if (step) {
      const [dx, dy] = step.map((value) => value * (event.shiftKey ? 10 : 1));
      const size = this.handlers.size();
      const next = resizes ? resized(box, dx ? "e" : "s", dx, dy, size) : moved(box, dx, dy, size);
      this.handlers.change(id, next, resizes ? "resize" : "move");
      return true;
    }
    if (resizes) return false;
    if (event.key === "Delete" || event.key === "Backspace") this.handlers.remove(id);
    else if (event.key === "PageDown" || event.key === "PageUp") this.handlers.step(event.key === "PageDown" ? 1 : -1);
    else if (event.key === "Escape" && this.drag) this.cancel();
    else if (event.key === "Escape") this.handlers.select(null);
    else if (/^[1-9]$/.test(event.key)) this.handlers.classNumber(Number(event.key));
    else return false;
    return true;
  }
}
