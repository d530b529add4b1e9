// What is looked at, kept in the address, so that it can be sent to somebody.
export const RANGES = {"2 min": 120, "10 min": 600, "1 h": 3600, "6 h": 21600, "24 h": 86400, "7 d": 604800, "28 d": 2419200};
export const AGGREGATIONS = ["avg", "min", "max", "sum", "count", "first", "last", "stddev", "range", "rate", "increase", "p50", "p90", "p95", "p99"];

export function view() {
  const at = new URLSearchParams(location.search);
  const known = (name, among, otherwise) => (among.includes(at.get(name)) ? at.get(name) : otherwise);
  const number = (name) => (/^\d{1,12}$/.test(at.get(name) || "") ? Number(at.get(name)) : null);
  return {
    project: at.get("project") || "",
    metric: at.get("metric") || "",
    source: at.get("source") || "",
    range: known("range", Object.keys(RANGES), "6 h"),
    from: number("from"),
    until: number("until"),
    aggregation: known("aggregation", AGGREGATIONS, "avg"),
    local: at.get("local") === "1",
    order: known("order", ["silent", "late"], "silent"),
  };
}

export function keep(now) {
  const at = new URLSearchParams();
  for (const [name, value] of Object.entries(now)) if (value) at.set(name, value === true ? "1" : value);
  history.replaceState(null, "", "?" + at);
}

// A color of the page, which has others where it is dark.
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A moment in milliseconds since 1970, as text.
export function clock(ms, local, precise = true) {
  const at = new Date(local ? ms - new Date(ms).getTimezoneOffset() * 60000 : ms).toISOString();
  return at.slice(0, 10) + " " + at.slice(11, precise ? 19 : 16);
}

export function span(seconds) {
  const s = Math.round(seconds);
  if (s < 120) return s + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  if (s < 172800) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " d";
}

export function short(value) {
  return value === null || value === undefined ? "–" : String(Number(value.toPrecision(6)));
}
