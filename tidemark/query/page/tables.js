// Tables, made of text and never of markup.
import {STATES} from "./graph.js";
import {clock, short, span} from "./view.js";

export function table(element, head, rows, none) {
  const made = [document.createElement("thead"), document.createElement("tbody")];
  const line = (cells, tag) => {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const one = document.createElement(tag);
      one.append(cell);
      row.append(one);
    }
    return row;
  };
  made[0].append(line(head, "th"));
  made[1].append(...rows.map((cells) => line(cells, "td")));
  element.replaceChildren(...(rows.length ? made : [line([none], "td")]));
}

export function corrections(element, rows, local, onChoose) {
  table(element, ["window", "source", "metric", "was", "is", "points", "settled again after"], rows.map((one) => {
    const start = Date.parse(one.start), go = document.createElement("button");
    go.type = "button";
    go.textContent = clock(start, local);
    go.addEventListener("click", () => onChoose(one, start));
    return [
      go, one.source, one.metric, short(one.was.avg), short(one.is.avg), `${one.was.count} → ${one.is.count}`,
      `${span((Date.parse(one["corrected-at"]) - start) / 1000 - one["interval-sec"])} (${span(one["interval-sec"])})`,
    ];
  }), "None in the last day.");
}

export function sources(element, rows) {
  table(element, ["source", "points", "late", "latest after", "silent for"], rows.map((one) => [
    one.source, String(one.points),
    one.points ? `${(100 * one["after-window"] / one.points).toFixed(2)} %` : "–",
    span(one["most-late-s"]), span(one["silent-s"]),
  ]), "None yet.");
}

// What other horizons would do; returns a sentence.
export function advice(element, told) {
  const row = (one, what) => [
    what, span(one["horizon-s"]), one.complete === undefined ? "–" : `${(100 * one.complete).toFixed(2)} %`,
    one["corrections-a-day"] === undefined ? "–" : short(one["corrections-a-day"]), one["delay-s"] === undefined ? "–" : span(one["delay-s"]),
  ];
  table(element, ["", "horizon", "complete when first settled", "corrections a day", "told after"], !told.windows ? [] : [
    row(told.running, "runs now"), ...told.targets.map((one) => row(one, `for ${100 * one.target} %`)),
    ...told.horizons.map((one) => row(one, "")),
  ], "No windows with points in the last week.");
  if (!told.windows) return "";
  const part = told.sampled < 1 ? `, from ${(100 * told.sampled).toPrecision(2)} % of them,` : "";
  return `Of ${told.windows} windows of ${span(told["window-sec"])} with points in the last week${part} so many would have been complete:`;
}

export function intervals(element, at, aggregation, local) {
  const {start, value, line} = at;
  table(element, ["start", aggregation, "points", "late", "state", "corrected"], start.map((s, i) => [
    clock(s * 1000, local), short(value[i]), String(line.count[i] ?? 0), String(line["late-count"][i] ?? 0),
    STATES[line.state[i]], String((line.corrected || [])[i] || ""),
  ]).reverse(), "No intervals.");
}
