import { choice, element, formula } from "./dom.js";
import { signed } from "./look_numbers.js";
import { sentence } from "./look_photo.js";
import { farthest, Strip } from "./look_strips.js";

const KINDS = {
  patches: "Each square is one token from here on. That two squares are neighbours is told to the model by their position codes alone.",
  normed: "Each square is one token from here on, and attends to others within windows of the grid.",
  overlapping: "A token stands for a square, but was made of overlapping windows, split and mixed twice (tokens to token): it has seen more than its square.",
  cnn: "A small CNN has looked first: a token is one place of its last map, and has seen more of the photo than its square.",
};

/** 1: the pixels. */
export class ImageStep {
  constructor(state, photo) {
    this.state = state;
    this.photo = photo;
    const { image } = state.numbers.words;
    this.rows = ["Red", "Green", "Blue"].map((name) => [element("th", { scope: "row" }, name), element("td"), element("td")]);
    this.swatch = element("span", { class: "swatch" });
    this.node = element(
      "div",
      {},
      element("p", { class: "lede" }, `The model is given ${image.side} × ${image.side} pixels of three numbers, and nothing else. The file has ${image.width} × ${image.height}: ${image.prepared}. Then each channel is shifted and scaled by the mean μ and the spread σ of the photos that the model learned from.`),
      formula("x = (pixel / 255 − μ) / σ"),
      element("div", { class: "pixel" }, this.swatch,
        element("table", {}, element("thead", {}, element("tr", {}, element("th"), element("th", { scope: "col" }, "pixel"), element("th", { scope: "col" }, "the model’s number"))),
          element("tbody", {}, this.rows.map((row) => element("tr", {}, row))))),
    );
  }

  update() {
    const { state, photo } = this;
    const { mean, std } = state.numbers.words.image;
    const { side, data } = photo.source;
    const at = 4 * (Math.floor(state.pixel.y * side) * side + Math.floor(state.pixel.x * side));
    this.rows.forEach(([, pixel, number], channel) => {
      pixel.textContent = data[at + channel];
      number.textContent = signed((data[at + channel] / 255 - mean[channel]) / std[channel], 3);
    });
    this.swatch.style.backgroundColor = `rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`;
  }
}

/** 2: the squares. */
export class PatchStep {
  constructor(state, photo) {
    this.state = state;
    this.photo = photo;
    const { image, embedding } = state.numbers.words;
    const [height, width] = embedding.grid;
    const [down, right] = [image.side / height, image.side / width];
    this.canvas = element("canvas", { class: "patch-zoom pixels", role: "img" });
    this.said = element("p", { class: "number" });
    const exact = embedding.kind === "patches" || embedding.kind === "normed";
    this.node = element(
      "div",
      {},
      element("p", { class: "lede" }, `The photo is cut into ${height} × ${width} = ${height * width} squares of ${down} × ${right} pixels. ${KINDS[embedding.kind]}`),
      formula(exact ? `N = (${image.side} / ${down})^2 = ${height * width},   numbers in a patch: ${down} · ${right} · 3 = ${down * right * 3}` : `N = ${height} · ${width} = ${height * width}`),
      element("figure", { class: "patch" }, this.canvas, element("figcaption", {}, this.said)),
    );
  }

  update() {
    const { state, photo, canvas } = this;
    const { embedding } = state.numbers.words;
    const token = state.index(state.token);
    const patch = Math.max(0, token - embedding.prefix);
    const [height, width] = embedding.grid;
    const [down, right] = [photo.source.side / height, photo.source.side / width];
    [canvas.width, canvas.height] = [right, down];
    const [row, column] = [Math.floor(patch / width), patch % width];
    canvas.getContext("2d").drawImage(photo.source.colour, column * right, row * down, right, down, 0, 0, right, down);
    const words = token < embedding.prefix ? `${sentence(state.name(token))} is no patch; this is patch 0, 0. Point at another.` : `The pixels of patch ${row}, ${column} (row, column)`;
    this.said.textContent = words;
    canvas.setAttribute("aria-label", words);
  }
}

/** 3: vectors and positions. */
export class EmbeddingStep {
  constructor(state) {
    this.state = state;
    const { embedding } = state.numbers.words;
    const prefix = state.numbers.words.prefix.slice(0, embedding.prefix);
    const first = `A learned linear map E turns each patch into a vector of ${embedding.width} numbers`;
    const tokens = prefix.length ? `; in front come ${prefix.length > 1 ? `${prefix.length} learned vectors` : "a learned vector"} that belong${prefix.length > 1 ? "" : "s"} to no patch (${shortened(prefix)})` : "";
    const positions = embedding.positions ? ". To each the code of its place is added, so that order means something." : embedding.kind === "normed" ? ", which is normed. Places are told later: by what each pair’s distance adds to its score." : ". No code of the place is added: to this model the order of the patches means nothing.";
    this.content = new Strip("token");
    this.positions = embedding.positions ? new Strip("position") : null;
    this.sum = embedding.positions ? new Strip("sum") : null;
    this.what = embedding.positions ? choice("Compare by", [["positions", "Position code"], ["sum", "Whole vector"]], (value) => state.set({ embedding: value })) : null;
    this.name = element("h3", { class: "number" });
    const parts = embedding.prefix ? "z_0 = [x_{cls}; x_1E; … ; x_NE]" : "z_0 = [x_1E; … ; x_NE]";
    this.node = element(
      "div",
      {},
      element("p", { class: "lede" }, first + tokens + positions),
      formula(parts + (embedding.positions ? " + E_{pos}" : "")),
      this.name,
      this.content.node,
      this.positions ? [this.positions.node, this.sum.node] : null,
      element("p", { class: "note" }, "A strip is one vector, a colour for each number: blue below zero, orange above. Point at it to read one."),
      this.what ? element("div", { class: "ask" }, element("p", { class: "note" }, "Over the photo: the cosine with each other patch’s"), this.what.node) : null,
    );
  }

  update() {
    const { state } = this;
    const arrays = state.numbers.embedding();
    if (this.what) this.what.show(state.embedding);
    if (!arrays) return;
    const { width } = state.numbers.words.embedding;
    const token = state.index(state.token);
    const [content, positions, sum] = ["content", "positions", "sum"].map((key) => arrays[key]?.subarray(token * width, (token + 1) * width));
    const far = farthest(...[content, positions, sum].filter(Boolean));
    this.name.textContent = `The vectors of ${state.name(token)}`;
    this.content.label.textContent = token < state.place.prefix ? "learned" : "patch";
    this.content.show(content, far);
    if (this.positions) {
      this.positions.show(positions, far);
      this.sum.show(sum, far);
    }
  }
}

function shortened(names) {
  return names.length > 3 ? `${names[0]}, ${names[1]} … ${names.at(-1)}` : names.join(", ");
}
