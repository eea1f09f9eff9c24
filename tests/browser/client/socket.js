// Wake-ups.

import { pause } from './network.js';

/**
 * Listens on the socket of an app until the tab closes. Like existing clients, it reconnects after a while and does not
 * pull then.
 * @param {import('./network.js').Network} network
 * @param {{ WebSocket: typeof WebSocket, app: string, clientId?: string, againMs: number }} options
 * @param {(tables: string[]) => void} wake
 */
export async function listen(network, { WebSocket, app, clientId, againMs }, wake) {
  while (!network.signal.aborted) {
    if (network.online) await session(network, WebSocket, `/ws/${app}`, clientId, wake);
    await pause(againMs, network.signal);
  }
}

function session(network, WebSocket, path, clientId, wake) {
  return new Promise((resolve) => {
    const socket = new WebSocket(network.url().replace(/^http/, 'ws') + path);
    const leave = () => socket.close();
    network.signal.addEventListener('abort', leave, { once: true });
    socket.onopen = () => socket.send(JSON.stringify({ type: 'auth', token: network.token(), clientId }));
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === 'sync-available' && network.online) wake(message.tables);
    };
    socket.onerror = () => {};
    socket.onclose = () => {
      network.signal.removeEventListener('abort', leave);
      resolve();
    };
  });
}
