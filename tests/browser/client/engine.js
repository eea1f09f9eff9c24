// One tab of one device: people's edits of records, and their sync with the server.

import Dexie from 'dexie';
import { META, applied, written } from './apply.js';
import { BEGINNING, keepCursor, openDatabase, readCursors } from './database.js';
import { DIALECTS } from './dialects.js';
import { Network, Unavailable } from './network.js';
import { listen } from './socket.js';
import { follow } from './stream.js';

/** Maximum number of changes that existing clients put into one push. */
export const PUSH_CHANGES = 200;

/**
 * @typedef {object} EngineOptions
 * @property {string} database name of the IndexedDB
 * @property {string} app
 * @property {string} clientId
 * @property {string[]} tables
 * @property {'older' | 'middle' | 'newest'} dialect
 * @property {import('./apply.js').Rule} rule
 * @property {() => string} url
 * @property {() => string} token
 * @property {import('./clock.js').Clock} clock
 * @property {typeof WebSocket} WebSocket
 * @property {number} [againMs] the delay before a closed socket reconnects
 */

/** A write of an edit, for the record of all writes. @typedef {{ table: string, id: string, field: string,
 * value: unknown, stamp: string, actor?: object }} Write */

function stamped(values, stamp) {
  return Object.entries(values).map(([name, value]) => [name, value, stamp]);
}

export class Engine {
  #turn = Promise.resolve();
  /** Stops the stream, and resolves when it has ended. @type {{ stop: AbortController, ended: Promise<void> } | undefined} */
  #streaming;
  /** Errors in the background; there should be none. @type {Error[]} */
  errors = [];

  /** @param {EngineOptions} options */
  constructor(options) {
    this.options = options;
    this.dialect = DIALECTS[options.dialect];
    this.actor = { kind: 'person', id: options.clientId };
    this.network = new Network(options.url, options.token);
    this.db = openDatabase(options.database, options.tables);
  }

  /** Closes the tab, even in the middle of something. */
  close() {
    this.network.close();
    this.db.close();
  }

  // ----- what people do -----

  /**
   * Creates the records that do not exist yet.
   * @param {string} table
   * @param {{ id: string }[]} records
   * @param {boolean} withStamp false: the records have no stamp of their creation, if the dialect has such records
   * @returns {Promise<Write[]>}
   */
  async insert(table, records, withStamp = true) {
    const stamp = this.options.clock.stamp();
    const made = await this.#edit(table, async () => {
      const held = await this.db.table(table).bulkGet(records.map(({ id }) => id));
      const absent = records.filter((_, index) => !held[index]);
      const changes = absent.map((record) => this.#insertion(table, record, stamp, withStamp));
      const empty = (id) => ({ id, [META]: {} });
      const rows = changes.map((change) => this.#written(empty(change.id), stamped(change.data, stamp), change));
      await this.db.table(table).bulkPut(rows);
      await this.db.table('pending').bulkAdd(changes.map((change) => ({ change })));
      return changes;
    });
    return made.flatMap((change) => {
      const counts = change.data.updatedAt ?? change.data.createdAt ?? BEGINNING;
      return Object.entries(change.data).map(([field, value]) => this.#write(change, field, value, counts));
    });
  }

  #insertion(table, { id, ...fields }, stamp, withStamp) {
    const data = { ...fields, ...this.dialect.insertStamps(stamp, withStamp) };
    return { table, id, op: 'insert', data, ...this.dialect.members(this.actor) };
  }

  /** Edits a record that exists and is not deleted; no writes if there is none. @returns {Promise<Write[]>} */
  async edit(table, id, values) {
    return this.#update(table, id, (stamp) => {
      const all = { ...values, ...this.dialect.editStamps(stamp) };
      const fields = Object.fromEntries(
        Object.entries(all).map(([name, value]) => [name, this.dialect.field(value, stamp)]),
      );
      return [all, { op: 'update', fields }];
    });
  }

  /** Soft-deletes a record, as existing clients do. @returns {Promise<Write[]>} */
  async remove(table, id) {
    return this.#update(table, id, (stamp) => [{ deletedAt: stamp }, { op: 'delete', deletedAt: stamp }]);
  }

  async #update(table, id, change) {
    const writes = [];
    await this.#edit(table, async () => {
      const record = await this.db.table(table).get(id);
      if (!record || record.deletedAt) return;
      // No device gives an edit an earlier stamp than the value it changes.
      const held = Object.values(record[META]).map(this.dialect.stampOf).sort().at(-1);
      const stamp = this.options.clock.stamp(held);
      const [values, members] = change(stamp);
      const whole = { table, id, ...members, ...this.dialect.members(this.actor) };
      const entries = stamped(values, stamp);
      await this.db.table(table).put(this.#written(record, entries, whole));
      await this.db.table('pending').add({ change: whole });
      writes.push(...entries.map(([field, value]) => this.#write(whole, field, value, stamp)));
    });
    return writes;
  }

  #edit(table, work) {
    return this.db.transaction('rw', [table, 'pending'], work);
  }

  #written(record, values, change) {
    return written(record, values, change, this.dialect, false);
  }

  #write({ table, id, actor }, field, value, stamp) {
    return { table, id, field, value, stamp, actor };
  }

  // ----- sync -----

  /** Pushes all pending changes, then pulls every table. @returns {Promise<boolean>} whether all requests succeeded */
  async sync() {
    return (await this.push()) && (await this.pull(this.options.tables));
  }

  /** @returns {Promise<boolean>} whether all pending changes are stored */
  push() {
    return this.#inTurn(async () => {
      let hasMore = true;
      while (hasMore || (await this.db.table('pending').count()) > 0) hasMore = await this.#pushOnce();
    });
  }

  async #pushOnce() {
    const rows = await this.db.table('pending').orderBy('seq').limit(PUSH_CHANGES).toArray();
    const cursors = await readCursors(this.db, this.options.tables);
    const body = {
      clientId: this.options.clientId,
      since: [...cursors].sort()[0],
      changes: rows.map((row) => row.change),
      ...this.dialect.bodyMembers,
    };
    const answer = await this.network.json(`/sync/${this.options.app}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    });
    await this.#take(answer.serverChanges, this.options.tables, answer.syncedUntil, rows.map((row) => row.seq));
    return answer.hasMore && this.dialect.followsHasMore;
  }

  /** @param {string[]} tables @returns {Promise<boolean>} */
  pull(tables) {
    return this.#inTurn(async () => {
      for (const table of tables) {
        let hasMore = true;
        while (hasMore) hasMore = await this.#pullOnce(table);
      }
    });
  }

  async #pullOnce(table) {
    const [since] = await readCursors(this.db, [table]);
    const query = new URLSearchParams({ collection: table, since });
    const headers = { 'X-Client-Id': this.options.clientId };
    const answer = await this.network.json(`/sync/${this.options.app}/pull?${query}`, { headers });
    await this.#take(answer.serverChanges, [table], answer.syncedUntil, []);
    return answer.hasMore;
  }

  /** Pulls at every wake-up, until the tab closes. */
  listen() {
    const { WebSocket, app, clientId, againMs = 5000, tables } = this.options;
    const options = { WebSocket, app, againMs, clientId: this.dialect.namesItself ? clientId : undefined };
    const wake = (named) => void this.#watch(this.pull(tables.filter((table) => named.includes(table))));
    void this.#watch(listen(this.network, options, wake));
  }

  /** Reads the stream of all tables, until the tab closes or the stream is stopped. */
  stream() {
    const { app, tables, clientId } = this.options;
    const path = async () => {
      const since = (await readCursors(this.db, tables)).sort()[0];
      return `/sync/${app}/stream?${new URLSearchParams({ collections: tables.join(','), since })}`;
    };
    const take = (event) =>
      this.#inTurn(() => this.#take(event.changes, [event.table], event.syncedUntil, []));
    const stop = new AbortController();
    const following = follow(this.network, path, { 'X-Client-Id': clientId }, take, stop.signal);
    this.#streaming = { stop, ended: this.#watch(following) };
  }

  /** Stops reading the stream. Events in flight are not applied afterwards. */
  async stopStream() {
    this.#streaming?.stop.abort();
    await this.#streaming?.ended;
  }

  /** Applies received changes, drops stored ones from pending and moves the cursors, in one transaction. */
  #take(changes, tables, cursor, stored) {
    return this.db.transaction('rw', [...this.options.tables, 'pending', 'cursors'], async () => {
      for (const table of this.options.tables) {
        const own = changes.filter((change) => change.table === table);
        if (own.length > 0) await this.#apply(table, own);
      }
      await this.db.table('pending').bulkDelete(stored);
      await keepCursor(this.db, tables, cursor);
    });
  }

  async #apply(table, changes) {
    const { rule } = this.options;
    const ids = [...new Set(changes.map((change) => change.id))];
    const held = await this.db.table(table).bulkGet(ids);
    const records = new Map(ids.map((id, index) => [id, held[index]]));
    const options = { dialect: this.dialect, rule, now: () => new Date().toISOString() };
    for (const change of changes) records.set(change.id, applied(records.get(change.id), change, options));
    await this.db.table(table).bulkPut([...records.values()].filter((record) => record));
    await this.db.table(table).bulkDelete(ids.filter((id) => !records.get(id)));
  }

  /** Runs one exchange after the other. @returns {Promise<boolean>} false if the server could not be reached */
  #inTurn(work) {
    const done = this.#turn.then(work).then(
      () => true,
      (error) => {
        const closed = this.network.signal.aborted || error instanceof Dexie.DatabaseClosedError;
        if (error instanceof Unavailable || closed) return false;
        throw error;
      },
    );
    this.#turn = done.catch(() => {});
    return done;
  }

  async #watch(background) {
    try {
      await background;
    } catch (error) {
      if (!this.network.signal.aborted) this.errors.push(error);
    }
  }
}
