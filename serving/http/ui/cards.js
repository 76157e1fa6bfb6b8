// One image's result as a card. Text of files and of the service goes in as text, never as HTML.

import { showHeat } from "./heat.js";

const template = document.getElementById("card");

export function percent(probability) {
  if (probability > 0 && probability < 0.001) return "<0.1%";
  return `${(probability * 100).toFixed(1)}%`;
}

export function makeCard(item, onRetry) {
  const card = template.content.firstElementChild.cloneNode(true);
  const image = card.querySelector("img");
  image.addEventListener("error", () => {
    image.hidden = true; // a format that the service reads and this browser doesn't, or no image
    card.querySelector(".no-picture").hidden = false;
  });
  image.addEventListener("load", () => {
    image.classList.toggle("tall", image.naturalHeight > image.naturalWidth);
  });
  image.src = item.url;
  const title = card.querySelector("h3");
  title.textContent = item.name;
  title.title = item.name;
  const retry = card.querySelector(".problem button");
  retry.setAttribute("aria-label", `Try ${item.name} again`);
  retry.addEventListener("click", () => onRetry(item));
  return card;
}

export function updateCard(item, topK) {
  const { card, problem, predictions } = item;
  card.dataset.state = item.state;
  card.querySelector("img").alt = predictions ? `${item.name}, most likely ${predictions[0]?.label}` : item.name;
  setText(card.querySelector(".state"), item.note);
  card.querySelector(".problem p").textContent = problem ?? "";
  card.querySelector(".problem").hidden = !problem;
  card.querySelector(".problem button").hidden = !item.mayPass;
  if (problem) card.querySelector(".no-picture").hidden = false; // half an image may cover it
  card.querySelector(".bars").replaceChildren(...(predictions ?? []).slice(0, topK).map(bar));
  card.querySelector(".bars").hidden = !predictions;
  setText(card.querySelector(".doubt"), item.doubt);
  showHeat(item);
  showTimes(card.querySelector(".times"), item.times);
  card.querySelector(".version").textContent = item.version ? `${item.model} ${item.version}` : "";
}

function setText(element, text) {
  element.textContent = text || "";
  element.hidden = !text;
}

function bar({ label, probability }) {
  const line = document.createElement("li");
  const [name, value, track, fill] = ["label", "value", "track", "fill"].map((kind) => {
    const element = document.createElement("span");
    element.className = kind;
    return element;
  });
  name.textContent = label;
  name.title = label;
  value.textContent = percent(probability);
  fill.style.inlineSize = `${probability * 100}%`;
  track.append(fill);
  line.append(name, value, track);
  return line;
}

function showTimes(element, times) {
  element.hidden = !times;
  if (!times) return;
  const values = [times.decode, times.queue, times.inference];
  element.querySelectorAll("dd").forEach((place, index) => {
    place.textContent = `${milliseconds(values[index])} ms`;
  });
  element.querySelectorAll(".split i").forEach((part, index) => {
    part.style.flexGrow = String(values[index]);
  });
}

function milliseconds(value) {
  return value < 10 ? value.toFixed(1) : value.toFixed(0);
}
