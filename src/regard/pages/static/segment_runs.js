const ZERO = 48; // the letter of a digit of value 0
const MORE = 32; // bit of a digit after which the number goes on
const SIGN = 16; // bit of the last digit of a negative number

/**
 * A mask as COCO's run lengths, column after column: `ends` are the places where its runs of zeros, ones, zeros, ...
 * end. `text` is its compressed string, whose numbers are lengths, from the fourth on less the one before the last.
 */
export class Runs {
  constructor(height, width, ends, text = null) {
    Object.assign(this, { height, width, ends, known: text });
  }

  /** From letters (uint8) of a compressed string. */
  static ofLetters(height, width, letters) {
    const ends = new Uint32Array(letters.length);
    let [count, at, end, before, last] = [0, 0, 0, 0, 0];
    while (at < letters.length) {
      let [value, unit, digit] = [0, 1, MORE];
      while (digit & MORE) {
        digit = letters[at] - ZERO;
        at += 1;
        value += (digit & 31) * unit;
        unit *= 32;
      }
      if (digit & SIGN) value -= unit;
      const length = count > 2 ? value + before : value;
      [before, last] = [last, length];
      end += length;
      ends[count] = end;
      count += 1;
    }
    return new Runs(height, width, ends.slice(0, count), letters);
  }

  get text() {
    if (this.known instanceof Uint8Array) this.known = new TextDecoder().decode(this.known);
    this.known ??= compressed(this.ends);
    return this.known;
  }

  get area() {
    if (this.pixels === undefined) {
      this.pixels = 0;
      for (let run = 1; run < this.ends.length; run += 2) this.pixels += this.ends[run] - this.ends[run - 1];
    }
    return this.pixels;
  }

  /** {x0, y0, x1, y1}, x1 and y1 just outside. */
  get box() {
    if (this.around) return this.around;
    const { ends, height } = this;
    let [x0, y0, x1, y1] = [Infinity, height, 0, 0];
    for (let run = 1; run < ends.length; run += 2) {
      const [start, end] = [ends[run - 1], ends[run]];
      if (end === start) continue;
      const [first, last] = [Math.floor(start / height), Math.floor((end - 1) / height)];
      x0 = Math.min(x0, first);
      x1 = Math.max(x1, last + 1);
      y0 = Math.min(y0, last > first ? 0 : start - first * height);
      y1 = Math.max(y1, last > first ? height : end - last * height);
    }
    this.around = x1 ? { x0, y0, x1, y1 } : { x0: 0, y0: 0, x1: 0, y1: 0 };
    return this.around;
  }

  /** A pixel well inside: the middle of the longest run. */
  get anchor() {
    if (!this.middle) {
      const { ends, height } = this;
      let [most, at] = [0, 0];
      for (let run = 1; run < ends.length; run += 2) {
        const length = ends[run] - ends[run - 1];
        if (length > most) [most, at] = [length, ends[run - 1] + (length >> 1)];
      }
      this.middle = { x: Math.floor(at / height), y: at % height };
    }
    return this.middle;
  }

  has(x, y) {
    const { x0, y0, x1, y1 } = this.box;
    if (x < x0 || x >= x1 || y < y0 || y >= y1) return false;
    return this.runAt(x * this.height + y) % 2 === 1;
  }

  /** Number of the run in which a pixel is. */
  runAt(pixel) {
    let [low, high] = [0, this.ends.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] > pixel) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** The mask where `keep(here, there)` of this one and another. */
  with(other, keep) {
    const [a, b, total] = [this.ends, other.ends, this.height * this.width];
    const ends = new Uint32Array(a.length + b.length + 1);
    let [i, j, count, value] = [0, 0, 0, false];
    while (i < a.length || j < b.length) {
      const end = Math.min(a[i] ?? total, b[j] ?? total);
      while (i < a.length && a[i] === end) i += 1;
      while (j < b.length && b[j] === end) j += 1;
      const next = end < total && keep(i % 2 === 1, j % 2 === 1);
      if (end === total || next !== value) {
        ends[count] = end;
        count += 1;
        value = next;
      }
      if (end === total) break;
    }
    return new Runs(this.height, this.width, ends.slice(0, count));
  }

  /**
   * Calls fill(column, first, last) for the pixels column, first..last-1 of a view of the image that are in the mask. A
   * view has width x height pixels; the image begins at x, y, and `step` of its pixels make one.
   */
  each(view, fill) {
    const { ends, height } = this;
    const { x0, x1 } = this.box;
    const seen = (place, from) => Math.ceil((place - from) / view.step - 0.5);
    const last = Math.min(view.width, seen(x1, view.x));
    let column = Math.max(0, seen(x0, view.x));
    if (column >= last) return;
    const source = (at) => Math.floor(view.x + (at + 0.5) * view.step);
    let first = this.runAt(source(column) * height);
    if (first % 2 === 0) first += 1;
    for (; column < last; column += 1) {
      const [top, bottom] = [source(column) * height, (source(column) + 1) * height];
      while (first < ends.length && ends[first] <= top) first += 2;
      for (let run = first; run < ends.length && ends[run - 1] < bottom; run += 2) {
        const from = Math.max(0, seen(Math.max(ends[run - 1] - top, 0), view.y));
        const to = Math.min(view.height, seen(Math.min(ends[run] - top, height), view.y));
        if (from < to) fill(column, from, to);
      }
    }
  }
}

/** The mask in another size, its edge smoothed: each pixel is in it whose value between 3 x 3 means is at least a half. */
export function enlarged(runs, height, width) {
  if (runs.height === height && runs.width === width) return runs;
  const { x0, y0, x1, y1 } = runs.box;
  const [rows, columns] = [y1 - y0 + 4, x1 - x0 + 4]; // two pixels of nothing around
  const soft = smoothed(runs, x0 - 2, y0 - 2, rows, columns);
  const [across, down] = [runs.width / width, runs.height / height];
  const ends = [];
  let inside = false;
  const [left, right] = [Math.max(0, Math.floor((x0 - 1) / across)), Math.min(width, Math.ceil((x1 + 1) / across))];
  const [top, bottom] = [Math.max(0, Math.floor((y0 - 1) / down)), Math.min(height, Math.ceil((y1 + 1) / down))];
  const turn = (end) => { ends.push(end); inside = !inside; };
  for (let column = left; column < right; column += 1) {
    const x = Math.max(0, Math.min(columns - 1.001, (column + 0.5) * across - 0.5 - x0 + 2));
    const [from, share] = [Math.floor(x) * rows, x % 1];
    if (inside && top > 0) turn(column * height);
    for (let row = top; row < bottom; row += 1) {
      const y = Math.max(0, Math.min(rows - 1.001, (row + 0.5) * down - 0.5 - y0 + 2));
      const [at, part] = [from + Math.floor(y), y % 1];
      const here = soft[at] * (1 - part) + soft[at + 1] * part;
      const beside = soft[at + rows] * (1 - part) + soft[at + rows + 1] * part;
      if ((here * (1 - share) + beside * share >= 0.5) !== inside) turn(column * height + row);
    }
    if (inside && bottom < height) turn(column * height + bottom);
  }
  ends.push(height * width);
  return new Runs(height, width, Uint32Array.from(ends));
}

/** Means of 3 x 3 pixels, column after column; at the edge of the mask's image its pixels go on as they are. */
function smoothed(runs, x0, y0, rows, columns) {
  const value = new Float32Array(rows * columns);
  const [height, width] = [runs.height, runs.width];
  for (let column = 0; column < columns; column += 1) {
    for (let row = 0; row < rows; row += 1) {
      const [x, y] = [Math.max(0, Math.min(width - 1, x0 + column)), Math.max(0, Math.min(height - 1, y0 + row))];
      value[column * rows + row] = runs.has(x, y) ? 1 : 0;
    }
  }
  const mean = (from, step, count, stride, lines) => {
    const to = new Float32Array(from.length);
    for (let line = 0; line < lines; line += 1) {
      for (let at = 0; at < count; at += 1) {
        const here = line * stride + at * step;
        to[here] = (from[here - (at > 0 ? step : 0)] + from[here] + from[here + (at < count - 1 ? step : 0)]) / 3;
      }
    }
    return to;
  };
  return mean(mean(value, 1, rows, rows, columns), rows, columns, 1, rows);
}

export const either = (here, there) => here || there;
export const without = (here, there) => here && !there;

function compressed(ends) {
  const letters = [];
  const length = (at) => ends[at] - (at ? ends[at - 1] : 0);
  for (let at = 0; at < ends.length; at += 1) {
    let value = at > 2 ? length(at) - length(at - 2) : length(at);
    for (let more = true; more; ) {
      const digit = ((value % 32) + 32) % 32;
      value = Math.floor(value / 32);
      more = value !== (digit & SIGN ? -1 : 0);
      letters.push(digit + (more ? MORE : 0) + ZERO);
    }
  }
  return new TextDecoder().decode(Uint8Array.from(letters));
}
