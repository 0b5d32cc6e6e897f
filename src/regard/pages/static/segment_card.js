import { choice, element } from "./dom.js";
import { asked } from "./segment_clicks.js";
import { factsOf, sentenceOf } from "./segment_field.js";
import { titleOf, whole } from "./segment_state.js";

/** What is chosen, and what can be done with it. */
export class Card {
  constructor(state, root) {
    this.state = state;
    this.root = root;
    this.title = element("h2", {});
    this.facts = element("p", { class: "facts-line number" });
    this.names = element("datalist", { id: "names" });
    this.name = element("input", {
      type: "text", class: "text-field name-field", list: "names", autocomplete: "off", spellcheck: "false", "aria-label": "Name",
      placeholder: "Name it",
      onchange: () => this.rename(),
      onkeydown: (event) => {
        if (event.key === "Enter" || event.key === "Escape") {
          if (event.key === "Escape") this.name.value = this.common();
          event.stopPropagation();
          this.name.blur();
        }
      },
    });
    this.colour = element("input", { type: "color", class: "colour-field", "aria-label": "Colour", onchange: (event) => {
      const colour = [1, 3, 5].map((at) => Number.parseInt(event.target.value.slice(at, at + 2), 16));
      state.edit(() => ({ colour }));
    } });
    const button = (text, does, title) => element("button", { type: "button", class: "plain-button", title, onclick: does }, text);
    this.hide = button("Hide", () => state.show());
    this.solo = button("Only this", () => state.solo());
    this.merge = button("Merge", () => state.merge());
    this.delete = button("Delete", () => state.remove());
    this.undo = button("Undo", () => state.undo(true));
    this.redo = button("Redo", () => state.undo(false));
    this.form = element("div", { class: "name-row" }, this.name, this.colour);
    this.actions = element("div", { class: "actions" }, this.hide, this.solo, this.merge, this.delete);
    root.append(
      element("div", { class: "card-head" }, this.title, element("div", { class: "actions" }, this.undo, this.redo)),
      this.facts, this.form, this.names, this.actions,
    );
  }

  /** The name that all the chosen ones have, else "". */
  common() {
    const names = new Set(this.state.chosen.map((one) => one.name));
    return names.size === 1 ? [...names][0] : "";
  }

  rename() {
    const name = this.name.value.trim();
    if (name !== this.common()) this.state.edit(() => ({ name, score: NaN }));
  }

  focusName() {
    if (!this.state.selected.size) return;
    this.name.focus();
    this.name.select();
  }

  update() {
    const { state } = this;
    const { chosen } = state;
    this.root.hidden = state.tool === "click"; // then the answer's card is there
    const [one] = chosen;
    const none = chosen.length === 0;
    this.title.textContent = none ? "Nothing chosen" : chosen.length > 1 ? `${whole(chosen.length)} masks` : titleOf(one);
    this.facts.textContent = none
      ? "Click a mask, here or in the list; Shift adds another."
      : chosen.length > 1
        ? `${whole(chosen.reduce((sum, each) => sum + each.runs.area, 0))} px in all`
        : [factsOf(one), boxWords(one), scoreWords(one)].filter(Boolean).join(" · ");
    this.form.hidden = this.actions.hidden = none;
    this.merge.hidden = chosen.length < 2;
    this.solo.textContent = chosen.length > 1 ? "Only these" : "Only this";
    this.hide.textContent = chosen.every((each) => each.visible) ? "Hide" : "Show";
    this.undo.disabled = !state.drawing?.past.length;
    this.redo.disabled = !state.drawing?.future.length;
    if (none) return;
    if (document.activeElement !== this.name) this.name.value = this.common();
    this.name.placeholder = this.common() || new Set(chosen.map((each) => each.name)).size === 1 ? "Name it" : "Several names";
    this.colour.value = `#${state.colour(one).map((value) => value.toString(16).padStart(2, "0")).join("")}`;
    const names = state.names();
    if (names.join("\n") !== this.listed) this.names.replaceChildren(...names.map((value) => element("option", { value })));
    this.listed = names.join("\n");
  }
}

function boxWords(one) {
  const { x0, y0, x1, y1 } = one.runs.box;
  return `box ${x0}, ${y0} to ${x1}, ${y1}`;
}

function scoreWords(one) {
  return Number.isNaN(one.score) || !one.name ? "" : `${one.name}: ${(100 * one.score).toFixed(0)}% sure`;
}

/** What a click found: the masks of its place side by side, of which one can be kept. */
export class AnswerCard {
  constructor(state, field, root) {
    Object.assign(this, { state, field, root });
    this.title = element("h2", {}, "Which one is meant?");
    this.said = element("p", { class: "facts-line" });
    this.picks = element("div", { class: "picks", role: "group", "aria-label": "Masks of this click" });
    this.how = choice("What a click does", [["new", "Ask anew"], ["add", "Add"], ["less", "Take away"]], (how) => state.set({ how }));
    this.keep = element("button", { type: "button", class: "plain-button", onclick: () => this.kept() }, "Keep ", element("kbd", {}, "Enter"));
    this.drop = element("button", { type: "button", class: "plain-button", onclick: () => state.set({ answer: null, how: "new" }) }, "Drop");
    root.append(this.title, this.said, this.picks, element("div", { class: "actions" }, this.keep, this.drop, this.how.node));
  }

  /** Chooses one of the masks of the place that was clicked last. */
  take(which) {
    const { state, field } = this;
    if (!state.answer || which >= field.answers.many) return;
    const { place, how } = state.answer;
    state.set({ answer: asked(field.answers, state.answer, place, how, which) });
  }

  kept() {
    const { state } = this;
    const { answer } = state;
    if (!answer?.runs.area) return;
    const points = answer.points.map(({ x, y }) => [x, y]);
    state.replace([], { runs: answer.runs, name: "", iou: answer.iou, stability: NaN, score: NaN, points, colour: null });
    state.set({ tool: "pick", how: "new" });
  }

  update() {
    const { state, field } = this;
    const { answer } = state;
    this.root.hidden = state.tool !== "click";
    if (this.root.hidden) return;
    this.picks.hidden = this.keep.hidden = this.drop.hidden = this.how.node.hidden = !answer;
    this.how.show(state.how);
    this.title.textContent = answer ? "Which one is meant?" : "Click an object";
    this.said.textContent = answer
      ? "One click is ambiguous: click again for the next, or press 1 to 3. Shift-click adds what lies elsewhere, Alt-click takes it away."
      : "The masks of a grid of clicks are in this page: the nearest one answers, without a model.";
    if (!answer || (this.drawn === answer && this.picture === field.picture)) return;
    [this.drawn, this.picture] = [answer, field.picture];
    this.picks.replaceChildren(...field.answers.of(answer.place).map((mask, which) => this.pick(mask, which)));
  }

  pick(mask, which) {
    const canvas = element("canvas", { class: "pick-canvas", width: 220, height: 160, "aria-hidden": "true" });
    this.field.paintCrop(canvas, mask.runs);
    const { answer } = this.state;
    return element(
      "button",
      { type: "button", class: "pick", disabled: !mask.runs.area, "aria-pressed": String(answer.which === which), onclick: () => this.take(which) },
      canvas,
      element("span", { class: "pick-name" }, sentenceOf(mask.name)),
      element("span", { class: "pick-iou number" }, mask.runs.area ? `IoU ${mask.iou.toFixed(2)}` : "empty"),
    );
  }
}

/** The row of switches under the image. */
export function controls(state) {
  const toggle = (text, key, title) => element("button", { type: "button", class: "plain-button", title, onclick: () => state.set({ [key]: !state[key] }) }, text);
  const tool = choice("A click", [["pick", "Choose masks"], ["click", "Ask for one"]], (value) => state.set({ tool: value, hovered: null }));
  const outlines = toggle("Outlines", "outlines", "O");
  const labels = toggle("Names", "labels", "L");
  const colouring = choice("Colours", [["object", "By mask"], ["name", "By name"]], (value) => state.set({ colouring: value }));
  const opacity = element("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Opacity of the masks", oninput: (event) => state.set({ opacity: Number(event.target.value) }) });
  const node = element("div", { class: "controls" }, state.words.clicks ? tool.node : null, element("label", { class: "mix quiet" }, "Opacity", opacity), outlines, labels, colouring.node);
  const update = () => {
    tool.show(state.tool);
    tool.node.hidden = !state.shown.clicks;
    colouring.show(state.colouring);
    outlines.setAttribute("aria-pressed", String(state.outlines));
    labels.setAttribute("aria-pressed", String(state.labels));
    opacity.value = state.opacity;
  };
  return { node, update };
}
