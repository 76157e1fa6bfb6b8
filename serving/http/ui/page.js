// The page: takes images in, sends them a few at a time, shows what comes back.

import { Problem, classify, served, setKey } from "./api.js";
import { makeCard, percent, updateCard } from "./cards.js";
import { toCsv } from "./csv.js";
import { MOST, dropped } from "./folders.js";
import { attachHeat } from "./heat.js";

const AT_A_TIME = 4;
const MANY = 12; // more images than this are shown as a gallery, unless a view was chosen

const byId = (id) => document.getElementById(id);
const results = byId("results");

let items = [];
let waiting = [];
let running = 0;
let pasted = 0;
let viewWasChosen = false;
let abort = new AbortController();

// --- Images come in

function add(files) {
  byId("intake-note").textContent = "";
  if (files.length === 0) return;
  keyDeclined = false;
  for (const file of files) {
    const item = { file, name: file.name || "image", url: URL.createObjectURL(file) };
    item.card = makeCard(item, retry);
    attachHeat(item, () => model, { askForKey });
    items.push(item);
    results.append(item.card);
    enqueue(item);
  }
  byId("outcome").hidden = false;
  if (items.length > MANY && !viewWasChosen) show("gallery");
  work();
}

function enqueue(item) {
  Object.assign(item, { state: "waiting", note: "Waiting", problem: undefined });
  waiting.push(item);
  update(item);
}

function retry(item) {
  keyDeclined = false;
  enqueue(item);
  work();
  results.tabIndex = -1;
  results.focus(); // the button that had it is gone
}

function hasFiles(event) {
  return event.dataTransfer?.types.includes("Files");
}

function onDrag(event) {
  if (!hasFiles(event)) return;
  event.preventDefault();
  document.body.classList.toggle("dropping", event.type === "dragover");
  if (event.type === "drop") take(dropped(event.dataTransfer));
}

async function take(dropping) {
  const { files, more, barren } = await dropping;
  add(files);
  const said = barren.map((name) => `There are no images in the folder ${name}.`);
  if (more) said.push(`These are the first ${MOST.toLocaleString("en")} images; drop the others after them.`);
  byId("intake-note").textContent = said.join(" ");
}

function onPaste(event) {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length === 0) return;
  event.preventDefault();
  // Browsers call every pasted picture image.png.
  add(files.map((file) => new File([file], `pasted-${++pasted}.${file.type.split("/")[1] || "bin"}`, { type: file.type })));
}

function onChosen(event) {
  const files = [...event.target.files];
  event.target.value = ""; // so that the same file may be chosen again
  add(files);
}

// --- They are classified

function work() {
  while (running < AT_A_TIME && waiting.length > 0) {
    running += 1;
    run(waiting.shift(), abort.signal);
  }
  updateToolbar();
}

async function run(item, signal) {
  Object.assign(item, { state: "running", note: "Classifying" });
  update(item);
  try {
    await ask(item, signal);
  } catch (error) {
    if (!(error instanceof Problem) && !signal.aborted) console.error(error);
    const problem = error instanceof Problem ? error.message : "The page couldn't read the answer.";
    const mayPass = !(error instanceof Problem) || error.mayPass;
    Object.assign(item, { state: "failed", problem, mayPass, predictions: undefined, accepted: undefined, distance: undefined, doubt: undefined, times: undefined, version: undefined });
  }
  running -= signal === abort.signal ? 1 : 0;
  if (signal.aborted) return;
  item.note = undefined;
  update(item);
  arrangeSoon();
  work();
}

async function ask(item, signal) {
  const asked = topK();
  const onWait = (seconds, attempt, attempts) => {
    item.note = `The service is busy. Asking again in ${Math.ceil(seconds)} s (${attempt} of ${attempts})`;
    update(item);
  };
  const reply = await classify(item.file, asked, { signal, onWait, askForKey });
  Object.assign(item, {
    state: "done",
    asked,
    predictions: reply.images[0].predictions,
    accepted: reply.images[0].accepted,
    distance: reply.images[0].distance,
    doubt: doubtOf(reply.images[0]),
    times: reply.timings_ms,
    model: reply.model_name,
    version: reply.model_version,
  });
}

function doubtOf({ accepted, distance }) {
  if (accepted) return undefined;
  if (distance > 1) return "Not accepted: unlike the images that the model was trained on.";
  return "Not accepted: too uncertain.";
}

function topK() {
  const value = byId("top-k").valueAsNumber;
  return Number.isInteger(value) && value >= 1 ? value : 1;
}

function onTopK() {
  byId("top-k").value = String(topK());
  const short = items.filter((item) => item.state === "done" && item.asked < topK() && item.predictions.length === item.asked);
  short.forEach(enqueue);
  items.forEach(update);
  work();
}

// --- They are shown

function update(item) {
  updateCard(item, topK());
}

function show(view) {
  results.className = view;
  document.querySelector(`input[name=view][value=${view}]`).checked = true;
  if (view === "gallery" && byId("order").value === "added") byId("order").value = "most";
  arrange();
}

function certainty(item) {
  return item.predictions?.[0]?.probability;
}

// Once for all answers of a frame: it looks at every card.
let arranging;

function arrangeSoon() {
  arranging ??= requestAnimationFrame(() => {
    arranging = undefined;
    arrange();
  });
}

function arrange() {
  const order = byId("order").value;
  const sign = order === "most" ? -1 : 1;
  const cards = [...items];
  if (order !== "added") {
    // What has no answer comes last, whichever way round.
    const rank = (item) => (certainty(item) === undefined ? Infinity : sign * certainty(item));
    cards.sort((a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
  }
  if (cards.every((item, index) => results.children[index] === item.card)) return;
  const focused = document.activeElement;
  results.replaceChildren(...cards.map((item) => item.card));
  focused?.focus?.({ preventScroll: true });
}

function count(...states) {
  return items.filter((item) => states.includes(item.state)).length;
}

function updateToolbar() {
  const done = count("done", "failed");
  byId("progress").max = Math.max(items.length, 1);
  byId("progress").value = done;
  byId("progress").classList.toggle("over", done === items.length);
  byId("csv").disabled = done === 0;
  tellStatus();
}

function status() {
  const [done, failed, all] = [count("done", "failed"), count("failed"), items.length];
  if (done < all) return `${done} of ${all} ${all === 1 ? "image" : "images"} done`;
  if (all > 1) return `${all} images done${failed ? `, ${failed} with a problem` : ""}`;
  if (all === 0) return "";
  const [{ name, problem, predictions }] = items;
  return `${name}: ${problem ?? `${predictions[0].label}, ${percent(predictions[0].probability)}`}`;
}

// A screen reader reads each change out, so a batch tells of itself only now and then.
let statusTimer;

function tellStatus() {
  const tell = () => {
    clearTimeout(statusTimer);
    statusTimer = undefined;
    byId("status").textContent = status();
  };
  if (running === 0 && waiting.length === 0) tell();
  else statusTimer ??= setTimeout(tell, 1000);
}

function clear() {
  abort.abort();
  abort = new AbortController();
  items.forEach((item) => URL.revokeObjectURL(item.url));
  [items, waiting, running] = [[], [], 0];
  results.replaceChildren();
  updateToolbar();
  byId("outcome").hidden = true;
  byId("files").focus();
}

function download() {
  const finished = items.filter((item) => item.state === "done" || item.state === "failed");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([toCsv(finished)], { type: "text/csv" }));
  link.download = "classified.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --- The API key

let keyDeclined = false;
let keyAsked;

export function askForKey(isWrong) {
  byId("key-button").hidden = false;
  if (keyDeclined) return false;
  keyAsked ??= openKeyDialog(isWrong ? "The service doesn't accept that key." : "").finally(() => { keyAsked = undefined; });
  return keyAsked;
}

function openKeyDialog(problem) {
  const dialog = byId("key-dialog");
  byId("key-problem").textContent = problem;
  byId("key-problem").hidden = !problem;
  dialog.returnValue = "";
  dialog.showModal();
  byId("key").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      keyDeclined = dialog.returnValue !== "given";
      if (!keyDeclined) setKey(byId("key").value.trim());
      byId("key").value = "";
      resolve(!keyDeclined);
    }, { once: true });
  });
}

async function changeKey() {
  keyDeclined = false;
  if (await askForKey(false)) showModel();
}

// --- What is served

let model;

async function showModel() {
  try {
    model = await served(askForKey);
    const count = model.spec.labels.length;
    byId("model").textContent = `${model.name} ${model.version}, ${count} classes, on ${model.device}`;
    byId("top-k").max = String(count);
    items.forEach(update);
  } catch (error) {
    byId("model").textContent = error instanceof Problem ? error.message : "";
  }
}

// --- Listeners

for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, onDrag);
document.addEventListener("paste", onPaste);
byId("files").addEventListener("change", onChosen);
byId("photo").addEventListener("change", onChosen);
byId("top-k").addEventListener("change", onTopK);
byId("order").addEventListener("change", arrange);
byId("csv").addEventListener("click", download);
byId("clear").addEventListener("click", clear);
byId("key-button").addEventListener("click", changeKey);
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("key-dialog").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault(); // the key must not become part of an address
  byId("key-dialog").close("given");
});
for (const input of document.querySelectorAll("input[name=view]")) {
  input.addEventListener("change", () => {
    viewWasChosen = true;
    show(input.value);
  });
}
showModel();
