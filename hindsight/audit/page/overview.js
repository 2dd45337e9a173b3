// Totals, the table of classes and the histogram.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const two = (value) => (value === null || value === undefined ? "-" : value.toFixed(2));
const whole = (value) => value.toLocaleString("en");

function showTotals() {
  document.getElementById("name").textContent = data.data + (data.split ? ` (${data.split})` : "");
  document.getElementById("about").textContent =
    `A second opinion of ${data.model} on every annotated box, ${data.date}. Hindsight ${data.hindsight}.`;
  const annotations = sum(data.classes.map((each) => each.annotations));
  const suspicious = sum(data.classes.map((each) => each.suspicious));
  const missing = sum(data.classes.map((each) => each.verdicts.missing ?? 0));
  const tiles = [
    [whole(data.image_count), "images"],
    [whole(annotations), "annotations"],
    [whole(suspicious), `suspicious (${((100 * suspicious) / Math.max(1, annotations)).toFixed(1)} %)`, "doubt"],
    [whole(missing), "perhaps missing", "doubt"],
  ];
  if (data.problemCount) tiles.push([whole(data.problemCount), "could not be read", "doubt"]);
  document.getElementById("tiles").append(
    ...tiles.map(([value, name, kind]) => make("li", { class: kind ?? null }, make("b", {}, value), make("span", {}, name))),
  );
}

function showClasses(state, choose) {
  const columns = data.verdicts.filter((verdict) => verdict !== "fine");
  const count = (each, verdict) => {
    const value = each.verdicts[verdict] ?? 0;
    if (!value) return make("span", { class: "none" }, "0");
    const label = `${each.name}: ${value} ${verdict}`;
    return make("button", { type: "button", "aria-label": label, onclick: () => choose(each.name, verdict) }, whole(value));
  };
  const head = ["class", "annotations", "median IoU", ...columns].map((name) => make("th", { scope: "col" }, name));
  const rows = data.classes.map((each) =>
    make(
      "tr",
      { "aria-current": String(state.class === each.name) },
      make("td", {}, make("button", { type: "button", onclick: () => choose(each.name, null) }, each.name)),
      make("td", {}, make("span", {}, whole(each.annotations))),
      make("td", {}, make("span", {}, two(each.medianIou))),
      ...columns.map((verdict) => make("td", {}, count(each, verdict))),
    ),
  );
  document.getElementById("classes").replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

function showHistogram(state, choose) {
  const chosen = data.classes.filter((each) => !state.class || each.name === state.class);
  const bins = chosen[0].histogram.map((_, bin) => [0, 1].map((kind) => sum(chosen.map((each) => each.histogram[bin][kind]))));
  const most = Math.max(1, ...bins.map(([fine, doubt]) => fine + doubt));
  const bars = bins.map(([fine, doubt], bin) => {
    const range = [bin / bins.length, (bin + 1) / bins.length];
    const pressed = state.range !== null && state.range[0] === range[0];
    const said = `predicted IoU ${two(range[0])} to ${two(range[1])}: ${fine} fine, ${doubt} suspicious`;
    const part = (kind, value) => {
      const bar = make("i", { class: kind });
      bar.style.setProperty("--share", value / most);
      return bar;
    };
    return make(
      "button",
      { type: "button", title: said, "aria-label": said, "aria-pressed": String(pressed), onclick: () => choose(pressed ? null : range) },
      part("doubt", doubt),
      part("fine", fine),
    );
  });
  const histogram = document.getElementById("histogram");
  histogram.replaceChildren(...bars);
  histogram.nextElementSibling.classList.contains("axis") ||
    histogram.after(make("div", { class: "axis", "aria-hidden": "true" }, ...["0", ".25", ".5", ".75", "1"].map((text) => make("span", {}, text))));
  document.getElementById("histogram-class").textContent = state.class;
}
