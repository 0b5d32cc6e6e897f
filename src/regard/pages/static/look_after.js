import { choice, element, formula } from "./dom.js";
import { Chooser } from "./look_attention.js";
import { lineChart } from "./look_chart.js";
import { percent, signed } from "./look_numbers.js";
import { methodName, sentence } from "./look_photo.js";

const METHODS = {
  attention: "How much the token that the head reads looks at each patch, in the last layer. The same for every class.",
  rollout: "Attention multiplied through all layers, with half of each token staying where it is. The same for every class.",
  gradient_rollout: "Rollout of attention weighted by how much it would raise the class.",
  relevance: "Attention weighted by its gradient, added up from layer to layer: what raises the class.",
  gradcam: "Last tokens weighted by how much, on average, each of their numbers would raise the class.",
  integrated_gradients: "Gradients of the class summed on the way from a blank image to this one.",
  occlusion: "How much the class loses when a place is covered.",
};

/** 6: what leaves the block. */
export class BlockStep {
  constructor(state) {
    this.state = state;
    this.chooser = new Chooser(state, false);
    this.chart = element("div");
    this.what = choice("Over the photo", [["similarity", "Likeness"], ["norms", "Length"]], (value) => state.set({ leaving: value }));
    this.facts = element("dl", { class: "facts" });
    this.lede = element("p", { class: "lede" });
    this.formula = element("div");
    this.node = element(
      "div",
      {},
      this.lede,
      this.formula,
      this.chooser.node,
      element("div", { class: "ask" }, element("p", { class: "note" }, "Over the photo"), this.what.node),
      this.facts,
      element("h3", {}, "How long the token grows"),
      this.chart,
      element("p", { class: "note" }, "The line is the pointed token, the band holds all tokens of the layer. A token far above the others is a high-norm token: models use some that way as scratch paper, and their attention says little about the place."),
    );
  }

  update() {
    const { state } = this;
    const { numbers } = state;
    this.chooser.update(false);
    this.what.show(state.leaving);
    const [lede, equation] = blockWords(numbers.words.embedding, state.attending);
    this.lede.textContent = lede;
    this.formula.replaceChildren(formula(equation));
    const all = numbers.layers.map((layer, number) => numbers.norms(number));
    if (all.some((norms) => !norms)) return;
    const own = numbers.layers.map((layer, number) => all[number][state.index(state.token, layer.out)]);
    const band = { low: all.map((norms) => Math.min(...norms)), high: all.map((norms) => Math.max(...norms)) };
    this.chart.replaceChildren(
      lineChart({
        series: [{ name: "token", values: own, className: "own", dots: true }], band, labels: numbers.layers.map((layer) => layer.number),
        axis: "layer", text: (value) => signed(value, value < 10 ? 1 : 0), pick: (layer) => state.moveLayer(layer - state.layer), chosen: state.layer,
        title: "Length of the token after each layer",
      }),
    );
    const token = state.index(state.token);
    const similarity = numbers.similarity(state.layer, token);
    if (!similarity) return;
    const others = [...similarity].filter((value, at) => at !== token && at >= state.place.prefix);
    const sorted = [...all[state.layer]].sort((a, b) => a - b);
    const facts = [
      [signed(own[state.layer], 1), "its length"],
      [signed(sorted[Math.floor(sorted.length / 2)], 1), "median length of all tokens"],
      [signed(others.reduce((sum, value) => sum + value, 0) / others.length), "mean cosine with the patches"],
    ];
    this.facts.replaceChildren(...facts.map(([number, what]) => element("div", {}, element("dt", {}, what), element("dd", { class: "number" }, number))));
  }
}

/** What a block does with what its heads took up, and its equation. */
function blockWords(embedding, layer) {
  if (!embedding) return ["What the heads took up passes the last convolution of the unit and is added to the map that came in.", "z ← z + conv(MSA(conv(z)))"];
  const mlp = "then a small network (MLP) that works on each token alone adds its part";
  if (layer.name.startsWith("tokens_to_token")) return [`The token is narrowed here, so what the head took up is added to its value v; ${mlp}.`, "z′ = v + MSA(LN(z)),   z ← z′ + MLP(LN(z′))"];
  return [`What the heads took up is added to the token, ${mlp}. So a token changes from block to block, and keeps what it was.`, "z′ = z + MSA(LN(z)),   z ← z′ + MLP(LN(z′))"];
}

/** 7: the answer, what speaks for it, and when it was found. */
export class ClassStep {
  constructor(state) {
    this.state = state;
    const { words } = state.numbers;
    const { targets, explanations, depth, kind } = words;
    const probability = kind !== "number";
    const divided = words.temperature === 1 ? "logits" : `logits / ${words.temperature.toPrecision(3)}`;
    const text = (target) => (probability ? percent(target.score) : target.score.toPrecision(4));
    this.rows = targets.map((target, number) => {
      const bar = element("span", { class: "bar" }, element("span"));
      bar.firstChild.style.width = `${100 * (probability ? target.score : 0)}%`;
      return element("button", { type: "button", class: "class-row", "data-class": number, onclick: () => state.set({ target: number }) },
        element("span", { class: "class-name" }, target.name), probability ? bar : null,
        element("b", { class: "number" }, text(target)), element("span", { class: "number quiet" }, `logit ${signed(target.logit)}`));
    });
    this.methods = explanations.length ? choice("Method", explanations.map((one, number) => [number, methodName(one.name), one.name]), (value) => state.set({ method: Number(value) })) : null;
    this.method = element("p", { class: "note" });
    this.chart = element("div");
    this.depth = depth;
    const read = words.embedding ? "LN(z)" : "z";
    this.node = element(
      "div",
      {},
      element("p", { class: "lede" }, `The head reads ${words.reads} after the last block: one product with a learned vector for each of ${words.count.toLocaleString("en")} class${words.count === 1 ? "" : "es"}.${probability ? " Choose one to ask what speaks for it." : ""}`),
      formula(probability ? `logits = W · ${read} + b,   p = ${kind}(${divided})` : `y = W · ${read} + b`),
      element("div", { class: "classes" }, this.rows),
      this.methods ? [element("h3", {}, "What speaks for it"), this.methods.node, this.method] : null,
      words.absent.map((line) => element("p", { class: "note" }, `${sentence(line)}.`)),
      depth ? [element("h3", {}, "When it was found"), this.chart, element("p", { class: "note" }, "Norm and head read the tokens as if each layer were the last. They were trained for the last one alone, so early answers say what the head makes of the tokens, not what these hold.")] : null,
    );
  }

  update() {
    const { state } = this;
    this.rows.forEach((row, number) => row.setAttribute("aria-pressed", String(number === state.target)));
    if (this.methods) {
      const { name } = state.numbers.words.explanations[state.method];
      this.methods.show(state.method);
      this.method.textContent = METHODS[name.split("+")[0]] ?? "";
    }
    if (!this.depth) return;
    const { labels, scores, best } = this.depth;
    const { targets, kind } = state.numbers.words;
    const probability = kind !== "number";
    const series = targets.map((target, number) => ({ name: target.name, values: scores.map((row) => row[number]), className: number === state.target ? "own" : "other", dots: number === state.target }));
    series.sort((a, b) => (a.className === "own") - (b.className === "own"));
    const short = labels.map((label) => label.replace("layer ", "").replace("embedding", "start"));
    const last = best.map(([name]) => name);
    const since = last.findLastIndex((name) => name !== last.at(-1)) + 1;
    const told = since === 0 ? "from the start" : `from ${labels[since]} on`;
    this.chart.replaceChildren(
      lineChart({ series, band: null, labels: short, axis: "after layer", text: probability ? percent : (value) => signed(value, 1), top: probability ? 1 : undefined, chosen: -1, title: `Score of ${targets[state.target].name} after each layer` }),
      element("p", { class: "found" }, element("b", {}, last.at(-1)), ` leads ${told}. After ${labels[0] === "embedding" ? "the embedding" : labels[0]} it would have been ${best[0][0]}.`),
    );
  }
}
