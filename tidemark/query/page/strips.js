// What lies below the graph: late points of each source, and how far behind the clock it was complete.
import {axes, zone} from "./graph.js";
import {clock, color} from "./view.js";

// A canvas, and what it shows in a sentence for those who do not see it.
export function heat(element, answer, local) {
  const names = answer.series.map((line) => line.source), width = element.clientWidth, r = devicePixelRatio;
  const left = Math.min(110, width / 3), row = 20, cell = (width - left) / answer.start.length;
  const canvas = document.createElement("canvas");
  canvas.width = width * r;
  canvas.height = Math.max(1, names.length) * row * r;
  canvas.style.width = width + "px";
  canvas.style.height = Math.max(1, names.length) * row + "px";
  canvas.setAttribute("role", "img");
  const c = canvas.getContext("2d"), worst = [];
  c.scale(r, r);
  c.font = "12px system-ui";
  answer.series.forEach((line, at) => {
    c.fillStyle = color("--dim");
    c.fillText(line.source.length > 15 ? line.source.slice(0, 14) + "…" : line.source, 0, at * row + 14, left - 6);
    let points = 0, late = 0;
    line.count.forEach((n, i) => {
      if (!n) return;
      points += n;
      late += line["late-count"][i];
      c.fillStyle = `rgba(${color("--heat")},${(0.06 + 0.94 * line["late-count"][i] / n).toFixed(2)})`;
      c.fillRect(left + i * cell, at * row + 2, Math.max(1, cell), row - 4);
    });
    worst.push(`${line.source} ${points ? (100 * late / points).toFixed(1) : 0} %`);
  });
  canvas.setAttribute("aria-label", `Late points from ${clock(Date.parse(answer.from), local, false)} on: ${worst.join(", ")}`);
  element.replaceChildren(canvas);
}

export class Behind {
  constructor(element) {
    this.element = element;
    this.at = [];
    this.seconds = [];
  }

  add(now, seconds) {
    this.at.push(now / 1000);
    this.seconds.push(seconds);
    if (this.at.length > 2000) {
      this.at.shift();
      this.seconds.shift();
    }
  }

  show(local) {
    if (this.at.length < 2) return;
    const shape = [local, this.element.clientWidth, color("--edge")].join();
    if (this.plot && this.shape === shape) {
      this.plot.setData([this.at, this.seconds]);
      return;
    }
    this.shape = shape;
    this.plot?.destroy();
    this.plot = new uPlot({
      width: this.element.clientWidth, height: 120, tzDate: zone(local), legend: {show: false}, cursor: {show: false},
      scales: {y: {range: (_u, _low, high) => [0, Math.max(high * 1.1, 10)]}},
      series: [{}, {stroke: color("--edge"), fill: color("--shade"), points: {show: false}}],
      axes: axes(local),
    }, [this.at, this.seconds], this.element);
  }
}
