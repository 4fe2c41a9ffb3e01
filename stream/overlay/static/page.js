// The operator's page: hears live data, keeps what is shown, draws only what is new.

import { EVENT_MS, Stage, drawFrame, drawMap } from "./draw.js";
import { Live } from "./live.js";
import { gradient, inferno, occupancy, occurrence, pixels } from "./palette.js";
import { addEvents, count, forgetEvents, say, seconds, showAlarms, showFacts, showFigures } from "./panels.js";

const STATUS_OLD_S = 3;
const LOST_FRAMES = 30; // from there on it is no mere blank
const MAPS = {
  events: { title: "Events", palette: inferno, unit: "events", tip: "How often a column appeared, disappeared or hopped, missed detections left out" },
  occurrence: { title: "Occurrence", palette: occurrence, unit: "of the time", tip: "In which fraction of the time a column was there" },
  rate: { title: "Rate", palette: inferno, unit: "events per s", tip: "Events per second observed" },
  residence: { title: "Residence", palette: inferno, unit: "s", tip: "How long a column stays, on average; black where none was seen to leave" },
  raw_events: { title: "Raw flips", palette: inferno, unit: "flips", tip: "Found in one frame and not in the next, or the reverse: missed detections count" },
};
const ORDER = Object.keys(MAPS); // as M goes through them
const HEAT = new Map([inferno, occurrence].map((palette) => [palette, pixels(palette)]));
const byId = (id) => document.getElementById(id);

const shown = { columns: true, frozen: false, map: "events", marked: null };
const newest = { series: null, frame: null, maps: new Map(), status: null, page: {}, events: [], frameAt: null, statusAt: null };
let frame = null; // the one in the picture: the newest, or the one frozen
const dirty = { frame: false, map: false };
let requested = false;

const picture = new Stage(byId("picture"), () => redraw("frame"));
const map = new Stage(byId("map"), () => redraw("map"));
const live = new Live(hear, age, shown.map);

function hear(message) {
  const now = performance.now();
  if (message.fresh) {
    Object.assign(newest, { series: null, frame: null, status: null, events: [], frameAt: null, statusAt: null });
    newest.maps.clear();
    forgetEvents();
  }
  if (message.series) {
    if (newest.series && newest.series.series !== message.series.series) {
      newest.maps.clear();
      newest.events = [];
      forgetEvents();
      redraw("map");
    }
    newest.series = message.series;
    showFacts(message.series);
  }
  newest.frameAt = message.frame_age_s === null ? null : now - 1000 * message.frame_age_s;
  newest.statusAt = message.status_age_s === null ? null : now - 1000 * message.status_age_s;
  newest.status = message.status;
  newest.page = message.page;
  if (message.events.length) {
    addEvents(message.events, mark);
    if (!message.fresh) newest.events.push(...message.events.map((event) => ({ event, at: now })));
  }
  for (const one of message.maps) {
    newest.maps.set(one.name, one);
    if (one.name === shown.map) redraw("map");
  }
  if (message.frame) {
    newest.frame = message.frame;
    redraw("frame");
  }
  redraw();
}

/** Draw at the screen's next refresh, then ask for more. */
function redraw(what) {
  if (what) dirty[what] = true;
  if (!requested) {
    requested = true;
    requestAnimationFrame(draw);
  }
}

function draw() {
  requested = false;
  if (!shown.frozen) frame = newest.frame ?? frame;
  if (dirty.frame && frame) {
    const now = performance.now();
    newest.events = newest.events.filter(({ at }) => now - at < EVENT_MS);
    const known = newest.series && newest.series.series === frame.series;
    drawFrame(picture, frame, {
      columns: shown.columns,
      events: shown.frozen ? [] : newest.events.map(({ event, at }) => ({ event, age_ms: now - at })),
      marked: shown.marked,
      pixel_size_nm: known ? newest.series.pixel_size_nm : null,
    });
    picture.canvas.dataset.index = frame.index;
    say(byId("index"), count(frame.index));
  }
  if (dirty.map) drawMapPanel();
  dirty.frame = dirty.map = false;
  if (newest.status) showFigures(newest.status, newest.page);
  age();
  if (live.asked === null) live.next();
}

function drawMapPanel() {
  const one = newest.maps.get(shown.map), { title, palette, unit, tip } = MAPS[shown.map];
  say(byId("map-title"), title);
  byId("map-title").title = tip;
  byId("ramp-map").style.background = gradient(palette);
  say(byId("map-unit"), unit);
  map.veil.hidden = Boolean(one);
  map.canvas.hidden = !one;
  map.canvas.ariaLabel = `Map over the same field: ${title}. ${tip}`;
  if (!one) {
    say(byId("map-max"), "–");
    return;
  }
  const top = drawMap(map, one, HEAT.get(palette));
  say(byId("map-max"), top >= 10 ? count(top) : String(Number(top.toPrecision(2))));
  map.canvas.dataset.name = one.name;
}

/** What is old is said to be old, whether anything new comes or not. */
function age() {
  const now = performance.now(), alarms = [];
  if (!live.connected && live.ever) {
    alarms.push({ severity: "error", text: "Connection lost: retrying", since_s: (now - live.since) / 1000 });
  } else if (newest.statusAt !== null && now - newest.statusAt > 1000 * STATUS_OLD_S) {
    const since_s = (now - newest.statusAt) / 1000;
    alarms.push({ severity: "error", text: "No word from the supervisor: the figures below are old", since_s });
  }
  const passed_s = newest.statusAt === null ? 0 : (now - newest.statusAt) / 1000;
  for (const alarm of newest.status?.alarms ?? []) {
    alarms.push({ ...alarm, since_s: alarm.since_s > 0 ? alarm.since_s + passed_s : 0 });
  }
  const lost = newest.frame?.lost_frames ?? 0;
  if (lost >= LOST_FRAMES) {
    const text = `Specimen not recognized for ${count(lost)} frames, and its sites not followed: for another place, arm a new series`;
    alarms.push({ severity: "warning", text, since_s: 0 });
  }
  showAlarms(alarms);

  const state = newest.status?.state ?? "no status yet";
  say(byId("link"), live.connected ? state : live.ever ? "connection lost" : "connecting");
  byId("link").className = `link ${live.connected ? (state === "running" ? "on" : "waiting") : live.ever ? "off" : "waiting"}`;

  const period_s = newest.series?.frame_period_s ?? 0, age_s = newest.frameAt === null ? null : (now - newest.frameAt) / 1000;
  const old = age_s === null || !live.connected || age_s > Math.max(1, 3 * period_s);
  document.body.classList.toggle("stale", old);
  document.body.classList.toggle("lost", !live.connected && live.ever);
  let text = "";
  if (age_s === null) text = state === "starting" ? "starting: a minute or two, the first time" : "waiting for the first frame";
  else if (old) text = `no frame for ${seconds(age_s)}`;
  else if (shown.frozen && frame) text = `frozen · ${count(Math.max(0, newest.frame.index - frame.index))} frames ago`;
  say(picture.veil, text);
  picture.veil.hidden = !text;
}

function mark(event) {
  shown.marked = event;
  redraw("frame");
}

function toggleColumns() {
  shown.columns = !shown.columns;
  byId("columns").ariaPressed = String(shown.columns);
  redraw("frame");
}

const after = (name) => ORDER[(ORDER.indexOf(name) + 1) % ORDER.length];

function nextMap() {
  shown.map = live.map = after(shown.map);
  say(byId("kind").querySelector("span"), MAPS[after(shown.map)].title.toLowerCase());
  redraw("map");
}

function toggleFreeze() {
  shown.frozen = !shown.frozen && frame !== null;
  byId("freeze").ariaPressed = String(shown.frozen);
  redraw("frame");
}

const KEYS = { c: toggleColumns, m: nextMap, f: toggleFreeze };
byId("columns").onclick = toggleColumns;
byId("kind").onclick = nextMap;
byId("freeze").onclick = toggleFreeze;
addEventListener("keydown", (event) => {
  if (!event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat) KEYS[event.key.toLowerCase()]?.();
});
byId("ramp-occupancy").style.background = gradient(occupancy);
drawMapPanel();
setInterval(age, 100);
