// The smallest client that does all that docs/clients.md asks for, which shows it from `begin` to `end`.

// begin
/** Records are kept as `"table/id" → { field: { value, at } }`; a real client keeps all members in IndexedDB. */
export class Client {
  records = new Map();
  pending = [];
  since = '';
  busy = Promise.resolve();

  constructor(options) {
    Object.assign(this, options); // url, app, clientId, and token(), which gives a valid one
  }

  /** A local edit: applied at once, sent with the next sync. */
  write(change) {
    this.apply(change);
    this.pending.push(change);
    return this.sync();
  }

  apply({ table, id, op, data, fields, deletedAt }) {
    const record = this.records.get(`${table}/${id}`) ?? {};
    const at = op === 'insert' ? data.updatedAt || data.createdAt : deletedAt;
    const writes = fields ?? Object.fromEntries(Object.entries(data ?? { deletedAt }).map(([f, value]) => [f, { value, at }]));
    for (const [field, write] of Object.entries(writes)) {
      if (!(record[field]?.at > write.at)) record[field] = write; // the later stamp wins, of two equal ones the server's
    }
    this.records.set(`${table}/${id}`, record);
  }

  /** Sends what is pending and fetches what others wrote, of all tables; one exchange at a time. */
  sync() {
    return (this.busy = this.busy.catch(() => {}).then(async () => {
      for (let hasMore = true; hasMore || this.pending.length > 0; ) {
        const changes = this.pending.slice(0, 200);
        const answer = await this.post({ clientId: this.clientId, since: this.since, changes });
        answer.serverChanges.forEach((change) => this.apply(change));
        this.pending.splice(0, changes.length); // IndexedDB: these three in one transaction
        this.since = answer.syncedUntil;
        hasMore = answer.hasMore;
      }
    }));
  }

  async post(body) {
    for (;;) {
      const headers = { Authorization: `Bearer ${await this.token()}`, 'Content-Type': 'application/json' };
      const request = { method: 'POST', headers, body: JSON.stringify(body) };
      const response = await fetch(`${this.url}/sync/${this.app}`, request).catch(() => undefined);
      if (response?.ok) return response.json();
      const final = response && response.status < 500 && ![401, 408, 429].includes(response.status);
      if (final) throw new Error((await response.json()).message); // sending it again would not help
      const seconds = Number(response?.headers.get('Retry-After') || 2);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000 * (1 + Math.random() / 2)));
    }
  }

  /** Syncs when the server says so, and each time that the socket is there again. */
  listen() {
    const socket = (this.socket = new WebSocket(`${this.url.replace(/^http/, 'ws')}/ws/${this.app}`));
    let renewal;
    const signIn = async () => {
      const token = await this.token();
      socket.send(JSON.stringify({ type: 'auth', token, clientId: this.clientId }));
      const { exp } = JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')));
      renewal = setTimeout(signIn, (exp * 1000 - Date.now()) / 2); // `auth` again before it expires
    };
    socket.onopen = signIn;
    socket.onmessage = ({ data }) => ['auth-ok', 'sync-available'].includes(JSON.parse(data).type) && this.sync();
    socket.onclose = () => {
      clearTimeout(renewal);
      if (!this.closed) setTimeout(() => this.listen(), 1000 + Math.random() * 4000);
    };
  }
}
// end
