import { drawn, element } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 240, 66, 12, 12, 44];

/**
 * Lines over depth. series: [{name, values, className}], NaN where there is none; band: {low, high} or null; labels: of
 * the places on the x axis; text(value): ticks; pick(index): a place was chosen; chosen: marked.
 */
export function lineChart({ series, band, labels, axis, text, top, pick, chosen, title }) {
  const values = [...series.flatMap((one) => [...one.values]), ...(band ? band.high : [])].filter((value) => !Number.isNaN(value));
  const high = top ?? (Math.max(...values) * 1.06 || 1);
  const x = (at) => LEFT + ((WIDTH - LEFT - RIGHT) * (at + 0.5)) / labels.length;
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / high);
  const path = (numbers) => [...numbers].map((value, at) => (Number.isNaN(value) ? "" : `${at && !Number.isNaN(numbers[at - 1]) ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`)).join("");
  const ticks = [0, 0.5, 1].map((share) => share * (top ?? high / 1.06));
  const every = Math.ceil(labels.length / 16);
  const step = (WIDTH - LEFT - RIGHT) / labels.length;
  const svg = drawn(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": title },
    ticks.map((tick) => [
      drawn("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick), class: "grid-line" }),
      drawn("text", { x: LEFT - 8, y: y(tick) + 4, class: "tick end" }, text(tick)),
    ]),
    labels.map((label, at) => (at % every ? null : drawn("text", { x: x(at), y: HEIGHT - 24, class: at === chosen ? "tick middle chosen" : "tick middle" }, label))),
    drawn("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 1, class: "tick middle" }, axis),
    chosen >= 0 ? drawn("rect", { x: x(chosen) - step / 2, y: TOP, width: step, height: HEIGHT - TOP - BOTTOM, class: "chosen-band" }) : null,
    band ? drawn("path", { d: `${path(band.high)}${backwards(band.low, x, y)}Z`, class: "band" }) : null,
    series.map((one) => drawn("path", { d: path(one.values), class: `line ${one.className}` })),
    series.map((one) => (one.dots ? [...one.values].map((value, at) => (Number.isNaN(value) ? null : drawn("circle", { cx: x(at), cy: y(value), r: 3, class: `dot ${one.className}` }))) : null)),
    pick
      ? labels.map((label, at) => drawn("rect", { x: x(at) - step / 2, y: TOP, width: step, height: HEIGHT - TOP, class: "catch", onclick: () => pick(at) }, drawn("title", {}, `${axis} ${label}`)))
      : null,
  );
  return element("div", { class: "chart-frame" }, svg);
}

function backwards(values, x, y) {
  let path = "";
  for (let at = values.length - 1; at >= 0; at -= 1) path += `L${x(at).toFixed(1)} ${y(values[at]).toFixed(1)}`;
  return path;
}
