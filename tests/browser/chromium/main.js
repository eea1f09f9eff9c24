// Runs a scenario with devices in Chromium, each with a browser context of its own; otherwise as node/main.js.

import { text } from 'node:stream/consumers';
import { SCENARIOS } from '../scenario/all.js';
import { openBrowser } from './browser.js';
import { sixStreams } from './streams.js';

const METHODS = [
  'insert', 'edit', 'remove', 'sync', 'push', 'pull', 'listen', 'stream', 'setOnline', 'loseAnswers', 'pending',
  'cursors', 'errors', 'dump',
];

/** Passes calls on to the device in its page. */
function remote(page) {
  const call = (method) => (...args) => page.evaluate(([name, list]) => window.callDevice(name, list), [method, args]);
  const device = Object.fromEntries(METHODS.map((method) => [method, call(method)]));
  device.close = async (forget) => {
    await call('close')(forget);
    await page.close();
  };
  device.closeWhilePushing = async (afterMs) => {
    // The page goes in the middle of it, and with it the answer to this call.
    const pushing = call('push')().catch((error) => {
      if (!page.isClosed()) throw error;
    });
    await page.waitForTimeout(afterMs);
    await page.close();
    await pushing;
  };
  return device;
}

const settings = JSON.parse(await text(process.stdin));
const browser = await openBrowser(settings.port);
try {
  const host = {
    browser,
    async open(options) {
      const page = await browser.page(options.database);
      await page.evaluate((own) => window.openDevice(own), options);
      return remote(page);
    },
    progress: (line) => console.log(line),
  };
  const scenarios = { ...SCENARIOS, 'six-streams': sixStreams };
  const { found, ...figures } = await scenarios[settings.scenario](host, settings);
  console.log(JSON.stringify(figures));
  for (const line of found) console.error(line);
  process.exitCode = found.length > 0 ? 1 : 0;
} finally {
  await browser.close();
}
