// Requests as existing clients make them, and ways to lose them.

const ATTEMPTS = 3;
const PAUSES_MS = [0, 400, 800];
const PASSING = new Set([0, 408, 429]);

/** The server was not reached, or is unavailable at the moment. Nothing is lost: the next turn retries. */
export class Unavailable extends Error {}

/** The server refused, and retrying would not help. */
export class Refused extends Error {}

/** @param {number} ms @param {AbortSignal} signal */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** The connection of one tab to the servers. */
export class Network {
  /** The number of answers still to be lost in transit: the server has processed the request. */
  answersToLose = 0;
  online = true;
  #closing = new AbortController();

  /**
   * @param {() => string} url of any replica, like the choice of a balancer
   * @param {() => string} token
   */
  constructor(url, token) {
    this.url = url;
    this.token = token;
  }

  /** Aborted when the tab closes. */
  get signal() {
    return this.#closing.signal;
  }

  close() {
    this.#closing.abort();
  }

  /**
   * Returns the JSON of a 200, after up to three attempts within 1.5 s.
   * @param {string} path
   * @param {RequestInit} [init]
   */
  async json(path, init = {}) {
    let status = 0;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      await pause(PAUSES_MS[attempt], this.signal);
      const answer = await this.#attempt(path, init);
      if (answer.status === 200) return answer.json;
      status = answer.status;
      if (!PASSING.has(status) && status < 500) throw new Refused(`${path}: ${status} ${JSON.stringify(answer.json)}`);
    }
    throw new Unavailable(`${path}: ${status}`);
  }

  async #attempt(path, init) {
    if (!this.online || this.signal.aborted) return { status: 0 };
    try {
      const response = await fetch(this.url() + path, this.request(init));
      const json = await response.json();
      if (response.ok && this.answersToLose > 0) {
        this.answersToLose -= 1;
        return { status: 0 };
      }
      return { status: response.status, json };
    } catch {
      return { status: 0 };
    }
  }

  /** @param {RequestInit} init */
  request({ headers, ...init }) {
    const signed = { Authorization: `Bearer ${this.token()}`, ...headers };
    return { ...init, headers: signed, signal: this.signal };
  }
}
