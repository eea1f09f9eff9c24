/** Random numbers that depend only on a seed. */
export class Random {
  #state;

  /** @param {number} seed */
  constructor(seed) {
    this.#state = (seed * 0x9e3779b9 + 0x7f4a7c15) >>> 0;
  }

  /** Returns a number from 0 up to 1. */
  unit() {
    // xorshift32; the state is never 0.
    let x = this.#state || 1;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state / 2 ** 32;
  }

  /** Returns a whole number from 0 up to `end`. */
  below(end) {
    return Math.floor(this.unit() * end);
  }

  chance(probability) {
    return this.unit() < probability;
  }

  /** @template T @param {T[]} list @returns {T} */
  pick(list) {
    return list[this.below(list.length)];
  }
}
