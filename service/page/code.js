// The page's current request as code to copy. Text in, text out; nothing here knows the API key: it is read from the
// environment variable HINDSIGHT_API_KEY.
// request = {operation: "detect" | "rescore", base (the server's address, ending in /), query ({model, ...}), name, type (of the
//            image), sample (its address, or null), boxes (rescore), least ({iou, purity, integrity}: filters of the page),
//            keyed (whether the server wants a key)}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const python = (value) => JSON.stringify(value); // a JSON string, or list of numbers, is a Python literal, too

const addressOf = ({ operation, base, query }) => {
  const url = new URL(operation, base);
  for (const [name, value] of Object.entries(query)) for (const each of [value].flat()) url.searchParams.append(name, each);
  return url.href;
};

/** A file name as curl's -F takes it: in double quotes where it holds what -F would read as its own. */
const formFile = (name) => `"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
const local = (name) => (name === "-" ? "./-" : name); // to curl, "-" is its standard input

export function curlCode(request) {
  const { operation, name, type, sample, boxes, keyed } = request;
  const secret = keyed ? ' -H "X-API-Key: $HINDSIGHT_API_KEY"' : "";
  const fetched = sample ? `curl -sf${secret} ${quoted(sample)} |\n  ` : "";
  const target = quoted(addressOf(request));
  if (operation === "rescore") {
    const image = sample ? "image=@-" : `image=@${formFile(local(name))}`;
    return `${fetched}curl -s${secret} -F ${quoted(image)} \\\n  -F ${quoted(`boxes=${JSON.stringify(boxes)}`)} \\\n  ${target}`;
  }
  const body = sample ? "@-" : quoted(`@${local(name)}`);
  return `${fetched}curl -s --data-binary ${body} -H ${quoted(`Content-Type: ${type}`)}${secret} \\\n  ${target}`;
}

const KEY = 'os.environ["HINDSIGHT_API_KEY"]';

function conditionOf(least, place) {
  const parts = Object.entries(least).filter(([, value]) => value > 0).map(([key, value]) => `${place(key)} >= ${value}`);
  return parts.length ? `    if ${parts.join(" and ")}:\n        ` : "    ";
}

/** With our client, which `pip install .` in the repository brings. */
export function clientCode({ operation, base, query: { model, ...options }, name, sample, boxes, least, keyed }) {
  const key = keyed ? `, api_key=${KEY}` : "";
  const lines = [
    ...(keyed ? ["import os"] : []),
    ...(sample ? ["from urllib.request import Request, urlopen"] : []),
    ...(keyed || sample ? [""] : []),
    "import hindsight",
    "",
    `client = hindsight.Client(${python(base.replace(/\/$/, ""))}, model=${python(model)}${key})`,
  ];
  if (sample) lines.push(sampleLine("image", sample, keyed));
  const image = sample ? "image" : python(name);
  if (operation === "rescore") {
    lines.push(`boxes = ${python(boxes)}`, `found = client.rescore(${image}, boxes)`,
      "for box, opinion in zip(boxes, found.to_records()):", "    print(box, opinion)");
  } else {
    const given = Object.entries(options).map(([option, value]) => `, ${option}=${python(value)}`).join("");
    lines.push(`found = client.detect(${image}${given})`, "for box in found.to_records():",
      `${conditionOf(least, (field) => `box["${field}"]`)}print(box)`);
  }
  return `${lines.join("\n")}\n`;
}

const sampleLine = (target, sample, keyed) => (
  `${target} = urlopen(Request(${python(sample)}${keyed ? `, headers={"X-API-Key": ${KEY}}` : ""})).read()`);

/** With nothing but Python. */
export function plainCode(request) {
  const { operation, name, type, sample, boxes, least, keyed } = request;
  const rescores = operation === "rescore";
  const lines = [
    ...(rescores ? ["import base64"] : []), "import json", ...(keyed ? ["import os"] : []),
    "from urllib.request import Request, urlopen", "",
    ...(sample ? [sampleLine("image", sample, keyed)] : [`with open(${python(name)}, "rb") as file:`, "    image = file.read()"]),
  ];
  const headers = [`"Content-Type": ${python(rescores ? "application/json" : type)}`, ...(keyed ? [`"X-API-Key": ${KEY}`] : [])];
  if (rescores) {
    lines.push(`boxes = ${python(boxes)}`, 'body = json.dumps({"image": base64.b64encode(image).decode(), "boxes": boxes}).encode()');
  }
  lines.push(
    "request = Request(", `    ${python(addressOf(request))},`, `    data=${rescores ? "body" : "image"},`,
    `    headers={${headers.join(", ")}},`, ")", "with urlopen(request) as response:", "    answer = json.load(response)");
  if (rescores) lines.push('for box, opinion in zip(boxes, answer["results"]):', "    print(box, opinion)");
  else lines.push('for box in answer["detections"]:', `${conditionOf(least, (field) => `box["${field}"]`)}print(box)`);
  return `${lines.join("\n")}\n`;
}
