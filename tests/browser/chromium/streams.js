// A page that has six streams open pushes all the same: over HTTP/2 they share a connection.

const STREAMS = 6;
const APP = 'todo';

/** @param {{ browser: object }} host @param {{ url: string, token: string }} settings the balancer's, with TLS */
export async function sixStreams({ browser, progress }, { url, token }) {
  const found = [];
  const page = await browser.page('streams');
  const protocols = [];
  const network = await page.context().newCDPSession(page);
  await network.send('Network.enable');
  network.on('Network.responseReceived', ({ response }) => {
    if (response.url.startsWith(url)) protocols.push(response.protocol);
  });
  const stream = `${url}/sync/${APP}/stream?${new URLSearchParams({ collections: 'tasks' })}`;
  const first = await page.evaluate(([count, where, as]) => window.openStreams(count, where, as), [STREAMS, stream, token]);
  for (const text of first) if (!text.includes('event: changes\n')) found.push(`a stream began with ${JSON.stringify(text)}`);
  progress(`${first.length} streams are open`);
  const options = {
    number: 0, urls: [url], token, app: APP, clientId: 'pusher', database: 'pusher', tables: ['tasks'],
    dialect: 'newest', rule: 'stamps',
  };
  const pushed = await page.evaluate(async (own) => {
    window.openDevice(own);
    await window.callDevice('insert', ['tasks', [{ id: 'a', title: 'pushed beside six streams' }], true]);
    return window.callDevice('push', []);
  }, options);
  if (!pushed) found.push('the push was not answered');
  const opened = await page.evaluate(
    ([where, as]) => new Promise((resolve) => {
      const socket = new WebSocket(where);
      socket.onopen = () => socket.send(JSON.stringify({ type: 'auth', token: as }));
      socket.onmessage = ({ data }) => resolve(data);
      socket.onclose = ({ code }) => resolve(`closed with ${code}`);
    }),
    [`${url.replace(/^http/, 'ws')}/ws`, token],
  );
  if (opened !== '{"type":"auth-ok"}') found.push(`the socket said ${opened}`);
  if (protocols.some((protocol) => protocol !== 'h2')) found.push(`the answers came over ${protocols}`);
  if (protocols.length < STREAMS + 1) found.push(`${protocols.length} answers were seen`);
  return { found, protocols: [...new Set(protocols)] };
}
