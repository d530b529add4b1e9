// The graph: final is solid, what may change is dashed, and neither is told by colour alone.
import {clock, color, short, span} from "./view.js";

export const STATES = {f: "final", s: "settled early", p: "from the points just now", o: "has not ended", "-": "no points"};

export function axes(local) {
  const axis = {stroke: color("--dim"), grid: {stroke: color("--line"), width: 1}, ticks: {stroke: color("--line")}, font: "12px system-ui"};
  const times = (u, splits, _i, _space, step) => splits.map((s) => {
    const text = clock(s * 1000, local);
    return step < 60 ? text.slice(11) : step < 86400 ? (text.endsWith("00:00:00") ? text.slice(5, 10) : text.slice(11, 16)) : text.slice(0, 10);
  });
  return [{...axis, values: times, space: 70}, {...axis, size: 58, space: 24, values: (_u, splits) => splits.map(short)}];
}

export const zone = (local) => (s) => (local ? new Date(s * 1000) : uPlot.tzDate(new Date(s * 1000), "Etc/UTC"));

// An answer of /v1/query as the columns of a graph.
export function columns(answer, aggregation) {
  const line = answer.series[0];
  const value = line[aggregation], state = line.state;
  const final = (i) => state[i] === "f";
  const there = (i) => i >= 0 && i < value.length && value[i] !== null;
  const solid = value.map((v, i) => (final(i) ? v : null));
  const dashed = value.map((v, i) => (!final(i) || (there(i - 1) && !final(i - 1)) || (there(i + 1) && !final(i + 1)) ? v : null));
  const rings = [], dots = [];
  value.forEach((v, i) => {
    if (v === null) return;
    const before = there(i - 1) && final(i - 1) === final(i), after = there(i + 1) && final(i + 1) === final(i);
    if (!before && !after) (final(i) ? dots : rings).push(i);
  });
  return {start: answer.start.map((ms) => ms / 1000), value, solid, dashed, rings, dots, line};
}

export class Graph {
  constructor(element, tip) {
    this.element = element;
    this.tip = tip;
    this.plot = null;
    this.onZoom = () => {};
    element.addEventListener("keydown", (event) => this.key(event));
  }

  show(answer, aggregation, local, was) {
    Object.assign(this, {answer, aggregation, local, was});
    this.at = columns(answer, aggregation);
    const band = ["avg", "first", "last", "p50", "p90", "p95", "p99"].includes(aggregation);
    const none = this.at.value.map(() => null);
    const data = [this.at.start, band ? this.at.line.max : none, band ? this.at.line.min : none, this.at.solid, this.at.dashed];
    const shape = [aggregation, local, this.element.clientWidth, color("--data")].join();
    const range = [Date.parse(answer.from) / 1000, Date.parse(answer.until) / 1000];
    if (this.plot && this.shape === shape) {
      this.plot.batch(() => {
        this.plot.setData(data, true);
        this.plot.setScale("x", {min: range[0], max: range[1]});
      });
      return;
    }
    this.shape = shape;
    this.plot?.destroy();
    const hidden = {stroke: "transparent", points: {show: false}};
    const line = {stroke: color("--data"), width: 1.6, points: {show: false}};
    this.plot = new uPlot({
      width: this.element.clientWidth, height: 280, tzDate: zone(local), legend: {show: false},
      cursor: {sync: {key: "time"}, drag: {x: true, y: false, setScale: false}},
      scales: {x: {time: true, range: (_u, low, high) => [low, high]}},
      series: [{}, hidden, hidden, line, {...line, dash: [6, 4]}],
      bands: [{series: [1, 2], fill: color("--band")}],
      axes: axes(local),
      hooks: {
        drawClear: [(u) => this.shade(u)],
        draw: [(u) => this.marks(u)],
        setCursor: [(u) => this.tell(u.cursor.idx)],
        setSelect: [(u) => this.select(u)],
      },
    }, data, this.element);
    this.plot.setScale("x", {min: range[0], max: range[1]});
  }

  shade(u) {
    if (!this.answer["complete-until"]) return;
    const c = u.ctx, from = Date.parse(this.answer["complete-until"]) / 1000;
    const x = Math.max(u.bbox.left, u.valToPos(from, "x", true)), end = u.bbox.left + u.bbox.width;
    if (x >= end) return;
    c.save();
    c.fillStyle = color("--shade");
    c.fillRect(x, u.bbox.top, end - x, u.bbox.height);
    c.strokeStyle = color("--edge");
    c.lineWidth = devicePixelRatio;
    c.beginPath();
    c.moveTo(x, u.bbox.top);
    c.lineTo(x, u.bbox.top + u.bbox.height);
    c.stroke();
    c.restore();
  }

  marks(u) {
    const c = u.ctx, r = devicePixelRatio, {start, value, rings, dots, line} = this.at;
    const place = (i) => [u.valToPos(start[i], "x", true), u.valToPos(value[i], "y", true)];
    c.save();
    c.strokeStyle = c.fillStyle = color("--data");
    c.lineWidth = 1.6 * r;
    for (const [list, filled] of [[rings, false], [dots, true]]) {
      for (const i of list) {
        c.beginPath();
        c.arc(...place(i), (filled ? 2 : 3.5) * r, 0, 7);
        if (filled) c.fill(); else c.stroke();
      }
    }
    c.fillStyle = color("--mark");
    (line.corrected || []).forEach((times, i) => {
      if (!times || value[i] === null) return;
      const [x, y] = place(i);
      c.beginPath();
      c.moveTo(x, y - 12 * r);
      c.lineTo(x - 5 * r, y - 4 * r);
      c.lineTo(x + 5 * r, y - 4 * r);
      c.fill();
    });
    c.restore();
  }

  tell(i) {
    if (i === null || i === undefined) return;
    const {start, value, line} = this.at, of = (name) => (line[name] || [])[i];
    const late = of("late-count"), revision = of("revision"), corrected = of("corrected");
    const parts = [
      clock(start[i] * 1000, this.local) + (this.local ? "" : " UTC"),
      `${this.aggregation} ${short(value[i])}`,
      `${of("count") ?? 0} points` + (late ? `, ${late} of them late` : ""),
      STATES[line.state[i]],
    ];
    if (revision) parts.push("settled " + clock(revision / 1000, this.local));
    if (corrected) parts.push(`corrected ${corrected} times`.replace("1 times", "once") + this.was(start[i] * 1000, this.answer["interval-sec"]));
    this.tip.textContent = parts.join(" · ");
  }

  select(u) {
    if (u.select.width < 8) return;
    const from = u.posToVal(u.select.left, "x"), until = u.posToVal(u.select.left + u.select.width, "x");
    u.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
    this.onZoom(Math.floor(from), Math.ceil(until));
  }

  key(event) {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!step || !this.plot) return;
    event.preventDefault();
    const {start} = this.at, now = this.plot.cursor.idx;
    const i = Math.max(0, Math.min(start.length - 1, now === null || now === undefined ? start.length - 1 : now + step));
    this.plot.setCursor({left: this.plot.valToPos(start[i], "x"), top: 10});
    this.tell(i);
  }

  summary() {
    const {value, line} = this.at, there = value.filter((v) => v !== null);
    const count = (states) => [...line.state].filter((s) => states.includes(s)).length;
    const corrected = (line.corrected || []).filter(Boolean).length;
    if (!there.length) return "No points in this range.";
    return `${there.length} intervals of ${span(this.answer["interval-sec"])} have points: ${count("f")} are final, ${count("spo")} may still change, ` +
      `${corrected} were corrected; from ${short(Math.min(...there))} to ${short(Math.max(...there))}.`;
  }
}
