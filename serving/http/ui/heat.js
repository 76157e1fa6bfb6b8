// Heat maps over the pictures: where the pixels are that speak for a label.

import { Problem, heatMap } from "./api.js";

// From faint to strong: yellow, orange, red, dark violet; readable on light and on dark pictures.
const RAMP = [[255, 240, 120], [253, 174, 56], [227, 74, 51], [158, 30, 84], [84, 10, 92]];

// `model()` is what the service says of its model; undefined until it has.
export function attachHeat(item, model, options) {
  const { button, select, strength } = partsOf(item);
  button.setAttribute("aria-label", `Heat map of ${item.name}`);
  select.setAttribute("aria-label", `Label that the heat map of ${item.name} speaks of`);
  strength.setAttribute("aria-label", `Strength of the heat map of ${item.name}`);
  item.heat = { isOn: false, asked: 0, model };
  button.addEventListener("click", () => {
    item.heat.isOn = !item.heat.isOn;
    showHeat(item);
    if (item.heat.isOn && !item.heat.values) ask(item, options);
  });
  select.addEventListener("change", () => ask(item, options));
  strength.addEventListener("input", () => showHeat(item));
}

export function showHeat(item) {
  const { box, button, select, strength, canvas } = partsOf(item);
  const { heat } = item;
  if (!heat) return;
  item.card.dataset.resize = heat.model()?.spec.preprocessing.resize ?? "crop";
  const canBe = item.state === "done" && Boolean(heat.model()?.heat_maps);
  if (item.state !== "done") Object.assign(heat, { isOn: false, values: undefined });
  box.hidden = !canBe;
  button.setAttribute("aria-pressed", String(heat.isOn));
  for (const control of [select, strength]) control.parentElement.hidden = !heat.isOn;
  if (canBe) offer(select, item.predictions.map(({ label }) => label));
  canvas.hidden = !(canBe && heat.isOn && heat.values);
  if (canvas.hidden) return;
  canvas.style.opacity = String(strength.valueAsNumber / 100);
  canvas.setAttribute("aria-label", `Heat map: what supports ${select.value}; ${strongest(heat.values)}`);
}

async function ask(item, options) {
  const { box, select } = partsOf(item);
  const problem = box.querySelector(".trouble");
  const number = ++item.heat.asked;
  let said = "";
  try {
    const values = await heatMap(item.file, select.value, options);
    if (number !== item.heat.asked) return; // another label was chosen meanwhile
    item.heat.values = values;
    draw(item);
    if (Math.max(...values.flat()) === 0) said = `No part of the image supports ${select.value} more than another.`;
  } catch (error) {
    if (!(error instanceof Problem)) console.error(error);
    said = error instanceof Problem ? error.message : "The page couldn't read the answer.";
    item.heat.values = undefined;
  }
  problem.textContent = said;
  problem.hidden = !said;
  showHeat(item);
}

function partsOf({ card }) {
  const box = card.querySelector(".explain");
  return {
    box,
    button: box.querySelector("button"),
    select: box.querySelector("select"),
    strength: box.querySelector("input"),
    canvas: card.querySelector(".heat"),
  };
}

function offer(select, labels) {
  if (labels.join("\n") === [...select.options].map(({ value }) => value).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...labels.map((label) => new Option(label, label)));
  if (labels.includes(chosen)) select.value = chosen;
}

// One pixel a value; the browser smooths it where it enlarges the canvas.
function draw(item) {
  const { canvas } = partsOf(item);
  const { values } = item.heat;
  canvas.width = values[0].length;
  canvas.height = values.length;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  values.flat().forEach((value, index) => pixels.data.set([...colour(value), 255 * Math.min(1, 1.25 * value)], 4 * index));
  context.putImageData(pixels, 0, 0);
  const [width, height] = viewOf(item.heat.model().spec.preprocessing, item.card.querySelector("img"));
  canvas.style.inset = `${50 * (1 - height)}% ${50 * (1 - width)}%`;
  canvas.style.inlineSize = `${100 * width}%`;
  canvas.style.blockSize = `${100 * height}%`;
}

// What of the square card the model sees, in the middle: width and height, as parts of it. By the rule
// "crop", a card shows the picture's central square, and the model sees the middle of that. Otherwise a
// card shows all of the picture; "squash" stretches that to the map, "pad" adds what the square has more.
function viewOf({ image_size: seen, resize_size: whole, resize }, { naturalWidth: width, naturalHeight: height }) {
  if (resize === "squash" && width > 0) return [Math.min(1, width / height), Math.min(1, height / width)];
  return [seen / whole, seen / whole];
}

function colour(value) {
  const place = value * (RAMP.length - 1);
  const below = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[below].map((from, channel) => from + (place - below) * (RAMP[below + 1][channel] - from));
}

// For who can't see it.
function strongest(values) {
  const flat = values.flat();
  const index = flat.indexOf(Math.max(...flat));
  if (flat[index] === 0) return "nothing does";
  const [row, column] = [Math.floor(index / values[0].length), index % values[0].length];
  const third = (place, count, names) => names[Math.min(2, Math.floor((3 * (place + 0.5)) / count))];
  return `most at the ${third(row, values.length, ["top", "middle", "bottom"])} ${third(column, values[0].length, ["left", "centre", "right"])}`;
}
