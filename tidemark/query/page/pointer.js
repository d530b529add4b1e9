// The pointer's x, sent as a device would send: a message a second, with the times at which it was there.
import {axes, zone} from "./graph.js";
import {ask, token} from "./service.js";
import {color} from "./view.js";

export const METRIC = "pointer_x";
const SHOWN_S = 120, EVERY_MS = 50, KEY_STEP = 10;

export class Pointer {
  constructor(edge, project) {
    this.edge = edge;
    this.project = project;
    this.source = "page-" + Math.random().toString(36).slice(2, 8);
    this.points = [];
    this.held = [];
    this.last = 0;
    this.x = 0;
    this.sent = 0;
    this.plots = {};
    const pad = document.getElementById("pad"), hold = document.getElementById("hold");
    pad.addEventListener("pointermove", (event) => this.move(event.offsetX));
    pad.addEventListener("keydown", (event) => {
      const step = {ArrowLeft: -KEY_STEP, ArrowRight: KEY_STEP}[event.key];
      if (!step) return;
      event.preventDefault();
      this.move(this.x + step);
    });
    hold.addEventListener("click", () => {
      const on = hold.getAttribute("aria-pressed") !== "true";
      hold.setAttribute("aria-pressed", on);
      this.holds = on;
    });
    setInterval(() => this.send(), 1000);
    document.getElementById("pointer").hidden = false;
  }

  move(x) {
    const now = Date.now();
    this.x = x;
    if (now - this.last < EVERY_MS) return;
    this.last = now;
    this.points.push({metric: METRIC, event_time: now, value: Math.round(x)});
  }

  async send() {
    if (this.points.length) this.held.push(this.points.splice(0));
    if (!this.holds) {
      while (this.held.length && await this.post(this.held[0])) this.held.shift();
    }
    const waiting = this.held.length ? `, ${this.held.length} messages are held back` : "";
    document.getElementById("sent").textContent = this.sent || this.held.length ? `${this.sent} points of ${this.source} are acknowledged${waiting}.` : "";
    if (this.sent && document.visibilityState === "visible") await this.show();
  }

  async post(points) {
    try {
      const answer = await fetch(this.edge + "/v1/points", {
        method: "POST", headers: {authorization: "Bearer " + token("write"), "content-type": "application/json"},
        body: JSON.stringify({project: this.project, source: this.source, points}),
      });
      if (answer.ok) this.sent += points.length;
      return answer.ok;
    } catch {
      return false; // the edge is away: they are kept, and go with the next second's
    }
  }

  async show() {
    const until = Math.floor(Date.now() / 1000) + 1;
    let answer;
    try {
      answer = await ask("/v1/points", {project: this.project, metric: METRIC, source: this.source, from: until - SHOWN_S, until, limit: 5000});
    } catch {
      return; // not stored yet, or the service is away, which the header tells
    }
    this.draw("by-event", answer.points.map((p) => [Date.parse(p.time) / 1000, p.value]), until);
    const came = answer.points.map((p) => [Date.parse(p["publish-time"]) / 1000, p.value]);
    this.draw("by-message", came.sort((a, b) => a[0] - b[0]), until);
  }

  draw(id, pairs, until) {
    const element = document.getElementById(id), data = [pairs.map((p) => p[0]), pairs.map((p) => p[1])];
    if (!this.plots[id]) {
      const dots = {show: true, size: 4, stroke: color("--data"), fill: color("--data")};
      this.plots[id] = new uPlot({
        width: element.clientWidth, height: 140, tzDate: zone(false), legend: {show: false}, cursor: {show: false},
        scales: {x: {range: (_u, low, high) => [low, high]}},
        series: [{}, {stroke: color("--data"), paths: () => null, points: dots}], axes: axes(false),
      }, data, element);
    }
    this.plots[id].setData(data, true);
    this.plots[id].setScale("x", {min: until - SHOWN_S, max: until});
  }
}
