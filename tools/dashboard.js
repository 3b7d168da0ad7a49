// The page: asks for what is new, keeps it by run, and gives it to the plots.

import {Chart, drawKey, niceStep, short} from "./dashboard_chart.js";

const POLL_SECONDS = 2, QUIET_POLL_SECONDS = 5; // quiet: no run goes on
const MOST_POINTS = 1500; // of a line; beyond, the run is asked for as a whole, which comes thinned
const MOST_TICKED = 8; // of the runs there are at the beginning; as many as there are colours
const STREAMS = ["train", "eval", "system"];
const TIMES = [[1, "s"], [60, "min"], [3600, "h"]];

const at = (id) => document.getElementById(id);
const runs = new Map(); // id -> {id, head, order, ticked, cursor, train, eval, system, events, item}
const view = {
  axis: "time", zoom: null, hover: null, over: null, marks: new Set(["switch", "trouble", "other", "saved"]),
};
let panels = [], begun = false, lastAnswer = null;

// ---- What comes from the server ----

async function poll() {
  let wait = QUIET_POLL_SECONDS;
  try {
    if (!panels.length) makePanels(await (await asked("panels.json")).json());
    const want = [...runs.values()].filter((run) => run.ticked).map((run) => `${run.id}:${run.cursor}`);
    const answer = await (await asked("data.json?want=" + want.join(","))).json();
    lastAnswer = new Date();
    const fresh = takeHeads(answer.runs);
    for (const [id, rows] of Object.entries(answer.rows)) if (runs.has(id)) takeRows(runs.get(id), rows);
    const running = answer.runs.filter((head) => head.state === "running").length;
    document.title = running ? `${running} running` : "Runs";
    at("status").className = "";
    at("status").textContent = `${answer.runs.length} runs, ${running} running, at ${lastAnswer.toLocaleTimeString()}`
      + (answer.unread ? `; reading ${answer.unread} more` : "");
    if (running) wait = POLL_SECONDS;
    if (fresh || answer.unread) wait = 0;
    drawRuns();
    draw();
  } catch (error) {
    const since = lastAnswer ? ` What is shown is from ${lastAnswer.toLocaleTimeString()}.` : "";
    at("status").className = "bad";
    at("status").textContent = `The dashboard's server does not answer (${error.message}).${since}`;
  }
  setTimeout(poll, 1000 * wait);
}

async function asked(path) {
  const response = await fetch(path, {signal: AbortSignal.timeout(30000)});
  if (!response.ok) throw new Error(`${path.split("?")[0]}: ${response.status}`);
  return response;
}

// True where a ticked run has nothing yet.
function takeHeads(heads) {
  let fresh = false;
  const here = new Set(heads.map((head) => head.id));
  for (const [id, run] of runs) {
    if (here.has(id)) continue;
    run.item.remove();
    runs.delete(id);
  }
  if (!begun) {
    const first = (head) => head.state === "running" ? 0 : 1;
    heads.sort((a, b) => first(a) - first(b) || a.name.localeCompare(b.name, undefined, {numeric: true}));
  }
  const wished = new URLSearchParams(location.hash.slice(1)).getAll("run"); // a reloaded page ticks what it had
  for (const head of heads) {
    if (!runs.has(head.id)) {
      const order = nextOrder();
      const first = wished.length ? wished.includes(head.name) : order < MOST_TICKED;
      const run = {id: head.id, order, ticked: begun ? head.state === "running" : first};
      clear(run);
      run.item = makeItem(run);
      runs.set(head.id, run);
      fresh ||= run.ticked;
    }
    runs.get(head.id).head = head;
  }
  begun ||= heads.length > 0;
  return fresh;
}

function nextOrder() {
  const taken = new Set([...runs.values()].map((run) => run.order));
  let order = 0;
  while (taken.has(order)) order++;
  return order;
}

function clear(run) {
  Object.assign(run, {cursor: "", train: {}, eval: {}, system: {}, events: []});
}

function takeRows(run, rows) {
  if (rows.replace) clear(run);
  run.cursor = rows.cursor;
  for (const stream of STREAMS) append(run[stream], rows[stream], stream === "system");
  run.events.push(...rows.events);
  if (STREAMS.some((stream) => (run[stream].time || []).length > MOST_POINTS)) run.cursor = "";
}

// `again`: the new points begin before the old ones end, and replace them.
function append(have, more, again) {
  if (!more.time) return;
  let length = (have.time || []).length;
  if (again && length) {
    while (length && have.time[length - 1] >= more.time[0] - 1e-6) length--;
    for (const column of Object.values(have)) column.length = length;
  }
  for (const key of new Set([...Object.keys(have), ...Object.keys(more)])) {
    have[key] ||= new Array(length).fill(null);
    const column = more[key] || new Array(more.time.length).fill(null);
    for (const value of column) have[key].push(value);
  }
}

// ---- The list of runs ----

const colourOf = (run) => getComputedStyle(document.body).getPropertyValue(`--line-${run.order % 8}`).trim();
const dashOf = (run) => Math.floor(run.order / 8);

function makeItem(run) {
  const item = element("li"), label = element("label"), box = element("input");
  box.type = "checkbox";
  box.addEventListener("change", () => tick(run, box.checked));
  const parts = {
    box, swatch: element("canvas", "swatch"), name: element("span", "name"), state: element("span", "state"),
    facts: element("span", "facts"), bar: element("progress"),
  };
  label.append(...Object.values(parts));
  item.append(label);
  item.parts = parts;
  at("runs").append(item);
  return item;
}

function tick(...changes) {
  for (let k = 0; k < changes.length; k += 2) {
    changes[k].ticked = changes[k + 1];
  }
  const names = [...runs.values()].filter((run) => run.ticked).map((run) => run.head.name);
  const hash = new URLSearchParams(location.hash.slice(1));
  hash.delete("run");
  for (const name of names.length ? names : [""]) hash.append("run", name);
  history.replaceState(null, "", "#" + hash);
  drawRuns();
  draw();
  pollNow();
}

async function pollNow() { // a run that has just been ticked has its rows to come
  const want = [...runs.values()].filter((run) => run.ticked && !run.cursor).map((run) => `${run.id}:`);
  if (!want.length) return;
  try {
    const answer = await (await asked("data.json?want=" + want.join(","))).json();
    for (const [id, rows] of Object.entries(answer.rows)) if (runs.has(id)) takeRows(runs.get(id), rows);
    draw();
  } catch { /* poll says it */ }
}

function drawRuns() {
  for (const run of runs.values()) {
    const {head} = run, {box, swatch, name, state, facts, bar} = run.item.parts;
    box.checked = run.ticked;
    if (name.textContent !== head.name) {
      name.replaceChildren(...head.name.split(/(?<=[/_-])/).flatMap((part) => [part, element("wbr")]));
    }
    const shown = head.error ? "unreadable" : head.state;
    state.textContent = shown === "stopped" ? `no end, silent ${age(head.silent_seconds)}` : shown;
    state.className = `state ${shown}`;
    const all = head.epochs ? ` of ${+head.epochs}` : "";
    const epoch = head.epoch == null ? "no row yet" : `epoch ${+head.epoch.toFixed(1)}${all}`;
    const accuracy = head.accuracy == null ? "" : `${(100 * head.accuracy).toFixed(2)} %`;
    const rate = head.images_per_second == null ? "" : `${Math.round(head.images_per_second)} images/s`;
    const isRead = "epochs" in head; // the server reads many runs by and by
    facts.textContent = head.error || (isRead ? [epoch, accuracy].filter(Boolean).join(" · ") : "");
    box.parentNode.title = [head.strategy, head.model, head.data, rate].filter(Boolean).join(", ");
    bar.hidden = head.state !== "running" || !head.epochs;
    if (!bar.hidden) bar.value = Math.min((head.epoch || 0) / head.epochs, 1);
    drawKey(swatch, "solid", dashOf(run), colourOf(run));
  }
}

function age(seconds) {
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : seconds < 172800 ? `${Math.round(seconds / 3600)} h`
    : `${Math.round(seconds / 86400)} days`;
}

// ---- The plots ----

function makePanels(given) {
  panels = given.map((panel) => {
    const box = element("section", "panel"), top = element("div", "top"), title = element("h2");
    const select = element("select"), canvas = element("canvas");
    const keys = element("div", "keys"), none = element("div", "none"), tip = element("div", "tip");
    box.setAttribute("aria-label", panel.title);
    select.setAttribute("aria-label", `what ${panel.title} shows`);
    canvas.setAttribute("role", "img");
    tip.hidden = true;
    top.append(title, select);
    box.append(top, canvas, keys, none, tip);
    at("panels").append(box);
    const made = {
      ...panel, titleText: panel.title, measure: panel.measures[0].label, box, title, select, canvas, keys, none, tip,
    };
    made.chart = new Chart(canvas, {hover: (x) => hover(x, made), zoom});
    select.addEventListener("change", () => { made.measure = select.value; draw(); });
    new ResizeObserver(() => made.chart.draw(view.hover)).observe(canvas);
    return made;
  });
}

function ticked() {
  return [...runs.values()].filter((run) => run.ticked);
}

// x of a stream's points: seconds, or epochs; samples of the machines get theirs from the rows around them.
function xOf(run, stream) {
  const columns = run[stream];
  if (view.axis === "time" || !columns.time) return columns.time || [];
  if (columns.epoch) return columns.epoch;
  const known = [];
  for (const rows of [run.train, run.eval]) {
    (rows.time || []).forEach((time, k) => {
      if (rows.epoch && rows.epoch[k] !== null) known.push([time, rows.epoch[k]]);
    });
  }
  known.push([0, 0]);
  known.sort((a, b) => a[0] - b[0]);
  let k = 0;
  return columns.time.map((time) => {
    while (k + 1 < known.length && known[k + 1][0] < time) k++;
    const [t0, e0] = known[k], [t1, e1] = known[k + 1] || [t0, e0];
    return t1 > t0 ? e0 + (e1 - e0) * Math.min(Math.max((time - t0) / (t1 - t0), 0), 1) : e0;
  });
}

// Measures for what only some hosts have: their interfaces.
function measuresOf(panel, shown) {
  if (panel.titleText !== "network") return panel.measures;
  const found = new Set();
  for (const key of shown.flatMap((run) => Object.keys(run.system))) {
    if (key.startsWith("interface ")) found.add(key.split(" ")[1]);
  }
  return panel.measures.concat([...found].sort().map((name) => ({label: `interface ${name}`, log: false, lines: [
    {stream: "system", key: `interface ${name} sent_per_second`, scale: 1e-6, look: "solid", label: "sent"},
    {stream: "system", key: `interface ${name} received_per_second`, scale: 1e-6, look: "dashed", label: "received"},
  ]})));
}

function draw() {
  const shown = ticked(), xs = new Map();
  for (const run of shown) xs.set(run, Object.fromEntries(STREAMS.map((stream) => [stream, xOf(run, stream)])));
  let end = 0;
  for (const by of xs.values()) for (const x of Object.values(by)) for (const value of x) if (value > end) end = value;
  const domain = view.zoom || [0, end || 1], unit = unitOf(domain[1]);
  const axis = {...axisTicks(domain, unit), domain};
  const marks = shown.flatMap((run) => run.events.filter((event) => event[view.axis] !== null && event.mark !== "quiet")
    .map((event) => ({x: event[view.axis], colour: colourOf(run), mark: event.mark}))
    .filter((mark) => view.marks.has(mark.mark)));
  for (const panel of panels) drawPanel(panel, shown, xs, axis, marks);
  at("unzoom").hidden = !view.zoom;
  drawEvents(shown);
  showTip();
}

function unitOf(end) {
  return view.axis === "epoch" ? [1, "epochs"] : end < 240 ? TIMES[0] : end < 4 * 3600 ? TIMES[1] : TIMES[2];
}

function axisTicks([from, to], [size, name]) {
  const wide = at("panels").clientWidth > 380 ? 7 : 5;
  let every = niceStep((to - from) / size, wide) * size;
  if (view.axis === "time" && size === 1) every = Math.max(every, 1e-3);
  const last = Math.floor(to / every + 1e-9) * every;
  const written = (x) => short(x / size, every / size) + (Math.abs(x - last) < every / 2 ? ` ${name}` : "");
  return {ticks: {every, written}};
}

function drawPanel(panel, shown, xs, axis, marks) {
  const has = (line) => shown.some((run) => line.key in run[line.stream]);
  const measures = measuresOf(panel, shown).filter((measure) => measure.lines.some(has));
  const measure = measures.find((one) => one.label === panel.measure) || measures[0];
  const labels = measures.map((one) => one.label);
  if (labels.join() !== [...panel.select.options].map((option) => option.value).join()) {
    const option = (label) => Object.assign(element("option"), {value: label, textContent: label});
    panel.select.replaceChildren(...labels.map(option));
  }
  panel.select.hidden = labels.length < 2;
  if (measure) panel.select.value = measure.label;
  const unit = (measure && measure.unit) ?? panel.unit;
  panel.title.replaceChildren(panel.titleText, Object.assign(element("span"), {textContent: unit ? ` ${unit}` : ""}));
  panel.box.hidden = panel.optional && !measure;
  panel.none.textContent = measure ? "" : shown.length ? "no ticked run has this" : "tick a run";
  const kinds = measure ? measure.lines.filter(has) : [];
  const lines = shown.flatMap((run) => kinds.filter((kind) => kind.key in run[kind.stream]).map((kind) => ({
    x: xs.get(run)[kind.stream],
    y: run[kind.stream][kind.key].map((value) => value === null ? null : value * kind.scale),
    colour: colourOf(run), look: kind.look, dash: dashOf(run), running: run.head.state === "running",
    name: run.head.name + (kinds.length > 1 ? ` ${kind.label}` : ""),
  })));
  const names = lines.map((line) => line.name).join(", ") || "nothing";
  panel.canvas.setAttribute("aria-label", `${panel.titleText}: ${names}`);
  drawKeys(panel.keys, kinds.length > 1 ? kinds : []);
  const log = Boolean(measure && measure.log);
  panel.chart.show({...axis, lines, marks: measure ? marks : [], fromZero: panel.from_zero, log});
  panel.chart.draw(view.hover);
}

function drawKeys(box, kinds) {
  const colour = getComputedStyle(document.body).getPropertyValue("--text").trim();
  const wanted = kinds.map((kind) => kind.look + kind.label).join() + colour;
  if (box.dataset.shown === wanted) return;
  box.dataset.shown = wanted;
  box.replaceChildren(...kinds.map((kind) => {
    const key = element("span"), canvas = element("canvas");
    key.append(canvas, kind.label);
    return key;
  }));
  kinds.forEach((kind, k) => drawKey(box.children[k].firstChild, kind.look, 0, colour));
}

function hover(x, panel) {
  view.hover = x;
  view.over = x === null ? null : panel;
  for (const one of panels) one.chart.draw(x);
  showTip();
}

function showTip() {
  for (const panel of panels) if (panel !== view.over) panel.tip.hidden = true;
  const panel = view.over;
  if (!panel || view.hover === null) return;
  const found = panel.chart.near(view.hover).sort((a, b) => b.y - a.y);
  panel.tip.hidden = !found.length;
  if (!found.length) return;
  const [size, name] = unitOf(panel.chart.shown.domain[1]);
  const head = element("div");
  head.textContent = `${short(view.hover / size)} ${name}`;
  panel.tip.replaceChildren(head, ...found.slice(0, 12).map(({line, y}) => {
    const row = element("div"), dot = element("i");
    dot.style.background = line.colour;
    row.append(dot, `${short(y)}  ${line.name}`);
    return row;
  }));
  const place = panel.chart.px(view.hover), width = panel.canvas.clientWidth, left = panel.canvas.offsetLeft;
  const tipWidth = panel.tip.offsetWidth;
  panel.tip.style.left = `${Math.max(left + (place > width / 2 ? place - tipWidth - 10 : place + 10), 2)}px`;
  panel.tip.style.top = `${panel.canvas.offsetTop + panel.canvas.clientHeight}px`;
}

function zoom(ends) {
  view.zoom = ends;
  draw();
}

function drawEvents(shown) {
  const rows = shown.flatMap((run) => run.events.filter((event) => event.mark === "quiet" || view.marks.has(event.mark))
    .map((event) => ({run, event}))).sort((a, b) => b.event.time - a.event.time).slice(0, 200);
  const wanted = rows.map(({run, event}) => [run.id, run.order, event.time, event.event]).join(";");
  if (at("events").dataset.shown === wanted) return;
  at("events").dataset.shown = wanted;
  at("events").replaceChildren(...rows.map(({run, event}) => {
    const row = element("tr"), dot = element("i");
    dot.style.background = colourOf(run);
    const epoch = event.epoch === null ? "" : event.epoch.toFixed(2);
    const cells = [run.head.name, clock(event.time), epoch, event.event, event.more];
    row.append(...cells.map((text) => Object.assign(element("td"), {textContent: text})));
    row.firstChild.prepend(dot);
    if (event.mark === "trouble") row.children[3].className = "trouble";
    return row;
  }));
}

function clock(seconds) {
  const whole = Math.round(seconds), two = (value) => String(value).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

function element(tag, className = "") {
  return Object.assign(document.createElement(tag), {className});
}

// ---- Controls ----

for (const input of document.querySelectorAll("input[name=axis]")) {
  input.addEventListener("change", () => { view.axis = input.value; zoom(null); });
}
at("marks").addEventListener("change", (event) => {
  if (event.target.checked) view.marks.add(event.target.value); else view.marks.delete(event.target.value);
  draw();
});
for (const button of document.querySelectorAll("[data-tick]")) {
  button.addEventListener("click", () => {
    const choices = {all: () => true, none: () => false, running: (run) => run.head.state === "running"};
    const wanted = choices[button.dataset.tick];
    tick(...[...runs.values()].flatMap((run) => [run, wanted(run)]));
  });
}
at("unzoom").addEventListener("click", () => zoom(null));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  at("events").dataset.shown = "";
  drawRuns();
  draw();
});
poll();
