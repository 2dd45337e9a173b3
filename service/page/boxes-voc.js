// Pascal VOC's XML, read by a small reader of our own: the browser's marks what is not well-formed with inline styles, which the
// page's Content-Security-Policy reports as an offence. Elements, text, comments and the five entities: VOC has no more.

export class XmlError extends Error {}

const TOKEN = /<!--[\s\S]*?-->|<\?[\s\S]*?\?>|<!\[CDATA\[([\s\S]*?)\]\]>|<(\/?)([A-Za-z_][\w.:-]*)((?:\s+[\w.:-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*(\/?)>|[^<]+/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
const MOST_DEPTH = 50;
const SHOWN = 60;

function unescaped(text) {
  return text.replace(/&(#x[\da-f]{1,6}|#\d{1,7}|\w+);/gi, (whole, name) => {
    if (name[0] !== "#") return ENTITIES[name] ?? whole;
    const code = Number.parseInt(name.replace(/^#x?/i, ""), /^#x/i.test(name) ? 16 : 10);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}

/** The root element: {tag, text, children}. Throws XmlError. */
export function parseXml(text) {
  if (/<!(DOCTYPE|ENTITY)/i.test(text)) throw new XmlError("declares a DOCTYPE or entities, which VOC files do not need");
  const top = { tag: "", text: "", children: [] };
  const open = [top];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const at = TOKEN.lastIndex;
    const found = TOKEN.exec(text);
    const line = () => text.slice(0, at).split("\n").length;
    if (!found) throw new XmlError(`is not well-formed XML (line ${line()})`);
    const [whole, data, ends, tag, , closed] = found;
    const here = open.at(-1);
    if (data !== undefined) here.text += data;
    else if (!tag) here.text += whole[0] === "<" ? "" : unescaped(whole);
    else if (ends) {
      if (here.tag !== tag) throw new XmlError(`is not well-formed XML (line ${line()}: </${tag.slice(0, SHOWN)}> ends nothing)`);
      open.pop();
    } else {
      const element = { tag, text: "", children: [] };
      here.children.push(element);
      if (!closed) open.push(element);
      if (open.length > MOST_DEPTH) throw new XmlError("is nested too deeply for a VOC file");
    }
  }
  if (open.length > 1) throw new XmlError(`is not well-formed XML (<${open.at(-1).tag.slice(0, SHOWN)}> is not ended)`);
  if (top.children.length !== 1 || top.text.replace("\ufeff", "").trim()) throw new XmlError("is not well-formed XML (it has no single root)");
  return top.children[0];
}

const child = (node, tag) => node?.children.find((entry) => entry.tag === tag);
const textOf = (node, tag) => child(node, tag)?.text.trim() ?? "";

/**
 * The entry (see boxes-read.js) of one VOC file. Pixels count from 1 and both ends belong to the box: 1 is taken from the
 * minima, as hindsight/datasets/voc.py does.
 */
export function fromVoc(name, text) {
  const root = parseXml(text);
  if (root.tag !== "annotation") throw new XmlError(`has the root <${root.tag.slice(0, SHOWN)}>; Pascal VOC has <annotation>`);
  const size = ["width", "height"].map((tag) => Number(textOf(child(root, "size"), tag)));
  const boxes = root.children.filter(({ tag }) => tag === "object").map((node, index) => {
    const [x1, y1, x2, y2] = ["xmin", "ymin", "xmax", "ymax"].map((tag) => Number(textOf(child(node, "bndbox"), tag) || NaN));
    return { box: [x1 - 1, y1 - 1, x2, y2], label: textOf(node, "name") || null, where: `object ${index + 1}` };
  });
  return { image: textOf(root, "filename") || name, byStem: true, size: size.every((side) => side > 0) ? size : null, boxes };
}
