// Runs a scenario with devices in Chromium; otherwise like node/main.js.

import { text } from 'node:stream/consumers';
import { SCENARIOS } from '../scenario/all.js';
import { Device } from '../scenario/device.js';
import { openBrowser } from './browser.js';
import { eightApps, sixStreams } from './streams.js';

/** The methods of a device that scenarios use. */
const METHODS = Object.getOwnPropertyNames(Device.prototype).filter((name) => name !== 'constructor');

const settings = JSON.parse(await text(process.stdin));
const browser = await openBrowser(settings.port);

/** A proxy for a device in a page. */
async function openIn(page, options) {
  const index = await page.evaluate((own) => window.openDevice(own), options);
  const call = (method) => (...args) =>
    page.evaluate(([number, name, list]) => window.callDevice(number, name, list), [index, method, args]);
  return Object.fromEntries(METHODS.map((method) => [method, call(method)]));
}

/** A device whose page is a tab in its own browser context. */
async function openAlone(options) {
  const page = await browser.page(options.database);
  const device = await openIn(page, options);
  return {
    ...device,
    async close(forget) {
      await device.close(forget);
      await page.close();
    },
    async closeWhilePushing(afterMs) {
      // The page closes in the middle of it, and the answer to this call is lost with it.
      const pushing = device.push().catch((error) => {
        if (!page.isClosed()) throw error;
      });
      await page.waitForTimeout(afterMs);
      await page.close();
      await pushing;
    },
  };
}

async function opener() {
  if (settings.scenario === 'five-devices') return openAlone;
  const page = await browser.page('all');
  return (options) => openIn(page, options);
}

try {
  const host = { browser, open: await opener(), progress: (line) => console.log(line) };
  const scenarios = { ...SCENARIOS, 'six-streams': sixStreams, 'eight-apps': eightApps };
  const { found, ...figures } = await scenarios[settings.scenario](host, settings);
  console.log(JSON.stringify(figures));
  for (const line of found) console.error(line);
  process.exitCode = found.length > 0 ? 1 : 0;
} finally {
  await browser.close();
}
