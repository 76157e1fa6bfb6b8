// The service, as the page asks it. The API key lives in this module's memory and nowhere else.

// A limit of requests lets each through in the end, a service that is too busy may not.
const ATTEMPTS = { 429: 20, 503: 6 };
const LONGEST_WAIT_S = 30;
// What can go otherwise with the same image: no answer, a key, too slow, too busy, the server's fault.
const PASSES = (status) => [0, 401, 408, 429].includes(status) || status >= 500;
// Settings that a message names for who runs the service; a visitor can't set them.
const SETTING = / \([^()]*VGG19_[^()]*\)/g;

let key = "";
let notBefore = 0; // of all requests: where one is told to wait, the others wait as well

// `mayPass`: whether it is worth trying again.
export class Problem extends Error {
  constructor(text, mayPass) {
    super(text);
    this.mayPass = mayPass;
  }
}

export function setKey(value) {
  key = value;
}

// `askForKey(isWrong)` resolves when the key is set, or to false where nobody gives one.
export async function served(askForKey) {
  return (await send("model", {}, { askForKey })).json();
}

export async function overview(options) {
  return (await send("overview", {}, options)).json();
}

export async function drift(options) {
  return (await send("drift", {}, options)).json();
}

// Images on which production and its shadow differ. As `rollBack`, with the admin key.
export async function differing(adminKey) {
  return asAdmin("overview/differing", {}, adminKey);
}

export async function rollBack(version, adminKey) {
  const headers = { "Content-Type": "application/json" };
  return asAdmin("rollback", { method: "POST", headers, body: JSON.stringify({ version }) }, adminKey);
}

// With the admin key, which is used this once and not remembered.
async function asAdmin(path, request, adminKey) {
  const response = await fetchOnce(path, request, adminKey);
  if (response.status === 401) throw new Problem("That isn't the admin key.", true);
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

export async function classify(file, topK, options) {
  // A type that isn't an image's would be refused unread; the bytes decide.
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  const request = { method: "POST", headers: { "Content-Type": type }, body: file };
  return (await send(`classify?top_k=${topK}`, request, options)).json();
}

export async function heatMap(file, target, options) {
  const body = new FormData();
  body.append("image", file);
  body.append("explain", "true");
  body.append("target", target);
  const reply = await (await send("classify?top_k=1", { method: "POST", body }, options)).json();
  return reply.images[0].heatmap.values;
}

async function send(path, request, { askForKey, signal, onWait }) {
  let spread = 0; // of its own, or all that were told to wait would come back at once
  for (let attempt = 1; ; ) {
    await until(notBefore + spread, signal);
    const used = key;
    const response = await fetchOnce(path, request, used, signal);
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status === 401) {
      // Another request may have asked for the key meanwhile.
      if (used !== key || (await askForKey(used !== ""))) continue;
      throw problem;
    }
    const attempts = ATTEMPTS[response.status] ?? 1;
    const seconds = waitOf(response, attempt);
    if (attempt === attempts || seconds > LONGEST_WAIT_S) throw problem;
    spread = Math.random() * 500 * Math.min(attempt, 4);
    notBefore = Math.max(notBefore, performance.now() + seconds * 1000);
    attempt += 1;
    onWait?.(seconds, attempt, attempts);
  }
}

async function fetchOnce(path, request, used, signal) {
  const headers = { ...request.headers };
  if (used) headers.Authorization = `Bearer ${used}`;
  try {
    return await fetch(path, { ...request, headers, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    const sent = file(request.body);
    if (error instanceof TypeError && sent instanceof Blob && !(await isReadable(sent))) {
      throw new Problem("The file can't be read any more; add it again.", false);
    }
    throw new Problem("No answer from the service: it is down, or it ended the connection.", true);
  }
}

function file(body) {
  return body instanceof FormData ? body.get("image") : body;
}

async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

async function problemOf(response) {
  const { status, statusText } = response;
  let text = `The service answered ${status} ${statusText}`.trim();
  try {
    text = (await response.json()).detail?.replaceAll(SETTING, "") || text;
  } catch {
    // a proxy's answer, which isn't JSON
  }
  if (status === 401) text = "This service needs an API key; give it one with the button API key.";
  return new Problem(text, PASSES(status));
}

function waitOf(response, attempt) {
  const asked = Number(response.headers.get("Retry-After")) || 1;
  return asked * Math.min(1 + (attempt - 1) / 2, 4);
}

async function until(time, signal) {
  while (performance.now() < time) {
    signal?.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, Math.min(250, time - performance.now())));
  }
  signal?.throwIfAborted();
}
