/**
 * A device's clock. Its stamps ascend, and no two devices of a run produce the same one: ties are tested elsewhere, and
 * no server can help a device that receives a value with the stamp of an edit it has not sent.
 */
export class Clock {
  static DEVICES = 16;
  #last = 0;

  /** @param {number} device from 0 */
  constructor(device) {
    this.device = device % Clock.DEVICES;
  }

  /**
   * Returns a new stamp, later than all earlier ones of this clock and than `held`.
   * @param {string} [held]
   */
  stamp(held) {
    const after = Math.max(this.#last, held ? Date.parse(held) : 0, Date.now() - Clock.DEVICES);
    const turn = Math.floor(after / Clock.DEVICES) + 1;
    this.#last = turn * Clock.DEVICES + this.device;
    return new Date(this.#last).toISOString();
  }
}
