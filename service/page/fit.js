// What purity and integrity mean, in words and as shares of a strip.
// purity = overlap / area of the box; integrity = overlap / area of the object.

export const FIT_LIMIT = 0.15; // a box off by less than this on both counts is said to fit

export const percent = (value) => `${Math.round(100 * value)} %`;

/** "fits" | "loose" | "cut" | "loose and cut", or null where the model does not judge its boxes. */
export function fitOf({ purity, integrity }) {
  if (purity === null || integrity === null) return null;
  const loose = 1 - purity >= FIT_LIMIT;
  const cut = 1 - integrity >= FIT_LIMIT;
  if (loose && cut) return "loose and cut";
  if (loose) return "loose";
  return cut ? "cut" : "fits";
}

export const isOff = (judged) => /loose|cut/.test(fitOf(judged) ?? "");

/** One plain sentence on how the box sits on its object. */
export function meaningOf(detection) {
  const { iou, purity, integrity } = detection;
  const background = purity === null ? "" : `${percent(1 - purity)} of this box is background`;
  const outside = integrity === null ? "" : `${percent(1 - integrity)} of the object is outside`;
  switch (fitOf(detection)) {
    case "loose": return `loose: ${background}`;
    case "cut": return `cut: ${outside}`;
    case "loose and cut": return `loose and cut: ${background}, ${outside}`;
    case "fits": return `fits: ${background}, ${outside}`;
    default:
      return iou === null
        ? "This model gives a class score only; it does not judge its boxes."
        : `This model predicts overlap only: IoU ${percent(iou)}, without saying what is wrong.`;
  }
}

/** Lengths of background, shared and outside in units of their sum; shared is then the IoU of DIR Eq. (5). */
export function shares({ purity, integrity }) {
  const background = 1 / Math.max(purity, 1e-3) - 1;
  const outside = 1 / Math.max(integrity, 1e-3) - 1;
  const union = background + 1 + outside;
  return { background: background / union, shared: 1 / union, outside: outside / union };
}
