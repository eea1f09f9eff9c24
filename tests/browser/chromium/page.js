// What the page offers to the scenario that drives it.

import { Device } from '../scenario/device.js';

/** The devices that are tabs of this page; more than one where a scenario does not close tabs. @type {Device[]} */
const devices = [];

/** Opens a device and gives its index. */
window.openDevice = (options) => devices.push(new Device(options, WebSocket)) - 1;

window.callDevice = (index, method, args) => devices[index][method](...args);

/** Opens streams and leaves them open; resolves when each has had its first event. */
window.openStreams = (count, url, token) => {
  const open = async (_, number) => {
    const headers = { Authorization: `Bearer ${token}`, 'X-Client-Id': `stream-${number}` };
    const response = await fetch(url, { headers });
    const { value } = await response.body.getReader().read();
    return new TextDecoder().decode(value);
  };
  return Promise.all(Array.from({ length: count }, open));
};

/** What a WebSocket is told after it has authenticated, or how it ends. */
window.authenticate = (url, token) =>
  new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onopen = () => socket.send(JSON.stringify({ type: 'auth', token }));
    socket.onmessage = ({ data }) => resolve(data);
    socket.onclose = ({ code }) => resolve(`closed with ${code}`);
  });
