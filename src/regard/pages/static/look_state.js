import { MEAN } from "./look_numbers.js";
import { Watched } from "./watched.js";

/** What is looked at. A place is {prefix: number} or {y, x} in 0..1, so that it outlives a change of grid. */
export class State extends Watched {
  constructor(numbers) {
    super();
    const last = numbers.layers.length - 1;
    this.numbers = numbers;
    this.step = "attention";
    this.layer = last;
    this.head = MEAN;
    this.to = true; // where the token looks; false: who looks at it
    this.token = numbers.layers[last].prefix ? { prefix: 0 } : { y: 0.5, x: 0.5 };
    this.other = null; // the second token of a pair, while the first is held
    this.held = false;
    this.pixel = { y: 0.5, x: 0.5 };
    this.strength = 0.7; // of the map over the photo
    this.channel = null; // {part, index} of a query, key or value shown as an image
    this.embedding = numbers.words.embedding?.positions ? "positions" : "sum";
    this.leaving = "similarity";
    this.method = Math.max(0, numbers.words.explanations.findIndex((one) => one.name.startsWith("relevance")));
    this.target = 0;
  }

  get attending() {
    return this.numbers.layers[this.layer];
  }

  /** A head that is one head. */
  get single() {
    return Math.max(0, this.head);
  }

  /** What tokens lie where in the photo at this step: {grid, prefix}. */
  get place() {
    const { embedding } = this.numbers.words;
    if (["image", "patches", "embedding"].includes(this.step) && embedding) return embedding;
    return this.step === "block" ? this.attending.out : this.attending;
  }

  /** The number of a token at this step, 0 being the first of the prefix. */
  index(token, place = this.place) {
    const [height, width] = place.grid;
    if ("prefix" in token && token.prefix < place.prefix) return token.prefix;
    const { y, x } = "prefix" in token ? { y: 0.5, x: 0.5 } : token;
    return place.prefix + Math.min(height - 1, Math.floor(y * height)) * width + Math.min(width - 1, Math.floor(x * width));
  }

  /** The middle of a token, or the prefix token. */
  at(index, place = this.place) {
    if (index < place.prefix) return { prefix: index };
    const [height, width] = place.grid;
    const patch = index - place.prefix;
    return { y: (Math.floor(patch / width) + 0.5) / height, x: ((patch % width) + 0.5) / width };
  }

  /** What a token is called in a sentence. */
  name(index, place = this.place) {
    if (index < place.prefix) {
      const name = this.numbers.words.prefix[index];
      return name.endsWith("token") ? `the ${name}` : name;
    }
    const patch = index - place.prefix;
    return `patch ${Math.floor(patch / place.grid[1])}, ${patch % place.grid[1]}`;
  }

  point(token, hover) {
    if (this.held && hover) this.set({ other: token, touched: true });
    else if (this.held) this.set({ other: token });
    else this.set({ token, touched: true });
  }

  hold(held) {
    this.set({ held, other: null });
  }

  move(down, right) {
    const { place } = this;
    const subject = this.held && this.other ? this.other : this.token;
    const index = this.index(subject);
    const [height, width] = place.grid;
    let next;
    if (index < place.prefix) {
      if (right) next = Math.max(0, Math.min(place.prefix - 1, index + right));
      else next = down > 0 ? place.prefix + Math.floor(width / 2) : index;
    } else {
      const row = Math.floor((index - place.prefix) / width) + down;
      const column = Math.max(0, Math.min(width - 1, ((index - place.prefix) % width) + right));
      if (row < 0 && place.prefix) next = 0;
      else next = place.prefix + Math.max(0, Math.min(height - 1, row)) * width + column;
    }
    this.point(this.at(next), false);
  }

  moveLayer(by) {
    const layer = Math.max(0, Math.min(this.numbers.layers.length - 1, this.layer + by));
    this.set({ layer, head: Math.min(this.head, this.numbers.layers[layer].heads - 1), channel: null });
  }

  moveHead(by) {
    const { heads } = this.attending;
    this.set({ head: ((this.head + 1 + by + heads + 1) % (heads + 1)) - 1, channel: null });
  }
}
