import { placeOf } from "./canvas.js";
import { element } from "./dom.js";
import { asked } from "./segment_clicks.js";
import { shareOf, titleOf, whole } from "./segment_state.js";

const ANSWER = [255, 122, 0];
const MOST_LABELS = 80; // names written into the image
const FURTHEST = 24; // times that the image can be made larger
const DRAG = 4; // CSS pixels from which a press is no click
const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

/** The image with its masks: one canvas each for the picture, for all masks, and for what is pointed at or chosen. */
export class Field {
  constructor(state, root) {
    this.state = state;
    [this.base, this.tint, this.marks] = [0, 1, 2].map(() => element("canvas", { class: "layer", "aria-hidden": "true" }));
    this.labels = element("div", { class: "labels", "aria-hidden": "true" });
    this.hint = element("p", { class: "hint", "aria-hidden": "true" });
    this.node = element(
      "div",
      { class: "field", tabindex: "0", role: "application", "aria-roledescription": "image with masks", "aria-describedby": "readout" },
      this.base, this.tint, this.marks, this.labels, this.hint,
    );
    this.readout = element("p", { class: "readout", id: "readout", "aria-live": "polite" });
    root.append(this.node, this.readout);
    this.painted = {};
    this.listen();
    new ResizeObserver(() => state.again()).observe(this.node);
  }

  get pixelRatio() {
    return window.devicePixelRatio || 1;
  }

  /** {x, y, step, width, height}, as `Runs.each` wants it. */
  get view() {
    const { height, width } = this.state.shown;
    const across = Math.max(1, Math.round(this.node.clientWidth * this.pixelRatio));
    const { x, y, zoom } = this.state.view ?? { x: 0, y: 0, zoom: 1 };
    return { x, y, step: width / (across * zoom), width: across, height: Math.max(1, Math.round((across * height) / width)) };
  }

  listen() {
    const { node, state } = this;
    let press = null;
    let dragged = false;
    node.addEventListener("pointerdown", (event) => {
      press = state.view && event.isPrimary ? { x: event.clientX, y: event.clientY, view: state.view } : null;
      dragged = false;
    });
    node.addEventListener("pointermove", (event) => {
      if (press && event.buttons && this.drag(press, event)) dragged = true;
      else if (event.pointerType !== "touch") state.set({ place: this.pixel(event) });
    });
    node.addEventListener("pointerleave", () => state.set({ hovered: null, place: null }));
    window.addEventListener("pointerup", () => { press = null; });
    node.addEventListener("click", (event) => {
      if (!dragged) this.click(this.pixel(event), event);
    });
    node.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 200), this.pixel(event));
    }, { passive: false });
    node.addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS) || state.tool !== "click" || !this.answers) return;
      event.preventDefault();
      event.stopPropagation();
      const from = state.answer?.place ?? this.answers.nearest({ x: state.shown.width / 2, y: state.shown.height / 2 });
      const place = state.answer ? this.answers.beside(from, ARROWS[event.key]) : from;
      if (place !== state.answer?.place) state.set({ answer: asked(this.answers, state.answer, place, state.how), touched: true });
    });
  }

  /** The pixel of the image under a pointer. */
  pixel(event) {
    const { x, y } = placeOf(event, this.node);
    const view = this.view;
    const { height, width } = this.state.shown;
    return {
      x: Math.min(width - 1, Math.floor(view.x + x * view.width * view.step)),
      y: Math.min(height - 1, Math.floor(view.y + y * view.height * view.step)),
    };
  }

  drag(press, event) {
    const [right, down] = [event.clientX - press.x, event.clientY - press.y];
    if (Math.hypot(right, down) < DRAG) return false;
    const step = this.view.step * this.pixelRatio;
    this.look({ ...press.view, x: press.view.x - right * step, y: press.view.y - down * step });
    return true;
  }

  /** Makes the image larger or smaller; the pixel stays where it is. */
  zoom(times, pixel = null) {
    const { state } = this;
    const { height, width } = state.shown;
    const { x, y, zoom } = state.view ?? { x: 0, y: 0, zoom: 1 };
    const at = pixel ?? { x: x + width / zoom / 2, y: y + height / zoom / 2 };
    const next = Math.max(1, Math.min(FURTHEST, zoom * times));
    this.look({ x: at.x - ((at.x - x) * zoom) / next, y: at.y - ((at.y - y) * zoom) / next, zoom: next });
  }

  look({ x, y, zoom }) {
    const { height, width } = this.state.shown;
    const inside = (value, side) => Math.max(0, Math.min(side - side / zoom, value));
    this.state.set({ view: zoom > 1.001 ? { x: inside(x, width), y: inside(y, height), zoom } : null });
  }

  /** Number of the mask that is seen at a pixel, or null. */
  top(pixel, { x, y, step, width, height }) {
    const [column, row] = [Math.floor((pixel.x + 0.5 - x) / step), Math.floor((pixel.y + 0.5 - y) / step)];
    if (column < 0 || row < 0 || column >= width || row >= height) return null;
    return this.order[this.map[column * height + row] - 1]?.number ?? null;
  }

  click(pixel, event) {
    const { state } = this;
    if (state.tool === "click" && this.answers) {
      const how = event.altKey ? "less" : event.shiftKey ? "add" : state.how;
      state.set({ answer: asked(this.answers, state.answer, this.answers.nearest(pixel), how), touched: true });
      return;
    }
    const found = state.at(pixel);
    const more = event.shiftKey || event.ctrlKey || event.metaKey;
    if (!found.length) {
      if (!more) state.select(null);
      return;
    }
    const same = this.last && Math.hypot(this.last.x - event.clientX, this.last.y - event.clientY) < 2 * DRAG;
    const at = same && !more && state.selected.size === 1 ? found.findIndex((one) => state.selected.has(one.number)) : -1;
    this.last = { x: event.clientX, y: event.clientY };
    const next = found[(at + 1) % found.length].number;
    if (at < 0 || found.length > 1) state.select(next, more);
  }

  update() {
    const { state, painted } = this;
    const { height, width, name } = state.shown;
    document.getElementById("stage").style.setProperty("--ratio", width / height);
    this.node.setAttribute("aria-label", state.tool === "click"
      ? `${name}. Arrow keys move from place to place of the grid, 1 to 3 choose the mask, Enter keeps it.`
      : `${name}. Up and down go through the masks, Space shows or hides one, N names it.`);
    const view = this.view;
    const seen = JSON.stringify(view);
    for (const canvas of [this.base, this.tint, this.marks]) {
      if (canvas.width !== view.width || canvas.height !== view.height) {
        [canvas.width, canvas.height] = [view.width, view.height];
        painted.base = painted.tint = null;
      }
    }
    const base = [seen, this.picture?.src.length, state.image].join();
    if (this.picture && painted.base !== base) {
      this.drawPicture(this.base.getContext("2d"), view);
      painted.base = base;
    }
    if (painted.objects !== state.objects || painted.seen !== seen) {
      this.paintMap(view);
      Object.assign(painted, { objects: state.objects, seen, tint: null });
    }
    if (state.place) state.hovered = state.tool === "pick" ? this.top(state.place, view) : null;
    const tint = [state.opacity, state.outlines, state.colouring, state.tool === "click"].join();
    if (painted.tint !== tint) {
      this.paintTint(view);
      painted.tint = tint;
    }
    this.paintMarks(view);
    this.paintLabels(view);
    this.node.classList.toggle("zoomed", state.view !== null);
    this.hint.hidden = state.touched;
    this.hint.textContent = this.hintText();
    this.readout.replaceChildren(...this.words());
  }

  hintText() {
    const tap = matchMedia("(hover: none)").matches;
    if (this.state.tool === "click") return tap ? "Tap an object" : "Click an object";
    return tap ? "Tap a mask" : "Point at a mask";
  }

  drawPicture(context, { x, y, step, width, height }) {
    const scale = this.picture.naturalWidth / this.state.shown.width;
    context.imageSmoothingEnabled = step * scale > 0.34; // below, pixels are to be seen as they are
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, x * scale, y * scale, width * step * scale, height * step * scale, 0, 0, width, height);
  }

  /** For each pixel of the view, column after column, the smallest mask that covers it: 0 or 1 + its place in `order`. */
  paintMap(view) {
    const size = view.width * view.height;
    if (this.map?.length !== size) this.map = new Uint32Array(size);
    const { map } = this;
    map.fill(0);
    this.order = this.state.objects.filter((one) => one.visible).sort((a, b) => b.runs.area - a.runs.area);
    this.order.forEach((one, at) => {
      one.runs.each(view, (column, first, last) => map.fill(at + 1, column * view.height + first, column * view.height + last));
    });
  }

  paintTint({ width, height }) {
    const { state, map } = this;
    const context = this.tint.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const opacity = Math.round(255 * state.opacity * (state.tool === "click" ? 0.4 : 1));
    const colours = this.order.map((one) => state.colour(one));
    const inner = Uint32Array.from([0, ...colours.map((one) => packed(one, opacity))]);
    const edge = Uint32Array.from([0, ...colours.map((one) => packed(one, 255))]);
    const far = state.outlines ? Math.max(1, Math.round(1.3 * this.pixelRatio)) : 0;
    for (let column = 0; column < width; column += 1) {
      const [left, right] = [Math.max(0, column - far) - column, Math.min(width - 1, column + far) - column].map((by) => by * height);
      for (let row = 0, at = column * height; row < height; row += 1, at += 1) {
        const label = map[at];
        if (!label) continue;
        const onEdge = far && (
          map[at + left] !== label || map[at + right] !== label ||
          (row >= far && map[at - far] !== label) || (row + far < height && map[at + far] !== label)
        );
        pixels[row * width + column] = onEdge ? edge[label] : inner[label];
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** What is chosen, pointed at or answered, in outline over all the rest. */
  paintMarks(view) {
    const { state } = this;
    const { width, height } = view;
    const context = this.marks.getContext("2d", { willReadFrequently: true });
    context.clearRect(0, 0, width, height);
    const hovered = state.hovered === null ? null : state.object(state.hovered);
    const answered = state.tool === "click" ? state.answer : null;
    const chosen = state.tool === "click" ? [] : state.chosen;
    if (chosen.length) this.paintOutline(context, view, chosen.map((one) => one.runs), null, 1);
    if (hovered && !state.selected.has(hovered.number)) this.paintOutline(context, view, [hovered.runs], state.colour(hovered), 0.6);
    if (answered) this.paintOutline(context, view, [answered.runs], ANSWER, 1);
    if (state.tool === "click" && this.answers) {
      for (let place = 0; place < this.answers.count; place += 1) this.dot(context, view, this.answers.point(place), 1.1, "rgb(255 255 255 / 75%)", "rgb(0 0 0 / 55%)");
      for (const point of answered?.points ?? []) this.dot(context, view, point, 5, "#ffffff", "#c95400");
    } else for (const one of chosen.length === 1 ? chosen : []) {
      for (const [x, y] of one.points) this.dot(context, view, { x, y }, 4, "#ffffff", "#14161a");
    }
  }

  paintOutline(context, view, masks, fill, strength) {
    const { width, height } = view;
    const far = Math.max(1, Math.round(1.6 * strength * this.pixelRatio));
    if (this.covered?.length !== width * height) this.covered = new Uint8Array(width * height);
    const { covered } = this;
    covered.fill(0);
    let [x0, y0, x1, y1] = [width, height, 0, 0];
    for (const runs of masks) {
      runs.each(view, (column, first, last) => {
        covered.fill(1, column * height + first, column * height + last);
        [x0, x1] = [Math.min(x0, column), Math.max(x1, column + 1)];
        [y0, y1] = [Math.min(y0, first), Math.max(y1, last)];
      });
    }
    if (x1 <= x0) return;
    [x0, y0, x1, y1] = [Math.max(0, x0 - far), Math.max(0, y0 - far), Math.min(width, x1 + far), Math.min(height, y1 + far)];
    const image = context.getImageData(x0, y0, x1 - x0, y1 - y0);
    const pixels = new Uint32Array(image.data.buffer);
    const [white, dark] = [packed([255, 255, 255], 255), packed([20, 22, 26], 215)];
    const inner = fill ? packed(fill, 128) : null;
    const is = (column, row) => column >= 0 && row >= 0 && column < width && row < height && covered[column * height + row];
    for (let column = x0; column < x1; column += 1) {
      for (let row = y0; row < y1; row += 1) {
        const here = covered[column * height + row];
        const around = is(column - far, row) + is(column + far, row) + is(column, row - far) + is(column, row + far);
        const at = (row - y0) * (x1 - x0) + column - x0;
        if (here && around < 4) pixels[at] = white;
        else if (here) { if (inner !== null) pixels[at] = inner; }
        else if (around) pixels[at] = dark;
      }
    }
    context.putImageData(image, x0, y0);
  }

  dot(context, view, { x, y }, radius, inside, around) {
    const ratio = this.pixelRatio;
    context.beginPath();
    context.arc((x - view.x) / view.step, (y - view.y) / view.step, radius * ratio, 0, 2 * Math.PI);
    context.fillStyle = inside;
    context.strokeStyle = around;
    context.lineWidth = Math.max(0.6, radius * 0.45) * ratio;
    context.fill();
    context.stroke();
  }

  /** A mask and what lies around it, small: the rest of the image is dark. */
  paintCrop(canvas, runs) {
    const { height, width } = this.state.shown;
    const { x0, y0, x1, y1 } = runs.area ? runs.box : { x0: 0, y0: 0, x1: width, y1: height };
    const step = Math.max(1.25 * Math.max((x1 - x0) / canvas.width, (y1 - y0) / canvas.height), 0.05);
    const view = { x: (x0 + x1 - canvas.width * step) / 2, y: (y0 + y1 - canvas.height * step) / 2, step, width: canvas.width, height: canvas.height };
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#14161a";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (this.picture) this.drawPicture(context, view);
    const image = context.getImageData(0, 0, canvas.width, canvas.height);
    const covered = new Uint8Array(canvas.width * canvas.height);
    runs.each(view, (column, first, last) => covered.fill(1, column * canvas.height + first, column * canvas.height + last));
    for (let row = 0, at = 0; row < canvas.height; row += 1) {
      for (let column = 0; column < canvas.width; column += 1, at += 4) {
        if (!covered[column * canvas.height + row]) for (let part = 0; part < 3; part += 1) image.data[at + part] = image.data[at + part] * 0.3 + 14;
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** Names in the image, where there is one. */
  paintLabels(view) {
    const { state } = this;
    const named = state.labels && state.tool === "pick" ? this.order.filter((one) => one.name).slice(0, MOST_LABELS) : [];
    const nodes = named.flatMap((one) => {
      const { x, y } = one.runs.anchor;
      const [left, top] = [(x + 0.5 - view.x) / view.step / view.width, (y + 0.5 - view.y) / view.step / view.height];
      if (left < 0 || left > 1 || top < 0 || top > 1) return [];
      const node = element("span", {}, one.name);
      [node.style.left, node.style.top] = [left, top].map((share) => `${100 * share}%`);
      node.style.transform = `translate(${-100 * left}%, ${-100 * top}%)`; // so that all of it lies in the image
      node.style.borderColor = `rgb(${state.colour(one).join(" ")})`;
      return [node];
    });
    this.labels.replaceChildren(...nodes);
  }

  words() {
    const { state } = this;
    if (state.tool === "click") {
      if (!state.answer) return [`${whole(state.shown.clicks.count)} places have their masks in this page: click anywhere in the image.`];
      const { runs, how, which, place } = state.answer;
      const share = shareOf({ runs });
      if (how !== "new") return [element("b", {}, how === "add" ? "Added" : "Taken away"), `; the answer now covers ${whole(runs.area)} px, ${share}`];
      const mask = this.answers.of(place)[which];
      return [element("b", {}, `The ${mask.name}`), `, ${which + 1} of ${this.answers.many}: ${whole(runs.area)} px, ${share} · predicted IoU ${mask.iou.toFixed(2)}`];
    }
    const { place, chosen } = state;
    if (place && state.hovered === null) return [`No mask at ${place.x}, ${place.y}`];
    if (state.hovered === null && chosen.length !== 1) return [chosen.length ? `${whole(chosen.length)} masks chosen` : "\u00a0"];
    const one = state.hovered === null ? chosen[0] : state.object(state.hovered);
    return [element("b", {}, titleOf(one)), ` · ${factsOf(one)}`];
  }
}

/** Area, predicted IoU and stability in words; what is not known is left out. */
export function factsOf(one) {
  const parts = [`${whole(one.runs.area)} px, ${shareOf(one)}`];
  if (!Number.isNaN(one.iou)) parts.push(`predicted IoU ${one.iou.toFixed(2)}`);
  if (!Number.isNaN(one.stability)) parts.push(`stability ${one.stability.toFixed(2)}`);
  return parts.join(" · ");
}

export function sentenceOf(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function packed([r, g, b], opacity) {
  return ((opacity << 24) | (b << 16) | (g << 8) | r) >>> 0;
}
