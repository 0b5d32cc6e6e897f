import { Blobs, decoded } from "./blobs.js";

export const MEAN = -1; // the mean of all heads, where a head is asked for

/**
 * What happened in the model: the page's words and the arrays behind them. Tokens are numbered as `record` has them, the
 * prefix (class token, registers) first, then patches row after row. Functions give null while a blob is being unpacked.
 */
export class Numbers {
  constructor(words, onLoad) {
    this.words = words;
    this.layers = words.layers;
    this.blobs = new Blobs(words.index, onLoad);
    this.seats = new Map();
    this.whole = new Map();
  }

  count(place) {
    return place.prefix + place.grid[0] * place.grid[1];
  }

  /** Of each token of a layer with windows: [window, place in it]. */
  seatsOf(number, windows) {
    if (!this.seats.has(number)) {
      const layer = this.layers[number];
      const seats = new Array(this.count(layer));
      for (let at = 0; at < windows.length; at += 1) {
        if (windows[at] >= 0) seats[windows[at]] = [Math.floor(at / layer.places), at % layer.places];
      }
      this.seats.set(number, seats);
    }
    return this.seats.get(number);
  }

  /** [window, place, tokens of the window or null for all] of a token. */
  seat(number, token, arrays) {
    if (!arrays.windows) return [0, token, null];
    const [window, place] = this.seatsOf(number, arrays.windows.values)[token];
    const { places } = this.layers[number];
    return [window, place, arrays.windows.values.subarray(window * places, (window + 1) * places)];
  }

  /** Shares of attention: of a token to all (`to`), or of all to it; NaN outside its window. */
  attention(number, head, token, to) {
    const arrays = this.blobs.peek(`pattern-${number}`);
    if (!arrays) return null;
    const layer = this.layers[number];
    const n = layer.places;
    const [window, place, members] = this.seat(number, token, arrays);
    const { values, scale } = arrays.pattern;
    const heads = head === MEAN ? [...Array(layer.heads).keys()] : [head];
    const found = new Float32Array(n);
    for (const one of heads) {
      const first = (window * layer.heads + one) * n;
      for (let other = 0; other < n; other += 1) {
        const row = first + (to ? place : other);
        const value = values[row * n + (to ? other : place)];
        found[other] += (scale[row] * value * value) / heads.length;
      }
    }
    return members ? spread(found, members, this.count(layer)) : found;
  }

  qkv(number) {
    return this.blobs.peek(`qkv-${number}`);
  }

  /** A token's query, key or value ("q", "k", "v") in a head: (d,). */
  vector(number, part, head, token) {
    const arrays = this.qkv(number);
    const places = this.blobs.peek(`pattern-${number}`);
    if (!arrays || !places) return null;
    const layer = this.layers[number];
    const [window, place] = this.seat(number, token, places);
    const { values, scale } = arrays[part];
    const first = ((head * Math.max(1, layer.windows) + window) * layer.places + place) * layer.dim;
    return Float32Array.from(values.subarray(first, first + layer.dim), (value) => value * scale[head]);
  }

  /** Scores of a token's query with all keys, before the softmax; NaN outside its window. */
  scores(number, head, token) {
    const arrays = this.qkv(number);
    const places = this.blobs.peek(`pattern-${number}`);
    if (!arrays || !places) return null;
    const layer = this.layers[number];
    const [, place, members] = this.seat(number, token, places);
    const query = this.vector(number, "q", head, token);
    const found = new Float32Array(layer.places);
    for (let other = 0; other < layer.places; other += 1) {
      const key = members ? members[other] : other;
      found[other] = key < 0 ? NaN : layer.scale * dot(query, this.vector(number, "k", head, key));
      found[other] += this.bias(arrays, layer, head, place, other);
    }
    if (!members) return found;
    const shares = this.attention(number, head, token, true);
    return spread(found, members, this.count(layer), Array.from(members, (key) => shares[key]));
  }

  /** What the relative position of a key adds to the score of a query. */
  biasOf(number, head, token, other) {
    const arrays = this.qkv(number);
    const places = this.blobs.peek(`pattern-${number}`);
    if (!arrays?.bias || !places) return 0;
    const [window, place] = this.seat(number, token, places);
    const [otherWindow, otherPlace] = this.seat(number, other, places);
    return window === otherWindow ? this.bias(arrays, this.layers[number], head, place, otherPlace) : NaN;
  }

  bias(arrays, layer, head, place, other) {
    if (!arrays.bias) return 0;
    return arrays.bias.scale[head] * arrays.bias.values[(head * layer.places + place) * layer.places + other];
  }

  /** One channel of q, k or v over all tokens: an image of low resolution. */
  channel(number, part, head, channel) {
    const tokens = this.count(this.layers[number]);
    const found = new Float32Array(tokens);
    for (let token = 0; token < tokens; token += 1) {
      const vector = this.vector(number, part, head, token);
      if (!vector) return null;
      found[token] = vector[channel];
    }
    return found;
  }

  out(number) {
    return this.blobs.peek(`out-${number}`);
  }

  norms(number) {
    return this.out(number)?.norms.values ?? null;
  }

  /** Cosine of a token that leaves a block with all others. */
  similarity(number, token) {
    const arrays = this.out(number);
    if (!arrays) return null;
    const { out } = this.layers[number];
    const tokens = this.count(out);
    if (arrays.similarity) {
      const { values, scale } = arrays.similarity;
      const at = (row, column) => row * tokens - (row * (row - 1)) / 2 + column - row; // of the upper triangle
      return Float32Array.from({ length: tokens }, (_, other) => scale[0] * values[at(Math.min(token, other), Math.max(token, other))]);
    }
    return cosines(this.decodedOnce(`out-${number}`, "unit"), out.width, token);
  }

  /** {content, positions or null, sum}, each (T, D) one after another: the tokens before the first block. */
  embedding() {
    if (!this.blobs.peek("embedding")) return null;
    const content = this.decodedOnce("embedding", "content");
    const positions = this.words.embedding.positions ? this.decodedOnce("embedding", "positions") : null;
    if (!this.whole.has("sum")) this.whole.set("sum", positions ? content.map((value, at) => value + positions[at]) : content);
    return { content, positions, sum: this.whole.get("sum") };
  }

  decodedOnce(blob, key) {
    const name = `${blob} ${key}`;
    if (!this.whole.has(name)) this.whole.set(name, decoded(this.blobs.peek(blob)[key]));
    return this.whole.get(name);
  }

  /** A map of an explanation: {grid, values}. */
  map(method, target) {
    const arrays = this.blobs.peek(`maps-${method}`);
    if (!arrays) return null;
    const [count, height, width] = arrays.maps.shape;
    const first = (count > 1 ? target : 0) * height * width;
    return { grid: [height, width], values: arrays.maps.values.subarray(first, first + height * width) };
  }
}

/** Values of a window's places at its tokens, NaN elsewhere and where `shares` are 0: what a shift brought together. */
function spread(values, members, tokens, shares = values) {
  const found = new Float32Array(tokens).fill(NaN);
  members.forEach((token, place) => { if (token >= 0 && shares[place] > 0) found[token] = values[place]; });
  return found;
}

export function dot(one, other) {
  let sum = 0;
  for (let at = 0; at < one.length; at += 1) sum += one[at] * other[at];
  return sum;
}

export function lengthOf(vector) {
  return Math.sqrt(dot(vector, vector));
}

/** Cosines of row `token` of (T, D) with all rows. */
export function cosines(rows, width, token) {
  const own = rows.subarray(token * width, (token + 1) * width);
  const found = new Float32Array(rows.length / width);
  for (let other = 0; other < found.length; other += 1) {
    const row = rows.subarray(other * width, (other + 1) * width);
    const lengths = lengthOf(own) * lengthOf(row);
    found[other] = lengths > 0 ? dot(own, row) / lengths : NaN;
  }
  return found;
}

/** [lowest, highest] of the numbers that are there, leaving out the first `skip`. */
export function rangeOf(values, skip = 0) {
  let [low, high] = [Infinity, -Infinity];
  for (let at = skip; at < values.length; at += 1) {
    if (values[at] < low) low = values[at];
    if (values[at] > high) high = values[at];
  }
  return [low, high];
}

/** The place of the largest number, other than `except`; -1 where there is none. */
export function largest(values, except = -1) {
  let best = -1;
  for (let at = 0; at < values.length; at += 1) {
    if (at !== except && !Number.isNaN(values[at]) && (best < 0 || values[at] > values[best])) best = at;
  }
  return best;
}

export function percent(share) {
  if (share === 0) return "0%";
  if (share >= 0.0995) return `${(100 * share).toFixed(0)}%`;
  return share >= 0.00995 ? `${(100 * share).toFixed(1)}%` : `${(100 * share).toFixed(2)}%`;
}

export function signed(value, digits = 2) {
  return Number.isNaN(value) ? "–" : value.toFixed(digits).replace("-", "−");
}
