// What `GET /drift` says, as a list of features with their last week.

import { percent } from "./cards.js";
import { lineChart } from "./charts.js";

// From here on a shift is called moderate (Siddiqi, Credit Risk Scorecards, 2006).
const MODERATE = 0.1;
const byId = (id) => document.getElementById(id);

// `reply`: undefined where drift isn't watched.
export function showDrift(reply) {
  const features = reply?.drift?.features ?? [];
  byId("drift-note").textContent = note(reply);
  // One scale for all, so that they can be compared.
  const all = features.flatMap(({ name }) => known(reply.drift.history.psi[name] ?? []));
  const top = Math.max(2 * MODERATE, ...all);
  byId("drift-features").replaceChildren(...features.map((feature) => row(feature, reply.drift.history, top)));
}

function note(reply) {
  if (!reply) return "Drift isn't watched here.";
  if (!reply.watched) return `Drift isn't watched: ${reply.reason ?? "the model has no reference"}.`;
  if (!reply.drift) return "Nothing was answered yet.";
  const { windows, reference_images: reference, accepted } = reply.drift;
  const shares = [["the last images", accepted.recent], ["the last 24 hours", accepted.day], ["the validation images", accepted.reference]]
    .filter(([, share]) => share !== null)
    .map(([name, share]) => `${percent(share)} of ${name}`);
  const compared = `${count(windows.recent)} compared with ${count(reference)} of validation by PSI, the population stability index.`;
  return `${compared} Accepted: ${shares.join(", ")}.`;
}

function row(feature, history, top) {
  const line = byId("drift-feature").content.firstElementChild.cloneNode(true);
  line.querySelector("h3").textContent = feature.title;
  const verdict = line.querySelector(".verdict");
  const recent = feature.windows.recent;
  verdict.textContent = recent ? `PSI ${recent.psi.toFixed(2)}` : "no images";
  if (feature.alarm_at !== null) {
    verdict.textContent += `, differs since ${day(feature.alarm_at)}`;
    line.classList.add("alarm");
  }
  const values = history.psi[feature.name] ?? [];
  if (known(values).length > 0) {
    const most = Math.max(...known(values)).toFixed(2);
    line.querySelector(".chart").append(
      lineChart(values, { label: `PSI of ${feature.title} by the hour, ${most} at most`, most: top, limit: MODERATE }),
    );
  }
  return line;
}

function known(values) {
  return values.filter((value) => value !== null);
}

function count(images) {
  return `${images.toLocaleString("en")} ${images === 1 ? "image" : "images"}`;
}

function day(seconds) {
  return new Date(1000 * seconds).toLocaleString("en", { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });
}
