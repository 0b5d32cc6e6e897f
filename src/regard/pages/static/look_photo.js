import { fitCanvas, imagePixels, paintValues, placeOf } from "./canvas.js";
import { colourOf, colourTable } from "./colours.js";
import { choice, element } from "./dom.js";
import { cosines, largest, percent, rangeOf, signed } from "./look_numbers.js";

/** What lies over the photo at this step: {grid, prefix, values, kind, low, high, text(value), title} or null. */
export function viewOf(state) {
  const { numbers, place } = state;
  const token = state.index(state.token);
  const name = state.name(token);
  const layer = `layer ${state.attending.number}`;
  if (state.step === "embedding" && numbers.words.embedding) {
    const arrays = numbers.embedding();
    if (!arrays) return null;
    const rows = state.embedding === "positions" ? arrays.positions : arrays.sum;
    const what = state.embedding === "positions" ? "position code" : "whole vector";
    return cosineView(place, cosines(rows, numbers.words.embedding.width, token), `How like the ${what} of ${name} the others are`);
  }
  if (state.step === "qkv") {
    if (state.channel) {
      const { part, index } = state.channel;
      const values = numbers.channel(state.layer, part, state.single, index);
      const word = { q: "Queries", k: "Keys", v: "Values" }[part];
      return values && signedView(place, values, `${word}, channel ${index}: ${layer}, head ${state.single}`);
    }
    if (state.attending.scale !== null) {
      const values = numbers.scores(state.layer, state.single, token);
      return values && signedView(place, values, `Scores of ${name} with every key: ${layer}, head ${state.single}`);
    }
  }
  if (state.step === "attention" || state.step === "qkv") {
    const values = numbers.attention(state.layer, state.head, token, state.to);
    if (!values) return null;
    const head = state.head < 0 ? "mean of the heads" : `head ${state.head}`;
    const title = state.to ? `Where ${name} looks: ${layer}, ${head}` : `Who looks at ${name}: ${layer}, ${head}`;
    return { ...place, values, kind: "heat", low: 0, high: rangeOf(values, place.prefix)[1], text: percent, title };
  }
  if (state.step === "block") {
    if (state.leaving === "norms") {
      const values = numbers.norms(state.layer);
      const title = `Lengths of the tokens that leave ${layer}`;
      return values && { ...place, values, kind: "heat", low: 0, high: rangeOf(values, place.prefix)[1], text: signed, title };
    }
    const values = numbers.similarity(state.layer, token);
    return values && cosineView(place, values, `How like ${name} the others are after ${layer}`);
  }
  if (state.step === "class" && numbers.words.explanations.length) {
    const map = numbers.map(state.method, state.target);
    const [low, high] = map ? rangeOf(map.values) : [0, 1];
    const chosen = numbers.words.explanations[state.method];
    const method = methodName(chosen.name);
    const title = chosen.count > 1 ? `What speaks for ${numbers.words.targets[state.target].name}: ${method}` : `What the answer draws on: ${method}`;
    const text = (value) => (value === 0 ? "0" : value.toPrecision(2)).replace("-", "−");
    if (!map) return null;
    if (low < 0) return { ...map, prefix: 0, kind: "balance", low: -Math.max(-low, high), high: Math.max(-low, high), text, title };
    return { ...map, prefix: 0, kind: "heat", low: 0, high, text, title };
  }
  return null;
}

function cosineView(place, values, title) {
  return { ...place, values, kind: "balance", low: -1, high: 1, text: signed, title };
}

function signedView(place, values, title) {
  const [low, high] = rangeOf(values);
  const far = Math.max(-low, high);
  return { ...place, values, kind: "balance", low: -far, high: far, text: signed, title };
}

/** The photo with the map over it, the tokens that are no patches, the scale, and what is said of the token. */
export class Photo {
  constructor(state, image, root) {
    this.state = state;
    this.source = imagePixels(image);
    this.map = document.createElement("canvas");
    this.canvas = element("canvas", { class: "photo-canvas", "aria-hidden": "true" });
    this.hint = element("p", { class: "hint", "aria-hidden": "true" }, matchMedia("(hover: none)").matches ? "Tap a patch" : "Point at a patch");
    this.field = element(
      "div",
      {
        class: "photo-field",
        tabindex: "0",
        role: "application",
        "aria-roledescription": "photo in patches",
        "aria-label": "The photo. Arrow keys move from patch to patch, Space holds one.",
        "aria-describedby": "readout",
      },
      this.canvas,
      this.hint,
    );
    this.title = element("h3", { class: "photo-title" });
    this.prefix = element("div", { class: "prefix", role: "group", "aria-label": "Tokens that are no patches" });
    this.readout = element("p", { class: "readout", id: "readout", "aria-live": "polite" });
    this.scale = element("div", { class: "scale" });
    this.low = element("span", { class: "number" });
    this.high = element("span", { class: "number" });
    this.bar = element("canvas", { class: "scale-bar pixels", "aria-hidden": "true" });
    this.scale.append(this.low, this.bar, this.high);
    this.direction = choice("Direction", [["true", "Where it looks"], ["false", "Who looks at it"]], (value) =>
      state.set({ to: value === "true" }),
    );
    this.hold = element("button", { type: "button", class: "plain-button", onclick: () => state.hold(!state.held) }, "Hold");
    this.strength = element("input", {
      type: "range", min: 0, max: 1, step: 0.05, value: state.strength, "aria-label": "From photo to map",
      oninput: (event) => state.set({ strength: Number(event.target.value) }),
    });
    const mix = element("label", { class: "mix quiet" }, "Photo", this.strength, "Map");
    this.mix = mix;
    root.append(
      this.title, this.field, this.prefix, this.readout,
      element("div", { class: "photo-controls" }, this.direction.node, this.hold, this.scale, mix),
    );
    this.listen();
    new ResizeObserver(() => state.again()).observe(this.field);
  }

  listen() {
    const { state, field } = this;
    const hover = (event) => {
      if (event.pointerType === "touch") return;
      const place = placeOf(event, field);
      Object.assign(state, { pixel: place });
      state.point(place, true);
    };
    field.addEventListener("pointermove", hover);
    let touch = false; // of a click, not every browser says by what
    field.addEventListener("pointerdown", (event) => { touch = event.pointerType === "touch"; });
    field.addEventListener("click", (event) => {
      const place = placeOf(event, field);
      Object.assign(state, { pixel: place });
      if (touch) state.point(place, true);
      else if (state.held && state.index(place) !== state.index(state.token)) state.set({ token: place, other: null });
      else {
        state.token = place;
        state.hold(!state.held);
      }
    });
  }

  update() {
    const { state } = this;
    const view = viewOf(state);
    this.view = view;
    const token = state.index(state.token);
    const attention = state.step === "attention" || (state.step === "qkv" && state.attending.scale === null);
    this.title.textContent = view ? view.title : state.step === "image" ? "The photo" : "The photo in patches";
    this.direction.show(state.to);
    this.direction.node.hidden = !attention;
    this.hold.hidden = ["image", "patches", "class"].includes(state.step);
    this.hold.setAttribute("aria-pressed", String(state.held));
    this.hold.textContent = state.held ? "Held" : "Hold";
    this.mix.hidden = this.scale.hidden = !view;
    this.hint.hidden = state.touched;
    this.paint(view, token);
    this.paintPrefix(view, token);
    this.paintScale(view);
    this.readout.replaceChildren(...this.words(view, token));
  }

  paint(view, token) {
    const { state, canvas, source } = this;
    const side = fitCanvas(canvas);
    const context = canvas.getContext("2d");
    const covered = view ? state.strength : 0;
    context.imageSmoothingEnabled = source.side > side;
    context.drawImage(covered ? source.grey : source.colour, 0, 0, side, side);
    context.imageSmoothingEnabled = false;
    if (view) {
      const [height, width] = view.grid;
      paintValues(this.map, view.values.subarray(view.prefix), width, height, view.kind, view.low, view.high, covered);
      context.drawImage(this.map, 0, 0, side, side);
    }
    const { grid, prefix } = state.place;
    if (state.step !== "image" && state.step !== "class") this.paintLines(context, side, grid, state.step === "patches");
    if (view && attendsInWindows(state)) this.paintWindow(context, side, view);
    if (state.step === "image" || state.step === "class") return;
    const other = this.other(view, token);
    if (other >= prefix) outline(context, side, grid, other - prefix, "#ffffff", "#c95400", 0.55);
    if (token >= prefix) outline(context, side, grid, token - prefix, "#ffffff", "#1d1c1a", 1);
  }

  paintLines(context, side, [height, width], strong) {
    if (side / Math.max(height, width) < 5) return;
    context.strokeStyle = strong ? "rgb(255 255 255 / 85%)" : "rgb(255 255 255 / 16%)";
    context.lineWidth = strong ? Math.max(1, side / 300) : 1;
    context.beginPath();
    for (let row = 1; row < height; row += 1) {
      context.moveTo(0, (row * side) / height);
      context.lineTo(side, (row * side) / height);
    }
    for (let column = 1; column < width; column += 1) {
      context.moveTo((column * side) / width, 0);
      context.lineTo((column * side) / width, side);
    }
    context.stroke();
  }

  /** The edge between tokens that are in the window of the pointed one and those that are not. */
  paintWindow(context, side, { grid: [height, width], values, prefix }) {
    const inside = (row, column) =>
      row >= 0 && column >= 0 && row < height && column < width && !Number.isNaN(values[prefix + row * width + column]);
    context.beginPath();
    for (let row = 0; row < height; row += 1) {
      for (let column = 0; column < width; column += 1) {
        if (!inside(row, column)) continue;
        const [left, top] = [(column * side) / width, (row * side) / height];
        const [right, bottom] = [((column + 1) * side) / width, ((row + 1) * side) / height];
        const edges = [
          [inside(row - 1, column), left, top, right, top], [inside(row + 1, column), left, bottom, right, bottom],
          [inside(row, column - 1), left, top, left, bottom], [inside(row, column + 1), right, top, right, bottom],
        ];
        for (const [same, x1, y1, x2, y2] of edges) {
          if (same) continue;
          context.moveTo(x1, y1);
          context.lineTo(x2, y2);
        }
      }
    }
    context.strokeStyle = "#ffffff";
    context.lineWidth = Math.max(2, side / 180);
    context.stroke();
  }

  paintPrefix(view, token) {
    const { state } = this;
    const { prefix } = state.place;
    const hide = state.step === "image" || state.step === "patches" || state.step === "class";
    this.prefix.hidden = hide || !prefix;
    if (this.prefix.hidden) return;
    if (this.prefix.childElementCount !== prefix) {
      const chips = Array.from({ length: prefix }, (_, index) => {
        const point = () => state.point({ prefix: index }, true);
        return element("button", { type: "button", class: "chip", onclick: () => state.set({ token: { prefix: index }, touched: true }), onpointerenter: (event) => event.pointerType !== "touch" && point() });
      });
      this.prefix.replaceChildren(...chips);
    }
    const other = this.other(view, token);
    [...this.prefix.children].forEach((chip, index) => {
      const value = view && view.prefix ? view.values[index] : NaN;
      chip.replaceChildren(element("span", {}, state.numbers.words.prefix[index]), element("b", { class: "number" }, Number.isNaN(value) ? "" : view.text(value)));
      chip.setAttribute("aria-pressed", String(index === token));
      chip.classList.toggle("other", index === other && index !== token);
      const colours = Number.isNaN(value) ? { paper: "", ink: "" } : colourOf(view.kind, value, view.low, view.high);
      [chip.style.backgroundColor, chip.style.color] = [colours.paper, colours.ink];
    });
  }

  paintScale(view) {
    if (!view) return;
    this.low.textContent = view.text(view.low);
    this.high.textContent = view.text(view.high);
    const table = colourTable(view.kind);
    const ramp = Float32Array.from({ length: table.length / 3 }, (_, step) => step);
    paintValues(this.bar, ramp, ramp.length, 1, view.kind, 0, ramp.length - 1);
  }

  /** The second token of the pair: the one pointed at while the first is held, else the one that matters most. */
  other(view, token) {
    const { state } = this;
    if (!view || !["attention", "qkv"].includes(state.step) || state.channel) return -1;
    return state.held && state.other ? state.index(state.other) : largest(view.values, token);
  }

  words(view, token) {
    const { state } = this;
    if (state.step === "image") return [this.pixelWords()];
    const name = element("b", {}, sentence(state.name(token)));
    const number = ` (token ${token})`;
    if (!view || state.step === "patches") return state.step === "class" ? [] : [name, number];
    if (state.step === "class") return [];
    if (state.channel) return [name, `${number}: ${view.text(view.values[token])}`];
    if (state.step === "embedding" || state.step === "block") {
      const other = state.held && state.other ? state.index(state.other) : -1;
      if (other >= 0) return [name, ` and ${state.name(other)}: ${view.text(view.values[other])}`];
      if (state.leaving === "norms" && state.step === "block") return [name, `: ${view.text(view.values[token])}`];
      const like = largest(view.values, token);
      return [name, ` is most like ${state.name(like)}: ${view.text(view.values[like])}`];
    }
    const other = this.other(view, token);
    const value = element("b", { class: "number pair-value" }, view.text(view.values[other] ?? NaN));
    if (view.kind === "balance") return [name, ` asks, ${state.name(other)} answers: score `, value];
    if (!state.to) return [sentence(state.name(other)), state.held && state.other ? " gives " : " looks at it most: ", value, ...(state.held && state.other ? [" of its attention to ", name] : [])];
    if (state.held && state.other) return [name, " gives ", value, ` of its attention to ${state.name(other)}`];
    return [name, ` looks most at ${state.name(other)}: `, value, " of its attention"];
  }

  pixelWords() {
    const { x, y } = this.state.pixel;
    const { side } = this.source;
    return `Row ${Math.floor(y * side)}, column ${Math.floor(x * side)} of ${side} × ${side} pixels`;
  }
}

function attendsInWindows(state) {
  return state.attending.windows > 0 && ["attention", "qkv"].includes(state.step) && !state.channel;
}

function outline(context, side, [height, width], patch, outer, inner, strength) {
  const [row, column] = [Math.floor(patch / width), patch % width];
  const line = Math.max(2, side / 210) * strength;
  const [x, y, w, h] = [(column * side) / width, (row * side) / height, side / width, side / height];
  context.lineJoin = "miter";
  context.strokeStyle = inner;
  context.lineWidth = 3 * line;
  context.strokeRect(x, y, w, h);
  context.strokeStyle = outer;
  context.lineWidth = 1.4 * line;
  context.strokeRect(x, y, w, h);
}

/** "gradcam+layer=3" as people write it. */
export function methodName(name) {
  return name.replaceAll("_", " ").replace("gradcam", "Grad-CAM");
}

export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
