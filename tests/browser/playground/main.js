// The playground of `make dev` in Chromium: both devices edit offline, reconnect and agree; a replica is killed.
// Settings on stdin: { page, screenshots? }

import { mkdirSync } from 'node:fs';
import { SIZES, THEMES, browser, check, found, run, settings } from '../chromium/run.js';

/** A device of the page, as its user sees it. */
function device(page, name) {
  const view = page.getByRole('region', { name, exact: true });
  const log = view.locator('.log');
  return {
    view,
    add: async (title) => {
      await view.getByLabel('New task').fill(title);
      await view.getByRole('button', { name: 'Add' }).click();
    },
    retitle: async (from, to) => {
      const title = view.locator(`.tasks li[data-title="${from}"]`).getByLabel('Title');
      await title.fill(to);
      await title.press('Enter');
    },
    has: (title) => view.locator(`.tasks li[data-title="${title}"]`).waitFor(),
    network: (on) => view.getByRole('switch').setChecked(on, { force: true }),
    says: (what, times = 1) => log.getByText(what).nth(times - 1).waitFor(),
    unsent: (count) => view.getByText(`${count} not sent`).waitFor(),
  };
}

async function look(page, name) {
  if (!settings.screenshots) return;
  mkdirSync(settings.screenshots, { recursive: true });
  const own = page.viewportSize();
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of THEMES) {
      await page.setViewportSize(viewport);
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${settings.screenshots}/${name}-${size}-${colorScheme}.png` });
      const [wide, room] = await page.evaluate(() => [document.scrollingElement.scrollWidth, innerWidth]);
      check(`${name} is ${wide} wide on a screen of ${room}`, wide <= room);
    }
  }
  await page.setViewportSize(own);
}

await run(async () => {
  const page = await browser.newPage({ viewport: SIZES.desktop });
  page.on('pageerror', (error) => found.push(`a script failed: ${error}`));
  await page.goto(settings.page);
  const [phone, laptop] = ['Phone', 'Laptop'].map((name) => device(page, name));
  const agreement = page.locator('#agreement');
  await Promise.all([phone.says('listens on port'), laptop.says('listens on port')]);
  check('they are on two replicas', (await page.locator('.where').allTextContents()).join() === 'on replica 1,on replica 2');

  await phone.add('Milk');
  await laptop.has('Milk');
  await laptop.says('is woken: tasks');
  console.log('an edit on one replica arrives on the other');

  await Promise.all([phone.network(false), laptop.network(false)]);
  await laptop.retitle('Milk', 'Oat milk');
  await laptop.unsent(1);
  await phone.retitle('Milk', 'Eggs');
  await phone.unsent(1);
  await agreement.getByText('They differ').waitFor();
  await look(page, 'differ');
  await phone.network(true);
  await phone.view.locator('.pending').waitFor({ state: 'hidden' });
  await laptop.network(true);
  await Promise.all([phone.has('Eggs'), laptop.has('Eggs')]);
  await laptop.says('conflict: “Oat milk” loses to “Eggs”');
  await Promise.all([phone.says('listens on port', 2), laptop.says('listens on port', 2)]);
  await agreement.getByText('Both agree').waitFor();
  await look(page, 'agree');
  console.log('both edited offline, came back and agree');

  await page.getByRole('listitem').filter({ hasText: 'replica 1' }).getByRole('button', { name: 'Kill' }).click();
  await phone.view.getByText('on replica 2').waitFor();
  await phone.says('lost its socket');
  await look(page, 'killed');
  await phone.add('Bread');
  await laptop.has('Bread');
  await phone.view.getByText('on replica 1').waitFor();
  await laptop.retitle('Bread', 'Rye bread');
  await phone.has('Rye bread');
  await agreement.getByText('Both agree').waitFor();
  console.log('a replica was killed, and nobody was kept from anything');

  await page.reload();
  await phone.has('Rye bread');
  await laptop.has('Eggs');
  console.log('what they had is there after the page is loaded again');
});
