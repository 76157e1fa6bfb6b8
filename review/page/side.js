// What the labels bring: the last fit, what it changed, classes, disagreements, jobs.

import * as api from "./api.js";
import { vote } from "./card.js";

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const JOBS = { challenger: "Make it a challenger", redeploy: "Retrain and redeploy", lay: "Hand over the labels" };
const STATES = { running: "is running", done: "is done", ended: "has ended", failed: "has failed" };

export function show(found) {
  for (const [which, count] of Object.entries(found.waiting)) {
    document.querySelector(`[data-count=${which}]`).textContent = count || "";
  }
  fit(found);
  const most = Math.max(1, ...found.classes.map(({ images }) => images));
  $("counts").replaceChildren(...found.classes.flatMap((one) => row(one, most)));
  jobs(found.jobs);
  for (const button of document.querySelectorAll("[data-export]")) button.hidden = !found.exports.includes(button.dataset.export);
  elsewhere(found.elsewhere);
  return people(found.disagreements);
}

function fit({ fit: now, change, problem, batch, fitting, labelled, images, features }) {
  $("accuracy").textContent = "–";
  $("accuracy-words").textContent = unfitted(features);
  if (now) {
    $("accuracy").textContent = percent(now.accuracy);
    const [low, high] = now.interval.map(percent);
    $("accuracy-words").textContent = `right by leaving one out (${low} to ${high}), ${now.labels} labels, ${now.depth}`;
  }
  $("change").textContent = problem ?? (change ? changed(change) : "");
  $("batch").value = Math.min(1, batch.decided / batch.size);
  const left = Math.max(0, batch.size - batch.decided);
  const have = `${labelled} of ${images} images have a label`;
  $("batch").hidden = isWithout(features);
  $("batch-words").textContent = isWithout(features) ? have : fitting ? "fitting …" : `${have}; ${left} more until the next fit`;
}

// Whether nothing can be fitted, or not yet: what the model makes of the images is missing.
export const isWithout = (features) => features === null || features.ready < features.images;

function unfitted(features) {
  if (features === null) return "nothing is fitted, since the model was exported without distances; the least certain images come first";
  if (isWithout(features)) return `no fit yet: the model has looked at ${features.ready} of ${features.images} images; until it is done, the least certain come first`;
  return "no fit yet: two classes are needed";
}

function changed({ labels, accuracy, flipped, suspects, gone }) {
  const parts = [
    `${labels[1] - labels[0]} labels more; on the ${labels[0]} of before ${percent(accuracy[0])} → ${percent(accuracy[1])}`,
    `${flipped} ${flipped === 1 ? "prediction" : "predictions"} changed`,
  ];
  if (suspects[0] + suspects[1]) parts.push(`${suspects[1]} suspect (${gone} vanished)`);
  return parts.join("; ");
}

function row({ label, images }, most) {
  const term = Object.assign(document.createElement("dt"), { textContent: label });
  const value = Object.assign(document.createElement("dd"), { textContent: images });
  const bar = document.createElement("i");
  bar.style.inlineSize = `${(4 * images) / most}rem`;
  value.prepend(bar);
  return [term, value];
}

// What the service can't do itself.
function elsewhere(ways) {
  $("elsewhere").hidden = ways.length === 0;
  $("elsewhere").querySelector("dl").replaceChildren(...ways.flatMap(({ what, command }) => {
    const term = Object.assign(document.createElement("dt"), { textContent: what });
    const value = document.createElement("dd");
    value.append(Object.assign(document.createElement("code"), { textContent: command }));
    return [term, value];
  }));
}

async function people(count) {
  const box = $("disagreements");
  box.hidden = count === 0;
  if (!count) return;
  box.querySelector("b").textContent = count;
  const { cards } = await api.disagreements();
  box.querySelector("ul").replaceChildren(
    ...cards.slice(0, 10).map(({ name, standing }) => {
      const item = document.createElement("li");
      const list = document.createElement("ul");
      list.append(...[...standing.past, ...standing.votes].map(vote));
      item.append(`${name}${standing.disputed ? "" : " (settled)"}`, list);
      return item;
    }),
  );
}

function jobs({ names, last }) {
  const box = $("jobs");
  if (box.childElementCount !== names.length) {
    box.replaceChildren(
      ...names.map((name) => {
        const button = Object.assign(document.createElement("button"), { type: "button", textContent: JOBS[name] ?? name });
        button.dataset.job = name;
        return button;
      }),
    );
  }
  for (const button of box.children) button.disabled = last?.state === "running";
  $("job").hidden = !last;
  if (!last) return;
  $("job").dataset.state = last.state;
  $("job").querySelector("p").textContent = `${JOBS[last.name] ?? last.name} ${STATES[last.state]}`;
  $("job").querySelector("pre").textContent = [...(last.step ? [`$ ${last.step}`] : []), ...last.lines].join("\n");
}
