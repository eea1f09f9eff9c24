// The console of the admin port in Chromium: every page, every action, an expired login, many sessions.
// Settings on stdin: { urls, expiring, token, user, app, table, record, longest, tokenId, sessions, screenshots? }

import { mkdirSync } from 'node:fs';
import { SIZES, THEMES, browser, check, found, run, settings } from '../chromium/run.js';

/** Sessions on a page of a user, and the size of that page in bytes. */
const LISTED = 100;
const MAX_PAGE = 512 * 1024;

async function open(url, options = {}) {
  const context = await browser.newContext({ baseURL: url, viewport: SIZES.desktop, ...options });
  const page = await context.newPage();
  // Violations of the content security policy are errors in the browser's console.
  page.on('console', (message) => {
    const isExpected = /status of (400|401|403|404|409)/.test(message.text());
    if (message.type() === 'error' && !isExpected) found.push(`the browser says: ${message.text()}`);
  });
  page.on('pageerror', (error) => found.push(`a script failed: ${error}`));
  page.on('dialog', (dialog) => dialog.accept());
  return page;
}

async function logIn(page, token) {
  await page.getByLabel('Admin token').fill(token);
  await page.getByRole('button', { name: 'Log in' }).click();
}

const userPath = `/user?${new URLSearchParams({ id: settings.user })}`;
const recordPath = `/record?${new URLSearchParams({
  user: settings.user,
  app: settings.app,
  table: settings.table,
  id: settings.record,
})}`;

async function login() {
  const page = await open(settings.urls[0]);
  await page.goto(userPath);
  check('who has not logged in is asked to', new URL(page.url()).pathname === '/login');
  await logIn(page, 'not the admin token');
  await page.getByText('This is not the admin token.').waitFor();
  await logIn(page, settings.token);
  await page.getByRole('heading', { name: 'Sessions' }).waitFor();
  check('and goes on where it was', page.url().endsWith(userPath));
  const [cookie] = await page.context().cookies();
  check('the cookie is out of reach', cookie.httpOnly && cookie.sameSite === 'Strict' && !cookie.value.includes(settings.token));
  const forged = await page.request.post('/actions/drain', { form: { replica: 'replica-1', drained: 'true' } });
  check(`a form of another site is refused, not answered ${forged.status()}`, forged.status() === 403);
  return page;
}

async function overview(page) {
  await page.goto('/');
  for (const [index] of settings.urls.entries()) {
    await page.getByRole('row', { name: `replica-${index + 1}` }).waitFor();
  }
  await page.getByText('Pushes a second').waitFor();
  await page.getByRole('heading', { name: 'Database' }).waitFor();
  const shown = await page.locator('[data-part=replicas] time').first().textContent();
  check(`times are shown as how long ago they were: ${shown}`, /ago|just now/.test(shown));
  // Live: changes on the replicas appear without reloading the page.
  const loaded = await page.evaluate(() => performance.timeOrigin);
  const drained = await (await open(settings.urls[0], { storageState: await page.context().storageState() }));
  await drained.goto('/');
  // Like in browsers that do not focus buttons: it is held down for longer than a refresh of the page takes.
  await drained.evaluate(() => addEventListener('mousedown', (event) => event.preventDefault()));
  const button = drained.getByRole('row', { name: 'replica-2' }).getByRole('button', { name: 'Drain' });
  await button.hover();
  await drained.mouse.down();
  for (let refreshed = 0; refreshed < 2; refreshed += 1) {
    await drained.waitForResponse(isLive);
  }
  await drained.mouse.up();
  await drained.getByRole('heading', { name: 'Done' }).waitFor();
  await page.getByRole('row', { name: 'replica-2' }).getByText('drained').waitFor();
  await page.getByText('replica-2 is not ready').waitFor();
  // While thousands of sessions leave, the answer may take longer than the timeout.
  await page.locator('[data-part=replicas] tr', { hasText: 'replica-2' }).locator('[data-name=Sockets]').getByText('0', { exact: true }).waitFor();
  await page.getByRole('row', { name: 'replica-2' }).getByRole('button', { name: 'Take back' }).click();
  await page.getByRole('heading', { name: /^(Done|Not done)/ }).waitFor();
  const outcome = await page.locator('main').innerText();
  check(`it is taken back: ${outcome}`, outcome.includes('taken back'));
  await drained.goto('/');
  await drained.getByRole('row', { name: 'replica-2' }).getByText('ready', { exact: true }).waitFor();
  await drained.context().close();
  check('a page that is live is not loaded again', loaded > 0);
}

const isLive = (response) => response.request().headers()['x-live'] === '1';

/** What is refreshed goes on while a button has the focus, waits while a text is selected, and says when nothing answers. */
async function live(page) {
  await page.goto('/');
  const replicas = page.locator('[data-part=replicas]');
  const row = replicas.locator('tr', { hasText: 'replica-2' });
  const old = replicas.locator('[data-old]');
  const mark = () => row.evaluate((tr) => (tr.dataset.old = 'yes'));
  await row.getByRole('button', { name: 'Drain' }).focus();
  await mark();
  await old.waitFor({ state: 'detached' });
  const focused = await page.evaluate(() => document.activeElement.closest('tr')?.textContent ?? 'nothing');
  check(`the button keeps the focus, not ${focused}`, focused.includes('replica-2'));

  await mark();
  await row.locator('strong').evaluate((name) => getSelection().selectAllChildren(name));
  for (let refreshed = 0; refreshed < 2; refreshed += 1) await page.waitForResponse(isLive);
  await page.locator('[data-part=replicas].held').waitFor();
  check('a selected text stays', (await page.evaluate(() => String(getSelection()))) === 'replica-2' && (await old.count()) === 1);
  await page.evaluate(() => getSelection().removeAllRanges());
  await old.waitFor({ state: 'detached' });

  // Like a replica that is frozen: it accepts connections, and does not answer.
  const held = [];
  await page.route('/', (route) => held.push(route));
  const banner = page.locator('#offline');
  await banner.waitFor();
  const said = await banner.innerText();
  check(`it says how old the page is: ${said}`, /No answer.* is from \d+ s ago/.test(said));
  for (const route of held) await route.continue();
  await page.unroute('/');
  await banner.waitFor({ state: 'hidden' });
}

/** A page that does not exist is one for people, and leads back. */
async function notFound(page) {
  const answer = await page.goto('/no-such-page');
  check(`it is answered ${answer.status()}`, answer.status() === 404);
  await page.getByRole('link', { name: 'Overview' }).click();
  await page.getByRole('heading', { name: 'Replicas' }).waitFor();
}

async function user(page) {
  await page.goto('/user?id=nobody');
  await page.getByText('Nothing is stored of this user').waitFor();
  await page.goto('/user');
  await page.getByLabel('User id').fill(settings.user);
  await page.getByRole('button', { name: 'Show' }).click();
  const total = settings.sessions.toLocaleString('en');
  await page.getByText(`1 to ${LISTED} of ${total}, the newest first.`).waitFor();
  const rows = page.locator('[data-part=sessions] tbody tr');
  check('the first page has so many sessions', (await rows.count()) === LISTED);
  const devices = await page.locator('.figures > *', { hasText: 'Devices' }).textContent();
  check(`devices of sessions that are not listed are more: ${devices}`, /\d\+/.test(devices));
  const size = (await page.content()).length;
  check(`a page of ${size} bytes`, size < MAX_PAGE);
  const first = await rows.first().textContent();
  await page.getByRole('link', { name: 'Older' }).click();
  await page.getByText(`${LISTED + 1} to ${2 * LISTED} of ${total}`).waitFor();
  check('the next page has others', (await rows.first().textContent()) !== first);
  await page.getByRole('link', { name: 'Newer' }).click();
  await page.getByText(`1 to ${LISTED} of ${total}`).waitFor();
  await page.goto(`${userPath}&page=1000000`);
  await page.getByText('Older ones are not listed.').waitFor();
  check('the last page is no longer than others', (await rows.count()) === LISTED);
  await page.goto(userPath);
  const device = page.locator('[data-part=devices] tbody tr', { hasText: 'phone' }).first();
  await device.getByRole('button', { name: 'Disconnect' }).click();
  await page.getByText('1 session was ended').waitFor();
  await page.goto(userPath);
  await rows.filter({ hasText: settings.tokenId }).getByRole('button', { name: 'Refuse token' }).click();
  await page.getByText('refused until').first().waitFor();
  await page.goto('/actions');
  await page.getByRole('cell', { name: settings.tokenId }).waitFor();
}

async function record(page) {
  await page.goto('/record');
  for (const [label, value] of [
    ['User id', settings.user],
    ['App', settings.app],
    ['Table', settings.table],
    ['Record id', settings.record],
  ]) {
    await page.getByLabel(label, { exact: true }).fill(value);
  }
  await page.getByRole('button', { name: 'Show' }).click();
  await page.getByRole('heading', { name: 'History' }).waitFor();
  const beginning = await page.locator('.timeline time').first().textContent();
  check(`a time line says when: ${beginning}`, /ago|just now/.test(beginning));
  check('the history is a time line', (await page.locator('.timeline > li').count()) === 3);
  const standing = page.locator('.timeline .wins', { hasText: 'title' });
  check('one write of a field stands', (await standing.count()) === 1);
  check('it is the one with the latest stamp', (await standing.textContent()).includes('Eggs'));
  check('what users write stays text', (await page.locator('main b').count()) === 0);
  const late = page.locator('.timeline li', { hasText: 'came too late' });
  check('what came too late says so', (await late.locator('.writes').textContent()).includes('Butter'));
  await page.goto(recordPath.replace(settings.record, 'no-such-record'));
  await page.getByText('No change to such a record is stored.').waitFor();
}

async function load(page) {
  await page.goto('/load');
  await page.locator('figure polyline').first().waitFor();
  const lines = await page.locator('figure').first().locator('polyline').count();
  check(`a line for each replica, not ${lines}`, lines === settings.urls.length);
}

async function actions(page) {
  const send = async (button, fill, expected) => {
    await page.goto('/actions');
    const form = page.locator('form.card', { has: page.getByRole('button', { name: button, exact: true }) });
    await fill(form);
    await form.getByRole('button', { name: button, exact: true }).click();
    await page.getByText(expected).first().waitFor();
  };
  await send('Disconnect', (form) => form.getByLabel('User id').fill('nobody'), '0 sessions were ended');
  await send('Refuse', (form) => form.getByLabel('Token id').fill('another'), 'refused until');
  await page.goto('/actions');
  const mistaken = page.locator('tr', { hasText: 'another' });
  await mistaken.getByRole('button', { name: 'Accept again' }).click();
  await page.getByText('accepted again').first().waitFor();
  await page.goto('/actions');
  check('a token that is accepted again is not listed', (await mistaken.count()) === 0);
  await send('Change', (form) => form.getByLabel('Filter').fill('info,mana_sync::http=debug'), 'the log filter is now');
  await send('Change', (form) => form.getByLabel('Filter').fill('loud'), 'must have the form of RUST_LOG');
  await send('Limit', (form) => form.getByLabel('Pushes a second').fill('7'), 'users may push 7 times per second');
  await page.goto('/actions');
  const inForce = page.locator('section', { hasText: 'Settings in force' }).locator('[data-name="Pushes/s"]');
  const rates = await inForce.allTextContents();
  check(`the rates of all replicas are shown: ${rates}`, rates.join() === '7,7,7');
  await send('Limit', (form) => form.getByLabel('Pulls a second').fill('many'), 'a rate must be a whole number');
  await send('Limit', (form) => form.getByLabel('Pushes a second').fill('0'), 'users may push without limit');
  await send('Trim now', () => {}, /trim/);
  const drain = (what) => async (form) => {
    await form.getByLabel('Replica').selectOption('replica-2');
    await form.getByLabel('What').selectOption(what);
  };
  await send('Do it', drain('true'), 'drained: not ready');
  await send('Do it', drain('false'), 'taken back');
}

/** On this replica a login lasts only seconds. */
async function expiry() {
  const page = await open(settings.expiring);
  await page.goto('/');
  await logIn(page, settings.token);
  await page.getByRole('heading', { name: 'Replicas' }).waitFor();
  await page.waitForURL(/\/login\?next=%2F/);
  await logIn(page, settings.token);
  await page.getByRole('heading', { name: 'Replicas' }).waitFor();
  await page.context().close();
}

async function logout(page) {
  await page.goto('/');
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.waitForURL(/\/login$/);
  await page.goto('/');
  check('who has logged out is asked to log in', new URL(page.url()).pathname === '/login');
}

/** Checks that nothing is wider than the screen; takes screenshots if requested. */
async function looks(storageState) {
  const longest = recordPath.replace(/id=[^&]*$/, `id=${settings.longest}`);
  const pages = { overview: '/', load: '/load', user: userPath, record: recordPath, longest, actions: '/actions', 'not-found': '/no-such-page' };
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of THEMES) {
      const page = await open(settings.urls[0], { storageState, viewport, colorScheme, hasTouch: size === 'phone' });
      for (const [name, path] of Object.entries(pages)) {
        await page.goto(path);
        const [wide, room] = await page.evaluate(() => [document.scrollingElement.scrollWidth, innerWidth]);
        check(`${name} is ${wide} wide on a screen of ${room}`, wide <= room);
        const cut = await page.evaluate(() => [...document.querySelectorAll('td')].filter((td) => td.scrollWidth > td.clientWidth).map((td) => td.textContent));
        check(`${name}, ${size}: cells are cut off: ${cut}`, cut.length === 0);
        const tall = await page.evaluate(() => Math.max(0, ...[...document.querySelectorAll('td')].map((td) => td.offsetHeight)));
        check(`${name}, ${size}: a row of ${tall} pixels`, tall < 130);
        if (settings.screenshots) {
          const file = `${settings.screenshots}/${name}-${size}-${colorScheme}.png`;
          await page.screenshot({ path: file, fullPage: false });
        }
      }
      await page.context().clearCookies();
      await page.goto('/');
      if (settings.screenshots) await page.screenshot({ path: `${settings.screenshots}/login-${size}-${colorScheme}.png` });
      await page.context().close();
    }
  }
}

await run(async () => {
  if (settings.screenshots) mkdirSync(settings.screenshots, { recursive: true });
  const page = await login();
  for (const [name, visit] of Object.entries({ record, load })) {
    await visit(page);
    console.log(`${name} is as it should be`);
  }
  await looks(await page.context().storageState());
  console.log('every page fits both screens');
  for (const [name, visit] of Object.entries({ user, notFound, overview, live, actions, expiry, logout })) {
    await visit(page);
    console.log(`${name} is as it should be`);
  }
});
