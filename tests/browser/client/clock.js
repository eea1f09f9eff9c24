/**
 * A device's clock. Its stamps ascend, and no two devices of one run have the same: what a tie gives is tested
 * elsewhere, and a device that takes in a value with the stamp of an edit that it has not sent is beyond any server.
 */
export class Clock {
  static DEVICES = 16;
  #last = 0;

  /** @param {number} device from 0 */
  constructor(device) {
    this.device = device % Clock.DEVICES;
  }

  /**
   * A new stamp, later than all that this clock has given and than `held`.
   * @param {string} [held]
   */
  stamp(held) {
    const after = Math.max(this.#last, held ? Date.parse(held) : 0, Date.now() - Clock.DEVICES);
    const turn = Math.floor(after / Clock.DEVICES) + 1;
    this.#last = turn * Clock.DEVICES + this.device;
    return new Date(this.#last).toISOString();
  }
}
