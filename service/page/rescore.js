// Asking POST /rescore.
import { address, checkReadable, jsonOf, request } from "./api.js";

/** POST /rescore: an opinion for each of `boxes`, in order. */
export async function rescore(blob, boxes, query, signal) {
  const form = new FormData();
  form.append("image", blob, "image");
  form.append("boxes", JSON.stringify(boxes));
  try {
    const response = await request(address("rescore", query), { method: "POST", body: form, signal });
    const fits = ({ results }) => Array.isArray(results) && results.length === boxes.length && results.every(Boolean);
    return (await jsonOf(response, "/rescore", fits)).results;
  } catch (error) {
    if (error.lost) await checkReadable(blob);
    throw error;
  }
}
