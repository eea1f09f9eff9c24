// A page that has six streams open pushes all the same: over HTTP/2 they share a connection.

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

/** Collects over what the answers to a page come. */
async function watchProtocols(page, url) {
  const protocols = [];
  const network = await page.context().newCDPSession(page);
  await network.send('Network.enable');
  network.on('Network.responseReceived', ({ response }) => {
    if (response.url.startsWith(url)) protocols.push(response.protocol);
  });
  return protocols;
}
