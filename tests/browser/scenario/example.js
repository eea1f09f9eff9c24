// The client shown in docs/clients.md does what the document says.

import { Client } from '../client/example.js';

const APP = 'example';
const TABLE = 'tasks';
/** More than one page of the server and one push of the client. */
const RECORDS = 450;

/** Resolves once the condition holds. */
async function until(what, holds) {
  const deadline = Date.now() + 30_000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`not within 30 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const stamp = () => new Date().toISOString();

function update(id, title) {
  return { table: TABLE, id, op: 'update', fields: { title: { value: title, at: stamp() } } };
}

/** Responses as they look if the network or a proxy fails after the server has processed the request. */
const FAILURES = [
  () => new Response(new ReadableStream({ pull: (body) => body.error(new TypeError('terminated')) })),
  () => new Response('<html>busy</html>', { status: 503, headers: { 'Retry-After': new Date().toUTCString() } }),
  () => new Response('<html>sign in</html>', { status: 200 }),
];

/** Writes arrive even if their first responses fail in each of these ways; the client retries, but not at once. */
async function survives(options) {
  const clients = ['unlucky', 'reader'].map((clientId) => new Client({ ...options, clientId, app: 'failing' }));
  const [client, reader] = clients;
  const { fetch } = globalThis;
  const asked = [];
  globalThis.fetch = async (...request) => {
    const response = await fetch(...request);
    const failure = FAILURES[asked.push(Date.now()) - 1];
    return failure ? failure() : response;
  };
  try {
    await client.write(update('r0', 'arrives'));
  } finally {
    globalThis.fetch = fetch;
  }
  const pauses = asked.slice(1).map((time, n) => time - asked[n]);
  if (pauses.length !== FAILURES.length) throw new Error(`asked ${asked.length} times`);
  if (pauses.some((pause) => pause < 1_000)) throw new Error(`asked again after ${pauses} ms`);
  await reader.sync();
  if (held(client) !== held(reader)) throw new Error(`it has ${held(client)}, and another device ${held(reader)}`);
}

/** A client that cannot get a token, first for its socket and then for its requests, is woken all the same. */
async function comesBack(writer) {
  let asked = 0;
  const token = async () => {
    asked += 1;
    if (asked === 1 || asked === 3) throw new Error('there is no token at the moment; the test has it so');
    return writer.token();
  };
  const client = new Client({ url: writer.url, app: writer.app, clientId: 'without a token', token });
  client.listen();
  await until('it has asked for a token for its socket twice, and for what it asks', () => asked >= 3);
  await writer.write(update('r5', 'woken in the end'));
  const title = () => client.records.get(`${TABLE}/r5`)?.title.value;
  await until('a wake-up is followed once there is a token', () => title() === 'woken in the end');
  client.closed = true;
  client.socket.close();
}

/** Returns what a client holds, in a canonical order. */
function held({ records }) {
  const stamped = (fields) => Object.entries(fields).map(([name, { value, at }]) => [name, value, at]).sort();
  return JSON.stringify([...records].map(([key, fields]) => [key, stamped(fields)]).sort());
}

/**
 * @param {import('./devices.js').Host} host
 * @param {{ urls: string[], token: string, lasting: string, passing: { token: string, until: number } }} settings
 *   `lasting`: a token that is valid for a year; `passing`: one that expires at that time, in milliseconds
 */
export async function example(host, { urls, token, lasting, passing }) {
  // The first token expires while the socket is open; the socket stays.
  const tokens = async () => (Date.now() < passing.until - 2_000 ? passing.token : token);
  const [one, two] = ['one', 'two'].map(
    (clientId, n) => new Client({ url: urls[n], app: APP, clientId, token: tokens }),
  );
  const title = (client, id) => client.records.get(`${TABLE}/${id}`)?.title.value;
  const writing = Array.from({ length: RECORDS }, (_, n) => {
    const data = { title: `title ${n}`, createdAt: stamp() };
    return one.write({ table: TABLE, id: `r${n}`, op: 'insert', data });
  });
  await Promise.all(writing);
  await two.sync();
  if (two.records.size !== RECORDS) throw new Error(`${two.records.size} of ${RECORDS} records arrived`);

  host.progress('all records have arrived');
  two.listen();
  await until('the socket is open', () => two.socket.readyState === WebSocket.OPEN);
  const socket = two.socket;
  if (Date.now() > passing.until) throw new Error('the first token has expired before the socket had it');
  await one.write(update('r0', 'woken'));
  await until('a wake-up is followed', () => title(two, 'r0') === 'woken');
  await until('the first token has expired', () => Date.now() > passing.until);
  await one.write(update('r1', 'woken again'));
  await until('a wake-up is followed after the token was renewed', () => title(two, 'r1') === 'woken again');
  if (two.socket !== socket) throw new Error('the socket was not kept');

  socket.close();
  await one.write(update('r2', 'written meanwhile'));
  await until('the socket is there again, and what was missed too', () => title(two, 'r2') === 'written meanwhile');

  // A token that is valid for longer than a timer can run must not cause endless sign-ins.
  const three = new Client({ url: urls[2], app: APP, clientId: 'three', token: async () => lasting });
  let signedIn = 0;
  const sync = three.sync.bind(three);
  three.sync = () => ((signedIn += 1), sync());
  three.listen();
  await until('what was written is there', () => three.records.size === RECORDS);
  await one.write(update('r4', 'woken as well'));
  await until('a wake-up is followed with that token', () => title(three, 'r4') === 'woken as well');
  if (signedIn > 5) throw new Error(`it has synced ${signedIn} times and was woken once`);
  three.closed = true;
  three.socket.close();

  await two.write({ table: TABLE, id: 'r3', op: 'delete', deletedAt: stamp() });
  await one.sync();
  two.closed = true;
  two.socket.close();
  await survives({ url: urls[0], token: async () => token });
  await comesBack(one);
  await two.sync();
  return { found: held(one) === held(two) ? [] : ['the two clients hold different records'] };
}
