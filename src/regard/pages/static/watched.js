/** A state that tells its listeners of changes, once a frame. */
export class Watched {
  constructor() {
    this.touched = false; // by a finger, at last: there is nothing to hover with
    this.listeners = [];
    this.drawn = 0;
  }

  set(changes) {
    Object.assign(this, changes);
    this.again();
  }

  /** Lets everything be drawn again. */
  again() {
    if (this.drawn) return;
    this.drawn = requestAnimationFrame(() => {
      this.drawn = 0;
      for (const listener of this.listeners) listener();
    });
  }
}
