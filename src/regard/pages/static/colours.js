import { isDark } from "./theme.js";

// Lightness in OKLab rises evenly from 0.24 to 0.94 while the hue turns from indigo to yellow: in grey print and to any
// colour vision, more is lighter.
export const HEAT = [
  [29, 17, 78], [30, 35, 101], [19, 56, 122], [0, 79, 131], [0, 100, 136], [1, 121, 143], [0, 143, 148],
  [29, 164, 149], [70, 184, 143], [113, 202, 129], [164, 216, 112], [217, 226, 100], [255, 235, 160],
];
// Below and above zero: blue and orange differ to all common kinds of colour vision; zero is the page.
export const BALANCE = {
  light: [[9, 64, 133], [63, 128, 196], [156, 194, 226], [246, 243, 236], [247, 190, 140], [222, 112, 33], [147, 56, 0]],
  dark: [[128, 190, 255], [58, 126, 199], [34, 66, 104], [30, 33, 39], [105, 55, 22], [205, 104, 36], [255, 184, 120]],
};
const TABLE = 256;
const tables = new Map();

/** A table of 256 colours, [r, g, b] one after another: "heat" for 0..1, "balance" for -1..1. */
export function colourTable(kind) {
  const name = kind === "heat" ? kind : `${kind} ${isDark()}`;
  if (!tables.has(name)) tables.set(name, blended(kind === "heat" ? HEAT : BALANCE[isDark() ? "dark" : "light"]));
  return tables.get(name);
}

function blended(stops) {
  const table = new Uint8ClampedArray(3 * TABLE);
  for (let step = 0; step < TABLE; step += 1) {
    const place = (step / (TABLE - 1)) * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    for (let channel = 0; channel < 3; channel += 1) {
      const [low, high] = [stops[below][channel], stops[below + 1][channel]];
      table[3 * step + channel] = low + (high - low) * (place - below);
    }
  }
  return table;
}

/** The row of a colour table for a value between low and high. */
export function colourStep(value, low, high) {
  if (!(high > low)) return 0;
  return Math.max(0, Math.min(TABLE - 1, Math.round(((value - low) / (high - low)) * (TABLE - 1))));
}

/** `rgb(...)` and the ink that reads on it. */
export function colourOf(kind, value, low, high) {
  const at = 3 * colourStep(value, low, high);
  const [r, g, b] = colourTable(kind).subarray(at, at + 3);
  const linear = (value) => ((value / 255 + 0.055) / 1.055) ** 2.4;
  const light = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  return { paper: `rgb(${r}, ${g}, ${b})`, ink: light > 0.18 ? "#000000" : "#ffffff" };
}
