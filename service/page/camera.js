// Which part of an image is seen: `zoom` (1: all of it fits) and the point (x, y) at the middle, as shares of width and
// height. Two stages that share a camera show the same part.

const MOST_ZOOM = 40;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class Camera {
  constructor() {
    this.listeners = new Set();
    this.fit();
  }

  onChange(listener) {
    this.listeners.add(listener);
  }

  get isFit() {
    return this.zoom === 1;
  }

  fit() {
    this.#set(1, 0.5, 0.5);
  }

  /** Zoom by `factor` so that the point (x, y), as shares, stays where it is on screen. */
  zoomBy(factor, x = this.x, y = this.y) {
    const zoom = clamp(this.zoom * factor, 1, MOST_ZOOM);
    if (zoom === 1) return this.fit();
    const kept = this.zoom / zoom;
    return this.#set(zoom, x + (this.x - x) * kept, y + (this.y - y) * kept);
  }

  /** Move the middle by shares of the image. */
  panBy(x, y) {
    this.#set(this.zoom, this.x + x, this.y + y);
  }

  /** Say where the middle really is, without a change of what is seen. */
  settle(x, y) {
    Object.assign(this, { x, y });
  }

  lookAt(zoom, x, y) {
    this.#set(clamp(zoom, 1, MOST_ZOOM), x, y);
  }

  #set(zoom, x, y) {
    Object.assign(this, { zoom, x: clamp(x, 0, 1), y: clamp(y, 0, 1) });
    for (const listener of this.listeners) listener();
  }
}

/**
 * The rectangle of the image that a stage of `width` x `height` CSS pixels shows, in image pixels, and how many image
 * pixels a CSS pixel is. The image never leaves the stage: where all of it fits it is in the middle.
 */
export function visiblePart(camera, image, { width, height }, margin = 4) {
  const fit = Math.max(image.width / Math.max(width - 2 * margin, 1), image.height / Math.max(height - 2 * margin, 1));
  const pixel = fit / camera.zoom;
  const span = { width: width * pixel, height: height * pixel };
  const start = (middle, length, seen) => {
    const slack = length + 2 * margin * pixel - seen;
    return slack <= 0 ? (length - seen) / 2 : clamp(middle * length - seen / 2, -margin * pixel, slack - margin * pixel);
  };
  return { ...span, x: start(camera.x, image.width, span.width), y: start(camera.y, image.height, span.height), pixel };
}
