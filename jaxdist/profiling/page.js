"use strict";
const numbers = JSON.parse(document.getElementById("numbers").textContent);
const at = (id) => document.getElementById(id);
const make = (tag, text = "", kind = "") => { const e = document.createElement(tag); e.textContent = text; e.className = kind; return e; };
const COLOURS = 7, LISTED = 14;
const WAITING = ": waiting for the slowest";
const COLLECTIVES = new Set(numbers.collectives.map((c) => c.kind));
const isCollective = (kind) => COLLECTIVES.has(kind.split(":")[0]);
const GREY = new Set(["not attributed", "XLA's executor", "waiting for calls", "elementwise"]);

// ---- colours: by the place of a kind among all, the longest first; the second seven are hatched, and waiting is
const places = new Map();
for (const kind of numbers.order) if (!GREY.has(kind) && !isCollective(kind)) places.set(kind, places.size);
function look(kind) {
  if (isCollective(kind)) return { colour: "--c7", hatched: kind.endsWith(WAITING) };
  const place = places.get(kind);
  if (place === undefined || place >= 2 * COLOURS) return { colour: "--none", hatched: false };
  return { colour: "--c" + place % COLOURS, hatched: place >= COLOURS };
}
function paint(element, kind) {
  const { colour, hatched } = look(kind);
  element.style.backgroundColor = `var(${colour})`;
  element.classList.toggle("hatched", hatched);
}

// ---- tooltips
function tip(event, text) {
  const box = at("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  const x = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 6);
  const y = event.clientY + 16 + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 10 : event.clientY + 16;
  box.style.left = Math.max(x, 4) + "px"; box.style.top = Math.max(y, 4) + "px";
}
function explain(element, text) {
  element.addEventListener("pointermove", (e) => tip(e, text));
  element.addEventListener("pointerleave", (e) => tip(e, ""));
}

// ---- the head
document.querySelector("h1").textContent = document.title;
at("facts").textContent = numbers.processes.length === 1
  ? facts(numbers.processes[0]) : `${numbers.processes.length} processes. ` + numbers.processes.slice(0, 8).map(facts).join("; ")
    + (numbers.processes.length > 8 ? "; ..." : ".");
function facts(p) {
  const peak = p.peak_gflops ? `, peak ${p.peak_gflops.toFixed(0)} GFLOP/s` : "";
  return `${p.process}${p.host ? " on " + p.host : ""}: ${p.steps} steps of ${p.step_ms.toFixed(2)} ms${peak}`;
}
for (const note of numbers.notes) at("notes").append(make("li", note));
at("notes").hidden = !numbers.notes.length;

// ---- the bar of the step
const longest = Math.max(...numbers.processes.map((p) => p.step_ms));
const listed = new Set(numbers.order.filter((kind, k) => k < LISTED || isCollective(kind)));
const others = numbers.order.length - listed.size;
for (const p of numbers.processes) {
  const bar = make("div", "", "bar"), stack = make("div", "", "stack");
  const name = make("b", `${p.process}, ${p.step_ms.toFixed(1)} ms${p.cut ? " (cut)" : ""}`);
  bar.append(name, stack);
  const by = new Map(p.kinds.map((row) => [row[0], row[2]]));
  const left = [...by].filter(([kind]) => !listed.has(kind) && !numbers.away.includes(kind)).reduce((sum, [, ms]) => sum + ms, 0);
  for (const kind of [...listed, ...(others ? [""] : [])]) {
    const ms = kind ? by.get(kind) || 0 : left;
    if (ms <= 0) continue;
    const piece = make("i");
    piece.style.width = 100 * ms / longest + "%";
    piece.dataset.kind = kind;
    paint(piece, kind);
    explain(piece, `${kind || others + " further kinds"}\n${ms.toFixed(3)} ms, ${(100 * ms / p.step_ms).toFixed(1)} % of the step of ${p.process}`);
    if (kind) piece.addEventListener("click", () => choose(p.process, kind));
    stack.append(piece);
  }
  at("bars").append(bar);
}
for (const kind of [...listed, ...(others ? [""] : [])]) {
  const item = make("li"), button = make("button"), square = make("i");
  paint(square, kind);
  button.append(square, kind || `${others} further kinds`);
  button.type = "button";
  button.addEventListener("click", () => { choose(at("process").value, kind); });
  item.append(button);
  at("legend").append(item);
}
function choose(process, kind) {
  at("process").value = process;
  at("view").value = kind ? "layer" : "kind";
  at("filter").value = kind && `"${kind}"`; // in quotes: this operator and no other
  draw();
}

// ---- the table
const percent = (v) => v ? (100 * v).toFixed(1) : "";
const FORMS = {
  calls: (v) => +v.toPrecision(4) + "", self_ms: (v) => v.toFixed(3), wall_ms: (v) => v.toFixed(3), share: percent,
  share_of_peak: percent, gflop: (v) => v ? v.toPrecision(4) : "", gflops_per_second: (v) => v ? v.toFixed(0) : "",
  megabytes: (v) => v ? v.toFixed(2) : "", min_ms: (v) => v.toFixed(3), mean_ms: (v) => v.toFixed(3), max_ms: (v) => v.toFixed(3),
};
const KIND_COLUMNS = ["kind", "calls", "self_ms", "share", "gflop", "megabytes"];
const ALL_COLUMNS = ["role", "kind", "calls", "min_ms", "mean_ms", "max_ms", "most_in", "share", "gflop", "megabytes"];
const TITLES = { ...numbers.titles, role: "role", min_ms: "least self ms", mean_ms: "mean self ms", max_ms: "most self ms", most_in: "most in" };
const ALL = "all processes";
for (const name of [...(numbers.processes.length > 1 ? [ALL] : []), ...numbers.processes.map((p) => p.process)]) at("process").append(new Option(name));
const sorting = { column: "", down: true };

function rowsOf(name, view) {
  if (name === ALL) return [ALL_COLUMNS, numbers.summary.map((row) => ALL_COLUMNS.map((c) => row[c])), "mean_ms", ""];
  const p = numbers.processes.find((one) => one.process === name);
  if (view === "kind") return [KIND_COLUMNS, p.kinds, "self_ms", ""];
  const left = p.left_out[0] ? `${p.left_out[0]} further rows, ${p.left_out[1].toFixed(2)} ms together, are in ${name}.csv. ` : "";
  return [numbers.columns, p.rows, "self_ms", left];
}
function draw() {
  const name = at("process").value, all = name === ALL;
  at("view").disabled = all;
  const [columns, rows, usual, left] = rowsOf(name, at("view").value);
  const column = columns.includes(sorting.column) ? sorting.column : usual;
  const words = at("filter").value.toLowerCase().trim();
  const key = columns.indexOf(column), sign = sorting.down ? -1 : 1;
  const texts = columns.map((c, k) => k).filter((k) => !(columns[k] in FORMS));
  const exact = /^"(.+)"$/.exec(words);
  const fits = (text) => exact ? text === exact[1] : text.includes(words);
  const kept = rows.filter((row) => !words || texts.some((k) => fits(String(row[k]).toLowerCase())));
  kept.sort((a, b) => sign * (typeof a[key] === "string" ? a[key].localeCompare(b[key]) : a[key] - b[key]));
  const head = make("tr");
  for (const c of columns) {
    const cell = make("th", "", c in FORMS ? "" : "text"), button = make("button", TITLES[c] || c);
    button.type = "button";
    if (c === column) cell.ariaSort = sorting.down ? "descending" : "ascending";
    button.addEventListener("click", () => { sorting.down = c === column ? !sorting.down : c in FORMS; sorting.column = c; draw(); });
    cell.append(button);
    head.append(cell);
  }
  table("table", head, kept, columns);
  const sum = (c) => kept.reduce((s, row) => s + row[columns.indexOf(c)], 0);
  const rowsText = kept.length < rows.length ? `${kept.length} of ${rows.length} rows` : `${rows.length} rows`;
  const sums = all ? "" : `: ${sum("share") ? percent(sum("share")) : 0} % of the step`;
  at("count").textContent = `${rowsText}${sums}. ${left}`;
}
function table(id, head, rows, columns) {
  document.querySelector(`#${id} thead`).replaceChildren(head);
  document.querySelector(`#${id} tbody`).replaceChildren(...rows.map((row) => {
    const line = make("tr");
    row.forEach((value, k) => line.append(make("td", typeof value === "number" ? (FORMS[columns[k]] || ((v) => v.toFixed(3)))(value) : value, typeof value === "string" ? "text" : "")));
    return line;
  }));
}
for (const id of ["process", "view"]) at(id).addEventListener("change", draw);
at("filter").addEventListener("input", draw);
at("choices").addEventListener("submit", (e) => e.preventDefault());
draw();

// ---- collectives
at("waits").hidden = !numbers.collectives.length;
if (numbers.collectives.length) {
  const head = make("tr"), titles = ["process", "collective", "calls/step", "waiting for the slowest, ms a step", "exchange, ms a step", "waiting %", "longest wait of a call, ms"];
  titles.forEach((text, k) => head.append(make("th", text, k < 2 ? "text" : "")));
  const columns = ["process", "kind", "calls", "waiting_ms", "exchange_ms", "share", "longest_wait_ms"];
  table("collectives", head, numbers.collectives.map((c) => columns.map((k) => k === "share" ? c.waiting_ms / (c.waiting_ms + c.exchange_ms || 1) : c[k])), columns);
}

// ---- the timeline
const line = numbers.timeline, canvas = at("timeline"), pen = canvas.getContext("2d");
const ROW = 16, HEAD = 20, GAP = 5, TITLE = 20;
const view = { from: 0, to: line.length };
let labels = 150, height = HEAD;
const heads = [];
line.lanes.forEach((lane, k) => {
  if (!k || lane.process !== line.lanes[k - 1].process) { heads.push({ y: height, process: lane.process }); height += TITLE; }
  lane.y = height;
  height += ROW * (lane.rows || 1) + GAP;
});
const ms = (us) => Math.abs(us) < 1000 ? us.toFixed(1) + " µs" : (us / 1000).toFixed(3) + " ms";
const value = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const left = line.left_out[0] ? ` ${line.left_out[0]} events of at most ${ms(line.left_out[1])} are left out.` : "";
at("when").textContent = line.events.length
  ? `About two steps in the middle, ${(line.length / 1000).toFixed(1)} ms from ${(line.begin_ms / 1000).toFixed(3)} s after the beginning, on one clock; hatched: waiting for the slowest.${left} all.trace.json.gz has more, for ui.perfetto.dev or chrome://tracing.`
  : "There are no events in the middle of what was recorded.";
canvas.setAttribute("aria-label", `Timeline of ${numbers.processes.length} processes, ${line.lanes.length} lanes, ${line.events.length} events`);

function hatch(colour) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const t = tile.getContext("2d");
  t.strokeStyle = colour; t.lineWidth = 1.6;
  for (const shift of [-6, 0, 6]) { t.beginPath(); t.moveTo(shift, 6); t.lineTo(shift + 6, 0); t.stroke(); }
  return pen.createPattern(tile, "repeat");
}
let fills = null;
function colours() {
  fills = line.titles.map(([kind]) => {
    const { colour, hatched } = look(kind);
    return { fill: value(colour), waits: kind.endsWith(WAITING) ? hatch(value("--text")) : null, alpha: hatched || COLLECTIVES.has(kind) ? 0.5 : 1 };
  });
}
let queued = false;
function redraw() { if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; drawTimeline(); }); } }
function drawTimeline() {
  const width = canvas.clientWidth, ratio = devicePixelRatio || 1;
  labels = Math.min(150, width / 4);
  canvas.width = width * ratio; canvas.height = height * ratio; canvas.style.height = height + "px";
  if (!fills) colours();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "middle";
  const scale = (width - labels) / (view.to - view.from), soft = value("--soft"), text = value("--text"), grid = value("--line");
  const step = tick(view.to - view.from, (width - labels) / 90);
  pen.textAlign = "center";
  for (let t = Math.ceil(view.from / step) * step; t <= view.to; t += step) {
    const x = labels + (t - view.from) * scale;
    pen.fillStyle = grid; pen.fillRect(x, HEAD - 4, 1, height);
    if (x > labels + 20 && x < width - 24) { pen.fillStyle = soft; pen.fillText(step < 1000 ? `${+(t / 1000).toFixed(4)} ms` : `${Math.round(t / 1000)} ms`, x, 9); }
  }
  pen.textAlign = "left";
  for (const h of heads) { pen.fillStyle = text; pen.font = "600 12px system-ui, sans-serif"; pen.fillText(numbers.processes[h.process].process, 4, h.y + TITLE / 2); }
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = soft;
  for (const lane of line.lanes) pen.fillText(lane.name, 12, lane.y + ROW / 2, labels - 14);
  pen.save();
  pen.beginPath(); pen.rect(labels, HEAD, width - labels, height); pen.clip();
  for (const [lane, row, title, start, length] of line.events) {
    if (start > view.to || start + length < view.from) continue;
    const x = labels + (start - view.from) * scale, w = Math.max(length * scale, 0.6), y = line.lanes[lane].y + row * ROW;
    const { fill, waits, alpha } = fills[title];
    if (waits) {
      pen.fillStyle = waits; pen.fillRect(x, y, w, ROW - 2);
      pen.strokeStyle = text; pen.lineWidth = 1; if (w > 2) pen.strokeRect(x + .5, y + .5, w - 1, ROW - 3);
    } else {
      pen.globalAlpha = alpha; pen.fillStyle = fill; pen.fillRect(x, y, w > 3 ? w - 0.7 : w, ROW - 2); pen.globalAlpha = 1;
    }
  }
  pen.restore();
}
function tick(span, most) {
  const least = span / Math.max(most, 1), power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((k) => k * power).find((s) => s >= least);
}
function zoom(factor, x = null) {
  const middle = view.from + (x === null ? 0.5 : x) * (view.to - view.from);
  const span = Math.min(Math.max((view.to - view.from) * factor, 5), line.length);
  const from = Math.min(Math.max(middle - (middle - view.from) * span / (view.to - view.from), 0), line.length - span);
  view.from = factor ? from : 0; view.to = factor ? from + span : line.length;
  redraw();
}
const part = (e) => (e.clientX - canvas.getBoundingClientRect().left - labels) / (canvas.clientWidth - labels);
canvas.addEventListener("wheel", (e) => {
  if (e.deltaY > 0 && view.to - view.from >= line.length) return; // nothing is further: the page scrolls
  e.preventDefault();
  tip(e, "");
  zoom(Math.exp(e.deltaY / 400), Math.min(Math.max(part(e), 0), 1));
}, { passive: false });
canvas.addEventListener("dblclick", () => zoom(0));
for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(+button.dataset.zoom));
canvas.addEventListener("keydown", (e) => {
  const span = view.to - view.from, move = { ArrowLeft: -0.2, ArrowRight: 0.2 }[e.key];
  if (move) shift(move * span); else if (e.key === "+") zoom(0.5); else if (e.key === "-") zoom(2); else return;
  e.preventDefault();
});
function shift(us) {
  const span = view.to - view.from;
  view.from = Math.min(Math.max(view.from + us, 0), line.length - span); view.to = view.from + span;
  redraw();
}
let held = null;
canvas.addEventListener("pointerdown", (e) => { held = e.clientX; canvas.setPointerCapture(e.pointerId); });
canvas.addEventListener("pointerup", () => { held = null; });
canvas.addEventListener("pointercancel", () => { held = null; });
canvas.addEventListener("pointermove", (e) => {
  if (held !== null) {
    shift((held - e.clientX) / (canvas.clientWidth - labels) * (view.to - view.from));
    held = e.clientX;
    tip(e, "");
    return;
  }
  const box = canvas.getBoundingClientRect(), y = e.clientY - box.top, t = view.from + part(e) * (view.to - view.from);
  const slack = 2 * (view.to - view.from) / (canvas.clientWidth - labels);
  let best = null;
  for (const event of line.events) {
    const top = line.lanes[event[0]].y + event[1] * ROW;
    if (y < top || y >= top + ROW || t < event[3] - slack || t > event[3] + event[4] + slack) continue;
    if (!best || event[4] < best[4]) best = event;
  }
  if (!best || part(e) < 0) { tip(e, ""); return; }
  const lane = line.lanes[best[0]];
  tip(e, `${line.titles[best[2]][1]}\n${ms(best[4])}, from ${ms(best[3])}\n${numbers.processes[lane.process].process}, ${lane.name}`);
});
canvas.addEventListener("pointerleave", (e) => tip(e, ""));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { fills = null; redraw(); });
new ResizeObserver(redraw).observe(canvas.parentElement);
