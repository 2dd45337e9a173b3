export const byId = (id) => document.getElementById(id);

/** Build an element: properties starting with "aria-", "data-" or "role" become attributes, the rest are properties. */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria-|data-|role$|scope$)/.test(name)) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

export function svgElement(tag, attributes = {}) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/** A name for a line with other words and numbers: not so long that it hides them, and apart from their direction. */
export function inLine(name, most = 32) {
  const characters = [...name.trim()];
  const short = characters.length > most ? `${characters.slice(0, most - 1).join("").trimEnd()}…` : characters.join("");
  return RIGHT_TO_LEFT.test(short) ? `\u2068${short}\u2069` : short; // first strong isolate … pop directional isolate
}

export const decimals = (value) => ((value ?? null) === null ? "–" : value.toFixed(2));

/** Arrow keys, Home and End move through `keys`; returns the key to go to, or null when the event is not ours. */
export function steppedKey(event, keys, current) {
  const at = keys.indexOf(current);
  const last = keys.length - 1;
  const next = {
    ArrowDown: Math.min(at + 1, last), ArrowRight: Math.min(at + 1, last),
    ArrowUp: Math.max(at - 1, 0), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last,
  }[event.key];
  if (next === undefined || last < 0 || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return null;
  event.preventDefault();
  return keys[next];
}

/** Copy the text of `node`; returns what to tell the user. */
export async function copyText(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
  } catch { // plain HTTP on another host has no clipboard: leave the text selected for the user's own copy
    getSelection().selectAllChildren(node);
    return "Press Ctrl+C";
  }
  return "Copied";
}
