// Runs a scenario with devices in this process. Settings come as JSON on the standard input; each step is a line of the
// standard output; what is not as it should be goes to the standard error, and the process fails.

import 'fake-indexeddb/auto';
import { text } from 'node:stream/consumers';
import WebSocket from 'ws';
import { Device } from '../scenario/device.js';
import { SCENARIOS } from '../scenario/all.js';

globalThis.WebSocket = WebSocket;
const settings = JSON.parse(await text(process.stdin));
const host = {
  open: async (options) => new Device(options, WebSocket),
  progress: (line) => console.log(line),
};
const { found, ...figures } = await SCENARIOS[settings.scenario](host, settings);
console.log(JSON.stringify(figures));
for (const line of found) console.error(line);
process.exitCode = found.length > 0 ? 1 : 0;
