// Which refusals pass by themselves, and how long to wait before asking again.

const LONGEST_WAIT_S = 600; // a server that names more is waited for by the user, not by the page
const WAITS_S = [2, 4, 8, 15, 30]; // where nothing is named; the last one again and again
const AS_NAMED = 5; // tries at the very time that a server names; then the waits above are the least
const MOST_TRIES = 25; // in a row: some ten minutes

const LOST = ({ lost, status }) => lost || status === 502; // 502: a proxy has lost the server

/** Whether it is the server, the network or the key, so that the same image may be asked about again as it is. */
export const isPassing = (problem) => (
  LOST(problem) || [401, 403, 429, 503].includes(problem.status) || problem.kind === "model-not-found");

/** Whether asking once more may help, when somebody says so. */
export const canRetry = ({ status }) => status === 0 || status >= 500 || [401, 403, 408, 429].includes(status);

/** Whether an ImageEntry will never have an answer. */
export const isRefused = ({ state, error }) => state === "failed" && !canRetry(error);

/** Seconds to wait after `tries` in a row that failed, or null: the user says when. */
export function waitFor(problem, tries) {
  if (tries >= MOST_TRIES) return null;
  if (LOST(problem)) return WAITS_S[Math.min(tries, WAITS_S.length - 1)];
  const named = problem.retryAfter;
  if (named === null || named > LONGEST_WAIT_S) return null;
  return tries < AS_NAMED ? named : Math.max(named, WAITS_S[Math.min(tries - AS_NAMED, WAITS_S.length - 1)]);
}
