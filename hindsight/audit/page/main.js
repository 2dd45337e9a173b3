// Filters, order, pages of cards, and the keyboard.

const PAGE = 60;
const DOUBTFUL = "suspicious"; // every verdict but "fine": missing objects too, which the head counts apart
const NO_FILTERS = { verdict: DOUBTFUL, class: "", image: "", marked: "", order: "suspicion", range: null };
let state = { ...NO_FILTERS };
let found = [];
let drawn = 0;
const list = document.getElementById("list");
const field = (id) => document.getElementById(id);
const ranks = new Map(data.items.map((item, index) => [item, index + 1]));

const hasVerdict = (item, verdict) => !verdict || item.verdict === verdict || (verdict === DOUBTFUL && item.verdict !== "fine");
const inRange = (item) => {
  if (state.range === null) return true;
  const iou = item.numbers.iou ?? null;
  return iou !== null && iou >= state.range[0] && (iou < state.range[1] || state.range[1] === 1);
};
const passes = (item) =>
  (!state.class || data.categories[item.class].name === state.class) &&
  (!state.image || data.images[item.image].name.toLowerCase().includes(state.image.toLowerCase())) &&
  (!state.marked || (markOf(item) ?? "none") === state.marked) &&
  inRange(item);

function ordered(items) {
  if (state.order === "suspicion") return items;
  const value = (item) => (state.order === "image" ? item.image : item.numbers[state.order] ?? Infinity);
  return [...items].sort((a, b) => value(a) - value(b) || ranks.get(a) - ranks.get(b));
}

function showVerdicts(items) {
  const names = [DOUBTFUL, ...data.verdicts, ""];
  const counts = names.map((verdict) => [verdict, items.filter((item) => hasVerdict(item, verdict)).length]);
  const chips = counts.filter(([verdict, count]) => count || [DOUBTFUL, "", state.verdict].includes(verdict));
  field("verdicts").replaceChildren(
    ...chips.map(([verdict, count]) =>
      make(
        "button",
        { type: "button", "data-verdict": verdict, "aria-pressed": String(state.verdict === verdict), onclick: () => change({ verdict }) },
        verdict === DOUBTFUL ? "suspicious or missing" : verdict || "all",
        make("span", {}, whole(count)),
      ),
    ),
  );
}

function showCount() {
  const all = markedItems();
  const wrong = all.filter(({ mark }) => mark === "wrong").length;
  const listed = data.ranked > data.items.length ? ` (the ${whole(data.items.length)} most suspicious of ${whole(data.ranked)} are listed)` : "";
  field("count").textContent =
    `${whole(found.length)} of ${whole(data.items.length)} shown${listed}; ${wrong} marked wrong, ${all.length - wrong} fine`;
  field("keep").hidden = storable;
  field("keep").textContent = "This browser keeps no marks: export them before you close the page.";
  for (const id of ["export-json", "export-coco"]) field(id).disabled = all.length === 0;
}

function drawMore() {
  const next = found.slice(drawn, drawn + PAGE);
  list.append(...next.map((item) => card(item, ranks.get(item), mark)));
  drawn += next.length;
  const left = found.length - drawn;
  field("more").hidden = left === 0;
  field("more").textContent = `Show ${Math.min(PAGE, left)} more (${whole(left)} left)`;
}

function show() {
  const base = data.items.filter(passes);
  found = ordered(base.filter((item) => hasVerdict(item, state.verdict)));
  showVerdicts(base);
  showClasses(state, chooseClass);
  showHistogram(state, (range) => change({ range, verdict: "" }));
  for (const id of ["class", "image", "marked", "order"]) if (field(id).value !== state[id]) field(id).value = state[id];
  list.replaceChildren();
  drawn = 0;
  drawMore();
  if (!found.length) list.append(make("p", { class: "empty" }, "No finding passes these filters."));
  showCount();
}

function change(patch, jump = false) {
  state = { ...state, ...patch };
  show();
  if (jump) field("verdicts").scrollIntoView({ block: "start" });
}

// A class, with a verdict or with what is chosen already; once more the same: all classes.
function chooseClass(name, verdict) {
  const wanted = verdict ?? state.verdict;
  const same = name === state.class && wanted === state.verdict;
  change({ class: same ? "" : name, verdict: wanted }, true);
}

function mark(item, value) {
  setMark(item, value);
  const element = list.children[found.indexOf(item)];
  if (element) showMark(element, item);
  showCount();
}

function focusCard(index) {
  if (index < 0 || index >= found.length) return;
  while (index >= drawn) drawMore();
  list.children[index].focus({ preventScroll: true });
  list.children[index].scrollIntoView({ block: "nearest" });
}

// Where the keyboard is: the card that has the focus or holds what has it; -1 before the first.
const current = () => [...list.children].indexOf(document.activeElement?.closest(".card") ?? null);

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) return;
  const at = current();
  const steps = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 };
  const values = { w: "wrong", f: "fine", u: null };
  if (event.key in steps) focusCard(Math.max(0, at + steps[event.key]));
  else if (event.key === "b") document.body.classList.toggle("without-boxes");
  else if (event.key in values && at >= 0) {
    mark(found[at], values[event.key]);
    if (values[event.key] !== null) focusCard(at + 1);
  } else return;
  event.preventDefault();
}

function fill(id, names) {
  field(id).append(make("option", { value: "" }, "all"), ...names.map((name) => make("option", { value: name }, name)));
}

showTotals();
fill("class", data.classes.map((each) => each.name));
for (const id of ["class", "marked", "order"]) field(id).addEventListener("change", (event) => change({ [id]: event.target.value }));
field("image").addEventListener("input", (event) => change({ image: event.target.value }));
field("reset").addEventListener("click", () => change(NO_FILTERS));
field("more").addEventListener("click", drawMore);
field("export-json").addEventListener("click", () => download(`${data.data}-marks.json`, exportedList()));
field("export-coco").addEventListener("click", () => download(`${data.data}-marks-coco.json`, exportedCoco()));
document.addEventListener("keydown", onKey);
if (data.problemCount) {
  const box = field("problems");
  box.hidden = false;
  box.querySelector("summary").textContent = `${whole(data.problemCount)} could not be read`;
  box.querySelector("ul").append(...data.problems.map((text) => make("li", {}, text)));
  if (data.problemCount > data.problems.length) box.querySelector("ul").append(make("li", {}, "... audit.json lists them all"));
}
show();
