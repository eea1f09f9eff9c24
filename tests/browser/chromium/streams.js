// Streams and browsers' limit of six connections to an origin over HTTP/1.1: over HTTP/2 pushes work next to six streams,
// and eight apps need only one stream.

const STREAMS = 6;
const APP = 'todo';

/**
 * @param {{ browser: object, open: Function, progress: Function }} host
 * @param {{ url: string, token: string }} settings `url`: the balancer's, with TLS
 */
export async function sixStreams({ browser, open, progress }, { url, token }) {
  const found = [];
  const page = await browser.page('all');
  const protocols = await watchProtocols(page, url);
  const stream = `${url}/sync/${APP}/stream?${new URLSearchParams({ collections: 'tasks' })}`;
  const opening = ([count, where, as]) => window.openStreams(count, where, as);
  const first = await page.evaluate(opening, [STREAMS, stream, token]);
  const others = first.filter((text) => !text.includes('event: changes\n'));
  for (const text of others) found.push(`a stream began with ${JSON.stringify(text)}`);
  progress(`${first.length} streams are open`);

  const device = await open({
    number: 0,
    urls: [url],
    token,
    app: APP,
    clientId: 'pusher',
    database: 'pusher',
    tables: ['tasks'],
    dialect: 'newest',
    rule: 'stamps',
  });
  await device.insert('tasks', [{ id: 'a', title: 'pushed beside six streams' }], true);
  if (!(await device.push())) found.push('the push was not answered');
  const authenticating = ([where, as]) => window.authenticate(where, as);
  const told = await page.evaluate(authenticating, [`${url.replace(/^http/, 'ws')}/ws`, token]);
  if (told !== '{"type":"auth-ok"}') found.push(`the socket said ${told}`);

  if (protocols.some((protocol) => protocol !== 'h2')) found.push(`the answers came over ${protocols}`);
  if (protocols.length < STREAMS) found.push(`${protocols.length} answers were seen`);
  return { found, protocols: [...new Set(protocols)] };
}

const APPS = Array.from({ length: 8 }, (_, number) => `app-${number}`);

/**
 * Eight apps on one stream over HTTP/1.1, with a device of each that pushes through another replica; again after the
 * stream was closed for a while.
 * @param {{ browser: object, open: Function, progress: Function }} host
 * @param {{ url: string, other: string, token: string }} settings
 */
export async function eightApps({ browser, open, progress }, { url, other, token }) {
  const found = [];
  const page = await browser.page('all');
  const protocols = await watchProtocols(page, url);
  const stream = `${url}/sync/stream?${new URLSearchParams({ apps: APPS.map((app) => `${app}:tasks`).join(',') })}`;
  const follow = (id) => page.evaluate((all) => window.followApps(...all), [stream, token, id]);
  const device = (app, number) =>
    open({
      number,
      urls: [other],
      token,
      app,
      clientId: 'pusher',
      database: `pusher-${app}`,
      tables: ['tasks'],
      dialect: 'newest',
      rule: 'stamps',
    });
  const devices = await Promise.all(APPS.map(device));
  const pushAll = async (id) => {
    for (const own of devices) await own.insert('tasks', [{ id, title: id }], true);
    const pushed = await Promise.all(devices.map((own) => own.push()));
    if (pushed.includes(false)) found.push(`a push of ${id} was not answered`);
  };
  const arrive = async (id) => {
    await page.waitForFunction((count) => window.seenOfApps().length >= count, APPS.length);
    const seen = (await page.evaluate(() => window.seenOfApps())).toSorted();
    const expected = APPS.map((app) => `${app}/${id}`);
    if (seen.join() !== expected.join()) found.push(`of ${id} there came ${seen}`);
    progress(`${id}: ${seen.length} apps were told on one stream`);
  };
  await follow();
  await pushAll('while-open');
  await arrive('while-open');
  const id = await page.evaluate(() => window.leaveApps());
  await pushAll('while-away');
  await follow(id);
  await arrive('while-away');
  const others = protocols.filter((protocol) => protocol !== 'http/1.1');
  if (protocols.length === 0 || others.length > 0) found.push(`the answers came over ${protocols}`);
  return { found, apps: APPS.length };
}

/** Collects the protocols over which the answers to a page arrive. */
async function watchProtocols(page, url) {
  const protocols = [];
  const network = await page.context().newCDPSession(page);
  await network.send('Network.enable');
  network.on('Network.responseReceived', ({ response }) => {
    if (response.url.startsWith(url)) protocols.push(response.protocol);
  });
  return protocols;
}
