// What is written: facts, alarms, figures, the list of events. Text nodes change only when the text does.

const ROWS = 80;
const KINDS = { appear: "● appear", disappear: "○ disappear", hop: "→ hop" };
const GAPS = {
  "skipped-live": "left out to stay live",
  "ring-full": "came faster than the analysis could take them",
  wire: "never arrived",
  decode: "could not be decoded",
  paused: "analysis was paused",
  restart: "passed while the analysis restarted",
};

const byId = (id) => document.getElementById(id);

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className, text = "", title = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  if (title) element.title = title;
  return element;
}

export const count = (n) => (Number.isFinite(n) ? String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, "\u202f") : "–");

export function seconds(s) {
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  return s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
}

function milliseconds(ms) {
  if (!Number.isFinite(ms)) return "–";
  return `${ms < 10 ? ms.toFixed(1) : count(ms)}\u202fms`;
}

function bytes(n) {
  const step = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, n)) / 3)));
  return `${(n / 1000 ** step).toFixed(step ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][step]}`;
}

/** What the series is, in the header. */
export function showFacts(series) {
  const [ny, nx] = series.shape_yx;
  const facts = [
    ["series", series.series, "One acquisition, by the detector's own number"],
    ["engine", series.engine, "The trained network that finds the columns, and what runs it"],
    ["frame", `${nx} × ${ny}`, "Width × height of each frame, in pixels"],
    ["pixel", series.pixel_size_nm ? `${(series.pixel_size_nm * 1000).toPrecision(3)} pm` : "unknown", "Pixel size at the specimen"],
    ["dose", series.dose_e_nm2 ? `${count(series.dose_e_nm2)} e/nm²` : "unknown", "Electrons per nm² in each frame"],
  ];
  byId("facts").replaceChildren(...facts.map(([name, value, title]) => {
    const fact = make("div", "", "", title);
    fact.append(make("dt", "", name), make("dd", "", String(value)));
    return fact;
  }));
}

/** Alarms at the top, worst first; `alarms` are {severity, text, since_s}. */
export function showAlarms(alarms) {
  const rank = (alarm) => ["error", "warning", "info"].indexOf(alarm.severity);
  const box = byId("alarms"), sorted = [...alarms].sort((a, b) => rank(a) - rank(b));
  while (box.children.length > sorted.length) box.lastChild.remove();
  sorted.forEach((alarm, i) => {
    if (!box.children[i]) {
      const row = make("p");
      row.append(make("strong"), make("time"));
      box.append(row);
    }
    const row = box.children[i], severity = rank(alarm) > 0 ? alarm.severity : "error";
    if (row.className !== severity) row.className = severity;
    say(row.firstChild, alarm.text);
    say(row.lastChild, alarm.since_s >= 1 ? seconds(alarm.since_s) : "now");
  });
  const worst = sorted.find((alarm) => alarm.severity !== "info");
  document.title = worst ? `▲ ${worst.text}` : "hopscope";
}

/** Figures at the bottom, from the supervisor's status and the page's own. */
export function showFigures(status, page) {
  const counters = status.counters ?? {}, gaps = Object.entries(counters.gaps ?? {}).filter(([, n]) => n);
  const faults = Object.entries(counters.faults ?? {}).filter(([, n]) => n);
  const total = (entries) => entries.reduce((sum, [, n]) => sum + n, 0);
  const latency = page.recent_latency_ms?.p50 != null ? page.recent_latency_ms : status.latency_ms ?? {};
  const lost = gaps.some(([reason]) => reason !== "skipped-live" && reason !== "paused");
  figure("Frames", "received", count(counters.received), "Frames that came from the detector");
  figure("Frames", "recorded", count(counters.recorded), "Frames written to disk, as received");
  figure("Frames", "analysed", count(counters.analysed), "Frames in which columns were looked for");
  figure("Frames", "skipped", count(counters.skipped), "Frames left out of the live analysis to stay live; they are recorded all the same");
  figure("Frames", "gaps", count(total(gaps)), `Gap: frames that were not seen; they shorten the time observed.\n${gaps.map(([reason, n]) => `${count(n)} ${reason}: ${GAPS[reason] ?? "?"}`).join("\n")}`, lost, gaps.map(([reason, n]) => `${reason} ${count(n)}`).join(" · "));
  if (faults.length) figure("Frames", "faults", count(total(faults)), "Messages that made no sense; counted and left out", true, faults.map(([kind, n]) => `${kind} ${count(n)}`).join(" · "));
  figure("Speed", "frames/s", Number.isFinite(status.frames_per_s) ? status.frames_per_s.toFixed(1) : "–", "Frames analysed per second, over the last seconds");
  figure("Speed", "latency p50", milliseconds(latency.p50), "From the socket to this page's message: half of the last frames were faster");
  figure("Speed", "latency p99", milliseconds(latency.p99), "From the socket to this page's message: 99 of 100 of the last frames were faster");
  const { device, runs_on: runsOn, reason } = status.analysis ?? {};
  if (device) figure("Speed", "analysis on", device, `Where the columns are found: ${runsOn}, because ${reason}`);
  figure("Specimen", "columns", count(counters.columns), "Column: atoms in a row along the beam, seen as one spot; found in the newest frame");
  figure("Specimen", "sites", count(counters.sites), "Site: a place where columns were seen often enough to be followed");
  figure("Specimen", "events", count(counters.events), "Appearances, disappearances and hops so far");
  const { recording } = status;
  const file = recording?.path?.split(/[\\/]/).pop();
  figure("Recording", "disk", recording ? bytes(recording.bytes) : "off", recording?.path ?? "Nothing is being recorded", !recording, file ?? "not recording");
  showProcesses(status.processes ?? {});
}

/** One figure: made at first, then only its text changes. */
function figure(group, name, value, title, warn = false, note = "") {
  const cell = cellOf(group, name, title);
  say(cell.children[0], value);
  say(cell.children[2], note);
  cell.title = title;
  cell.classList.toggle("warn", warn);
}

function cellOf(group, name) {
  const id = `${group}-${name}`.replace(/\W+/g, "-").toLowerCase();
  const found = byId(id);
  if (found) return found;
  const cell = make("div", "figure");
  cell.id = id;
  cell.append(make("b"), make("span", "", name), make("small"));
  groupOf(group).append(cell);
  return cell;
}

function groupOf(name) {
  const id = `group-${name.toLowerCase()}`;
  if (!byId(id)) {
    const section = make("section"), group = make("div");
    group.id = id;
    section.append(make("h2", "", name), group);
    byId("figures").append(section);
  }
  return byId(id);
}

function showProcesses(processes) {
  const group = groupOf("Processes");
  for (const [name, { alive, restarts, pid }] of Object.entries(processes)) {
    const id = `process-${name}`;
    if (!byId(id)) {
      const row = make("p", "process");
      row.id = id;
      group.append(row);
    }
    say(byId(id), restarts ? `${name} ×${restarts + 1}` : name);
    const [is, said] = alive === null ? ["waiting", "is not started yet"] : alive ? ["alive", "runs"] : ["dead", "is not running"];
    byId(id).className = `process ${is}${restarts ? " again" : ""}`;
    byId(id).title = `${name} ${said}${pid ? ` as process ${pid}` : ""}${restarts ? `; restarted ${restarts} times` : ""}`;
  }
}

/** Add new events, newest first; `point(event)` marks one in the picture, `point(null)` none. */
export function addEvents(events, point) {
  const list = byId("events");
  const rows = events.slice(0, ROWS).map((event) => {
    const row = make("tr", event.kind), { from_site: from, to_site: to } = event;
    const site = event.kind === "hop" ? `${from} → ${to}` : `${from >= 0 ? from : to}`;
    const p = event.probability;
    const cells = [count(event.frame), KINDS[event.kind], site, p >= 0.995 ? ">0.99" : p.toFixed(2)];
    row.append(...cells.map((text) => make("td", "", text)));
    row.onmouseenter = () => point(event);
    row.onmouseleave = () => point(null);
    return row;
  });
  list.prepend(...rows);
  while (list.children.length > ROWS) list.lastChild.remove();
  byId("no-events").hidden = list.children.length > 0;
}

export function forgetEvents() {
  byId("events").replaceChildren();
  byId("no-events").hidden = false;
}
