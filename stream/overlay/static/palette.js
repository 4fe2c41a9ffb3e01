// Perceptually uniform, colour-blind safe palettes (matplotlib's viridis and inferno, CC0), by 17 stops.

const VIRIDIS = "44015448186a472d7b4240863b528b33638d2c728e26828e21918c1fa08828ae803fbc735ec96284d44baddc30d8e219fde725";
const INFERNO = "0000040b0724210c4a3d096557106e71196e8a226aa32c61bc3754d24644e45a31f1731df98e09fcac11f9cb35f2ea69fcffa4";

const viridis = table(VIRIDIS);

/** Of columns: viridis without its darkest third, which would not show on a dark picture. */
export const occupancy = viridis.map((_, i) => viridis[Math.round(255 * (0.36 + 0.64 * (i / 255)))]);
/** Of maps: both begin in black, for the dark room's sake. */
export const occurrence = viridis.map((colour, i) => colour.map((c) => Math.round(c * Math.min(1, i / 64))));
export const inferno = table(INFERNO);

/** 256 colours [r, g, b] between the stops. */
function table(stops) {
  const channel = (i, c) => parseInt(stops.slice(6 * i + 2 * c, 6 * i + 2 * c + 2), 16);
  return Array.from({ length: 256 }, (_, k) => {
    const at = (k / 255) * 16, i = Math.min(15, Math.floor(at)), t = at - i;
    return [0, 1, 2].map((c) => Math.round(channel(i, c) * (1 - t) + channel(i + 1, c) * t));
  });
}

/** The CSS colour of a value 0..1. */
export function css(palette, value) {
  const [r, g, b] = palette[Math.max(0, Math.min(255, Math.round(value * 255)))];
  return `rgb(${r} ${g} ${b})`;
}

/** A CSS gradient of the whole palette. */
export function gradient(palette) {
  return `linear-gradient(90deg, ${Array.from({ length: 17 }, (_, i) => css(palette, i / 16)).join(", ")})`;
}

/** The palette as 32-bit pixels of an ImageData, whatever the machine's byte order. */
export function pixels(palette) {
  const bytes = new Uint8ClampedArray(256 * 4);
  palette.forEach(([r, g, b], i) => bytes.set([r, g, b, 255], 4 * i));
  return new Uint32Array(bytes.buffer);
}

export const grey = pixels(Array.from({ length: 256 }, (_, i) => [i, i, i]));
