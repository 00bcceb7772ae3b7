// The status page of a relay: it asks for the numbers every few seconds and shows them. The token is in this tab alone
// and goes nowhere but into the header of each question.

import { UNKNOWN, amount, count, draw, duration, latest, levels, rates, svg } from "./chart.js";

const KEPT_AS = "icesignal-status-token";
const PATIENCE_MS = { now: 4000, history: 10000 };
const HOUR_MS = 3600000;
const STATES = {
  ready: "ready",
  full: "full: it takes nobody new",
  draining: "going away: it takes nobody new, and sends its clients to come back elsewhere",
  "store-away": "waiting for the store that the nodes share: it takes nobody new",
};
// kind: a level as it is, or a rate by so many seconds, of a factor.
const CHARTS = [
  { title: "Here now", unit: "", lines: [["rooms", "rooms"], ["members", "members"], ["connections", "connections"]] },
  { title: "Messages", unit: "/s", per: 1, lines: [["messages", "messages"]] },
  { title: "Entries and refusals", unit: "/min", per: 60, lines: [["entries", "entries"], ["resumes", "resumed"], ["refusals", "refused"]] },
  { title: "Outcomes reported", unit: "/min", per: 60, lines: [["direct", "direct"], ["relayed", "relayed"], ["failed", "failed"]] },
  { title: "TURN allocations", unit: "", needs: "turn_allocations", lines: [["turn_allocations", "allocations"]] },
  { title: "TURN traffic", unit: "bit/s", per: 1, factor: 8, needs: "turn_allocations", lines: [["turn_to_peer", "to peers"], ["turn_to_client", "to clients"]] },
];

const $ = (id) => document.getElementById(id);
const make = (name, className, ...children) => {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
};

let token = sessionStorage.getItem(KEPT_AS);
let rows = []; // {t, run, values}: t as this browser's clock has it; values null where nobody answered
let meanings = {};
let last = null; // the last answer
let answeredAt = 0;
let isStale = false;
let timer = 0;
let asking = 0; // the number of the last question: what comes after another one was asked is left out
let pollMs = 5000;
let spanMs = HOUR_MS;

// -- asking

class Refused extends Error {
  constructor(status) {
    super(`${status}`);
    this.status = status;
  }
}

async function ask(what) {
  const headers = { Authorization: `Bearer ${token}` };
  const answer = await fetch(`status/${what}.json`, {
    headers, cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(PATIENCE_MS[what]),
  });
  if (!answer.ok) throw new Refused(answer.status);
  return answer.json();
}

async function poll() {
  clearTimeout(timer);
  const mine = ++asking;
  try {
    const now = await ask("now");
    const missed = !last || now.run !== last.run || Date.now() - answeredAt > 4 * pollMs;
    const past = missed ? await ask("history") : null;
    if (mine !== asking) return;
    if (past && past.run === now.run) learn(past);
    note(now);
  } catch (error) {
    if (mine !== asking) return;
    if (error instanceof Refused && (error.status === 401 || error.status === 429)) return refuse(error.status);
    isStale = true;
    show();
  }
  if (!document.hidden) timer = setTimeout(poll, pollMs);
}

/** Take over what the relay remembers: all of it for its own run, while what this page saw of others stays. */
function learn(past) {
  const now = Date.now();
  meanings = past.meanings;
  const names = Object.keys(past.series);
  const told = past.ages_s.map((age, number) => ({
    t: now - age * 1000,
    run: past.run,
    values: Object.fromEntries(names.map((name) => [name, past.series[name][number]])),
  }));
  const others = rows.filter((row) => row.run !== past.run && (!told.length || row.t < told[0].t));
  if (others.length && told.length) told.unshift({ t: told[0].t - 1, run: "", values: null });
  rows = [...others, ...told];
}

function note(now) {
  answeredAt = Date.now();
  isStale = false;
  last = now;
  pollMs = now.poll_s * 1000;
  rows.push({ t: answeredAt, run: now.run, values: now.values });
  rows = rows.filter((row) => row.t > answeredAt - HOUR_MS - 60000);
  show();
}

// -- the token

function refuse(status) {
  sessionStorage.removeItem(KEPT_AS);
  token = null;
  $("refusal").textContent = status === 429
    ? "Too many wrong tokens came from this address; wait ten seconds and try again."
    : "That is not this relay's token.";
  enter();
}

function enter() {
  clearTimeout(timer);
  asking += 1;
  last = null;
  rows = [];
  isStale = false;
  $("entrance").hidden = false;
  $("numbers").hidden = $("forget").hidden = $("banner").hidden = true;
  $("node").textContent = "";
  $("token").focus();
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  $("token").value = "";
  if (!/^[\x21-\x7e]+$/.test(given)) return refuse(401); // no header could carry it
  token = given;
  $("refusal").textContent = "";
  sessionStorage.setItem(KEPT_AS, token);
  poll();
});
$("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEPT_AS);
  token = null;
  $("refusal").textContent = "";
  enter();
});

// -- showing

function points(chart, name) {
  return chart.per ? rates(rows, name, chart.per, chart.factor) : levels(rows, name);
}

function tile(name, [value, unit]) {
  const place = document.querySelector(`[data-tile="${name}"]`);
  const small = make("small", "", unit ? ` ${unit}` : "");
  place.replaceChildren(value, small);
}

function rate(name, seconds, unit, factor = 1) {
  return amount(latest(rates(rows, name, seconds, factor)), unit);
}

function share(part, all) {
  return part === null || part === undefined ? "" : ` of ${count(part + all)}`;
}

function show() {
  const banner = $("banner");
  document.body.classList.toggle("stale", isStale);
  if (!last) { // there was no answer yet
    $("entrance").hidden = true;
    say(isStale ? "The relay does not answer; asking again every few seconds." : "");
    return;
  }
  $("entrance").hidden = true;
  $("numbers").hidden = $("forget").hidden = false;
  const ago = (Date.now() - answeredAt) / 1000;
  const since = new Date(answeredAt).toLocaleTimeString();
  if (isStale) say(`No answer since ${since}, ${duration(ago)} ago. All numbers are from then; asking again every ${duration(pollMs / 1000)}.`);
  else if (last.state !== "ready") say(`This relay is ${STATES[last.state] ?? last.state}.`);
  else say("");
  banner.dataset.state = isStale ? "stale" : last.state;
  const shared = "icesignal_engine_store_away" in last.samples;
  $("node").textContent = `of ${last.node}, this one process${shared ? "; other nodes share its rooms and have pages of their own" : ""}`;
  showTiles();
  showShares();
  showCharts();
  showSamples();
}

function say(text) {
  const banner = $("banner");
  if (banner.textContent !== text) banner.textContent = text; // said aloud once, not at each answer
  banner.hidden = !text;
}

function showTiles() {
  const { values, samples } = last;
  tile("state", [isStale ? UNKNOWN : last.state.replace("-", " "), ""]);
  tile("rooms", amount(values.rooms, ""));
  tile("members", amount(values.members, ""));
  const limit = samples.icesignal_connections_limit;
  tile("connections", amount(values.connections, limit === undefined ? "" : `of ${count(limit)}`));
  tile("messages", rate("messages", 1, "/s"));
  tile("entries", rate("entries", 60, "/min"));
  tile("refusals", rate("refusals", 60, "/min"));
  tile("log", amount(values.log_bytes, "bytes"));
  tile("uptime", [duration(last.uptime_s), ""]);
  tile("turn_allocations", amount(values.turn_allocations, ""));
  tile("turn_ports", amount(values.turn_ports_used, share(values.turn_ports_free, values.turn_ports_used).trim()));
  tile("turn_to_peer", rate("turn_to_peer", 1, "bit/s", 8));
  tile("turn_to_client", rate("turn_to_client", 1, "bit/s", 8));
  $("no-turn").hidden = values.turn_allocations !== null;
}

function showShares() {
  const kinds = ["direct", "relayed", "failed"];
  const totals = kinds.map((kind) => last.values[kind] ?? 0);
  const all = totals.reduce((sum, one) => sum + one, 0);
  const place = $("shares");
  if (!all) {
    place.replaceChildren(make("p", "", `${UNKNOWN}: no member has reported yet`));
    return;
  }
  const words = kinds.map((kind, number) => `${kind} ${count(totals[number])} (${((100 * totals[number]) / all).toFixed(1)} %)`);
  const bar = svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", role: "img", "aria-label": words.join(", ") });
  let from = 0;
  totals.forEach((total, number) => {
    const width = (100 * total) / all;
    bar.append(svg("rect", { class: `share-${number + 1}`, x: from, y: 0, width, height: 4 }));
    from += width;
  });
  const list = make("ul", "", ...words.map((word, number) => make("li", "",
    svg("svg", { viewBox: "0 0 4 4", "aria-hidden": "true" }, svg("rect", { class: `share-${number + 1}`, width: 4, height: 4 })), word)));
  place.replaceChildren(bar, list);
}

function showSamples() {
  const table = $("samples");
  const known = new Map([...table.rows].map((row) => [row.dataset.sample, row]));
  for (const [key, value] of Object.entries(last.samples)) {
    const row = known.get(key) ?? newSample(key);
    known.delete(key);
    row.cells[1].textContent = String(value);
    if (!row.isConnected) table.append(row);
  }
  for (const row of known.values()) row.remove();
}

function newSample(key) {
  const head = make("th", "", key);
  head.scope = "row";
  const name = key.replace(/\{.*/, "");
  const meaning = meanings[name] ?? meanings[name.replace(/_(bucket|sum|count|total)$/, "")];
  if (meaning) head.append(make("small", "", meaning));
  const row = make("tr", "", head, make("td", ""));
  row.dataset.sample = key;
  return row;
}

// -- charts

const drawn = CHARTS.map((chart) => {
  const picture = svg("svg");
  const when = make("time", "");
  const values = chart.lines.map(() => make("b", ""));
  const legend = make("ul", "legend", ...chart.lines.map(([, label], number) => make("li", "",
    svg("svg", { viewBox: "0 0 28 8", "aria-hidden": "true" }, svg("path", { class: `line line-${number + 1}`, d: "M1 4h26" })),
    `${label} `, values[number])), make("li", "", when));
  const caption = make("figcaption", "", chart.title, make("span", "", chart.unit ? `, ${chart.unit}` : ""));
  const figure = make("figure", "", caption, picture, legend);
  $("charts").append(figure);
  const one = { ...chart, figure, picture, when, values, plot: null, drawnLines: [] };
  picture.addEventListener("pointermove", (event) => readOff(one, event));
  picture.addEventListener("pointerdown", (event) => readOff(one, event));
  picture.addEventListener("pointerleave", () => readLatest(one));
  return one;
});

function showCharts() {
  const now = answeredAt;
  const known = rows.filter((row) => row.values !== null);
  const first = known.length ? known[0].t : now;
  const from = Math.min(Math.max(first, now - spanMs), now - 60000); // no wider than what there is, and a minute
  for (const one of drawn) {
    one.figure.hidden = Boolean(one.needs) && !rows.some((row) => row.values && (row.values[one.needs] ?? null) !== null);
    if (one.figure.hidden) continue;
    one.drawnLines = one.lines.map(([name, label]) => ({ label, points: points(one, name) }));
    one.plot = draw(one.picture, { title: one.title, unit: one.unit, lines: one.drawnLines, from, to: now });
    readLatest(one);
  }
}

function readLatest(one) {
  one.picture.querySelector(".cursor")?.remove();
  one.when.textContent = "";
  one.drawnLines.forEach((line, number) => { one.values[number].textContent = amount(latest(line.points), one.unit).join(" ").trim(); });
}

/** Show the values at the place that a pointer or a finger is at. */
function readOff(one, event) {
  if (!one.plot || !one.drawnLines.length) return;
  const { left, right, top, bottom, from, to } = one.plot;
  const at = event.clientX - one.picture.getBoundingClientRect().left;
  const t = from + Math.min(1, Math.max(0, (at - left) / (right - left))) * (to - from);
  let nearest = null;
  one.drawnLines[0].points.forEach((point, number) => {
    if (nearest === null || Math.abs(point.t - t) < Math.abs(one.drawnLines[0].points[nearest].t - t)) nearest = number;
  });
  if (nearest === null) return;
  const found = one.drawnLines[0].points[nearest].t;
  const x = left + ((found - from) / (to - from)) * (right - left);
  one.picture.querySelector(".cursor")?.remove();
  one.picture.append(svg("line", { class: "cursor", x1: x, x2: x, y1: top, y2: bottom }));
  one.when.textContent = `${duration((to - found) / 1000)} ago`;
  one.drawnLines.forEach((line, number) => { one.values[number].textContent = amount(line.points[nearest].y, one.unit).join(" ").trim(); });
}

$("span").addEventListener("change", (event) => {
  spanMs = Number(event.target.value) * 60000;
  if (last) showCharts();
});
new ResizeObserver(() => { if (last) showCharts(); }).observe($("charts"));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer); // nobody looks
  else if (token) poll();
});

if (token) poll();
else enter();
