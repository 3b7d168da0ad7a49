// One plot on a canvas. It knows lines, marks and axes, and nothing of runs.
//
// A line: {x: [], y: [], colour, look, dash, name, running}; `null` in y is a gap; looks are those of LOOKS.
// A mark: {x, colour, mark}; marks: switch, trouble, saved, other.

const LEFT = 46, RIGHT = 8, TOP = 14, BOTTOM = 20;
const DASHES = [[], [7, 3], [7, 3, 2, 3], [2, 2]];
const LOOKS = {
  solid: {width: 1.6, alpha: 1, dash: []},
  marked: {width: 1.8, alpha: 1, dash: [], dots: true},
  thin: {width: 1, alpha: 0.6, dash: []},
  dashed: {width: 1.2, alpha: 0.95, dash: [6, 3]},
  dotted: {width: 1.4, alpha: 0.95, dash: [1.5, 2.5]},
};

export class Chart {
  // `heard`: {hover(x or null), zoom([from, to] or null)}, in units of the axis.
  constructor(canvas, heard) {
    this.canvas = canvas;
    this.shown = null;
    let from = null;
    const x = (event) => this.xAt(event.offsetX);
    canvas.addEventListener("pointermove", (event) => {
      if (from !== null) this.dragged = [from, event.offsetX];
      heard.hover(x(event), this);
    });
    canvas.addEventListener("pointerleave", () => { from = this.dragged = null; heard.hover(null, this); });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) from = event.offsetX;
      heard.hover(x(event), this);
    });
    canvas.addEventListener("pointerup", (event) => {
      const wide = from !== null && Math.abs(event.offsetX - from) > 8;
      const ends = wide ? [this.xAt(from), x(event)].sort((a, b) => a - b) : null;
      from = this.dragged = null;
      if (ends) heard.zoom(ends);
    });
    canvas.addEventListener("dblclick", () => heard.zoom(null));
  }

  // `picture`: {lines, marks, domain: [from, to], ticks: {every, written}, fromZero, log}
  show(picture) {
    this.shown = picture;
    this.draw(null);
  }

  draw(hover) {
    const {canvas, shown} = this;
    const width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
    if (!shown || !width) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    const area = {left: LEFT, right: width - RIGHT, top: TOP, bottom: height - BOTTOM};
    const [x0, x1] = shown.domain;
    const range = rangeOf(shown.lines, shown.domain, shown.fromZero, shown.log);
    const height01 = shown.log ? (v) => Math.log(v / range.low) / Math.log(range.high / range.low)
      : (v) => (v - range.low) / (range.high - range.low);
    const px = (x) => area.left + (x - x0) / (x1 - x0) * (area.right - area.left);
    const py = (y) => area.bottom - height01(y) * (area.bottom - area.top);
    Object.assign(this, {area, px, py});

    pen.lineWidth = 1;
    pen.fillStyle = colour("--soft");
    pen.strokeStyle = colour("--grid");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const tick of shown.lines.length ? range.ticks : []) {
      segment(pen, area.left, py(tick), area.right, py(tick));
      pen.fillText(short(tick, range.step), area.left - 5, py(tick));
    }
    pen.textBaseline = "top";
    for (let k = Math.ceil(x0 / shown.ticks.every); k * shown.ticks.every <= x1 * (1 + 1e-9); k++) {
      const x = k * shown.ticks.every, text = shown.ticks.written(x);
      segment(pen, px(x), area.top, px(x), area.bottom);
      pen.textAlign = px(x) + pen.measureText(text).width / 2 > width ? "right" : "center";
      pen.fillText(text, Math.min(px(x), width), area.bottom + 5);
    }
    pen.save();
    pen.beginPath();
    pen.rect(area.left - 1, 0, area.right - area.left + 1 + RIGHT, area.bottom + 6);
    pen.clip();
    for (const mark of shown.marks) drawMark(pen, mark, px(mark.x), area, colour);
    for (const line of shown.lines) drawLine(pen, line, px, py, shown.log);
    pen.restore();
    if (this.dragged) {
      pen.globalAlpha = 0.15;
      pen.fillStyle = colour("--text");
      pen.fillRect(this.dragged[0], area.top, this.dragged[1] - this.dragged[0], area.bottom - area.top);
      pen.globalAlpha = 1;
    }
    if (hover !== null && hover >= x0 && hover <= x1) {
      pen.strokeStyle = colour("--soft");
      segment(pen, px(hover), area.top, px(hover), area.bottom);
    }
  }

  xAt(pixel) {
    if (!this.area) return null;
    const {left, right} = this.area, [x0, x1] = this.shown.domain;
    return x0 + Math.min(Math.max((pixel - left) / (right - left), 0), 1) * (x1 - x0);
  }

  // The lines' values nearest to x, of the lines that are there at x: [{line, x, y}].
  near(x) {
    if (!this.shown) return [];
    const found = [], slack = 0.02 * (this.shown.domain[1] - this.shown.domain[0]);
    for (const line of this.shown.lines) {
      let best = -1, first = Infinity, last = -Infinity;
      for (let k = 0; k < line.x.length; k++) {
        if (line.y[k] === null || line.x[k] === null) continue;
        first = Math.min(first, line.x[k]);
        last = Math.max(last, line.x[k]);
        if (best < 0 || Math.abs(line.x[k] - x) < Math.abs(line.x[best] - x)) best = k;
      }
      if (x > first - slack && x < last + slack) found.push({line, x: line.x[best], y: line.y[best]});
    }
    return found;
  }
}

// A sample of a line's look, for legends.
export function drawKey(canvas, look, dash, colour) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d"), middle = height / 2;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  drawLine(pen, {x: [0, width / 2, width], y: [0, 0, 0], colour, look, dash, key: true}, (x) => x, () => middle, false);
}

export function niceStep(span, most) {
  const raw = span / most, power = 10 ** Math.floor(Math.log10(raw));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= raw * (1 - 1e-9));
}

export function short(value, step = 0) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(4) + "k";
  if (!step) return size < 1e-4 ? value.toExponential(1) : String(+value.toPrecision(4));
  return step < 1e-4 ? value.toExponential(0) : value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

function rangeOf(lines, [x0, x1], fromZero, log) {
  let low = Infinity, high = -Infinity;
  for (const {x, y} of lines) {
    for (let k = 0; k < y.length; k++) {
      if (y[k] === null || x[k] < x0 || x[k] > x1 || (log && y[k] <= 0)) continue;
      if (y[k] < low) low = y[k];
      if (y[k] > high) high = y[k];
    }
  }
  if (low > high) [low, high] = log ? [0.1, 1] : [0, 1];
  if (log) {
    low = low / 1.1;
    high = high * 1.1;
    let ticks = [];
    for (const factors of [[1, 2, 5], [1, 3], [1]]) {
      ticks = [];
      for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
        for (const factor of factors) if (factor * power >= low && factor * power <= high) ticks.push(factor * power);
      }
      if (ticks.length <= 7) break;
    }
    return {low, high, ticks, step: 0};
  }
  if (fromZero) low = Math.min(low, 0);
  if (high - low < 1e-12 * Math.max(Math.abs(high), 1)) high = low + Math.max(Math.abs(low) * 0.1, 1);
  const step = niceStep(high - low, 5);
  low = step * Math.floor(low / step + 1e-9);
  high += 0.04 * (high - low);
  const ticks = [];
  for (let k = Math.round(low / step); k * step <= high; k++) ticks.push(k * step);
  return {low, high, ticks, step};
}

function segment(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(Math.round(x0) + 0.5, Math.round(y0) + 0.5);
  pen.lineTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
  pen.stroke();
}

function drawLine(pen, line, px, py, log) {
  const look = LOOKS[line.look] || LOOKS.solid;
  const dots = look.dots && (line.key ? 1 : line.x.length) <= 80;
  pen.save();
  pen.globalAlpha = look.alpha;
  pen.strokeStyle = pen.fillStyle = line.colour;
  pen.lineWidth = look.width;
  pen.lineJoin = "round";
  pen.setLineDash(look.dash.length ? look.dash : DASHES[line.dash % DASHES.length]);
  pen.beginPath();
  let open = false, last = null;
  line.x.forEach((x, k) => {
    const y = line.y[k];
    if (x === null || y === null || y === undefined || (log && y <= 0)) { open = false; return; }
    last = [px(x), py(y)];
    if (open) pen.lineTo(...last); else pen.moveTo(...last);
    open = true;
  });
  pen.stroke();
  pen.setLineDash([]);
  if (dots) {
    line.x.forEach((x, k) => {
      if (x === null || line.y[k] === null || (line.key && k !== 1) || (log && line.y[k] <= 0)) return;
      disc(pen, px(x), py(line.y[k]), 2.4);
    });
  } else if (!line.key && line.x.length === 1 && last) disc(pen, ...last, 2);
  if (line.running && last) { // the run goes on from here
    pen.globalAlpha = 1;
    disc(pen, ...last, 3);
    pen.beginPath();
    pen.lineWidth = 1;
    pen.arc(...last, 5.5, 0, 7);
    pen.stroke();
  }
  pen.restore();
}

function disc(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fill();
}

function drawMark(pen, {colour, mark}, x, area, named) {
  pen.save();
  pen.strokeStyle = pen.fillStyle = mark === "trouble" ? named("--bad") : colour;
  pen.lineWidth = 1;
  if (mark === "saved") {
    triangle(pen, x, area.bottom - 5, 3, 5);
  } else {
    pen.globalAlpha = 0.45;
    segment(pen, x, area.top, x, area.bottom);
    pen.globalAlpha = 1;
    if (mark === "switch") {
      triangle(pen, x, area.top, 5, -9);
    } else if (mark === "trouble") {
      pen.lineWidth = 2;
      segment(pen, x - 4, 4, x + 4, 12);
      segment(pen, x - 4, 12, x + 4, 4);
    } else {
      triangle(pen, x, 3, 4, 5);
      triangle(pen, x, 13, 4, -5);
    }
  }
  pen.restore();
}

// Its point at (x, y), its base `height` below.
function triangle(pen, x, y, half, height) {
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(x + half, y + height);
  pen.lineTo(x - half, y + height);
  pen.fill();
}
