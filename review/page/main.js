// The page's state: which image is shown, what was decided, what comes next.
//
// An answer is sent, and written to the disk by the server, before the next image is shown. Keys that
// are pressed meanwhile do nothing: nobody has seen what they would answer.

import * as api from "./api.js";
import * as one from "./card.js";
import * as grid from "./grid.js";
import { ACTIONS, assign, labelFor } from "./keys.js";
import * as side from "./side.js";

const AHEAD = 8;
const LOOK_MS = 2000;
const $ = (id) => document.getElementById(id);
const state = { which: "all", cards: [], seen: null, done: [], overview: null, busy: true, grid: false };

const who = () => $("who").value.trim() || "somebody";
const shownCard = () => (state.grid ? null : state.cards[0] ?? null);

async function work(task) {
  if (state.busy) return;
  state.busy = true;
  document.body.classList.add("busy");
  try {
    $("notice").hidden = true;
    await task();
  } catch (error) {
    if (!(error instanceof api.Refused) && !(error instanceof DOMException)) throw error;
    tell(error instanceof DOMException ? "The picture can't be shown; skip it, or look at its file." : error.message);
  } finally {
    state.busy = false;
    document.body.classList.remove("busy");
  }
}

function tell(words) {
  $("notice").textContent = words;
  $("notice").hidden = false;
}

async function look() {
  state.overview = await api.overview();
  assign(state.overview.classes.map(({ label }) => label));
  $("class-names").replaceChildren(...state.overview.classes.map(({ label }) => new Option(label, label)));
  await side.show(state.overview);
}

// Fetches what comes behind the cards that are there, and shows the first.
async function next() {
  if (state.grid) {
    if (await grid.load()) return reveal("grid");
    state.grid = false;
  }
  if (state.cards.length < AHEAD / 2) {
    const known = new Set(state.cards.map(({ image }) => image));
    const { cards } = await api.queue(state.which, AHEAD);
    state.cards.push(...cards.filter(({ image }) => !known.has(image)));
  }
  one.preload(state.cards.slice(0, AHEAD));
  if (!state.cards.length) return reveal("over");
  reveal("one");
  state.seen = null;
  $("one").dataset.image = state.cards[0].image;
  await one.show(state.cards[0], state.overview);
  state.seen = state.cards[0].image;
}

function reveal(name) {
  for (const section of ["one", "grid", "over"]) $(section).hidden = section !== name;
  if (name !== "one") $(`${name}-title`).focus({ preventScroll: true });
  for (const button of document.querySelectorAll("[data-do=undo]")) button.disabled = state.done.length === 0;
}

async function decide(decisions) {
  const { taken } = await api.decide(decisions);
  state.done.push(taken.map(({ decision }) => decision));
  const given = new Set(taken.map(({ decision }) => decision.image));
  state.cards = state.cards.filter(({ image }) => !given.has(image));
  const known = new Set(state.overview.classes.map(({ label }) => label));
  const looking = look();
  if (taken.some(({ decision }) => decision.label !== null && !known.has(decision.label))) await looking;
  else looking.catch(() => {}); // of numbers beside the images, which nobody waits for
  for (const { decision, standing } of taken) {
    if (standing.disputed) await differ(decision, standing);
  }
  const { kind, label } = taken[0].decision;
  $("status").textContent = `saved: ${label ?? { none: "none of these", skip: "skipped" }[kind]}`;
  await next();
}

// Somebody else, or another tab, has answered since this image was fetched. Both answers are on the disk.
async function differ({ image }, { votes }) {
  const other = votes.at(-2);
  tell(`${other.who} said ${other.label ?? "none of these"} meanwhile. Both answers are kept; look at it once more.`);
  state.cards.unshift(await api.card(image));
}

// What nobody can see may be skipped, and nothing else.
function answer(kind, label = null) {
  const card = shownCard();
  if (card && (state.seen === card.image || kind === "skip")) work(() => decide([{ image: card.image, kind, label, who: who(), base: card.standing.revision }]));
}

async function undo() {
  const last = state.done.at(-1);
  if (!last) return;
  await api.decide(last.map(({ image, who, revision }) => ({ image, kind: "undo", undoes: revision, who })));
  state.done.pop();
  const back = new Set(last.map(({ image }) => image));
  const again = last.length === 1 ? [await api.card(last[0].image)] : [];
  state.cards = [...again, ...state.cards.filter(({ image }) => !back.has(image))];
  if (again.length) state.grid = false;
  await look();
  $("status").textContent = "undone";
  await next();
}

const actions = {
  none: () => answer("none"),
  skip: () => answer("skip"),
  new: () => choose("A new class"),
  find: () => choose("Which class is it?"),
  undo: () => work(undo),
  heat: () => shownCard() && work(async () => {
    const label = await one.toggleHeat(shownCard());
    $("status").textContent = label ? `heat map of ${label}` : "";
  }),
  grid: () => work(async () => {
    state.grid = !state.grid;
    const wanted = state.grid;
    await next();
    if (wanted && !state.grid) tell("No images are sure enough to be confirmed together.");
  }),
};

function choose(title) {
  if (!shownCard()) return;
  $("class-title").textContent = title;
  $("class-name").value = "";
  $("class-dialog").showModal();
}

$("class-dialog").addEventListener("submit", () => answer("label", $("class-name").value.trim()));
document.querySelector("[data-close]").addEventListener("click", () => $("class-dialog").close());

api.whenKeyIsNeeded((refused) => new Promise((resolve) => {
  $("key-refused").hidden = !refused;
  $("key").value = "";
  $("key-dialog").showModal();
  $("key-dialog").addEventListener("close", () => resolve($("key").value.trim()), { once: true });
}));

const accept = () => answer("label", one.suggestion(shownCard()));
const confirm = () => work(() => decide(grid.confirmed(who())));

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { do: action, label, image, job, export: form } = button.dataset;
  if (action) actions[action]();
  else if (label !== undefined) answer("label", label);
  else if (image) grid.toggle(button);
  else if (job) work(async () => { await api.start(job); await look(); });
  else if (form) work(() => save(form));
  else if (button.id === "accept") accept();
  else if (button.id === "confirm") confirm();
});

document.addEventListener("keydown", (event) => {
  const { key, target, repeat } = event;
  const typing = target.matches("input:not([type=radio])") || document.querySelector("dialog[open]");
  if (typing || repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = target.closest("button, [role=radio], pre");
  if (state.grid && key.startsWith("Arrow")) grid.move(key);
  else if (key === "Enter" && state.grid) confirm();
  else if (key === "Enter" && shownCard() && !onButton && one.suggestion(shownCard()) !== null) accept();
  else if (ACTIONS[key]) actions[ACTIONS[key]]();
  else if (labelFor(key) && shownCard()) answer("label", labelFor(key));
  else return;
  event.preventDefault();
});

$("which").addEventListener("change", ({ target }) => work(async () => {
  state.which = target.value;
  state.grid = false;
  state.cards = [];
  target.blur(); // so that digits and arrows are answers again
  await next();
}));

$("who").value = sessionStorage.getItem("who") ?? "";
$("who").addEventListener("change", () => sessionStorage.setItem("who", who()));
$("who").addEventListener("keydown", ({ key }) => key === "Enter" && $("who").blur());

async function save(form) {
  const link = document.createElement("a");
  link.href = await api.exported(form);
  link.download = { labels: "labels.csv", "label-studio": "label-studio.json" }[form];
  link.click();
}

// What runs in the background, and what others decide, is looked at now and then.
setInterval(() => {
  const { overview } = state;
  const looks = overview?.features && side.isWithout(overview.features);
  const lives = looks || overview?.fitting || overview?.jobs.last?.state === "running";
  if (lives && !state.busy) look().catch(() => {});
}, LOOK_MS);

state.busy = false;
work(async () => {
  await look();
  if (!$("who").value) $("who").value = state.overview.who;
  await next();
});
