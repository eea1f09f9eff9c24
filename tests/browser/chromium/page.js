// What the page offers to the scenario that drives it.

import { Device } from '../scenario/device.js';

/** The device whose tab this is. @type {Device} */
let device;

window.openDevice = (options) => {
  device = new Device(options, WebSocket);
};

window.callDevice = (method, args) => device[method](...args);

/** Opens streams and leaves them open; resolves when each has had its first event. */
window.openStreams = async (count, url, token) => {
  const opening = Array.from({ length: count }, async (_, number) => {
    const headers = { Authorization: `Bearer ${token}`, 'X-Client-Id': `stream-${number}` };
    const response = await fetch(url, { headers });
    const { value } = await response.body.getReader().read();
    return new TextDecoder().decode(value);
  });
  return Promise.all(opening);
};
