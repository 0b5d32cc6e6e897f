import { either } from "./segment_runs.js";
import { Watched } from "./watched.js";

// OKLCH hues far from one another and from their neighbours in the row; the lightness alternates, for eyes that see few hues.
export const COLOURS = [
  [53, 145, 255], [255, 159, 28], [0, 168, 107], [232, 62, 140], [153, 102, 255], [120, 200, 30],
  [255, 99, 72], [0, 190, 210], [200, 120, 220], [190, 160, 0], [90, 120, 255], [255, 120, 180],
  [0, 145, 150], [225, 95, 0], [130, 215, 170], [170, 75, 120],
];
const GREY = [140, 146, 156];

/** Masks of one image and what was done to them; each change can be taken back. An object is never changed in place. */
export class Drawing {
  constructor(objects) {
    this.objects = objects;
    this.past = [];
    this.future = [];
    this.next = objects.reduce((most, one) => Math.max(most, one.number), 0) + 1;
  }

  change(objects) {
    this.past.push(this.objects);
    this.future = [];
    this.objects = objects;
  }

  /** Between two states: back (true) or forth. Whether there was one. */
  step(back) {
    const [from, to] = back ? [this.past, this.future] : [this.future, this.past];
    if (!from.length) return false;
    to.push(this.objects);
    this.objects = from.pop();
    return true;
  }
}

/** What is shown and chosen. Objects are named by their numbers, which are unique in an image. */
export class SegmentState extends Watched {
  constructor(words) {
    super();
    this.words = words;
    this.image = 0;
    this.drawings = new Map();
    this.selected = new Set();
    this.hovered = null;
    this.place = null; // the pixel pointed at
    this.tool = "pick";
    this.how = "new"; // what the next click does to the answer
    this.answer = null; // {place, which, base, runs}: what a click found and is not kept yet
    this.opacity = 0.45;
    this.outlines = true;
    this.labels = true;
    this.colouring = "object";
    this.hues = new Map(); // name -> number of its colour
    this.sort = "area";
    this.filter = "";
    this.view = null; // {x, y, zoom}: the part of the image that is seen; null: all of it
  }

  get drawing() {
    return this.drawings.get(this.image) ?? null;
  }

  get objects() {
    return this.drawing?.objects ?? [];
  }

  get shown() {
    return this.words.images[this.image];
  }

  /** The chosen objects, in the order of the list. */
  get chosen() {
    return this.objects.filter((one) => this.selected.has(one.number));
  }

  get changed() {
    return [...this.drawings.values()].some((drawing) => drawing.past.length > 0);
  }

  object(number) {
    return this.objects.find((one) => one.number === number) ?? null;
  }

  go(image) {
    const count = this.words.images.length;
    this.set({ image: (image + count) % count, selected: new Set(), hovered: null, answer: null, view: null });
  }

  select(number, more = false) {
    const selected = more ? new Set(this.selected) : new Set();
    if (number !== null && !selected.delete(number)) selected.add(number);
    this.set({ selected, touched: true });
  }

  /** Gives the chosen objects what `changes` says of each. */
  edit(changes, numbers = this.selected) {
    if (!numbers.size) return;
    this.drawing.change(this.objects.map((one) => (numbers.has(one.number) ? { ...one, ...changes(one) } : one)));
    this.again();
  }

  show(numbers = this.selected) {
    const hide = [...numbers].every((number) => this.object(number)?.visible);
    this.edit(() => ({ visible: !hide }), numbers);
  }

  /** Hides all but the chosen ones; shows all where only these are seen. */
  solo() {
    if (!this.selected.size) return;
    const alone = this.objects.every((one) => one.visible === this.selected.has(one.number));
    this.edit((one) => ({ visible: alone || this.selected.has(one.number) }), new Set(this.objects.map((one) => one.number)));
  }

  remove() {
    if (!this.selected.size) return;
    this.drawing.change(this.objects.filter((one) => !this.selected.has(one.number)));
    this.set({ selected: new Set(), hovered: null });
  }

  /** One object of the chosen ones, with what is known of the largest. */
  merge() {
    const chosen = [...this.chosen].sort((a, b) => b.runs.area - a.runs.area);
    if (chosen.length < 2) return;
    const runs = chosen.map((one) => one.runs).reduce((all, one) => all.with(one, either));
    this.replace(chosen, { ...chosen[0], runs, stability: NaN, iou: NaN, score: NaN });
  }

  /** Puts an object in the place of others (of none: adds it), and chooses it. */
  replace(others, object) {
    const gone = new Set(others.map((one) => one.number));
    const number = this.drawing.next;
    this.drawing.next += 1;
    this.drawing.change([...this.objects.filter((one) => !gone.has(one.number)), { ...object, number, visible: true }]);
    this.set({ selected: new Set([number]), hovered: null, answer: null });
  }

  undo(back) {
    if (!this.drawing?.step(back)) return;
    const left = new Set(this.objects.map((one) => one.number));
    this.set({ selected: new Set([...this.selected].filter((number) => left.has(number))), hovered: null });
  }

  /** The objects of the list: filtered by what their name or number contains, and sorted. */
  listed() {
    const wanted = this.filter.trim().toLowerCase();
    const found = this.objects.filter((one) => !wanted || `${one.number} ${one.name.toLowerCase()}`.includes(wanted));
    const by = {
      area: (a, b) => b.runs.area - a.runs.area,
      number: (a, b) => a.number - b.number,
      iou: (a, b) => (b.iou || 0) - (a.iou || 0),
      name: (a, b) => Number(!a.name) - Number(!b.name) || a.name.localeCompare(b.name),
    }[this.sort];
    return found.sort((a, b) => by(a, b) || a.number - b.number);
  }

  /** Of the objects that are seen at a pixel, the smallest first. */
  at({ x, y }) {
    return this.objects.filter((one) => one.visible && one.runs.has(x, y)).sort((a, b) => a.runs.area - b.runs.area);
  }

  /** [r, g, b] of an object: its own, that of its name, or that of its number. */
  colour(object) {
    if (object.colour) return object.colour;
    if (this.colouring !== "name") return COLOURS[(object.number - 1) % COLOURS.length];
    if (!object.name) return GREY;
    if (!this.hues.has(object.name)) this.hues.set(object.name, this.hues.size);
    return COLOURS[this.hues.get(object.name) % COLOURS.length];
  }

  /** All names of the page, sorted. */
  names() {
    const all = this.words.images.flatMap(({ names }, image) => this.drawings.get(image)?.objects.map((one) => one.name) ?? names);
    return [...new Set(all.filter(Boolean))].sort((a, b) => a.localeCompare(b));
  }
}

/** What an object is called: "dog", or "Mask 7". */
export function titleOf(object) {
  return object.name || `Mask ${object.number}`;
}

/** "3.2%" of the image, "2,301 px". */
export function shareOf(object) {
  const share = (100 * object.runs.area) / (object.runs.height * object.runs.width);
  return `${share >= 10 ? share.toFixed(0) : share >= 0.1 ? share.toFixed(1) : share.toFixed(2)}%`;
}

export const whole = (number) => number.toLocaleString("en");
