// A ZIP archive whose members are stored, not compressed: our own writer, for exports of many files.
// Layout after APPNOTE.TXT 6.3: local headers with their data, the central directory, its end record.

const LEAST_VERSION = 20; // 2.0, the least that reads this
const NAMES_ARE_UTF8 = 0x0800; // general purpose bit 11
const MOST_FILES = 0xffff - 1;
const MOST_BYTES = 0xffff_ffff - 1; // beyond these two a ZIP needs the 64-bit extension, which we do not write

/** An export that cannot be written; the message is for the user. */
export class ExportError extends Error {
  name = "ExportError";
}

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  let entry = value;
  for (let bit = 0; bit < 8; bit += 1) entry = entry & 1 ? (entry >>> 1) ^ 0xedb88320 : entry >>> 1;
  return entry;
});

export function crc32(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = (sum >>> 8) ^ TABLE[(sum ^ byte) & 0xff];
  return (sum ^ 0xffffffff) >>> 0;
}

/** Little-endian bytes of [[value, size in bytes], ...]. */
function packed(fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [, size]) => sum + size, 0)));
  let at = 0;
  for (const [value, size] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

const dosTime = (when) => (when.getHours() << 11) | (when.getMinutes() << 5) | (when.getSeconds() >> 1);
const dosDate = (when) => (
  ((Math.max(when.getFullYear(), 1980) - 1980) << 9) | ((when.getMonth() + 1) << 5) | when.getDate());

export class ZipWriter {
  #parts = [];
  #directory = [];
  #size = 0;
  #when;

  constructor(when = new Date()) { this.#when = when; }

  /** Append one file. `name` as it shall stand in the archive (see uniqueName). Throws ExportError when full. */
  add(name, bytes) {
    const encoded = new TextEncoder().encode(name);
    if (this.#directory.length >= MOST_FILES || encoded.length > 0xffff
      || this.#size + bytes.length + 2 * encoded.length + 256 > MOST_BYTES) {
      throw new ExportError("The archive would be larger than a plain ZIP file may be (4 GB, 65,534 files).");
    }
    const facts = [
      [LEAST_VERSION, 2], [NAMES_ARE_UTF8, 2], [0, 2], [dosTime(this.#when), 2], [dosDate(this.#when), 2],
      [crc32(bytes), 4], [bytes.length, 4], [bytes.length, 4], [encoded.length, 2], [0, 2],
    ];
    const central = packed([
      [0x02014b50, 4], [LEAST_VERSION, 2], ...facts, [0, 2], [0, 2], [0, 2], [0, 4], [this.#size, 4],
    ]);
    this.#directory.push(central, encoded);
    const local = packed([[0x04034b50, 4], ...facts]);
    // A Blob may keep its bytes on disk, so that a hundred pictures do not fill the memory.
    this.#parts.push(local, encoded, new Blob([bytes]));
    this.#size += local.length + encoded.length + bytes.length;
  }

  /** The archive as a Blob. */
  finish() {
    const count = this.#directory.length / 2;
    const size = this.#directory.reduce((sum, part) => sum + part.length, 0);
    const end = packed([[0x06054b50, 4], [0, 2], [0, 2], [count, 2], [count, 2], [size, 4], [this.#size, 4], [0, 2]]);
    return new Blob([...this.#parts, ...this.#directory, end], { type: "application/zip" });
  }
}

export const baseName = (path) => path.split(/[\\/]/).at(-1);
export const stemOf = (path) => baseName(path).replace(/\.[^.]*$/, "") || baseName(path);

/** A file name without folders or characters that file systems refuse, different from all in `taken`, to which it is added. */
export function uniqueName(name, taken) {
  const clean = baseName(name).replace(/[\u0000-\u001f<>:"|?*]/g, "_").replace(/^\.+|[. ]+$/g, "").slice(-120) || "file";
  const dot = clean.lastIndexOf(".") > 0 ? clean.lastIndexOf(".") : clean.length;
  let unique = clean;
  for (let next = 2; taken.has(unique.toLowerCase()); next += 1) {
    unique = `${clean.slice(0, dot)} (${next})${clean.slice(dot)}`;
  }
  taken.add(unique.toLowerCase());
  return unique;
}
