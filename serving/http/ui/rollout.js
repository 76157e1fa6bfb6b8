// What is tried beside production: a version in its shadow, or a canary.

import { askAsAdmin } from "./admin.js";
import { differing } from "./api.js";
import { percent } from "./cards.js";

const byId = (id) => document.getElementById(id);
// Of the outcome of a shadow's rule.
const OUTCOMES = { waiting: "not yet decided", passed: "its rule holds", refused: "refused" };
let urls = [];
let shownOf = ""; // the shadow whose images are shown

// `shadow`, `canary`: what 'vgg19 shadow --json' and 'vgg19 canary --json' say; null: none runs.
export function showRollout({ shadow, canary, administered }) {
  byId("rollout").hidden = !shadow && !canary;
  byId("differing-box").hidden = !shadow;
  if (shadow) offerDiffering(shadow.shadow, administered);
  if (shadow) showShadow(shadow);
  else if (canary) showCanary(canary);
}

function showShadow({ shadow, outcome, stale, agreement, seen, verdicts, workers }) {
  byId("rollout-title").textContent = "In the shadow";
  byId("rollout-text").textContent = `${shadow.version} answers the same images as ${shadow.against}, for nobody to see: ${
    stale ? "production became another version meanwhile, so nothing is compared any more" : OUTCOMES[outcome] ?? outcome}. ${
    seen.images.toLocaleString("en")} images compared${agreement === null ? "" : `, the same label for ${percent(agreement)}`}.`;
  fill(["rule", "measured", "limit", ""], verdicts.map((one) => [one.rule, one.measured, one.limit, one.passed ? "holds" : outcome === "waiting" ? "not yet" : "fails"]));
  showWorkers(workers);
}

function showCanary({ canary, percent: share, requests, threshold_log_e: threshold, evidence, workers }) {
  byId("rollout-title").textContent = "Canary";
  const steps = canary.steps.map((step) => `${step}%`).join(", ");
  byId("rollout-text").textContent = `${canary.version} answers ${share}% of the clients (steps: ${steps}) beside ${canary.against}, ${requests.toLocaleString("en")} requests so far.`;
  const side = ({ hits, count }) => (count ? `${percent(hits / count)} of ${count.toLocaleString("en")}` : "none yet");
  const rows = evidence.map((one) => [one.kind, side(one.canary), side(one.production), `${Math.round(100 * Math.max(0, one.log_e / threshold))}% of what takes it back`]);
  fill(["share", "canary", "production", "evidence of harm"], rows);
  showWorkers(workers);
}

function fill(heads, rows) {
  const table = byId("rollout-table");
  table.tHead.replaceChildren(line("th", heads));
  table.tBodies[0].replaceChildren(...rows.map((cells) => line("td", cells)));
}

function line(kind, texts) {
  const row = document.createElement("tr");
  row.append(...texts.map((text) => {
    const cell = document.createElement(kind);
    cell.textContent = text;
    return cell;
  }));
  return row;
}

function showWorkers(workers) {
  const failed = workers.filter((one) => one.state === "failed");
  byId("rollout-failed").hidden = failed.length === 0;
  byId("rollout-failed").replaceChildren(...failed.map(({ worker, reason }) => {
    const item = document.createElement("li");
    item.textContent = `${worker}: ${reason}`;
    return item;
  }));
}

// Images are captured ones: whoever has the admin key may see them.
function offerDiffering({ id }, administered) {
  const button = byId("show-differing");
  button.hidden = !administered;
  if (id === shownOf) return;
  shownOf = id;
  showDiffering([]);
  byId("differing-note").textContent = administered
    ? ""
    : "To see images on which the two differ, set an admin key (VGG19_ADMIN_KEY). In a terminal: vgg19 shadow --report shadow.html.";
}

export function startDiffering() {
  const title = "Images on which the two differ";
  const text = "They are your clients' images, so they need the admin key.";
  byId("show-differing").addEventListener("click", () => {
    askAsAdmin({ title, text, verb: "Show" }, async (key) => {
      const { images } = await differing(key);
      showDiffering(images);
      byId("differing-note").textContent = images.length
        ? "Images on which the two differ most:"
        : "No image on which the two differ is kept. They are where the service captures images (VGG19_CAPTURE).";
    });
  });
}

// The most different first; `png` is base64.
function showDiffering(pictures) {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = pictures.map(({ png }) => URL.createObjectURL(new Blob([Uint8Array.from(atob(png), (one) => one.charCodeAt(0))], { type: "image/png" })));
  byId("differing").replaceChildren(...pictures.map((picture, index) => {
    const item = byId("differing-image").content.firstElementChild.cloneNode(true);
    const [production, candidate] = ["production", "candidate"].map((side) => `${picture[side]}, ${percent(picture[`${side}_confidence`])}`);
    const image = item.querySelector("img");
    image.src = urls[index];
    image.alt = `production: ${production}; candidate: ${candidate}`;
    item.querySelector(".production").textContent = production;
    item.querySelector(".candidate").textContent = candidate;
    return item;
  }));
}
