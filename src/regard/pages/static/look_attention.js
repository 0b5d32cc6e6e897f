import { element, formula } from "./dom.js";
import { Heads } from "./look_heads.js";
import { dot, largest, percent, signed } from "./look_numbers.js";
import { sentence } from "./look_photo.js";
import { farthest, Strip } from "./look_strips.js";

/** The choice of a layer and, where it says something, of a head. */
export class Chooser {
  constructor(state, withHead) {
    this.state = state;
    this.layer = element(
      "select",
      { id: `layer-${state.step}`, onchange: (event) => state.moveLayer(Number(event.target.value) - state.layer) },
      state.numbers.layers.map((layer, number) => element("option", { value: number }, `${layer.number}`)),
    );
    this.head = withHead ? element("select", { onchange: (event) => state.set({ head: Number(event.target.value), channel: null }) }) : null;
    this.name = element("code", { class: "quiet" });
    const turn = (label, title, does) => element("button", { type: "button", class: "turn", title, "aria-label": title, onclick: does }, label);
    this.node = element(
      "div",
      { class: "chooser" },
      element("label", {}, "Layer", this.layer), turn("‹", "layer before", () => state.moveLayer(-1)), turn("›", "next layer", () => state.moveLayer(1)),
      withHead ? [element("label", {}, "Head", this.head), turn("‹", "head before", () => state.moveHead(-1)), turn("›", "next head", () => state.moveHead(1))] : null,
      this.name,
    );
    this.heads = -1;
  }

  update(single) {
    const { state } = this;
    const { heads, name } = state.attending;
    const shown = single ? heads : -heads;
    if (this.head && this.heads !== shown) {
      const options = single ? [] : [element("option", { value: -1 }, "mean")];
      for (let head = 0; head < heads; head += 1) options.push(element("option", { value: head }, `${head}`));
      this.head.replaceChildren(...options);
      this.heads = shown;
    }
    this.layer.value = String(state.layer);
    if (this.head) this.head.value = String(single ? state.single : state.head);
    this.name.textContent = name;
  }
}

/** 4: what a token asks, and what another answers. */
export class QkvStep {
  constructor(state) {
    this.state = state;
    this.chooser = new Chooser(state, true);
    const strip = (part, label) => new Strip(label, (index) => {
      const same = state.channel?.part === part && state.channel.index === index;
      state.set({ channel: same ? null : { part, index } });
    });
    this.strips = { q: strip("q", "query"), k: strip("k", "key"), v: strip("v", "value") };
    this.product = new Strip("q · k");
    this.pair = element("h3", { class: "pair number" });
    this.sum = element("p", { class: "sum number" });
    this.note = element("p", { class: "note" });
    this.formula = element("div");
    this.lede = element("p", { class: "lede" });
    this.node = element(
      "div",
      {},
      this.lede,
      this.formula,
      this.chooser.node,
      this.pair,
      this.strips.q.node, this.strips.k.node, this.product.node, this.sum, this.strips.v.node,
      this.note,
    );
  }

  update() {
    const { state } = this;
    const { numbers, attending: layer, layer: number, single: head } = state;
    this.chooser.update(true);
    const token = state.index(state.token);
    const weights = numbers.attention(number, head, token, true);
    const query = numbers.vector(number, "q", head, token);
    if (!weights || !query) return;
    const given = state.held && state.other ? state.index(state.other) : -1;
    const outside = given >= 0 && Number.isNaN(weights[given]);
    const other = given >= 0 && !outside ? given : largest(weights, token);
    const scored = layer.scale !== null;
    this.lede.textContent = scored
      ? `Three learned maps make of each token, in each of ${layer.heads} head${layer.heads > 1 ? "s" : ""}, a query, a key and a value of ${layer.dim} numbers. The query of one token meets the keys of ${layer.windows ? "those in its window" : "all"}: their product says how well the answer fits the question.`
      : `Queries, keys and values of ${layer.dim} numbers each. This layer forms no scores: it compares random features of query and key, which stand for the softmax (a performer).`;
    this.formula.replaceChildren(scored ? formula(`s_{ij} = q_i · k_j / √${Math.abs(layer.scale - layer.dim ** -0.5) < 1e-6 ? "d" : "c"}${layer.bias ? " + b_{ij}" : ""}`) : formula("a_{ij} = φ(q_i) · φ(k_j) / Σ_j φ(q_i) · φ(k_j)"));
    this.note.textContent = `Choose a number of a query, key or value to see that channel of all tokens as an image.${scored ? " Where query and key of a channel have the same sign, it adds to the score." : ""}`;
    const key = numbers.vector(number, "k", head, other);
    const value = numbers.vector(number, "v", head, other);
    const product = query.map((one, at) => one * key[at]);
    this.pair.textContent = `${sentence(state.name(token))} asks ${other === token ? "itself" : state.name(other)}`;
    const picked = (part) => (state.channel?.part === part ? state.channel.index : -1);
    const far = farthest(query, key);
    this.strips.q.show(query, far, undefined, picked("q"));
    this.strips.k.show(key, far, undefined, picked("k"));
    this.product.show(product, farthest(product), `sum ${signed(dot(query, key))}`);
    this.strips.v.show(value, farthest(value), undefined, picked("v"));
    const bias = numbers.biasOf(number, head, token, other);
    const score = scored ? layer.scale * dot(query, key) + bias : NaN;
    this.sum.replaceChildren(
      ...(scored ? ["score ", element("b", { class: "score-value" }, signed(score)), ` = ${signed(dot(query, key))} × ${layer.scale.toPrecision(3)}${layer.bias ? ` + ${signed(bias)} for their distance` : ""}  →  `] : []),
      element("b", { class: "weight-value" }, percent(weights[other])), " of its attention",
    );
  }
}

/** 5: the pattern. */
export class AttentionStep {
  constructor(state) {
    this.state = state;
    this.chooser = new Chooser(state, true);
    this.heads = new Heads(state);
    this.facts = element("dl", { class: "facts" });
    const { layers } = state.numbers;
    const windows = layers.some((layer) => layer.windows);
    this.node = element(
      "div",
      {},
      element("p", { class: "lede" }, `The softmax turns the scores of a token into shares that sum to 1; with these it takes up the others’ values. ${windows ? "It looks only inside its window, which is outlined. " : ""}Below: the same token in every layer, from left to right, and every head, each in the scale of its own maximum.`),
      formula("A = softmax(s),   o_i = Σ_j A_{ij} v_j"),
      this.chooser.node,
      this.heads.node,
      this.facts,
    );
  }

  update() {
    const { state } = this;
    this.chooser.update(false);
    this.heads.update();
    const token = state.index(state.token);
    const values = state.numbers.attention(state.layer, state.head, token, true);
    if (!values) return;
    const { grid: [height, width], prefix } = state.attending;
    let [distance, patches, entropy, own] = [0, 0, 0, 0];
    const side = state.numbers.words.image.side;
    values.forEach((share, other) => {
      if (!(share > 0)) return;
      entropy -= share * Math.log2(share);
      if (other < prefix) own += share;
      else if (token >= prefix) {
        const [a, b] = [token - prefix, other - prefix];
        const down = ((Math.floor(a / width) - Math.floor(b / width)) * side) / height;
        const right = (((a % width) - (b % width)) * side) / width;
        distance += share * Math.hypot(down, right);
        patches += share;
      }
    });
    const facts = [
      [percent(values[token]), "to itself"],
      prefix ? [percent(own), prefix > 1 ? "to tokens that are no patch" : "to the class token"] : null,
      [`${(2 ** entropy).toFixed(0)} tokens`, "among so many it spreads (2 to the entropy)"],
      patches > 0 ? [`${(distance / patches).toFixed(0)} px`, "mean distance of the patches it looks at"] : null,
    ];
    this.facts.replaceChildren(...facts.filter(Boolean).map(([number, what]) => element("div", {}, element("dt", {}, what), element("dd", { class: "number" }, number))));
  }
}
