// What is drawn: the frame with its columns, and the map. Canvas 2D, in device pixels.

import { css, grey, occupancy, pixels } from "./palette.js";

export const EVENT_MS = 1600; // how long an event stays marked in the picture
const GAP_PX = 8; // above and below the canvas, as in page.css
const EVENT_COLOUR = "#ff6fb5";
const DASHES = 3; // of the ring of a place where no column was seen so far
const BINS = 32; // colours of columns: one path each, however many columns
const COLOURS = Array.from({ length: BINS }, (_, i) => css(occupancy, i / (BINS - 1)));

/** A canvas that fills its stage as far as the aspect of its field allows, in device pixels. */
export class Stage {
  constructor(figure, redraw) {
    this.figure = figure;
    this.canvas = figure.querySelector("canvas");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.veil = figure.querySelector(".veil");
    this.buffer = document.createElement("canvas");
    new ResizeObserver(redraw).observe(figure);
  }

  /** Fit a field of ny × nx; returns device pixels per pixel of the field. */
  fit([ny, nx]) {
    const ratio = window.devicePixelRatio || 1;
    const [caption, , legend] = this.figure.children;
    const high = this.figure.clientHeight - caption.offsetHeight - legend.offsetHeight - 2 * GAP_PX;
    const scale = Math.max(Math.min(this.figure.clientWidth / nx, high / ny), 0) * ratio;
    const width = Math.max(1, Math.round(nx * scale)), height = Math.max(1, Math.round(ny * scale));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.canvas.style.width = `${width / ratio}px`;
      this.canvas.style.height = `${height / ratio}px`;
    }
    this.ratio = ratio;
    this.context.imageSmoothingQuality = "medium";
    return scale;
  }

  /** Draw pixels (ny, nx), looked up by `colour(i)`, over width × height of the canvas. */
  paint([ny, nx], colour, width, height) {
    const { buffer } = this;
    if (buffer.width !== nx || buffer.height !== ny) {
      buffer.width = nx;
      buffer.height = ny;
      this.image = new ImageData(nx, ny);
      this.words = new Uint32Array(this.image.data.buffer);
    }
    colour(this.words);
    buffer.getContext("2d").putImageData(this.image, 0, 0);
    this.context.drawImage(buffer, 0, 0, width, height);
  }
}

/** The frame; `view` says what lies over it: columns, events [{event, age_ms}], marked event, nm per pixel. */
export function drawFrame(stage, frame, view) {
  const scale = stage.fit(frame.shape_yx), { context: c, canvas } = stage;
  c.fillStyle = "#000";
  c.fillRect(0, 0, canvas.width, canvas.height);
  if (frame.picture) {
    const { picture, picture_stride: stride } = frame;
    const [ny, nx] = picture.shape;
    const colour = (words) => { for (let i = 0; i < words.length; i++) words[i] = grey[picture[i]]; };
    stage.paint([ny, nx], colour, nx * stride * scale, ny * stride * scale);
  }
  if (view.columns) {
    const many = Math.max(1, frame.site_p.length, frame.p_occupied.length);
    const room = Math.sqrt((canvas.width * canvas.height) / many);
    const radius = Math.max(1.6 * stage.ratio, Math.min(canvas.width / 190, 0.16 * room));
    drawSites(c, frame, scale, radius, stage.ratio);
    for (const { event, age_ms } of view.events) drawEvent(c, event, scale, radius, stage.ratio, 1 - age_ms / EVENT_MS);
  }
  if (view.marked) drawEvent(c, view.marked, scale, canvas.width / 120, stage.ratio, 1);
  drawScaleBar(stage, view.pixel_size_nm / scale);
}

/** Where on the canvas: pixel 0's centre is the origin of positions, half a pixel inside the picture's edge. */
const along = (position_px, scale) => (position_px + 0.5) * scale;

/** Sites as rings, dashed where no column was seen so far, and the columns found as dots over them: a dot missing is a
 *  column not found. */
function drawSites(c, frame, scale, radius, ratio) {
  const line = Math.max(1.5 * ratio, 0.5 * radius);
  const proposed = frame.site_proposed;
  c.save();
  c.setLineDash([(Math.PI * radius) / DASHES]);
  for (const [bin, path] of binned(frame.site_yx_px, frame.site_p, scale, radius, (i) => proposed[i])) {
    c.lineWidth = 1.6 * line;
    c.strokeStyle = "rgb(0 0 0 / 0.4)";
    c.stroke(path);
    c.lineWidth = 0.8 * line;
    c.strokeStyle = COLOURS[bin];
    c.stroke(path);
  }
  c.restore();
  for (const [bin, path] of binned(frame.site_yx_px, frame.site_p, scale, radius, (i) => !proposed[i])) {
    c.lineWidth = 2 * line;
    c.strokeStyle = "rgb(0 0 0 / 0.4)";
    c.stroke(path);
    c.lineWidth = line;
    c.strokeStyle = COLOURS[bin];
    c.stroke(path);
  }
  for (const [bin, path] of binned(frame.yx_px, frame.p_occupied, scale, radius)) {
    c.lineWidth = 0.8 * line;
    c.strokeStyle = "rgb(0 0 0 / 0.45)";
    c.stroke(path);
    c.fillStyle = COLOURS[bin] ?? "#aab1ba";
    c.fill(path);
  }
}

/** One path of circles per colour, of those that `shown(i)`; what has no occupancy (NaN) comes under -1. */
function binned(yx, p, scale, radius, shown = () => true) {
  const paths = new Map();
  for (let i = 0; i < p.length; i++) {
    if (!shown(i)) continue;
    const bin = Number.isNaN(p[i]) ? -1 : Math.max(0, Math.min(BINS - 1, Math.round(p[i] * (BINS - 1))));
    if (!paths.has(bin)) paths.set(bin, new Path2D());
    const y = along(yx[2 * i], scale), x = along(yx[2 * i + 1], scale), path = paths.get(bin);
    path.moveTo(x + radius, y);
    path.arc(x, y, radius, 0, 2 * Math.PI);
  }
  return paths;
}

function drawEvent(c, event, scale, radius, ratio, strength) {
  const [y, x] = event.yx_px.map((p) => along(p, scale)), path = new Path2D(), wide = 2.1 * radius, line = Math.max(2 * ratio, 0.55 * radius);
  if (event.kind === "hop" && event.to_yx_px) {
    const [y1, x1] = event.to_yx_px.map((p) => along(p, scale)), length = Math.hypot(x1 - x, y1 - y) || 1;
    const ux = (x1 - x) / length, uy = (y1 - y) / length, head = 0.9 * wide;
    path.moveTo(x, y);
    path.lineTo(x1, y1);
    for (const side of [-0.5, 0.5]) {
      path.moveTo(x1, y1);
      path.lineTo(x1 - head * (ux + side * uy), y1 - head * (uy - side * ux));
    }
  } else {
    path.arc(x, y, wide, 0, 2 * Math.PI);
  }
  c.save();
  c.globalAlpha = Math.max(0, Math.min(1, 0.2 + strength));
  c.lineCap = c.lineJoin = "round";
  if (event.kind === "disappear") c.setLineDash([wide / 2.2, wide / 2]);
  c.strokeStyle = "rgb(0 0 0 / 0.6)";
  c.lineWidth = 2 * line;
  c.stroke(path);
  c.strokeStyle = EVENT_COLOUR;
  c.lineWidth = line;
  c.stroke(path);
  c.restore();
}

/** A map over its own field, in 256 colours (as `pixels`); returns the value of the brightest one. */
export function drawMap(stage, map, heat) {
  const [ny, nx] = map.array.shape, scale = stage.fit([ny, nx]);
  let top = map.name === "occurrence" ? 1 : 0;
  if (!top) for (const value of map.array) if (value > top) top = value;
  const colour = (words) => {
    for (let i = 0; i < words.length; i++) {
      const value = map.array[i] / (top || 1);
      words[i] = heat[value > 0 ? Math.min(255, Math.round(255 * value)) : 0]; // NaN: never observed
    }
  };
  stage.paint([ny, nx], colour, stage.canvas.width, stage.canvas.height);
  drawScaleBar(stage, map.nm_per_px / scale);
  return top;
}

function drawScaleBar({ context: c, canvas, ratio }, nm) {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize) * ratio;
  const font = Math.round(Math.min(1.2 * rem, canvas.width / 20));
  const margin = font * 0.9, known = nm > 0;
  const length_nm = known ? nice(nm * canvas.width * 0.26) : 0, width = length_nm / nm;
  const text = !known ? "pixel size unknown" : length_nm >= 1 ? `${length_nm} nm` : `${Math.round(length_nm * 1000)} pm`;
  c.font = `600 ${font}px system-ui, sans-serif`;
  const box = Math.max(known ? width : 0, c.measureText(text).width) + margin;
  const high = font * (known ? 2.1 : 1.6), left = margin, top = canvas.height - margin - high;
  c.fillStyle = "rgb(0 0 0 / 0.62)";
  c.beginPath();
  c.roundRect(left, top, box, high, font / 4);
  c.fill();
  c.fillStyle = "#f2f4f6";
  c.textAlign = "center";
  c.textBaseline = "top";
  c.fillText(text, left + box / 2, top + font * 0.3);
  if (known) c.fillRect(left + (box - width) / 2, top + font * 1.5, width, Math.max(2 * ratio, font / 5));
}

/** The largest of 1, 2, 5 × a power of ten that is not above `most`. */
function nice(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return Number(([5, 2, 1].find((n) => n * power <= most) * power).toPrecision(1));
}
