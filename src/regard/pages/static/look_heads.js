import { paintValues } from "./canvas.js";
import { element } from "./dom.js";
import { MEAN, rangeOf } from "./look_numbers.js";

/** The pointed token's attention in every layer and head, each by its own maximum; a click chooses one. */
export class Heads {
  constructor(state) {
    this.state = state;
    const { layers } = state.numbers;
    const most = Math.max(...layers.map((layer) => layer.heads));
    this.node = element("div", { class: "heads", role: "grid", "data-arrows": true, "aria-label": "Attention in every layer and head" });
    this.node.style.setProperty("--columns", layers.length);
    this.cells = layers.map((layer, number) => Array.from({ length: layer.heads + 1 }, (_, row) => this.cell(number, row - 1)));
    const top = layers.map((layer) => element("span", { class: "heads-top number", role: "columnheader" }, `${layer.number}`));
    this.node.append(element("div", { class: "heads-row", role: "row" }, element("span", { class: "heads-label", role: "columnheader" }, "layer"), top));
    for (let row = 0; row <= most; row += 1) {
      const cells = this.cells.map((column) => column[row] ?? element("span", { role: "gridcell" }));
      const label = row ? (row === 1 ? "head 0" : `${row - 1}`) : "mean";
      this.node.append(element("div", { class: "heads-row", role: "row" }, element("span", { class: "heads-label number", role: "rowheader" }, label), cells));
    }
    this.node.addEventListener("keydown", (event) => this.arrow(event));
  }

  cell(layer, head) {
    const { state } = this;
    const name = head === MEAN ? "mean of the heads" : `head ${head}`;
    return element(
      "button",
      {
        type: "button", class: "head-cell", role: "gridcell", tabindex: "-1", title: `layer ${state.numbers.layers[layer].number}, ${name}`,
        "aria-label": `layer ${state.numbers.layers[layer].number}, ${name}`, "data-layer": layer, "data-head": head,
        onclick: () => state.set({ layer, head, channel: null }),
      },
      element("canvas", { class: "pixels", "aria-hidden": "true" }),
    );
  }

  arrow(event) {
    const { state } = this;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [layers, heads] = moves[event.key];
    if (layers) state.moveLayer(layers);
    if (heads) state.moveHead(heads);
    requestAnimationFrame(() => this.chosen().focus());
  }

  chosen() {
    return this.cells[this.state.layer][this.state.head + 1];
  }

  update() {
    const { state } = this;
    const { numbers } = state;
    numbers.layers.forEach((layer, number) => {
      const token = state.index(state.token, layer);
      this.cells[number].forEach((cell, row) => {
        const here = number === state.layer && row - 1 === state.head;
        cell.setAttribute("aria-selected", String(here));
        cell.tabIndex = here ? 0 : -1;
        const values = numbers.attention(number, row - 1, token, state.to);
        if (!values) return;
        const [height, width] = layer.grid;
        paintValues(cell.firstChild, values.subarray(layer.prefix), width, height, "heat", 0, rangeOf(values, layer.prefix)[1]);
      });
    });
  }
}
