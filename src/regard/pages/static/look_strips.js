import { paintValues } from "./canvas.js";
import { element } from "./dom.js";
import { lengthOf, rangeOf, signed } from "./look_numbers.js";

/**
 * A vector as a row of colours, blue below zero and orange above; a line below says the number that is pointed at.
 * onPick(index): a number was chosen.
 */
export class Strip {
  constructor(label, onPick) {
    this.canvas = element("canvas", { class: "strip-canvas pixels", "aria-hidden": "true" });
    this.label = element("span", { class: "strip-label" }, label);
    this.length = element("span", { class: "strip-length number quiet" });
    this.said = element("span", { class: "strip-said number" });
    this.mark = element("span", { class: "strip-mark", hidden: true });
    this.field = element("div", { class: onPick ? "strip-field pickable" : "strip-field" }, this.canvas, this.mark);
    this.node = element("div", { class: "strip" }, this.label, this.field, this.length, this.said);
    this.field.addEventListener("pointermove", (event) => this.say(this.indexOf(event)));
    this.field.addEventListener("pointerleave", () => this.say(-1));
    if (onPick) this.field.addEventListener("click", (event) => onPick(this.indexOf(event)));
  }

  indexOf(event) {
    const area = this.field.getBoundingClientRect();
    const index = Math.floor(((event.clientX - area.left) / area.width) * this.values.length);
    return Math.max(0, Math.min(this.values.length - 1, index));
  }

  say(index) {
    this.said.textContent = index < 0 ? "" : `${index}: ${signed(this.values[index], 3)}`;
  }

  /** far: the number that has the strongest colour; length: what is written behind, the vector's length by default. */
  show(values, far, length = `length ${signed(lengthOf(values), 1)}`, picked = -1) {
    this.values = values;
    paintValues(this.canvas, values, values.length, 1, "balance", -far, far);
    this.length.textContent = length;
    this.mark.hidden = picked < 0;
    if (picked >= 0) {
      this.mark.style.left = `${(100 * picked) / values.length}%`;
      this.mark.style.width = `${100 / values.length}%`;
    }
  }
}

export function farthest(...vectors) {
  return Math.max(...vectors.map((vector) => { const [low, high] = rangeOf(vector); return Math.max(-low, high); }));
}
