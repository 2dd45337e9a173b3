// One image on screen: an SVG whose units are image pixels, so boxes are drawn as they are. Zoom and pan change its viewBox;
// wheel, pinch and drag are handled here, the keys in keyboard.js.
import { visiblePart } from "./camera.js";

const DRAG_PX = 4; // a press that moves less is a click
const WHEEL_STEP = 0.0016; // of zoom per unit of wheel movement
const PINCH_STEP = 0.01; // a touchpad's pinch comes as a wheel with Ctrl and small steps
const LINE_PX = 16; // a wheel that counts in lines
const BOX_SHARE = 0.6; // of the stage, when zoomed to a box

export class Stage {
  /** `host`: the element around the scene. `dragPans()`: whether a plain drag moves the image. */
  constructor(host, camera, dragPans = () => true) {
    this.host = host;
    this.camera = camera;
    this.dragPans = dragPans;
    this.svg = host.querySelector(".scene");
    this.photo = host.querySelector(".photo-image");
    this.image = { width: 1, height: 1 };
    this.listeners = new Set();
    this.pointers = new Map(); // id -> last position
    this.spaceHeld = false;
    camera.onChange(() => this.update());
    new ResizeObserver(() => this.update()).observe(this.svg);
    this.#wirePointers();
    this.#wireSpace();
    host.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  /** Show `url`, an image of width x height pixels. */
  show(url, { width, height }) {
    this.image = { width, height };
    if (this.photo.getAttribute("href") !== url) this.photo.setAttribute("href", url);
    this.photo.setAttribute("width", width);
    this.photo.setAttribute("height", height);
    this.update();
  }

  clear() {
    this.photo.removeAttribute("href");
    this.update();
  }

  get hasPhoto() {
    return this.photo.hasAttribute("href");
  }

  /** Call `listener` after every change of what is seen. */
  onView(listener) {
    this.listeners.add(listener);
  }

  /** Image pixels per CSS pixel. */
  pixel() {
    return this.view?.pixel ?? 1;
  }

  /** Where an event happened, in image pixels, kept inside the image. */
  toImage(event) {
    const [x, y] = this.#at(event);
    return [Math.min(Math.max(x, 0), this.image.width), Math.min(Math.max(y, 0), this.image.height)];
  }

  update() {
    const size = { width: this.svg.clientWidth, height: this.svg.clientHeight };
    if (!size.width || !size.height) return; // hidden
    const view = visiblePart(this.camera, this.image, size);
    this.view = view;
    this.svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
    this.host.classList.toggle("zoomed", !this.camera.isFit);
    this.photo.classList.toggle("pixels", view.pixel < 1 / 3); // screen pixels enough to show the image's own as squares
    for (const listener of this.listeners) listener(view);
  }

  /** Zoom so that a box fills much of the stage. */
  lookAt([x1, y1, x2, y2]) {
    const whole = visiblePart({ zoom: 1, x: 0.5, y: 0.5 }, this.image, { width: this.svg.clientWidth, height: this.svg.clientHeight });
    const zoom = BOX_SHARE * Math.min(whole.width / Math.max(x2 - x1, 1), whole.height / Math.max(y2 - y1, 1));
    this.camera.lookAt(zoom, (x1 + x2) / 2 / this.image.width, (y1 + y2) / 2 / this.image.height);
  }

  /** Move what is seen by a share of the stage. */
  step(x, y) {
    this.#settle();
    this.camera.panBy((x * this.view.width) / this.image.width, (y * this.view.height) / this.image.height);
  }

  #at({ clientX, clientY }) {
    const stage = this.svg.getBoundingClientRect();
    return [this.view.x + (clientX - stage.left) * this.view.pixel, this.view.y + (clientY - stage.top) * this.view.pixel];
  }

  /** The camera may look past what the stage can show of the image's edge: begin each move from what is seen. */
  #settle() {
    const { x, y, width, height } = this.view;
    this.camera.settle((x + width / 2) / this.image.width, (y + height / 2) / this.image.height);
  }

  #zoomAt(event, factor) {
    this.#settle();
    const [x, y] = this.#at(event);
    this.camera.zoomBy(factor, x / this.image.width, y / this.image.height);
  }

  #wheel(event) {
    if (event.target.closest("button")) return;
    if (event.deltaY > 0 && this.camera.isFit && !event.ctrlKey) return; // nothing to zoom out of: the page scrolls
    event.preventDefault();
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE_PX : 1;
    this.#zoomAt(event, Math.exp(-event.deltaY * unit * (event.ctrlKey ? PINCH_STEP : WHEEL_STEP)));
  }

  #wirePointers() {
    const { svg } = this;
    svg.addEventListener("pointerdown", (event) => {
      this.moved = 0;
      const pans = event.button === 1 || (event.button === 0 && (this.dragPans() || this.spaceHeld));
      if (!pans && event.pointerType !== "touch") return;
      if (event.button === 1 || this.spaceHeld) event.preventDefault(); // nobody else's press
      this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, pans });
    });
    svg.addEventListener("pointermove", (event) => this.#drag(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      svg.addEventListener(name, ({ pointerId }) => this.pointers.delete(pointerId));
    }
    svg.addEventListener("click", (event) => {
      if (this.moved > DRAG_PX) event.stopImmediatePropagation(); // the end of a drag is no click
    }, { capture: true });
    svg.addEventListener("dblclick", (event) => {
      if (this.dragPans()) this.#zoomAt(event, event.shiftKey ? 0.5 : 2);
    });
  }

  /** Where a plain drag does something else, Space and drag moves the image. */
  #wireSpace() {
    addEventListener("keydown", (event) => {
      if (event.key !== " " || this.dragPans() || event.target.closest?.("input, button, select, textarea, a")) return;
      event.preventDefault();
      this.spaceHeld = true;
    });
    addEventListener("keyup", ({ key }) => { if (key === " ") this.spaceHeld = false; });
    addEventListener("blur", () => { this.spaceHeld = false; });
  }

  #drag(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, position]) => position);
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    this.moved += Math.abs(dx) + Math.abs(dy);
    if (this.moved <= DRAG_PX) return;
    if (!this.svg.hasPointerCapture(event.pointerId)) this.svg.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { ...last, x: event.clientX, y: event.clientY });
    const pixel = this.pixel();
    const pan = (share) => {
      this.#settle();
      this.camera.panBy((-dx * pixel * share) / this.image.width, (-dy * pixel * share) / this.image.height);
    };
    if (!other) {
      if (last.pans) pan(1);
      return;
    }
    const distance = (x, y) => Math.max(Math.hypot(x - other.x, y - other.y), 1);
    pan(0.5);
    this.#zoomAt({ clientX: (event.clientX + other.x) / 2, clientY: (event.clientY + other.y) / 2 },
      distance(event.clientX, event.clientY) / distance(last.x, last.y));
  }
}
