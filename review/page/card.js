// One image: the picture with what the model sees of it, what is asked, and the answers.

import * as api from "./api.js";
import { keyFor } from "./keys.js";

const $ = (id) => document.getElementById(id);
const pictures = new Map(); // image -> promise of an address, of this card and the next ones

export function preload(cards) {
  const wanted = new Set(cards.map(({ image }) => image));
  for (const [image, address] of pictures) {
    if (!wanted.has(image)) {
      pictures.delete(image);
      address.then(URL.revokeObjectURL, () => {});
    }
  }
  for (const image of wanted) {
    if (!pictures.has(image)) {
      const address = api.picture(image);
      address.catch(() => pictures.delete(image)); // told when it is shown, and asked for again
      pictures.set(image, address);
    }
  }
}

// Shows a card once its picture can be seen; throws where it can't, and shows all but the picture.
export async function show(card, { classes, preprocessing }) {
  hideHeat();
  const picture = $("picture");
  let problem = null;
  try {
    picture.src = await pictures.get(card.image);
    await picture.decode();
    frame(picture, preprocessing);
  } catch (error) {
    picture.removeAttribute("src");
    $("crop").hidden = $("crop-note").hidden = true;
    problem = error;
  }
  picture.alt = `Image ${card.name}`;
  $("name").textContent = card.name;
  $("reason").textContent = { disputed: "People differ", suspect: "Suspect label", new: "No label yet" }[card.reason];
  $("reason").dataset.reason = card.reason;
  $("question").textContent = question(card);
  $("votes").replaceChildren(...[...card.standing.past, ...card.standing.votes].map(vote));
  const best = suggestion(card);
  $("accept").hidden = best === null;
  if (best !== null) $("accept").querySelector("span").textContent = best;
  $("classes").replaceChildren(...classes.map(({ label }) => answer(label, card)));
  if (problem) throw problem;
}

// What Enter says: for a suspect label what the others say, else what the head is surest of.
export function suggestion(card) {
  if (card.reason === "disputed") return null;
  return card.suggested[0]?.[0] ?? null;
}

function question({ reason, given, suggested, standing, said }) {
  const label = standing.votes.at(-1)?.label ?? given;
  if (reason === "disputed") return "They had not seen each other's answer. What is it?";
  if (reason === "suspect") return `Labelled ${label}, but images like it are ${suggested[0][0]}. What is it?`;
  return said ? `The service answered ${said}. What is it?` : "What is it?";
}

export function vote({ kind, label, who, at }) {
  const item = document.createElement("li");
  const what = kind === "none" ? "none of these" : label;
  const time = document.createElement("time");
  time.dateTime = at;
  time.textContent = new Date(at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  item.append(`${who}: ${what}, `, time);
  return item;
}

function answer(label, card) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.label = label;
  const key = keyFor(label);
  if (key) button.append(Object.assign(document.createElement("kbd"), { textContent: key }));
  button.append(Object.assign(document.createElement("span"), { textContent: label }));
  const share = new Map(card.suggested).get(label);
  if (share !== undefined && card.reason !== "suspect") {
    const bar = document.createElement("i");
    bar.style.inlineSize = `${100 * share}%`;
    const words = Object.assign(document.createElement("small"), { textContent: `${Math.round(100 * share)}%` });
    button.append(words, bar);
  }
  return button;
}

// Left, top, width and height of what the model sees, as shares of the picture; by "pad" the square is
// larger than the picture.
function view({ resize, image_size: seen, resize_size: whole }, width, height) {
  if (resize === "squash") return [0, 0, 1, 1];
  const shorter = Math.min(width, height);
  const side = resize === "pad" ? Math.max(width, height) : (seen / whole) * shorter;
  return [(1 - side / width) / 2, (1 - side / height) / 2, side / width, side / height];
}

function frame(picture, preprocessing) {
  const { naturalWidth: width, naturalHeight: height } = picture;
  const shares = view(preprocessing, width, height);
  for (const box of [$("crop"), $("heat")]) {
    ["left", "top", "width", "height"].forEach((side, place) => {
      box.style[side] = `${100 * shares[place]}%`;
    });
  }
  $("frame").style.setProperty("--ratio", width / height);
  const cropped = shares[2] < 0.999 || shares[3] < 0.999;
  $("crop").hidden = $("crop-note").hidden = !cropped || preprocessing.resize === "pad";
}

export async function toggleHeat(card) {
  const button = document.querySelector("[data-do=heat]");
  if (!$("heat").hidden) return hideHeat();
  const label = suggestion(card) ?? card.suggested[0]?.[0] ?? card.given ?? "";
  const heat = $("heat");
  heat.src = await api.heat(card.image, label);
  heat.alt = `What speaks for ${label}, from yellow, a little, to violet, most`;
  heat.hidden = false;
  button.setAttribute("aria-pressed", "true");
  return label;
}

function hideHeat() {
  const heat = $("heat");
  if (!heat.hidden) URL.revokeObjectURL(heat.src);
  heat.hidden = true;
  document.querySelector("[data-do=heat]").setAttribute("aria-pressed", "false");
}
