// Five devices of mixed generations, whose networks, tabs and servers fail, end up with the same records.

import { RULES } from '../client/apply.js';
import { differences, fold } from './fold.js';
import { readLog } from './log.js';
import { Random } from './random.js';

const APP = 'todo';
const TABLES = ['tasks', 'lists', 'tags'];
const DEVICES = 5;
const STEPS = 30;
const GENERATIONS = ['older', 'middle', 'newest', 'newest', 'older'];
/** The last device reads a stream; the others pull when they are woken. */
const STREAMING = DEVICES - 1;

/**
 * @typedef {object} Host where devices run
 * @property {(options: import('./device.js').DeviceOptions) => Promise<object>} open a tab: a `Device`, or a proxy
 *   for one
 * @property {(text: string) => void} progress reports each step
 *
 * @typedef {object} Settings
 * @property {number} seed
 * @property {string[]} urls
 * @property {string} token
 * @property {number} records the initial number of records
 */

/** A run. */
class Run {
  /** @type {import('../client/engine.js').Write[]} */
  writes = [];
  /** The records that may be edited: table and id. @type {[string, string][]} */
  known = [];
  names = 0;
  #shared = Promise.resolve();

  /** @param {Host} host @param {Settings} settings */
  constructor(host, settings) {
    this.host = host;
    this.settings = settings;
    this.random = new Random(settings.seed);
    // Every third run has an engine that applies everything without comparing stamps. No server can give it the later of
    // two edits if the earlier one is stored later, so in those runs devices only edit once they have everything that is
    // stored. The same goes for engines that apply inserts without comparing, if two devices create the same record:
    // another third of the runs has none of those.
    this.careful = settings.seed % 3 === 2;
    this.sameRecords = settings.seed % 3 === 0;
    this.members = Array.from({ length: DEVICES }, (_, number) => new Member(this, number, this.#rule(number)));
  }

  #rule(number) {
    if (this.sameRecords) return 'stamps';
    if (!this.careful) return this.random.pick(RULES.slice(0, 2));
    return number === 0 ? 'everything' : this.random.pick(RULES);
  }

  name() {
    return `r${this.names++}`;
  }

  /** Runs work exclusively among all devices. */
  alone(work) {
    const done = this.#shared.then(work);
    this.#shared = done.catch(() => {});
    return done;
  }

  async go() {
    const [first] = this.members;
    for (const member of this.members) await member.open();
    await first.fill(this.settings.records);
    await Promise.all(this.members.map((member) => member.live()));
    this.host.progress('all have stopped writing');
    for (const member of this.members) await member.settle();
    const newcomer = new Member(this, DEVICES, 'stamps');
    this.members.push(newcomer);
    await newcomer.open();
    // Again, because devices that had settled may not have what another one pushed at the end.
    for (const member of this.members) await member.settle();
    return this.#found();
  }

  async #found() {
    const expected = fold(this.writes);
    const found = [];
    for (const member of this.members) {
      found.push(...(await member.device.errors()).map((error) => `${member}: ${error}`));
      found.push(...(await member.differences(expected)));
    }
    found.push(...(await this.#stored(found)));
    for (const member of this.members) await member.device.close(true);
    return { found, records: Object.keys(expected).length, writes: this.writes.length };
  }

  /** Returns what is stored of the records that differ, for diagnosis. */
  async #stored(found) {
    const { urls, token } = this.settings;
    const keys = [...new Set(found.flatMap((text) => text.match(/\b\w+\/(r|same)\d+/g) ?? []))].slice(0, 3);
    const lines = keys.map(async (key) => {
      const [table, id] = key.split('/');
      const log = await readLog({ url: urls[0], token, app: APP, table });
      return log.filter((change) => change.id === id).map((change) => `${key} as stored: ${JSON.stringify(change)}`);
    });
    return (await Promise.all(lines)).flat();
  }
}

/** A device and its user. */
class Member {
  constructor(run, number, rule) {
    this.run = run;
    this.number = number;
    this.random = new Random(run.settings.seed * 100 + number);
    const { seed, urls, token } = run.settings;
    const dialect = GENERATIONS[(number + seed) % GENERATIONS.length];
    const clientId = `device-${number}`;
    this.options = { number, urls, token, app: APP, clientId, database: `${seed}-${clientId}`, tables: TABLES, dialect, rule };
  }

  toString() {
    return `device ${this.number} (${this.options.dialect}, ${this.options.rule})`;
  }

  async open() {
    this.device = await this.run.host.open(this.options);
    await (this.number === STREAMING ? this.device.stream() : this.device.listen());
  }

  async fill(records) {
    for (const [part, table] of TABLES.entries()) {
      const ids = Array.from({ length: Math.ceil((records - part) / TABLES.length) }, () => this.run.name());
      const made = ids.map((id, n) => ({ id, title: `title of ${id}`, n, done: false }));
      this.#wrote(await this.device.insert(table, made, part !== 1));
      this.run.known.push(...ids.map((id) => [table, id]));
    }
    await this.#settled(() => this.device.push());
  }

  async live() {
    for (let step = 0; step < STEPS; step++) {
      await this.#step();
      this.run.host.progress(`${this}: step ${step + 1} of ${STEPS}`);
    }
  }

  async #step() {
    const kind = this.random.unit();
    if (kind < 0.3) return this.#write();
    if (kind < 0.6) return this.device.sync();
    if (kind < 0.7) return this.#offline();
    if (kind < 0.78) return this.#closeTab();
    if (kind < 0.82) return this.#forget();
    if (kind < 0.9) return this.#loseAnswer();
    return this.device.pull([this.random.pick(TABLES)]);
  }

  /** Makes a few edits. */
  async #write() {
    if (!this.run.careful) return this.#edits();
    await this.run.alone(async () => {
      // Events in flight were sent before the edit, and would undo it.
      const isStreaming = this.number === STREAMING;
      if (isStreaming) await this.device.stopStream();
      await this.#settled(() => this.device.sync());
      await this.#edits();
      await this.#settled(() => this.device.push());
      if (isStreaming) await this.device.stream();
    });
  }

  async #edits() {
    for (let left = 1 + this.random.below(4); left > 0; left--) this.#wrote(await this.#edit());
  }

  async #edit() {
    const kind = this.random.unit();
    if (kind < 0.15) return this.#insert();
    // Mostly the same few records, so that devices conflict.
    const known = this.run.known;
    const [table, id] = this.random.chance(0.7) ? known[this.random.below(20)] : this.random.pick(known);
    if (kind < 0.2) return this.device.remove(table, id);
    const value = `${this.number}-${this.run.name()}`;
    const values = this.random.pick([{ title: value }, { note: value }, { done: value, title: value }, { n: null }]);
    return this.device.edit(table, id, values);
  }

  async #insert() {
    const same = this.run.sameRecords && this.random.chance(0.5);
    const [table, id] = [this.random.pick(TABLES), same ? `same${this.random.below(5)}` : this.run.name()];
    const record = { id, title: `${id} of ${this.number}`, done: false };
    const writes = await this.device.insert(table, [record], same || this.random.chance(0.5));
    this.run.known.push([table, id]);
    return writes;
  }

  #wrote(writes) {
    this.run.writes.push(...writes);
  }

  async #offline() {
    await this.device.setOnline(false);
    for (let left = this.run.careful ? 0 : 4; left > 0; left--) await this.#edits();
    await this.device.setOnline(true);
  }

  async #closeTab() {
    await this.device.closeWhilePushing(this.random.below(12));
    await this.open();
  }

  /** Deletes the database, once everything in it is stored. */
  async #forget() {
    await this.#settled(() => this.device.push());
    await this.device.close(true);
    await this.open();
  }

  async #loseAnswer() {
    // All three attempts are stored and none is answered; people keep editing.
    await this.device.loseAnswers(3);
    await this.device.push();
    await this.#write();
    await this.device.loseAnswers(0);
  }

  async settle() {
    await this.#settled(() => this.device.sync());
    this.run.host.progress(`${this} has settled`);
  }

  /** Retries until it succeeds: replicas are killed all the time, but there is always one. */
  async #settled(work) {
    while (!(await work())) this.run.host.progress(`${this} tries again`);
  }

  async differences(expected) {
    return differences(String(this), expected, await this.device.dump(), this.options.dialect === 'newest');
  }
}

/**
 * @param {Host} host
 * @param {Settings} settings
 * @returns {Promise<{ found: string[], records: number, writes: number }>} the findings, and the
 *   number of records and writes
 */
export function fiveDevices(host, settings) {
  return new Run(host, settings).go();
}
