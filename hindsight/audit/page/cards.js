// One card a finding: its picture with the boxes over it, the verdict in words, the numbers, and two buttons.

const SVG = "http://www.w3.org/2000/svg";

function overlay(item) {
  const [x1, y1, x2, y2] = item.frame;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `${x1} ${y1} ${x2 - x1} ${y2 - y1}`);
  svg.setAttribute("aria-hidden", "true");
  const add = (box, kind) => {
    for (const name of ["halo", kind]) {
      const rect = document.createElementNS(SVG, "rect");
      const values = { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], class: name };
      for (const [key, value] of Object.entries(values)) rect.setAttribute(key, value);
      svg.append(rect);
    }
  };
  if (item.twin) add(item.twin, "twin");
  if (item.own) add(item.own, "own");
  if (item.box) add(item.box, "given");
  return svg;
}

function bars(numbers) {
  const rows = Object.entries(numbers).filter(([, value]) => value !== null);
  return make(
    "dl",
    { class: "bars" },
    ...rows.flatMap(([name, value]) => {
      const bar = make("i");
      bar.style.setProperty("--share", value);
      return [
        make("dt", {}, name === "iou" ? "IoU" : name),
        make("dd", { class: "bar", "aria-hidden": "true" }, bar),
        make("dd", {}, two(value)),
      ];
    }),
  );
}

function card(item, rank, onMark) {
  const name = data.categories[item.class].name;
  const image = data.images[item.image];
  const alt = `${name} in ${image.name}`;
  const buttons = ["wrong", "fine"].map((mark) =>
    make(
      "button",
      { type: "button", class: mark, "data-mark": mark, onclick: () => onMark(item, markOf(item) === mark ? null : mark) },
      mark === "wrong" ? "Wrong" : "Fine",
    ),
  );
  const element = make(
    "article",
    { class: "card", tabindex: "-1", "aria-label": `${rank}: ${name}, ${item.verdict}` },
    make(
      "a",
      { class: "picture", href: image.href, target: "_blank", rel: "noopener", title: `Open ${image.name}`, tabindex: "-1" },
      make("img", { src: item.picture, alt, loading: "lazy", decoding: "async" }),
      overlay(item),
      make("span", { class: "rank", "aria-hidden": "true" }, String(rank)),
    ),
    make(
      "div",
      { class: "body" },
      make(
        "div",
        { class: "title" },
        make("h3", {}, name),
        make("span", { class: item.verdict === "fine" ? "verdict calm" : "verdict" }, item.verdict),
        make("span", { class: "muted" }, `suspicion ${two(item.suspicion)}`),
      ),
      make("p", { class: "reason" }, item.reason),
      bars(item.numbers),
      make("p", { class: "where" }, item.where === null ? image.name : item.where),
      make("div", { class: "actions" }, ...buttons),
    ),
  );
  showMark(element, item);
  return element;
}

function showMark(element, item) {
  const mark = markOf(item);
  if (mark === null) delete element.dataset.mark;
  else element.dataset.mark = mark;
  for (const button of element.querySelectorAll(".actions button")) {
    button.setAttribute("aria-pressed", String(button.dataset.mark === mark));
  }
}
