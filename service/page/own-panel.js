// What stands beside the image in the mode "own boxes": tools, files, the list of boxes (worst first) and one box's numbers.
import { decimals, element as make, steppedKey } from "./dom.js";
import { isRefused } from "./patience.js";

const MOST_ROWS = 200; // shown at first: a page of thousands of rows is slow and nobody reads it
const CORNERS = [["x", "Left"], ["y", "Top"], ["width", "Width"], ["height", "Height"]];
const NUMBERS = [["class_score", "Class score"], ["iou", "IoU"], ["purity", "Purity"], ["integrity", "Integrity"]];
const ORDERS = { fit: "Worst fit first", class: "Doubted class first" };
const ORDERED = { fit: "the worst-fitting first", class: "the most doubted class first" };
const HELP = "Drag on the image to draw; drag a box or its handles to change it, with Shift to draw inside another box. Keys: "
  + "arrows move, with Ctrl or Alt resize, with Shift ten pixels at a time; Page up and down go from box to box; 1 to 9 choose a "
  + "class; Delete deletes; Ctrl+Z undoes.";

const button = (text, onclick, properties = {}) => make("button", { type: "button", className: "button", onclick, ...properties }, text);
const placeOf = ([x1, y1, x2, y2]) => ({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 });
const tenths = (value) => Math.round(value * 10) / 10;
const swatch = (colour) => {
  const node = make("i", { className: "swatch" });
  node.style.background = colour;
  return node;
};

export class OwnPanel {
  #rows = MOST_ROWS;

  constructor(target, handlers) {
    this.handlers = handlers;
    this.addButton = button("Add a box", handlers.add);
    this.file = make("input", {
      type: "file", id: "own-file", multiple: true, accept: ".json,.txt,.xml,.names",
      onchange: () => {
        const files = [...this.file.files];
        this.file.value = ""; // so that choosing the same file again is a change
        if (files.length) handlers.files(files);
      },
    });
    const upload = make("span", { className: "pick" }, this.file,
      make("label", { htmlFor: "own-file", className: "button primary" }, "Read a file"));
    this.label = make("select", { id: "own-label", onchange: () => handlers.relabel(this.label.value || null) });
    this.undo = button("Undo", handlers.undo, { title: "Ctrl+Z" });
    this.redo = button("Redo", handlers.redo, { title: "Ctrl+Shift+Z" });
    this.remove = button("Delete", handlers.remove, { title: "Delete key, on a box" });
    this.clear = button("Delete all", handlers.clear);
    this.copy = button("Copy the model's boxes", handlers.copy);
    this.trouble = make("ul");
    this.alert = make("div", { className: "own-problems", role: "alert", hidden: true }, this.trouble,
      button("Close", () => { this.alert.hidden = true; this.addButton.focus(); }));
    this.state = make("p", { className: "muted", id: "own-state" });
    this.said = make("p", { className: "muted", id: "own-said", role: "status" }); // the page's own status line speaks of detections
    this.again = button("Ask again", handlers.retry, { hidden: true });
    this.whole = make("input", { type: "checkbox", id: "own-whole", onchange: handlers.changed });
    this.orders = make("select", { id: "own-order", onchange: handlers.changed },
      ...Object.entries(ORDERS).map(([value, text]) => make("option", { value }, text)));
    this.list = make("ol", { className: "own-list", "aria-label": "Your boxes" });
    this.list.addEventListener("keydown", (event) => this.#step(event));
    this.more = button("Show more", () => { this.#rows += MOST_ROWS; handlers.changed(); }, { hidden: true });
    this.near = make("input", { type: "checkbox", id: "own-near", checked: true, onchange: handlers.changed });
    this.detail = make("div", { className: "own-detail", hidden: true });
    this.inputs = new Map(CORNERS.map(([name, text]) => [name, make("input", {
      type: "number", id: `own-${name}`, step: "any", title: `${text}, in pixels`, onchange: () => this.#corners(),
    })]));
    this.numbers = make("fieldset", { className: "own-corners" }, make("legend", { className: "visually-hidden" }, "Place of the selected box"),
      ...CORNERS.map(([name, text]) => make("label", { htmlFor: `own-${name}` }, text, this.inputs.get(name))));
    this.compared = make("table", { "aria-label": "Your box and the model's" });
    this.take = button("Take the model's box", handlers.takeNearest);
    this.detail.append(this.numbers, make("label", { className: "toggle" }, this.near, " The model's nearest box beside it"), this.compared, this.take);
    target.append(
      make("details", { className: "own-help muted" }, make("summary", {}, "How to draw, and which files"), make("p", {}, HELP),
        make("p", {}, "Files: our JSON, COCO JSON, YOLO .txt (with classes.txt, or the model's classes), Pascal VOC .xml; matched to the open images by name.")),
      make("div", { className: "own-tools" }, this.addButton, upload, this.copy),
      make("div", { className: "own-tools" }, make("label", { htmlFor: "own-label" }, "Class "), this.label, this.undo, this.redo, this.remove, this.clear),
      this.alert, this.said, make("div", { className: "own-tools" }, this.state, this.again),
      make("div", { className: "own-tools" }, make("label", { htmlFor: "own-order" }, "Order "), this.orders,
        make("label", { className: "toggle" }, this.whole, " All images")),
      this.list, this.more, this.detail);
  }

  get order() { return this.orders.value; }
  get wholeSet() { return this.whole.checked; }
  get showsNearest() { return this.near.checked; }
  focusAdd() { this.addButton.focus(); }

  say(text) { this.said.textContent = text; }

  /** Show lines of trouble, in place of the ones before unless `keep`. None: nothing is shown. */
  problems(lines, { keep = false } = {}) {
    const items = lines.map((line) => make("li", {}, line));
    if (keep) this.trouble.append(...items);
    else this.trouble.replaceChildren(...items);
    this.alert.hidden = this.trouble.children.length === 0;
  }

  /** `view`: see own-workshop.js. */
  draw(view) {
    this.view = view;
    const { rows, selected, image, canUndo, canRedo } = view;
    const options = [...view.classNames.map((name) => [name, name]), ["", "no class"]];
    if (view.classNames.join("\n") !== this.classes) { // a list that is open would close
      this.classes = view.classNames.join("\n");
      this.label.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
    }
    const label = selected ? selected.label : view.newLabel;
    this.label.value = view.classNames.includes(label) ? label : "";
    const ready = Boolean(image?.width);
    this.addButton.disabled = !ready;
    this.copy.disabled = !image?.detections?.length;
    this.undo.disabled = !canUndo;
    this.redo.disabled = !canRedo;
    this.remove.disabled = !selected;
    this.clear.disabled = !rows.some((row) => row.image.id === image?.id);
    this.state.textContent = this.#said(view);
    this.again.hidden = !view.opinions.problem && view.opinions.waiting === null;
    this.#drawList(rows.slice(0, this.#rows), selected, view.judges);
    this.more.hidden = rows.length <= this.#rows;
    this.#drawDetail(view);
  }

  #said({ rows, judges, model, opinions: { busy, waiting, problem }, image, held }) {
    if (!image) return "Open an image first.";
    if (!image.width && isRefused(image)) return "This image was refused: it can have no boxes.";
    if (!image.width) return `This image has no answer yet${held ? "; its boxes wait for it" : ""}.`;
    if (!judges) return `${model} does not judge boxes, so there is no second opinion; choose another model.`;
    if (problem) return `No second opinion: ${problem.message}. ${problem.detail ?? ""}`.trim();
    if (waiting !== null) {
      return `${waiting.lost ? "No answer from the server" : "The server is busy"}, next try in ${Math.max(0, Math.ceil((waiting.until - Date.now()) / 1000))} s`;
    }
    if (busy) return "Asking for a second opinion…";
    if (!rows.length) return "No boxes yet.";
    return `${rows.length} ${rows.length === 1 ? "box" : "boxes"}, ${ORDERED[this.order]}`;
  }

  #drawList(rows, selected, judges) {
    const keyOf = ({ image, entry }) => `${image.id} ${entry.id}`;
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.keys = rows.map(keyOf);
    const selectedKey = rows.find(({ entry }) => entry.id === selected?.id);
    const stop = selectedKey ? keyOf(selectedKey) : this.keys[0];
    this.list.replaceChildren(...rows.map((row) => {
      const { image, entry, opinion, colour, name, fit, remark } = row;
      const key = keyOf(row);
      const item = make("button", {
        type: "button", tabIndex: key === stop ? 0 : -1, "data-key": key, "data-own-row": entry.id,
        "aria-pressed": entry.id === selected?.id, onfocus: () => this.handlers.select(image.id, entry.id), onclick: ({ currentTarget }) => currentTarget.focus(),
      }, swatch(colour), make("b", {}, name), make("span", { className: "value" }, opinion ? `IoU ${decimals(opinion.iou)}` : judges ? "…" : ""),
      make("span", { className: "remark", "data-fit": fit ?? "unknown" }, remark ?? (judges ? "no opinion yet" : "")));
      if (this.wholeSet) item.append(make("small", { className: "muted" }, image.name));
      return make("li", {}, item);
    }));
    if (focused) [...this.list.querySelectorAll("button")].find((node) => node.dataset.key === focused)?.focus({ preventScroll: true });
  }

  #step(event) {
    const next = steppedKey(event, this.keys, document.activeElement.dataset.key);
    if (next !== null) [...this.list.querySelectorAll("button")].find((node) => node.dataset.key === next)?.focus();
  }

  #drawDetail({ selected, opinion, nearest }) {
    this.detail.hidden = !selected;
    if (!selected) return;
    for (const [name, value] of Object.entries(placeOf(selected.box))) {
      const input = this.inputs.get(name);
      if (document.activeElement !== input) input.value = tenths(value);
    }
    const model = this.near.checked ? nearest?.detection : undefined;
    const row = (title, mine, its) => make("tr", {}, make("th", { scope: "row" }, title), make("td", {}, mine), ...(model ? [make("td", {}, its)] : []));
    const number = (record, key) => (record ? decimals(record[key] ?? null) : "–");
    this.compared.replaceChildren(
      make("thead", {}, make("tr", {}, make("td"), make("th", { scope: "col" }, "Yours"), ...(model ? [make("th", { scope: "col" }, "The model's")] : []))),
      make("tbody", {}, row("Class", selected.label ?? "–", model?.label), row("Best class", opinion?.label ?? "–", model?.label),
        ...NUMBERS.map(([key, title]) => row(title, number(opinion, key), number(model, key)))));
    if (this.near.checked) {
      const said = nearest ? `The two overlap by ${decimals(nearest.overlap)} (IoU).` : "The model has no box that overlaps with this one.";
      this.compared.append(make("caption", {}, said));
    }
    this.take.hidden = !model;
  }

  #corners() {
    if (!this.view.selected) return;
    const now = placeOf(this.view.selected.box); // shown in tenths: what nobody typed over keeps its exact value
    const [x, y, width, height] = CORNERS.map(([name]) => {
      const typed = this.inputs.get(name).valueAsNumber;
      return typed === tenths(now[name]) ? now[name] : typed;
    });
    this.handlers.corners([x, y, x + width, y + height]);
  }
}
