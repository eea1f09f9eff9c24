// The functions of the page for the scenario that drives it.

import { readEvents } from '../client/stream.js';
import { Device } from '../scenario/device.js';

/** The devices that are tabs of this page; more than one if a scenario does not close tabs. @type {Device[]} */
const devices = [];

/** Opens a device and returns its index. */
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

/** A stream of several apps: the records it delivered, by app, and its position. */
const ofApps = { seen: [], id: undefined, ending: undefined };

/** Opens it, resuming from an id if there is one. Resolves when it is open. */
window.followApps = async (url, token, id) => {
  Object.assign(ofApps, { seen: [], ending: new AbortController() });
  const resume = id ? { 'Last-Event-ID': id } : {};
  const headers = { Authorization: `Bearer ${token}`, 'X-Client-Id': 'reader', ...resume };
  const response = await fetch(url, { headers, signal: ofApps.ending.signal });
  if (!response.ok) throw new Error(`the stream was answered ${response.status}`);
  readEvents(response.body, async ({ appId, changes }, last) => {
    ofApps.seen.push(...changes.map((change) => `${appId}/${change.id}`));
    if (last) ofApps.id = last;
  });
};

window.seenOfApps = () => ofApps.seen;

/** Ends it; returns its position. */
window.leaveApps = () => {
  ofApps.ending.abort();
  return ofApps.id;
};

/** Returns the first message of a WebSocket after authentication, or how it ends. */
window.authenticate = (url, token) =>
  new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onopen = () => socket.send(JSON.stringify({ type: 'auth', token }));
    socket.onmessage = ({ data }) => resolve(data);
    socket.onclose = ({ code }) => resolve(`closed with ${code}`);
  });
