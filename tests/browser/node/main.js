// Runs a scenario with devices in this process. Settings are read as JSON from standard input; each step is a line on
// standard output; findings go to standard error and make the process fail.

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
