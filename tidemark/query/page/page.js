// The page: what is chosen, what is asked for it, and when again.
import {Graph} from "./graph.js";
import {Pointer} from "./pointer.js";
import {address, ask, project, token} from "./service.js";
import {Behind, heat} from "./strips.js";
import * as tables from "./tables.js";
import {AGGREGATIONS, RANGES, clock, keep, span, view} from "./view.js";

const the = (id) => document.getElementById(id);
const MOST_POINTS = 480, LEAST_S = 2, TOLD_S = 5, DAY_S = 86400, SLOW_S = 15, ROWS = 300, HEAT_SOURCES = 12;
const now = view();
const graph = new Graph(the("graph"), the("tip"));
const behind = new Behind(the("behind"));
let live = true, corrections = [], listed = [], timer = 0, telling = 0, turn = 0, slowAt = 0, last = null;

function show(problem) {
  the("trouble").hidden = !problem;
  the("trouble").textContent = problem ? problem.message : "";
}

function pressed(group, chosen) {
  for (const each of the(group).children) each.setAttribute("aria-pressed", each.dataset.name === chosen);
}

function buttons(group, names, choose) {
  the(group).replaceChildren(...names.map((name) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = made.dataset.name = name;
    made.addEventListener("click", () => choose(name));
    return made;
  }));
}

function options(id, names, chosen) {
  the(id).replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

function changed(change) {
  Object.assign(now, change);
  keep(now);
  pressed("ranges", now.from ? "" : now.range);
  pressed("orders", now.order);
  the("local").setAttribute("aria-pressed", now.local);
  slowAt = 0;
  refresh();
}

// Until when it is complete, in a sentence; orange, and said, where ingest is not heard.
function complete(answer) {
  const element = the("complete"), until = answer["complete-until"], asOf = Date.parse(answer["as-of"]);
  if (!until) {
    element.textContent = answer.ingest === "live" ? "nothing is complete yet" : `ingest: ${answer.ingest}`;
    element.className = "late";
    return;
  }
  const seconds = (asOf - Date.parse(until)) / 1000, silent = answer.ingest !== "live";
  element.textContent = `complete until ${clock(Date.parse(until), now.local).slice(seconds < DAY_S ? 11 : 0)}${now.local ? "" : " UTC"}, ${span(seconds)} behind the clock` +
    (silent ? `; ingest: ${answer.ingest}` : "");
  element.className = silent ? "late" : "";
  behind.add(asOf, seconds);
  behind.show(now.local);
}

function range() {
  return now.from && now.until ? {from: now.from, until: now.until} : {from: `now-${RANGES[now.range]}s`};
}

const COLUMNS = ["count", "min", "max", "late-count", "revision", "state", "corrected"];

function question() {
  return {
    project: now.project, metric: now.metric, source: now.source, ...range(), "max-points": MOST_POINTS,
    aggregation: now.aggregation, columns: COLUMNS,
  };
}

// What a corrected window said before, from the newest corrections.
function was(start, interval) {
  const one = corrections.find((c) => c.metric === now.metric && c.source === now.source &&
    Date.parse(c.start) >= start && Date.parse(c.start) < start + interval * 1000);
  return one ? ` (average ${one.was.avg ?? "none"} → ${one.is.avg ?? "none"})` : "";
}

async function draw() {
  if (!now.metric || !now.source) return LEAST_S * 2;
  const answer = await ask("/v1/query", question());
  const began = performance.now();
  last = answer;
  the("title").textContent = `${now.metric} of ${now.source}, ${now.aggregation} of each ${span(answer["interval-sec"])}`;
  document.title = `${now.metric} – Tidemark`;
  graph.show(answer, now.aggregation, now.local, was);
  the("summary").textContent = graph.summary();
  document.documentElement.dataset.drawnMs = (performance.now() - began).toFixed(1);
  if (the("as-table").open) tables.intervals(the("intervals"), graph.at, now.aggregation, now.local);
  const asked = token("read") ? "-H 'Authorization: Bearer TOKEN' " : "";
  the("curl").textContent = `curl ${asked}'${location.origin}${address("/v1/query", question()).replaceAll("'", "%27")}'`;
  return Math.max(answer["interval-sec"] / 2, LEAST_S);
}

async function slow() {
  const [told, sources] = await Promise.all([
    ask("/v1/corrections", {project: now.project, limit: 50}),
    ask("/v1/sources", {project: now.project, order: now.order, limit: 50}),
  ]);
  corrections = told.corrections;
  tables.corrections(the("corrections"), corrections, now.local, (one, start) => {
    const around = one["interval-sec"] * 30;
    changed({metric: one.metric, source: one.source, from: Math.floor(start / 1000) - around, until: Math.ceil(start / 1000) + around});
    select();
  });
  tables.sources(the("sources"), sources.sources);
  await projects();
  await list();
  if (!now.metric) return;
  const those = listed.filter((one) => one.metric === now.metric).map((one) => one.source);
  const names = [now.source, ...those.filter((name) => name !== now.source)].slice(0, HEAT_SOURCES);
  const answer = await ask("/v1/query", {
    project: now.project, metric: now.metric, source: names, ...range(), "max-points": 120, aggregation: "count", columns: "late-count",
  });
  heat(the("heat"), answer, now.local);
}

// The sentence in the header, which is not the graph's: it goes on however long intervals are.
async function tell() {
  clearTimeout(telling);
  try {
    if (now.project) complete(await ask("/v1/completeness", {project: now.project}, true));
  } catch (problem) {
    if (problem.status === undefined) throw problem;
    the("complete").className = "late";
    the("complete").textContent = problem.message;
  } finally {
    if (live && document.visibilityState === "visible") telling = setTimeout(tell, TOLD_S * 1000);
  }
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  let after = LEAST_S;
  try {
    if (now.project) {
      after = await draw();
      if (mine !== turn) return;
      if (Date.now() - slowAt > SLOW_S * 1000) {
        slowAt = Date.now();
        await slow();
      }
    } else {
      await projects();
    }
    show(null);
  } catch (problem) {
    slowAt = 0;
    if (problem.status === undefined) throw problem;
    show(problem);
  } finally { // whatever happened, it is tried again
    if (mine === turn && live && document.visibilityState === "visible") timer = setTimeout(refresh, after * 1000);
  }
}

// The projects there are; one that is asked for may have no point yet.
async function projects() {
  const told = (await ask("/v1/projects")).projects;
  const names = now.project && !told.includes(now.project) ? [now.project, ...told] : told;
  if (!names.length) return;
  const shown = [...the("project").options].map((option) => option.value);
  if (String(shown) !== String(names)) options("project", names, now.project || names[0]);
  if (!now.project) changed({project: names[0]});
}

async function list() {
  const answer = await ask("/v1/series", {project: now.project, search: the("find").value.trim(), limit: ROWS});
  listed = answer.series;
  the("list").replaceChildren(...listed.map((one, at) => {
    const row = document.createElement("li"), source = document.createElement("span"), value = document.createElement("span");
    row.role = "option";
    row.id = "series-" + at;
    source.textContent = one.source;
    value.textContent = one["age-s"] === null ? "–" : one["age-s"] > 600 ? "silent " + span(one["age-s"]) : String(Number(one["last-value"].toPrecision(5)));
    row.append(one.metric, value, source);
    row.addEventListener("click", () => choose(at));
    return row;
  }));
  the("more").textContent = answer.next ? `The first ${ROWS}: search for others.` : listed.length ? "" : "No series.";
  select();
  if (!now.metric && listed.length && !the("find").value) choose(0);
}

// Mark the chosen one, where it is in the list.
function select() {
  const at = listed.findIndex((one) => one.metric === now.metric && one.source === now.source);
  [...the("list").children].forEach((row, i) => row.setAttribute("aria-selected", i === at));
  if (at < 0) the("list").removeAttribute("aria-activedescendant");
  else the("list").setAttribute("aria-activedescendant", "series-" + at);
  return at;
}

function choose(at) {
  const one = listed[at];
  if (!one) return;
  changed({metric: one.metric, source: one.source, from: null, until: null});
  select();
  the("series-" + at)?.scrollIntoView({block: "nearest"});
}

buttons("ranges", Object.keys(RANGES), (name) => changed({range: name, from: null, until: null}));
buttons("orders", ["silent", "late"], (name) => changed({order: name}));
options("aggregation", AGGREGATIONS, now.aggregation);
the("aggregation").addEventListener("change", () => changed({aggregation: the("aggregation").value}));
the("project").addEventListener("change", () => {
  the("find").value = "";
  listed = [];
  changed({project: the("project").value, metric: "", source: "", from: null, until: null});
});
the("local").addEventListener("click", () => changed({local: !now.local}));
the("live").addEventListener("click", () => {
  live = !live;
  the("live").setAttribute("aria-pressed", live);
  if (live) resume(); else [timer, telling].forEach(clearTimeout);
});
let typed = 0;
the("find").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => list().catch(show), 200);
});
the("find").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") the("list").focus();
});
the("list").addEventListener("keydown", (event) => {
  const at = listed.findIndex((one) => one.metric === now.metric && one.source === now.source);
  const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: listed.length - 1}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(listed.length - 1, to)));
});
the("advice").addEventListener("toggle", async () => {
  if (!the("advice").open) return;
  the("advised").textContent = "Counting …";
  try {
    const told = await ask("/v1/advice", {project: now.project, days: 7}, true);
    the("advised").textContent = tables.advice(the("horizons"), told);
  } catch (problem) {
    if (problem.status === undefined) throw problem;
    the("advised").textContent = problem.message;
  }
});
the("as-table").addEventListener("toggle", () => last && tables.intervals(the("intervals"), graph.at, now.aggregation, now.local));
graph.onZoom = (from, until) => changed({from, until});
const resume = () => {
  refresh();
  tell();
};
const again = () => {
  if (last) graph.show(last, now.aggregation, now.local, was);
  behind.show(now.local);
  slowAt = 0;
};
addEventListener("resize", again);
matchMedia("(prefers-color-scheme:dark)").addEventListener("change", again);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && live && resume());

const about = await fetch("/page/about.json").then((answer) => answer.json()).catch(() => ({})); // without it there is no edge
if (about.edge && token("write")) new Pointer(about.edge, project() || now.project || "page");
await projects().catch(show);
changed({});
tell();
