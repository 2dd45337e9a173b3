// What the page asks of POST /detect, and what one would ask to be answered just what is on screen.

export const LOWEST_SCORE = 0.05; // asked for, so that the sliders can filter without asking again

function base({ model, options }) {
  const query = { model: model.name };
  if (model.has_localization && options.iou_weight !== model.defaults.iou_weight) query.iou_weight = options.iou_weight;
  if (options.nms_threshold !== model.defaults.nms_threshold) query.nms_threshold = options.nms_threshold;
  return query;
}

/** The query that the page sends. */
export function sentQuery(state) {
  const query = base(state);
  if (state.model.defaults.score_threshold > LOWEST_SCORE) query.score_threshold = LOWEST_SCORE;
  return query;
}

/** The query sent for the same boxes ranked by class score alone. */
export function rivalQuery(state) {
  const options = { ...state.options, iou_weight: state.model.defaults.iou_weight }; // whose own weight does not matter
  return { ...sentQuery({ ...state, options }), iou_weight: 0 };
}

/** The query whose answer is what the page shows. (The least IoU, purity and integrity are the page's own filters.) */
export function shownQuery(state) {
  const { model, filters } = state;
  const query = base(state);
  if (filters.score !== model.defaults.score_threshold) query.score_threshold = filters.score;
  if (filters.hidden.size) {
    const names = model.classes.map(({ name }) => name).filter((name) => !filters.hidden.has(name));
    // One value is split at its commas, and each part loses its outer spaces: names that have such are given one by one.
    query.classes = names.some((name) => /,|^\s|\s$/.test(name)) ? names : names.join(",");
  }
  return query;
}
