// Two rankings of one image, compared: by class score alone and by hindsight. Each had its own NMS, so a box that one of them
// kept may be suppressed in the other. Both show the same number of boxes; what differs is which, and in what order.

const SAME_BOX = 0.99; // IoU: the same candidate, kept by both
const SAME_OBJECT = 0.5; // IoU: two candidates for one object

export function iouOf([ax1, ay1, ax2, ay2], [bx1, by1, bx2, by2]) {
  const width = Math.min(ax2, bx2) - Math.max(ax1, bx1);
  const height = Math.min(ay2, by2) - Math.max(ay1, by1);
  if (width <= 0 || height <= 0) return 0;
  const shared = width * height;
  return shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared);
}

const ranked = (detections) => detections
  .map((detection, index) => ({ index, detection }))
  .sort((a, b) => b.detection.score - a.detection.score || a.index - b.index)
  .map((item, at) => ({ ...item, rank: at + 1 }));

/** Pair `before` with `after`, the best overlaps first; returns [[a, b]] and takes the paired ones out of both sets. */
function paired(before, after, least) {
  const candidates = [];
  for (const a of before) {
    for (const b of after) {
      if (a.detection.label !== b.detection.label) continue;
      const iou = iouOf(a.detection.box, b.detection.box);
      if (iou >= least) candidates.push({ a, b, iou });
    }
  }
  candidates.sort((x, y) => y.iou - x.iou);
  const pairs = [];
  for (const { a, b } of candidates) {
    if (!before.has(a) || !after.has(b)) continue;
    before.delete(a);
    after.delete(b);
    pairs.push([a, b]);
  }
  return pairs;
}

/**
 * Compare the best `count` boxes of `byClass` with those of `byHindsight` (detections of POST /detect). Returns rows
 * {change, a, b, elsewhere}: `a` and `b` are {index, detection, rank} on either side, null where that side does not show the
 * box; `change` is "enters" (hindsight shows it, class score does not), "leaves" (the reverse), "refits" (another box for the
 * same object), "rises", "falls" or "same"; `elsewhere` is the rank beyond `count` where the other side has the very box of an
 * "enters" or "leaves", null where its NMS dropped it. The largest changes come first.
 */
export function compareRankings(byClass, byHindsight, count) {
  const [allBefore, allAfter] = [ranked(byClass), ranked(byHindsight)];
  const before = new Set(allBefore.slice(0, count));
  const after = new Set(allAfter.slice(0, count));
  const rows = paired(before, after, SAME_BOX).map(([a, b]) => (
    { change: b.rank < a.rank ? "rises" : b.rank > a.rank ? "falls" : "same", a, b, elsewhere: null }));
  for (const [a, b] of paired(before, after, SAME_OBJECT)) rows.push({ change: "refits", a, b, elsewhere: null });
  const rankIn = (others, { detection }) => others.find(({ detection: other }) => (
    other.label === detection.label && iouOf(other.box, detection.box) >= SAME_BOX))?.rank ?? null;
  for (const a of before) rows.push({ change: "leaves", a, b: null, elsewhere: rankIn(allAfter, a) });
  for (const b of after) rows.push({ change: "enters", a: null, b, elsewhere: rankIn(allBefore, b) });
  const weight = ({ change, a, b }) => (
    { enters: 4e6, leaves: 3e6, refits: 2e6 }[change] ?? 1e3 * Math.abs(a.rank - b.rank));
  return rows.sort((x, y) => weight(y) - weight(x) || (x.b ?? x.a).rank - (y.b ?? y.a).rank);
}

const boxes = (number, verb) => `${number} ${number === 1 ? verb[0] : verb[1]}`;

/** One sentence on all rows. */
export function summaryOf(rows, count) {
  const number = (...changes) => rows.filter(({ change }) => changes.includes(change)).length;
  const parts = [
    [number("enters"), ["enters", "enter"]], [number("leaves"), ["leaves", "leave"]],
    [number("refits"), ["gets another box", "get another box"]],
    [number("rises", "falls"), ["changes its rank", "change their rank"]],
  ].filter(([found]) => found > 0).map(([found, verb]) => boxes(found, verb));
  const best = `The best ${count} ${count === 1 ? "box" : "boxes"} by hindsight against the best ${count} by class score`;
  return parts.length ? `${best}: ${parts.join(", ")}.` : `${best}: the same boxes in the same order.`;
}

/** What one row means, in words. */
export function changeOf({ change, a, b, elsewhere }) {
  const other = elsewhere === null ? "its NMS dropped it for another box" : `it is number ${elsewhere} there`;
  switch (change) {
    case "enters": return `enters as number ${b.rank}: by class score it is not among these, ${other}`;
    case "leaves": return `leaves: number ${a.rank} by class score, not among these by hindsight, ${other}`;
    case "refits": return `gets another box: number ${a.rank} by class score, number ${b.rank} by hindsight`;
    case "same": return `number ${b.rank} in both`;
    default: return `${change} from ${a.rank} to ${b.rank}`;
  }
}
