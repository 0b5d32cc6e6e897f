import { colourStep, colourTable } from "./colours.js";

/** A canvas of columns x rows pixels, a colour for each value; NaN stays clear. `opacity` of the others in 0..1. */
export function paintValues(canvas, values, columns, rows, kind, low, high, opacity = 1) {
  if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  const table = colourTable(kind);
  for (let index = 0; index < columns * rows; index += 1) {
    const value = values[index];
    if (Number.isNaN(value)) continue;
    const from = 3 * colourStep(value, low, high);
    pixels.data.set(table.subarray(from, from + 3), 4 * index);
    pixels.data[4 * index + 3] = 255 * opacity;
  }
  context.putImageData(pixels, 0, 0);
}

/** Makes a canvas as sharp as the screen where it lies; its side in device pixels. */
export function fitCanvas(canvas) {
  const side = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
  if (canvas.width !== side || canvas.height !== side) [canvas.width, canvas.height] = [side, side];
  return side;
}

/** Where in an element a pointer is: x and y in 0..1. */
export function placeOf(event, node) {
  const area = node.getBoundingClientRect();
  const inside = (value) => Math.max(0, Math.min(0.999999, value));
  return { x: inside((event.clientX - area.left) / area.width), y: inside((event.clientY - area.top) / area.height) };
}

/** Pixels of an image element, and the same in grey. */
export function imagePixels(image) {
  const colour = document.createElement("canvas");
  [colour.width, colour.height] = [image.naturalWidth, image.naturalHeight];
  const context = colour.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, colour.width, colour.height);
  const grey = document.createElement("canvas");
  [grey.width, grey.height] = [colour.width, colour.height];
  const copy = new ImageData(new Uint8ClampedArray(pixels.data), colour.width, colour.height);
  for (let at = 0; at < copy.data.length; at += 4) {
    copy.data.fill(0.299 * copy.data[at] + 0.587 * copy.data[at + 1] + 0.114 * copy.data[at + 2], at, at + 3);
  }
  grey.getContext("2d").putImageData(copy, 0, 0);
  return { colour, grey, data: pixels.data, side: colour.width };
}
