// Server-sent events over fetch, parsed by hand: EventSource cannot send an Authorization header.

import { pause } from './network.js';

const AGAIN_MS = 300;

/**
 * Reads the stream of an app until the tab closes or it is stopped, and reconnects when it ends.
 * @param {import('./network.js').Network} network
 * @param {() => Promise<string>} path the path to continue from, requested at each start
 * @param {Record<string, string>} headers
 * @param {(event: object) => Promise<void>} take one event of changes
 * @param {AbortSignal} stop
 */
export async function follow(network, path, headers, take, stop) {
  const signal = AbortSignal.any([network.signal, stop]);
  while (!signal.aborted) {
    if (network.online) {
      const where = network.url() + (await path());
      const response = await fetch(where, { ...network.request({ headers }), signal }).catch(() => undefined);
      if (response?.ok) await readEvents(response.body, take);
    }
    await pause(AGAIN_MS, signal);
  }
}

/**
 * Reads a stream to its end, however it ends.
 * @param {ReadableStream} body
 * @param {(event: object, id?: string) => Promise<void>} take one event of changes
 */
export async function readEvents(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const broken = { done: true };
  let rest = '';
  for (;;) {
    // However the connection ends, the next one continues from the cursor.
    const { done, value } = await reader.read().catch(() => broken);
    if (done) return;
    const blocks = (rest + value).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) await takeBlock(block, take);
  }
}

async function takeBlock(block, take) {
  const lines = block.split('\n');
  const member = (name) => lines.find((line) => line.startsWith(name))?.slice(name.length);
  if (member('event: ') === 'changes') await take(JSON.parse(member('data: ')), member('id: '));
}
