// Several images of one suggested class, to be confirmed together.

import * as api from "./api.js";

const COUNT = 24;
const $ = (id) => document.getElementById(id);
let shown = { label: null, cards: [] };

// Whether there are any.
export async function load() {
  shown = await api.group(COUNT);
  const { label, cards } = shown;
  for (const picture of $("tiles").querySelectorAll("img")) URL.revokeObjectURL(picture.src);
  const addresses = await Promise.all(cards.map(({ image }) => api.thumbnail(image)));
  $("grid-title").textContent = label === null ? "" : `Is all of this ${label}?`;
  $("tiles").replaceChildren(...cards.map((card, place) => tile(card, addresses[place])));
  count();
  return cards.length > 0;
}

function tile(card, address) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.image = card.image;
  button.setAttribute("aria-pressed", "true");
  const picture = Object.assign(document.createElement("img"), { src: address, alt: card.name });
  const share = Math.round(100 * card.suggested[0][1]);
  button.append(picture, Object.assign(document.createElement("span"), { textContent: `${share}%` }));
  item.append(button);
  return item;
}

export function toggle(button) {
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  count();
}

// The arrow keys go from image to image.
export function move(key) {
  const buttons = [...$("tiles").querySelectorAll("button")];
  const place = buttons.indexOf(document.activeElement);
  const across = buttons.filter(({ offsetTop }) => offsetTop === buttons[0]?.offsetTop).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[key];
  buttons[Math.max(0, Math.min(buttons.length - 1, place < 0 ? 0 : place + step))]?.focus();
}

// The decisions that confirming takes; images that were taken out stay as they are.
export function confirmed(who) {
  const taken = new Set([...$("tiles").querySelectorAll("[aria-pressed=true]")].map(({ dataset }) => dataset.image));
  return shown.cards
    .filter(({ image }) => taken.has(image))
    .map(({ image, standing }) => ({ image, kind: "label", label: shown.label, who, base: standing.revision }));
}

function count() {
  const taken = $("tiles").querySelectorAll("[aria-pressed=true]").length;
  const button = $("confirm");
  button.disabled = taken === 0;
  button.querySelector("span").textContent = `Confirm ${taken} as ${shown.label}`;
}
