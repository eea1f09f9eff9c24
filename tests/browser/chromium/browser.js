// Chromium with our own pages: bundled by esbuild and served on loopback, from an origin that the servers allow.

import { build } from 'esbuild';
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';
import { CHROMIUM, FLAGS } from './launch.js';

/**
 * @param {number} port of the pages
 * @returns {Promise<{ page: (context: string) => Promise<import('playwright-core').Page>,
 *   close: () => Promise<void> }>} `page` opens a tab in the context of this name, which keeps its databases
 */
export async function openBrowser(port) {
  const bundle = await bundled();
  const server = createServer((request, response) => {
    const isScript = request.url === '/page.js';
    response.setHeader('Content-Type', isScript ? 'text/javascript' : 'text/html; charset=utf-8');
    response.end(isScript ? bundle : '<!doctype html><title>mana-sync</title><script src="/page.js"></script>');
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  const sandbox = process.getuid() === 0 ? ['--no-sandbox'] : [];
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: [...FLAGS, ...sandbox] });
  const contexts = new Map();
  return {
    async page(name) {
      if (!contexts.has(name)) contexts.set(name, await browser.newContext({ ignoreHTTPSErrors: true }));
      const page = await contexts.get(name).newPage();
      await page.goto(`http://localhost:${port}/`);
      return page;
    },
    async close() {
      await browser.close();
      server.closeAllConnections();
      server.close();
    },
  };
}

async function bundled() {
  const entry = new URL('page.js', import.meta.url).pathname;
  const result = await build({ entryPoints: [entry], bundle: true, write: false, format: 'iife', target: 'es2022' });
  return result.outputFiles[0].text;
}
