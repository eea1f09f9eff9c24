// A device as driven by a scenario, in Node and in a page alike: all input and output is JSON.

import { META } from '../client/apply.js';
import { Clock } from '../client/clock.js';
import { readCursors } from '../client/database.js';
import { Engine } from '../client/engine.js';

/**
 * @typedef {object} DeviceOptions
 * @property {number} number the number of its clock
 * @property {string[]} urls of all replicas
 * @property {string} token
 * @property {string} app
 * @property {string} clientId
 * @property {string} database
 * @property {string[]} tables
 * @property {'older' | 'middle' | 'newest'} dialect
 * @property {import('../client/apply.js').Rule} rule
 */

/** A tab. */
export class Device {
  /** @param {DeviceOptions} options @param {typeof WebSocket} WebSocket */
  constructor(options, WebSocket) {
    const { number, urls, token, ...rest } = options;
    // Like a balancer: round robin, starting at another replica for each device.
    let next = number;
    const url = () => urls[next++ % urls.length];
    const clock = new Clock(number);
    this.engine = new Engine({ ...rest, url, token: () => token, clock, WebSocket, againMs: 300 });
  }

  insert(table, records, withStamp) {
    return this.engine.insert(table, records, withStamp);
  }

  edit(table, id, values) {
    return this.engine.edit(table, id, values);
  }

  remove(table, id) {
    return this.engine.remove(table, id);
  }

  sync() {
    return this.engine.sync();
  }

  push() {
    return this.engine.push();
  }

  pull(tables) {
    return this.engine.pull(tables);
  }

  listen() {
    this.engine.listen();
  }

  stream() {
    this.engine.stream();
  }

  stopStream() {
    return this.engine.stopStream();
  }

  setOnline(online) {
    this.engine.network.online = online;
  }

  loseAnswers(count) {
    this.engine.network.answersToLose = count;
  }

  /** Begins a push and closes the tab while it is in flight. */
  async closeWhilePushing(afterMs) {
    const pushing = this.engine.push();
    await new Promise((resolve) => setTimeout(resolve, afterMs));
    this.engine.close();
    await pushing;
  }

  /** Closes the tab; also deletes its database if the device is to come back without data. */
  async close(forget) {
    this.engine.close();
    if (forget) await this.engine.db.delete();
  }

  pending() {
    return this.engine.db.table('pending').count();
  }

  cursors() {
    return readCursors(this.engine.db, this.engine.options.tables);
  }

  /** Errors in the background. */
  errors() {
    return this.engine.errors.map((error) => String(error.stack ?? error));
  }

  /** Returns every record of every table: `{ "table/id": { field: [value, stamp, actor] } }`. */
  async dump() {
    const dumped = {};
    for (const table of this.engine.options.tables) {
      for (const { id, [META]: meta, ...values } of await this.engine.db.table(table).toArray()) {
        const stamped = ([name, value]) => [name, [value, this.engine.dialect.stampOf(meta[name]), meta[name]?.actor]];
        dumped[`${table}/${id}`] = Object.fromEntries(Object.entries(values).map(stamped));
      }
    }
    return dumped;
  }
}
