import { element } from "./dom.js";
import { listenToKeys } from "./keyboard.js";
import { AttentionStep, QkvStep } from "./look_attention.js";
import { BlockStep, ClassStep } from "./look_after.js";
import { EmbeddingStep, ImageStep, PatchStep } from "./look_before.js";
import { Numbers } from "./look_numbers.js";
import { Photo } from "./look_photo.js";
import { State } from "./look_state.js";
import { applyTheme, onTheme, switchTheme } from "./theme.js";

const STEPS = [
  ["image", "Image", "What the model is given", ImageStep],
  ["patches", "Patches", "Cut into patches", PatchStep],
  ["embedding", "Embedding", "Patches become vectors", EmbeddingStep],
  ["qkv", "Query, key, value", "Every token asks, every token answers", QkvStep],
  ["attention", "Attention", "Where a token looks", AttentionStep],
  ["block", "Block", "What a token has become", BlockStep],
  ["class", "Class", "What the model says", ClassStep],
];

class Page {
  constructor(words, image) {
    this.words = words;
    this.numbers = new Numbers(words, () => this.state.again());
    this.state = new State(this.numbers);
    this.photo = new Photo(this.state, image, document.getElementById("photo"));
    this.steps = STEPS.filter(([step]) => words.embedding || !["patches", "embedding"].includes(step));
    this.made = new Map();
    this.tabs = this.steps.map(([step, name], at) => this.tab(step, name, at));
    document.getElementById("steps").append(...this.tabs);
    this.panel = document.getElementById("panel");
    this.state.listeners.push(() => this.update());
    this.listen();
  }

  tab(step, name, at) {
    return element(
      "button",
      { type: "button", role: "tab", id: `tab-${step}`, class: "step", "aria-controls": "panel", onclick: () => this.go(step) },
      element("span", { class: "step-number number" }, `${at + 1}`),
      element("span", { class: "step-name" }, name),
      element("span", { class: "step-shape number" }),
    );
  }

  go(step) {
    this.state.set({ step, channel: null });
  }

  listen() {
    const { state } = this;
    document.getElementById("steps").addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      const at = Math.max(0, Math.min(this.steps.length - 1, this.at() + by));
      this.go(this.steps[at][0]);
      this.tabs[at].focus();
    });
    const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const open = listenToKeys(
      [
        { keys: Object.keys(arrows), what: "move the token, patch by patch", does: (key) => state.move(...arrows[key]) },
        { keys: ["c"], what: "the class token, or whatever comes first", does: () => state.set({ token: { prefix: 0 }, touched: true }) },
        { keys: [" ", "Enter"], what: "hold the token, and point at a second", does: () => state.hold(!state.held) },
        { keys: ["[", "]"], what: "layer before, next layer", does: (key) => state.moveLayer(key === "]" ? 1 : -1) },
        { keys: [",", "."], what: "head before, next head", does: (key) => state.moveHead(key === "." ? 1 : -1) },
        { keys: ["d"], what: "direction: where it looks, who looks at it", does: () => state.set({ to: !state.to }) },
        { keys: ["m"], what: "next method of explanation", does: () => state.set({ method: (state.method + 1) % Math.max(1, this.words.explanations.length) }) },
        { keys: this.steps.map((_, at) => `${at + 1}`), what: "steps", does: (key) => this.go(this.steps[Number(key) - 1][0]) },
        { keys: ["t"], what: "light or dark", does: switchTheme },
        { keys: ["Escape"], what: "let go", does: () => state.set({ held: false, other: null, channel: null }) },
        { keys: ["?"], what: "this list", does: () => open() },
      ],
      "Layers, heads, rows, columns and tokens are counted from 0, as record() counts them.",
    );
    document.getElementById("open-keys").addEventListener("click", open);
    document.getElementById("switch-theme").addEventListener("click", switchTheme);
    onTheme(() => state.again());
  }

  at() {
    return this.steps.findIndex(([step]) => step === this.state.step);
  }

  /** What flows out of a step: the shape of its tensor. */
  shape(step) {
    const { image, embedding, count } = this.words;
    const { heads, places, dim, windows, out } = this.state.attending;
    const many = windows > 1 ? `${windows} · ` : "";
    if (step === "image") return `3 × ${image.side} × ${image.side}`;
    if (step === "patches") return `${embedding.grid[0]} × ${embedding.grid[1]}`;
    if (step === "embedding") return `${this.numbers.count(embedding)} × ${embedding.width}`;
    if (step === "qkv") return `3 × ${many}${heads} × ${places} × ${dim}`;
    if (step === "attention") return `${many}${heads} × ${places} × ${places}`;
    if (step === "block") return `${this.numbers.count(out)} × ${out.width}`;
    return `${count.toLocaleString("en")}`;
  }

  update() {
    const { step } = this.state;
    this.tabs.forEach((tab, at) => {
      const here = this.steps[at][0] === step;
      if (here && tab.getAttribute("aria-selected") !== "true") tab.scrollIntoView({ block: "nearest", inline: "center" });
      tab.setAttribute("aria-selected", String(here));
      tab.tabIndex = here ? 0 : -1;
      tab.lastChild.textContent = this.shape(this.steps[at][0]);
    });
    if (!this.made.has(step)) {
      const [, , title, Kind] = this.steps[this.at()];
      const made = new Kind(this.state, this.photo);
      made.frame = element("div", {}, element("h2", {}, title), made.node);
      this.made.set(step, made);
    }
    const made = this.made.get(step);
    if (this.panel.firstChild !== made.frame) {
      this.panel.replaceChildren(made.frame);
      this.panel.setAttribute("aria-labelledby", `tab-${step}`);
    }
    this.photo.update();
    made.update();
    document.documentElement.dataset.step = step;
  }
}

async function start() {
  applyTheme();
  const words = JSON.parse(document.getElementById("page").textContent);
  const image = new Image();
  image.src = words.image.url;
  if (!("DecompressionStream" in window)) throw new Error("this browser is too old for the page: it cannot unpack gzip");
  const page = new Page(words, image.naturalWidth ? image : (await image.decode(), image));
  await page.numbers.blobs.load(`pattern-${page.state.layer}`);
  page.update();
  document.documentElement.dataset.ready = Math.round(performance.now()); // ms since the page was asked for
  for (const name of Object.keys(words.index)) {
    if (name.startsWith("pattern-")) {
      await page.numbers.blobs.load(name);
      page.state.again();
    }
  }
}

start().catch((error) => {
  document.getElementById("photo").textContent = `The page cannot be shown: ${error.message}.`;
  console.error(error);
});
