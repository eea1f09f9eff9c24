// A device on the page: the client of tests/browser on a real Dexie, with a network that can be switched off, and a log of
// the messages it receives and the edits it loses.

import { liveQuery } from 'dexie';
import { META } from './client/apply.js';
import { Clock } from './client/clock.js';
import { Engine } from './client/engine.js';

const APP = 'playground';
const TABLE = 'tasks';
/** Delay from an edit to its push, and from a failed push to its retry. */
const PUSH_AFTER_MS = 500;
const AGAIN_MS = 1000;

/** A name that this browser remembers, so that the device stays the same when the page is reloaded. */
function clientId(name) {
  const key = `device ${name}`;
  const id = localStorage.getItem(key) ?? `${name}-${crypto.randomUUID().slice(0, 8)}`;
  localStorage.setItem(key, id);
  return id;
}

export class Device {
  #sockets = new Set();
  #timer;

  /**
   * @param {{ name: string, number: number, url: () => string, token: () => string,
   *   say: (kind: string, text: string) => void }} options `url`: the replica to talk to at this moment
   */
  constructor({ name, number, url, token, say }) {
    this.say = say;
    const watch = (socket) => this.#watch(socket);
    class Watched extends WebSocket {
      constructor(address) {
        super(address);
        watch(this);
      }
    }
    this.engine = new Engine({
      database: `playground-${name}`,
      app: APP,
      clientId: clientId(name),
      tables: [TABLE],
      dialect: 'newest',
      rule: 'stamps',
      clock: new Clock(number),
      WebSocket: Watched,
      againMs: AGAIN_MS,
      url,
      token,
    });
    this.#observe(this.engine.network);
    this.tasks = liveQuery(() => this.#tasks());
    this.pending = liveQuery(() => this.engine.db.table('pending').count());
    this.engine.listen();
  }

  get online() {
    return this.engine.network.online;
  }

  set online(online) {
    this.engine.network.online = online;
    this.say('network', online ? 'is back' : 'has no network');
    if (online) this.#syncSoon(0);
    else for (const socket of this.#sockets) socket.close();
  }

  add(title) {
    return this.#edited(this.engine.insert(TABLE, [{ id: crypto.randomUUID(), title, done: false }]));
  }

  edit(id, values) {
    return this.#edited(this.engine.edit(TABLE, id, values));
  }

  remove(id) {
    return this.#edited(this.engine.remove(TABLE, id));
  }

  async #tasks() {
    const all = await this.engine.db.table(TABLE).toArray();
    // Members in a fixed order, so that equal records are equal strings.
    const plain = ({ [META]: _, ...task }) => Object.fromEntries(Object.entries(task).sort());
    const there = all.filter((task) => !task.deletedAt).map(plain);
    return there.sort((a, b) => (a.createdAt ?? '').localeCompare(b.createdAt ?? '') || a.id.localeCompare(b.id));
  }

  async #edited(edit) {
    await edit;
    this.#syncSoon(PUSH_AFTER_MS);
  }

  #syncSoon(afterMs) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      if (!this.online) return;
      const done = await this.engine.sync().catch((error) => (this.say('error', String(error)), true));
      if (!done) this.#syncSoon(AGAIN_MS);
    }, afterMs);
  }

  #watch(socket) {
    this.#sockets.add(socket);
    socket.addEventListener('message', ({ data }) => {
      const { type, tables } = JSON.parse(data);
      if (type === 'sync-available') this.say('wake', `is woken: ${tables.join(', ')}`);
      if (type !== 'auth-ok') return;
      this.say('socket', `listens on port ${new URL(socket.url).port}`);
      // Fetches what it missed while it was disconnected.
      this.#syncSoon(0);
    });
    socket.addEventListener('close', ({ code }) => {
      if (this.#sockets.delete(socket) && this.online) this.say('socket', `lost its socket (${code})`);
    });
  }

  /** Logs what goes to the server and what comes back. */
  #observe(network) {
    const json = network.json.bind(network);
    network.json = async (path, init) => {
      const answer = await json(path, init);
      const pushed = init.body ? JSON.parse(init.body).changes.length : 0;
      const received = answer.serverChanges.length;
      if (pushed > 0) this.say('push', `pushes ${counted(pushed)}`);
      if (received > 0) this.say('pull', `receives ${counted(received)}`);
      await this.#tellConflicts(answer);
      return answer;
    };
  }

  async #tellConflicts({ conflicts, serverChanges }) {
    const told = new Set();
    for (const { id, field, clientValue, serverValue } of conflicts) {
      told.add(`${id} ${field}`);
      this.say('conflict', `conflict: ${shown(clientValue)} loses to ${shown(serverValue)}, which is newer`);
    }
    for (const { id, fields } of serverChanges) {
      const record = fields && (await this.engine.db.table(TABLE).get(id));
      for (const [field, { value, at }] of Object.entries(record ? fields : {})) {
        const own = record[META][field];
        const isMine = own?.actor?.id === this.engine.options.clientId;
        if (!isMine || !(at > own.at) || record[field] === value || told.has(`${id} ${field}`)) continue;
        this.say('conflict', `${shown(record[field])} is replaced by ${shown(value)}, which is newer`);
      }
    }
  }
}

const counted = (number) => (number === 1 ? '1 change' : `${number} changes`);
const shown = (value) => (typeof value === 'string' ? `“${value}”` : JSON.stringify(value));
