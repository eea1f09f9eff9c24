// The load generator's reports in Chromium: tooltips, zoom, hiding a line, texts with markup.
// Settings on stdin: { folder, expected: { title: [{ at, texts }] }, screenshots? }; `at` is a place in the plot's data.

import { mkdirSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { chromium } from 'playwright-core';
import { CHROMIUM, FLAGS } from '../chromium/launch.js';

const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 800 } };
const PAGES = ['usual', 'growth', 'hostile', 'single', 'hour', 'empty'];

const settings = JSON.parse(await text(process.stdin));
const found = [];
const sandbox = process.getuid() === 0 ? ['--no-sandbox'] : [];
const browser = await chromium.launch({ executablePath: CHROMIUM, args: [...FLAGS, ...sandbox] });

/** Records a finding, and continues. */
function check(what, isSo) {
  if (!isSo) found.push(what);
}

async function open(name, options = {}) {
  const context = await browser.newContext({ viewport: SIZES.desktop, offline: true, ...options });
  const page = await context.newPage();
  page.on('console', (message) => message.type() === 'error' && found.push(`${name}: the browser says: ${message.text()}`));
  page.on('pageerror', (error) => found.push(`${name}: a script failed: ${error}`));
  page.on('request', (request) => check(`${name} asks for ${request.url()}`, request.url().startsWith('file:')));
  await page.goto(`file://${settings.folder}/browser-${name}.html`);
  return page;
}

const figureOf = (page, title) => page.locator('figure.plot').filter({ has: page.getByText(title, { exact: true }) });

/** Moves the pointer to the x of this index in the data. */
async function pointAt(figure, index) {
  await figure.scrollIntoViewIfNeeded();
  // A pointer at the very end would be beyond it.
  const inside = ({ plot }, at) => Math.min(Math.max(plot.valToPos(plot.data[0][at], 'x'), 1), plot.over.clientWidth - 2);
  const left = await figure.evaluate(inside, index);
  await figure.locator('.u-over').hover({ position: { x: left, y: 90 } });
}

const tipOf = async (figure) => (await figure.locator('.tip').textContent()).split('\n');

async function valuesUnderThePointer() {
  const page = await open('usual');
  for (const [title, all] of Object.entries(settings.expected)) {
    const figure = figureOf(page, title);
    for (const { at, texts } of all) {
      await pointAt(figure, at);
      const shown = await tipOf(figure);
      check(`${title}, point ${at}: ${shown} instead of ${texts}`, shown.join() === texts.join());
    }
  }
  return page;
}

async function zoom(page) {
  const [figure, other] = ['pull: latency', 'pull: throughput'].map((title) => figureOf(page, title));
  const span = (of) => of.evaluate(({ plot }) => plot.scales.x.max - plot.scales.x.min);
  const [all, limits] = [await span(other), await figure.evaluate(({ plot }) => plot.scales.y.max)];
  await figure.scrollIntoViewIfNeeded();
  const box = await figure.locator('.u-over').boundingBox();
  await page.mouse.move(box.x + box.width * 0.4, box.y + 50);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.6, box.y + 60, { steps: 4 });
  await page.mouse.up();
  for (const [name, of] of [['a plot', figure], ['another plot over time', other]]) {
    const zoomed = await span(of);
    check(`a drag zooms ${name} to a fifth: ${zoomed} of ${all}`, Math.abs(zoomed / all - 0.2) < 0.02);
  }
  check('its y axis fits what is left', (await figure.evaluate(({ plot }) => plot.scales.y.max)) <= limits);
  await page.mouse.dblclick(box.x + box.width * 0.5, box.y + 60);
  check('a double click shows all again', (await span(figure)) === all && (await span(other)) === all);
}

async function hiddenLine(page) {
  const figure = figureOf(page, 'pull: latency');
  await figure.getByText('max', { exact: true }).click();
  await pointAt(figure, 10);
  const shown = await tipOf(figure);
  check(`a hidden line has no value: ${shown}`, shown.length === 3 && !shown.some((line) => line.startsWith('max')));
  await page.setViewportSize(SIZES.phone);
  await page.waitForFunction(() => document.querySelector('figure.plot').plot.width <= 390);
  check('it fits a phone', await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
}

async function everyPage() {
  for (const name of PAGES) {
    const page = await open(name);
    const [figures, drawn] = await page.evaluate(() => [
      document.querySelectorAll('figure .chart').length,
      document.querySelectorAll('figure canvas').length,
    ]);
    check(`${name} draws ${drawn} of ${figures} plots`, figures === drawn);
    check(`a text of ${name} became more than text`, !(await page.evaluate(() => 'hit' in globalThis || document.querySelector('img'))));
    await page.context().close();
  }
}

async function pictures() {
  mkdirSync(settings.screenshots, { recursive: true });
  for (const name of ['usual', 'growth', 'hour', 'single', 'hostile']) {
    for (const [size, viewport] of Object.entries(SIZES)) {
      for (const colorScheme of ['light', 'dark']) {
        const page = await open(name, { viewport, colorScheme });
        const figure = page.locator('figure:has(.chart)').first();
        await pointAt(figure, 0);
        await page.screenshot({ path: `${settings.screenshots}/report-${name}-${size}-${colorScheme}.png`, fullPage: true });
        if (size === 'desktop') await page.pdf({ path: `${settings.screenshots}/report-${name}-${colorScheme}.pdf` });
        await page.context().close();
      }
    }
  }
}

const page = await valuesUnderThePointer();
await zoom(page);
await hiddenLine(page);
await everyPage();
if (settings.screenshots) await pictures();
await browser.close();
if (found.length > 0) {
  console.error(found.join('\n'));
  process.exitCode = 1;
} else {
  console.log(JSON.stringify({ pages: PAGES.length, plots: Object.keys(settings.expected).length }));
}
