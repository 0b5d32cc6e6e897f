import { either, enlarged, Runs, without } from "./segment_runs.js";

const NEAR = 4; // places of the grid that may answer a click: the nearest one with a mask under it
const NAMES = { 1: ["mask"], 2: ["whole", "part"], 3: ["whole", "part", "sub-part"] };

/** The masks that the model gave at each place of a grid, which answer a click without it. */
export class Answers {
  /** size: {height, width} of its masks; image: that of the image. */
  constructor({ places, runs, starts, iou }, size, image) {
    Object.assign(this, { places: places.values, letters: runs.values, starts: starts.values, iou: iou.values, size, image });
    [this.count, this.many] = iou.shape;
    this.small = new Map();
    this.known = new Map();
  }

  point(place) {
    return { x: this.places[2 * place], y: this.places[2 * place + 1] };
  }

  /** The masks of a place as they are kept, the largest first: {runs, iou}. */
  kept(place) {
    if (!this.small.has(place)) {
      const found = Array.from({ length: this.many }, (_, which) => {
        const at = place * this.many + which;
        const letters = this.letters.subarray(this.starts[at], this.starts[at + 1]);
        return { runs: Runs.ofLetters(this.size.height, this.size.width, letters), iou: this.iou[at] };
      });
      this.small.set(place, found.sort((a, b) => b.runs.area - a.runs.area));
    }
    return this.small.get(place);
  }

  /** The same in the size of the image: {runs, iou, name}. */
  of(place) {
    if (!this.known.has(place)) {
      const names = NAMES[this.many] ?? [];
      const { height, width } = this.image;
      const enlarge = ({ runs, iou }, at) => ({ runs: enlarged(runs, height, width), iou, name: names[at] ?? `mask ${at + 1}` });
      this.known.set(place, this.kept(place).map(enlarge));
    }
    return this.known.get(place);
  }

  /** Which of the masks of a place the model takes to be the best. */
  best(place) {
    const masks = this.kept(place);
    return masks.reduce((best, one, at) => (one.runs.area && (one.iou > masks[best].iou || !masks[best].runs.area) ? at : best), 0);
  }

  /** The place that answers for a pixel: of the nearest ones the first with a mask that holds it, else the nearest. */
  nearest({ x, y }) {
    const far = (place) => (this.places[2 * place] - x - 0.5) ** 2 + (this.places[2 * place + 1] - y - 0.5) ** 2;
    const near = [];
    for (let place = 0; place < this.count; place += 1) {
      const distance = far(place);
      if (near.length === NEAR && distance >= near[NEAR - 1].distance) continue;
      near.push({ place, distance });
      near.sort((a, b) => a.distance - b.distance);
      near.length = Math.min(near.length, NEAR);
    }
    const { size, image } = this;
    const [column, row] = [Math.floor((x * size.width) / image.width), Math.floor((y * size.height) / image.height)];
    return (near.find(({ place }) => this.kept(place).some((one) => one.runs.has(column, row))) ?? near[0]).place;
  }

  /** The next place in a direction, [right, down]; the same where there is none. */
  beside(place, [right, down]) {
    const from = this.point(place);
    let [best, least] = [place, Infinity];
    for (let other = 0; other < this.count; other += 1) {
      const to = this.point(other);
      const [along, across] = [(to.x - from.x) * right + (to.y - from.y) * down, Math.abs((to.x - from.x) * down) + Math.abs((to.y - from.y) * right)];
      if (along > 0 && along + 3 * across < least) [best, least] = [other, along + 3 * across];
    }
    return best;
  }
}

/**
 * What a click makes of the answer so far. how: "new", "add" or "less". The same place again, in the same way, goes to
 * its next mask; else the mask that the model rates highest is taken.
 */
export function asked(answers, before, place, how, which = null) {
  const again = before?.place === place && before.how === how;
  const base = again ? before.base : how === "new" ? null : (before?.runs ?? null);
  const at = which ?? (again ? (before.which + 1) % answers.many : answers.best(place));
  const mask = answers.of(place)[at];
  const runs = base ? base.with(mask.runs, how === "less" ? without : either) : mask.runs;
  const points = again ? before.points : [...(how === "new" ? [] : (before?.points ?? [])), answers.point(place)];
  return { place, how, which: at, base, runs, points, iou: base ? NaN : mask.iou };
}
