// The smallest client that does everything docs/clients.md asks for; that document shows it from `begin` to `end`.

// begin
/** Holds `"table/id" → { field: { value, at } }`; a real client keeps all its members in IndexedDB. */
export class Client {
  records = new Map();
  pending = [];
  since = '';
  // url, app, clientId, and token(), which gives a valid one
  constructor(options) { Object.assign(this, options); }

  write(change) {
    this.apply(change); // shown to the user at once
    this.pending.push(change);
    return this.sync();
  }

  apply({ table, id, data, fields, deletedAt }) {
    const record = this.records.get(`${table}/${id}`) ?? {};
    const at = data?.updatedAt || data?.createdAt || deletedAt;
    for (const [field, value] of Object.entries(fields ?? data ?? { deletedAt })) {
      const write = fields ? value : { value, at };
      if (!(record[field]?.at > write.at)) record[field] = write; // the later stamp wins, of equal ones the server's
    }
    this.records.set(`${table}/${id}`, record);
  }

  sync() { // one exchange at a time; calls made during one share the next
    const next = () => ((this.waiting = undefined), (this.busy = this.exchange()));
    return (this.waiting ??= Promise.resolve(this.busy).then(next, next));
  }

  async exchange() {
    for (let hasMore = true; hasMore || this.pending.length > 0; ) {
      const changes = this.pending.slice(0, 200);
      const answer = await this.post(JSON.stringify({ clientId: this.clientId, since: this.since, changes }));
      answer.serverChanges.forEach((change) => this.apply(change));
      this.pending.splice(0, changes.length); // IndexedDB: these three in one transaction
      ({ syncedUntil: this.since, hasMore } = answer);
    }
  }

  async post(body) {
    const headers = { Authorization: `Bearer ${await this.token()}`, 'Content-Type': 'application/json' };
    const response = await fetch(`${this.url}/sync/${this.app}`, { method: 'POST', headers, body }).catch(() => ({}));
    const answer = await response.json?.().catch(() => undefined); // undefined if it broke off or is a proxy's error page
    if (response.ok && answer) return answer;
    const final = !response.ok && response.status < 500 && ![401, 408, 429].includes(response.status);
    if (final) throw new Error(answer?.message ?? `status ${response.status}`); // a retry would not help
    const wait = (Number(response.headers?.get('Retry-After')) || 2) * (1 + Math.random() / 2);
    await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    return this.post(body);
  }

  listen() {
    const socket = (this.socket = new WebSocket(`${this.url.replace(/^http/, 'ws')}/ws/${this.app}`));
    socket.onopen = async () => {
      const token = await this.token().catch(console.error);
      if (!token) socket.close(); // and reconnect
      if (socket.readyState !== WebSocket.OPEN) return;
      socket.send(JSON.stringify({ type: 'auth', token, clientId: this.clientId }));
      const { exp } = JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')));
      const half = (exp * 1000 - Date.now()) / 2; // `auth` again before it expires; timers run for at most 24 days
      this.renewal = setTimeout(socket.onopen, Math.min(Math.max(half, 1000), 2 ** 31 - 1));
    };
    socket.onmessage = ({ data }) =>
      ['auth-ok', 'sync-available'].includes(JSON.parse(data).type) && this.sync().catch(console.error);
    socket.onclose = () => {
      clearTimeout(this.renewal);
      setTimeout(() => this.closed || this.listen(), 1000 + Math.random() * 4000);
    };
  }
}
// end
