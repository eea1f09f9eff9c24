// A run in Chromium: takes settings from stdin, and reports findings at the end and in its exit status.

import { text } from 'node:stream/consumers';
import { chromium } from 'playwright-core';
import { CHROMIUM, FLAGS } from './launch.js';

export const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 800 } };
export const THEMES = ['light', 'dark'];

export const settings = JSON.parse(await text(process.stdin));
const sandbox = process.getuid() === 0 ? ['--no-sandbox'] : [];
export const browser = await chromium.launch({ executablePath: CHROMIUM, args: [...FLAGS, ...sandbox] });

/** The findings. */
export const found = [];

/** Records a finding, and continues. */
export function check(what, isSo) {
  if (!isSo) found.push(what);
}

/** Runs everything, closes the browser, and reports the findings. */
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
