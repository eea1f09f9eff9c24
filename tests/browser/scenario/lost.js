// A push is stored but its response is lost, and people keep editing. No edit is lost, and nothing is stored twice.

import { RULES } from '../client/apply.js';
import { BEGINNING } from '../client/database.js';
import { DIALECTS } from '../client/dialects.js';
import { differences, fold } from './fold.js';
import { readLog } from './log.js';

const TABLES = ['tasks', 'lists'];
/** The number of attempts before a client gives up. */
const ATTEMPTS = 3;
/** More than a page of a server configured for small pages. */
const RECORDS = 12;

/** @typedef {import('./devices.js').Host} Host */

/** One dialect and one rule: a device, and a record of what was written on it. */
class Case {
  writes = [];
  /** The number of changes made. */
  changes = 0;
  found = [];

  constructor(host, { urls, token }, name, dialect, rule) {
    this.host = host;
    this.what = `${name}, ${dialect}, ${rule}`;
    this.options = { urls, token, app: `${name}-${dialect}-${rule}`, tables: TABLES, dialect, rule };
  }

  open(number) {
    const clientId = `device-${number}`;
    return this.host.open({ ...this.options, number, clientId, database: `${this.options.app}-${clientId}` });
  }

  async wrote(writing) {
    const writes = await writing;
    // Inserts and changes made at once have one stamp per change.
    this.changes += new Set(writes.map(({ table, id }) => `${table}/${id}`)).size;
    this.writes.push(...writes);
  }

  expect(holds, what) {
    if (!holds) this.found.push(`${this.what}: ${what}`);
  }

  async expectAll(device, who) {
    const withActors = this.options.dialect === 'newest';
    this.found.push(...differences(`${this.what}, ${who}`, fold(this.writes), await device.dump(), withActors));
    this.expect((await device.pending()) === 0, `${who} still has pending changes`);
    for (const error of await device.errors()) this.expect(false, `${who}: ${error}`);
  }

  async pushAndLoseTheAnswer(device) {
    await device.loseAnswers(ATTEMPTS);
    this.expect(!(await device.push()), 'the answer was to be lost');
    await device.loseAnswers(0);
    this.expect((await device.pending()) > 0, 'nothing is pending, though nothing was answered');
  }

  async insertMany(device, withStamps) {
    for (let n = 0; n < RECORDS; n++) {
      const record = { id: `r${n}`, title: `title ${n}`, done: false };
      await this.wrote(device.insert(TABLES[n % TABLES.length], [record], withStamps));
    }
  }

  async editMost(device) {
    for (let n = 0; n < RECORDS; n += 2) {
      await this.wrote(device.edit(TABLES[n % TABLES.length], `r${n}`, { title: `edited ${n}` }));
    }
    await this.wrote(device.edit(TABLES[0], 'r0', { title: 'edited twice', done: true }));
    await this.wrote(device.edit(TABLES[1], 'r1', { note: 'a new field' }));
    await this.wrote(device.remove(TABLES[0], 'r2'));
  }

  /** Returns the number of changes on the server, asked without a device id. */
  async expectStored(expected) {
    const { urls, token, app } = this.options;
    const logs = TABLES.map((table) => readLog({ url: urls[0], token, app, table }));
    const events = (await Promise.all(logs)).flat().map((change) => change.eventId);
    this.expect(events.length === expected, `${events.length} changes are stored, not ${expected}`);
    this.expect(new Set(events).size === events.length, 'an eventId came twice, or there was none');
  }
}

/** The answer to a device's first push is lost, so it starts from the beginning again. */
async function lostAnswer(run) {
  const device = await run.open(0);
  await run.insertMany(device, true);
  await run.wrote(device.insert(TABLES[0], [{ id: 'unstamped', title: 'a', note: 'b' }], false));
  await run.pushAndLoseTheAnswer(device);
  await run.editMost(device);
  await run.wrote(device.edit(TABLES[0], 'unstamped', { title: 'edited' }));
  run.expect(await device.push(), 'the second push was not answered');
  await run.expectAll(device, 'the device, after its push');
  // The cursor it received still belongs to the initial sync, so further pages are handled alike.
  run.expect(await device.sync(), 'the pulls were not answered');
  await run.expectAll(device, 'the device, after its pulls');
  await run.expectStored(run.changes);
  const other = await run.open(1);
  run.expect(await other.sync(), 'the other device was not answered');
  await run.expectAll(other, 'another device');
  await Promise.all([device.close(true), other.close(true)]);
}

/** Pending changes are sent again with others, then with a cursor that a pull has moved. */
async function sentAgain(run) {
  const [device, other] = [await run.open(0), await run.open(1)];
  await run.insertMany(device, true);
  await run.pushAndLoseTheAnswer(device);
  await run.editMost(device);
  await run.pushAndLoseTheAnswer(device);
  // Another device writes, so that the pull moves the cursor.
  await run.wrote(other.insert(TABLES[0], [{ id: 'of-the-other', title: 'x' }], true));
  run.expect(await other.push(), "the other device's push was not answered");
  if (run.options.rule === 'stamps') {
    run.expect(await device.pull(TABLES), 'the pull was not answered');
    run.expect((await device.cursors()).every((cursor) => cursor > BEGINNING), 'no cursor has moved');
  }
  await run.wrote(device.edit(TABLES[1], 'r3', { title: 'edited last' }));
  run.expect(await device.push(), 'the last push was not answered');
  run.expect((await device.sync()) && (await other.sync()), 'the pulls were not answered');
  await run.expectAll(device, 'the device');
  await run.expectAll(other, 'another device');
  await run.expectStored(run.changes);
  await Promise.all([device.close(true), other.close(true)]);
}

function each(name, scenario) {
  return async (host, settings) => {
    const cases = Object.keys(DIALECTS).flatMap((dialect) => RULES.map((rule) => [dialect, rule]));
    const running = cases.map(async ([dialect, rule]) => {
      const run = new Case(host, settings, name, dialect, rule);
      await scenario(run);
      host.progress(`${run.what}: ${run.found.length} differences`);
      return run.found;
    });
    return { cases: cases.length, found: (await Promise.all(running)).flat() };
  };
}

export const lostAnswers = each('lost-answer', lostAnswer);
export const sentAgainOnce = each('sent-again', sentAgain);
