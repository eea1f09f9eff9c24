// One run in Chromium: settings from stdin, and what is found not to be as it should be, which is said in the end and is
// the exit status.

import { text } from 'node:stream/consumers';
import { chromium } from 'playwright-core';
import { CHROMIUM, FLAGS } from './launch.js';

export const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 800 } };
export const THEMES = ['light', 'dark'];

export const settings = JSON.parse(await text(process.stdin));
const sandbox = process.getuid() === 0 ? ['--no-sandbox'] : [];
export const browser = await chromium.launch({ executablePath: CHROMIUM, args: [...FLAGS, ...sandbox] });

/** What is not as it should be. */
export const found = [];

/** Notes what is not as it should be, and goes on. */
export function check(what, isSo) {
  if (!isSo) found.push(what);
}

/** Does it all, closes the browser, and says what was found. */
export async function run(doing) {
  try {
    await doing();
  } catch (error) {
    found.push(String(error?.stack ?? error));
  } finally {
    await browser.close();
  }
  for (const line of found) console.error(line);
  process.exitCode = found.length > 0 ? 1 : 0;
}
