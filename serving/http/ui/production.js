// The second half of the page: what serves since when, traffic, what is tried beside it, drift, history.

import { Problem, drift, overview } from "./api.js";
import { percent } from "./cards.js";
import { lineChart } from "./charts.js";
import { showDrift } from "./drift.js";
import { askForKey } from "./page.js";
import { offerRollback, startRollback } from "./rollback.js";
import { showRollout, startDiffering } from "./rollout.js";
import { startTabs } from "./tabs.js";

const EVERY_S = 5;
const SELDOM = 12; // of these: what is large, and changes once a minute
const POINTS = 60; // five minutes

const byId = (id) => document.getElementById(id);
const rates = [];
let last; // { images, at } of the look before
let looks = 0;
let timer;

// --- Looking

async function look() {
  clearTimeout(timer);
  if (byId("production").hidden || document.hidden) return;
  try {
    const reply = await overview({ askForKey });
    show(reply);
    if (looks % SELDOM === 0) await showSeldom(reply); // again at the next look where it fails
    looks += 1;
    tell("");
  } catch (error) {
    if (!(error instanceof Problem)) console.error(error);
    tell(error instanceof Problem ? error.message : "The page couldn't read the answer.");
  }
  timer = setTimeout(look, 1000 * EVERY_S);
}

async function showSeldom(reply) {
  showDrift(reply.drift ? await drift({ askForKey }) : undefined);
}

function tell(text) {
  if (byId("production-note").textContent !== text) byId("production-note").textContent = text;
}

// --- Showing

function show(reply) {
  byId("overview").hidden = false;
  byId("review-link").hidden = !reply.reviews;
  showServed(reply.model);
  showTraffic(reply.traffic);
  showRollout(reply);
  byId("history").replaceChildren(...reply.history.map((one, index) => promotion(one, index === 0)));
  offerRollback(reply);
}

function showServed(model) {
  byId("served-version").textContent = `${model.name} ${model.version}`;
  byId("served-since").replaceChildren(...(model.since ? since(model.since) : ["not what was promoted last"]));
  byId("served-accuracy").textContent = model.accuracy === null ? "unknown" : percent(model.accuracy);
  byId("served-classes").textContent = model.classes.toLocaleString("en");
  byId("served-device").textContent = model.device;
  byId("served-problems").hidden = model.problems.length === 0;
  byId("served-problems").replaceChildren(...model.problems.map((problem) => withText("li", problem)));
}

function showTraffic(traffic) {
  const { requests, outcomes, accepted, not_accepted: doubted } = traffic;
  const [images, at] = [accepted + doubted, performance.now()];
  if (last && images >= last.images) rates.push((1000 * (images - last.images)) / (at - last.at));
  rates.splice(0, rates.length - POINTS);
  last = { images, at };
  byId("images").textContent = images.toLocaleString("en");
  byId("rate").textContent = rates.length ? rates.at(-1).toFixed(1) : "–";
  byId("accepted").textContent = images ? percent(accepted / images) : "–";
  byId("requests").textContent = requests.toLocaleString("en");
  byId("median").textContent = milliseconds(traffic.median_ms);
  byId("p99").textContent = milliseconds(traffic.p99_ms);
  const told = Object.entries(outcomes).filter(([name, count]) => name !== "ok" && count);
  byId("outcomes").textContent = told.map(([name, count]) => `${count.toLocaleString("en")} ${name.replaceAll("_", " ")}`).join(", ");
  byId("outcomes").hidden = told.length === 0;
  const most = Math.max(0, ...rates).toFixed(1);
  const values = [...Array(POINTS - rates.length).fill(null), ...rates];
  byId("rate-chart").replaceChildren(lineChart(values, { label: `Images a second in the last five minutes, ${most} at most`, most: 1 }));
}

function promotion({ version, at, why }, isPresent) {
  const line = byId("promotion").content.firstElementChild.cloneNode(true);
  line.querySelector(".version").textContent = version;
  if (isPresent) line.querySelector(".version").append(withText("span", "production", "mark"));
  const time = line.querySelector("time");
  time.dateTime = at;
  time.textContent = moment(at);
  line.querySelector(".why").textContent = why;
  return line;
}

function since(at) {
  const time = withText("time", moment(at));
  time.dateTime = at;
  return [time, ` (${ago(at)})`];
}

function moment(at) {
  return new Date(at).toLocaleString("en", { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" });
}

function ago(at) {
  const minutes = Math.round((Date.now() - new Date(at)) / 60_000);
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  if (minutes < 60) return format.format(-minutes, "minute");
  if (minutes < 48 * 60) return format.format(-Math.round(minutes / 60), "hour");
  return format.format(-Math.round(minutes / 1440), "day");
}

function milliseconds(value) {
  if (value === null) return "–";
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

function withText(name, text, kind) {
  const element = document.createElement(name);
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

// --- Listeners

startRollback((text) => {
  looks = 0;
  look().then(() => tell(text));
});
document.addEventListener("visibilitychange", look);
startDiffering();
startTabs(look);
