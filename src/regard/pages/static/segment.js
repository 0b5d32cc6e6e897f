import { Blobs } from "./blobs.js";
import { choice, element } from "./dom.js";
import { listenToKeys } from "./keyboard.js";
import { AnswerCard, Card, controls } from "./segment_card.js";
import { Answers } from "./segment_clicks.js";
import { cocoOf, download, labelsOf, stem } from "./segment_export.js";
import { Field } from "./segment_field.js";
import { List } from "./segment_list.js";
import { Runs } from "./segment_runs.js";
import { Drawing, SegmentState, whole } from "./segment_state.js";
import { applyTheme, onTheme, switchTheme } from "./theme.js";

class MaskPage {
  constructor(words) {
    this.words = words;
    this.state = new SegmentState(words);
    this.blobs = new Blobs(words.index, () => {});
    this.answers = new Map();
    this.pictures = new Map();
    this.saved = "[]";
    const at = (id) => document.getElementById(id);
    this.field = new Field(this.state, at("image-side"));
    this.controls = controls(this.state);
    at("image-side").append(this.controls.node);
    this.answer = new AnswerCard(this.state, this.field, at("answer"));
    this.card = new Card(this.state, at("card"));
    this.list = new List(this.state, at("list"));
    this.take(at("take"));
    this.heading = at("heading");
    if (words.images.length > 1) this.chooser(at("images"));
    this.state.listeners.push(() => this.update());
    this.listen();
  }

  /** Unpacks an image and its masks, once. */
  async load(image) {
    const { state, words } = this;
    if (state.drawings.has(image)) return;
    const { height, width, names, points, clicks } = words.images[image];
    const picture = new Image();
    picture.src = document.getElementById(`blob-picture-${image}`).textContent;
    const [masks, answers] = await Promise.all([
      this.blobs.load(`masks-${image}`), clicks && this.blobs.load(`clicks-${image}`), picture.decode(),
    ]);
    this.pictures.set(image, picture);
    if (answers) this.answers.set(image, new Answers(answers, clicks, words.images[image]));
    const { runs, starts, number, iou, stability, score } = masks;
    state.drawings.set(image, new Drawing(names.map((name, at) => ({
      number: number.values[at],
      runs: Runs.ofLetters(height, width, runs.values.subarray(starts.values[at], starts.values[at + 1])),
      name, points: points[at], iou: iou.values[at], stability: stability.values[at], score: score.values[at],
      visible: true, colour: null,
    }))));
    state.again();
  }

  chooser(root) {
    const { state, words } = this;
    this.select = element("select", { class: "select-field", "aria-label": "Image", onchange: (event) => this.go(Number(event.target.value)) },
      words.images.map(({ name }, at) => element("option", { value: at }, name)));
    this.number = element("span", { class: "quiet image-count number" });
    const turn = (by, text, label) => element("button", { type: "button", class: "plain-button turn-image", "aria-label": label, onclick: () => this.go(state.image + by) }, text);
    root.append(turn(-1, "←", "Image before"), this.select, turn(1, "→", "Next image"), this.number);
  }

  go(image) {
    this.taken.textContent = "";
    this.state.go(image);
    this.load(this.state.image);
  }

  /** Which masks are taken along, and as what. */
  take(root) {
    const { state } = this;
    this.which = "named";
    this.takes = choice("Which masks", [["named", "Named"], ["all", "All shown"]], (value) => {
      this.which = value;
      state.again();
    });
    const button = (text, does, title) => element("button", { type: "button", class: "plain-button", title, onclick: does }, text);
    this.coco = button("COCO JSON", () => this.takeCoco(), "all images of the page in one file");
    this.png = button("PNG", () => this.takePng(), "a label map of this image: a pixel is the number of its mask");
    this.unnamed = element("p", { class: "quiet taken" }, "Name a mask to export it, or take all.");
    this.taken = element("p", { class: "quiet taken", "aria-live": "polite" });
    root.append(element("h2", {}, "Export"), element("div", { class: "actions" }, this.takes.node, this.coco, this.png), this.unnamed, this.taken);
  }

  /** The masks of an image that are to be taken. */
  wanted(image) {
    const objects = this.state.drawings.get(image)?.objects ?? [];
    return objects.filter((one) => (this.which === "named" ? one.name : one.visible));
  }

  async takeCoco() {
    const { images, command } = this.words;
    for (let image = 0; image < images.length; image += 1) await this.load(image);
    const found = images.map(({ name, height, width }, image) => ({ name, height, width, objects: this.wanted(image) }));
    const content = JSON.stringify(cocoOf(found, command));
    const name = images.length === 1 ? `${stem(images[0].name)}.json` : "masks.json";
    download(new Blob([content], { type: "application/json" }), name);
    const count = found.reduce((sum, { objects }) => sum + objects.length, 0);
    this.taken.textContent = `${name}: ${whole(count)} ${count === 1 ? "mask" : "masks"}, run lengths as pycocotools reads them.`;
    this.saved = this.changes();
  }

  async takePng() {
    const { state } = this;
    const { name, height, width } = state.shown;
    const objects = this.wanted(state.image);
    download(await labelsOf({ height, width, objects }, (one) => state.colour(one)), `${stem(name)}.png`);
    this.taken.textContent = `${stem(name)}.png: each pixel is the number of its mask, 0 where there is none.`;
  }

  /** What was changed so far, as far as a file would tell: to know whether it has been taken along. */
  changes() {
    const changed = [...this.state.drawings].filter(([, { past }]) => past.length);
    return JSON.stringify(changed.map(([image, { objects }]) => [image, objects.map(({ number, name }) => [number, name])]));
  }

  listen() {
    const { state } = this;
    const asking = () => state.tool === "click";
    const open = listenToKeys(
      [
        { keys: ["ArrowUp", "ArrowDown"], what: "mask before, next mask; of a click: place above, below", does: (key) => this.list.step(key === "ArrowUp" ? -1 : 1) },
        { keys: ["Enter", "n"], what: "name what is chosen; keep what a click found", does: (key, event) => (asking() ? this.answer.kept() : this.naming(event)) },
        { keys: [" "], what: "show or hide it", does: () => state.show() },
        { keys: ["s"], what: "show only it", does: () => state.solo() },
        { keys: ["Delete", "Backspace"], what: "delete it", does: () => state.remove() },
        { keys: ["m"], what: "merge what is chosen into one", does: () => state.merge() },
        { keys: ["a"], what: "choose all of the list", does: () => state.set({ selected: new Set(this.list.shown.map((one) => one.number)) }) },
        { keys: ["z", "y"], what: "undo, redo", does: (key) => state.undo(key === "z") },
        ...(this.words.clicks ? [
          { keys: ["c"], what: "ask with a click, or choose masks", does: () => state.shown.clicks && state.set({ tool: asking() ? "pick" : "click" }) },
          { keys: ["1", "2", "3"], what: "which mask of a click", does: (key) => asking() && this.answer.take(Number(key) - 1) },
        ] : []),
        { keys: ["[", "]"], what: "masks fainter, stronger", does: (key) => state.set({ opacity: Math.max(0, Math.min(1, state.opacity + (key === "]" ? 0.1 : -0.1))) }) },
        { keys: ["o", "l"], what: "outlines, names", does: (key) => state.set(key === "o" ? { outlines: !state.outlines } : { labels: !state.labels }) },
        { keys: ["+", "-", "0"], what: "larger, smaller, all of the image", does: (key) => this.zoom(key) },
        { keys: ["="], does: () => this.zoom("+") },
        ...(this.words.images.length > 1 ? [{ keys: [",", "."], what: "image before, next image", does: (key) => this.go(state.image + (key === "." ? 1 : -1)) }] : []),
        { keys: ["t"], what: "light or dark", does: switchTheme },
        { keys: ["Escape"], what: "let go", does: () => (state.answer ? state.set({ answer: null }) : state.select(null)) },
        { keys: ["?"], what: "this list", does: () => open() },
      ],
      "In the image, Ctrl and the wheel make it larger where the pointer is, and dragging moves it. Shift-click chooses several.",
    );
    document.getElementById("open-keys").addEventListener("click", open);
    document.getElementById("switch-theme").addEventListener("click", switchTheme);
    onTheme(() => state.again());
    window.addEventListener("beforeunload", (event) => {
      if (this.changes() !== this.saved) event.preventDefault();
    });
  }

  naming(event) {
    event.preventDefault();
    this.card.focusName();
  }

  zoom(key) {
    if (key === "0") this.state.set({ view: null });
    else this.field.zoom(key === "+" ? 1.5 : 1 / 1.5, this.state.place);
  }

  update() {
    const { state, field } = this;
    field.picture = this.pictures.get(state.image) ?? null;
    field.answers = this.answers.get(state.image) ?? null;
    if (!field.answers && state.tool === "click") state.tool = "pick";
    if (this.select) {
      this.select.value = state.image;
      this.number.textContent = `${whole(state.image + 1)} of ${whole(this.words.images.length)}`;
    }
    const { length } = state.objects;
    this.heading.replaceChildren(element("em", { class: "number" }, whole(length)), ` ${length === 1 ? "mask" : "masks"} in ${stem(state.shown.name)}`);
    field.update();
    this.controls.update();
    this.answer.update();
    this.card.update();
    this.list.update();
    this.takes.show(this.which);
    const none = !this.wanted(state.image).length;
    this.png.disabled = none;
    this.coco.disabled = this.words.images.length === 1 && none;
    this.unnamed.hidden = !none || this.which !== "named";
    document.documentElement.dataset.tool = state.tool;
  }
}

async function start() {
  const words = JSON.parse(document.getElementById("page").textContent);
  if (!("DecompressionStream" in window)) throw new Error("this browser is too old for the page: it cannot unpack gzip");
  applyTheme();
  const page = new MaskPage(words);
  await page.load(0);
  page.update();
  document.documentElement.dataset.ready = Math.round(performance.now()); // ms since the page was asked for
}

start().catch((error) => {
  document.getElementById("image-side").textContent = `The page cannot be shown: ${error.message}.`;
  console.error(error);
});
