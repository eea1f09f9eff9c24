// The page: replicas, each with a button that kills it, and two devices of one user side by side.

import { Device } from './device.js';

const NAMES = ['Phone', 'Laptop'];
const ASK_EVERY_MS = 500;
const NEW_TOKEN_EVERY_MS = 3600_000;
/** Maximum number of lines kept of a device's log. */
const LINES = 200;

const part = (id) => document.getElementById(id);
const copy = (id) => part(id).content.firstElementChild.cloneNode(true);

let replicas = [];
let token = '';

async function ask(path, init) {
  const response = await fetch(path, init);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

const renew = async () => ({ token } = await ask('/token', { method: 'POST' }));

/** Returns the device's own replica; while that one is away, the next one, as a balancer would. */
function replicaOf(number) {
  const count = replicas.length;
  const turns = Array.from({ length: count }, (_, turn) => replicas[(number + turn) % count]);
  return turns.find(({ runs }) => runs) ?? turns[0];
}

async function watchReplicas() {
  try {
    ({ replicas } = await ask('/cluster'));
    showReplicas();
  } catch {
    part('agreement').textContent = 'make dev has ended';
  }
  setTimeout(watchReplicas, ASK_EVERY_MS);
}

function showReplicas() {
  const list = part('replicas');
  for (const [index, { name, url, runs }] of replicas.entries()) {
    const row = list.children[index] ?? list.appendChild(replicaRow(index));
    row.classList.toggle('away', !runs);
    row.querySelector('strong').textContent = name;
    row.querySelector('.state').textContent = runs ? `port ${new URL(url).port}` : 'killed, restarting';
    row.querySelector('button').disabled = !runs;
  }
  for (const [number, device] of document.querySelectorAll('.device').entries()) {
    device.querySelector('.where').textContent = `on ${replicaOf(number).name}`;
  }
}

function replicaRow(index) {
  const row = copy('replica');
  row.querySelector('button').addEventListener('click', () => ask(`/replicas/${index + 1}/kill`, { method: 'POST' }));
  return row;
}

function showDevice(name, number) {
  const view = copy('device');
  const find = (selector) => view.querySelector(selector);
  view.setAttribute('aria-label', name);
  find('h2').textContent = name;
  const device = new Device({
    name: name.toLowerCase(),
    number,
    url: () => replicaOf(number).url,
    token: () => token,
    say: (kind, text) => log(find('.log'), kind, text),
  });
  find('.switch input').addEventListener('change', ({ target }) => {
    device.online = target.checked;
    view.classList.toggle('offline', !target.checked);
  });
  find('.add').addEventListener('submit', (event) => {
    event.preventDefault();
    void device.add(event.target.title.value);
    event.target.reset();
  });
  device.pending.subscribe((count) => {
    find('.pending').hidden = count === 0;
    find('.pending').textContent = `${count} not sent`;
    view.dataset.pending = count;
    showAgreement();
  });
  device.tasks.subscribe((tasks) => {
    showTasks(find('.tasks'), tasks, device);
    view.dataset.tasks = JSON.stringify(tasks);
    showAgreement();
  });
  return view;
}

function showTasks(list, tasks, device) {
  const rows = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const drawn = tasks.map((task) => {
    const row = rows.get(task.id) ?? taskRow(task.id, device);
    const [done, title] = row.querySelectorAll('input');
    row.classList.toggle('done', task.done);
    done.checked = task.done;
    // Never replaces a field that is being edited.
    row.dataset.title = task.title;
    if (document.activeElement !== title) title.value = task.title;
    return row;
  });
  const isSame = drawn.length === list.children.length && drawn.every((row, at) => row === list.children[at]);
  if (!isSame) list.replaceChildren(...drawn);
}

function taskRow(id, device) {
  const row = copy('task');
  row.dataset.id = id;
  const [done, title] = row.querySelectorAll('input');
  done.addEventListener('change', () => device.edit(id, { done: done.checked }));
  title.addEventListener('change', () => {
    row.dataset.title = title.value;
    void device.edit(id, { title: title.value });
  });
  title.addEventListener('blur', () => (title.value = row.dataset.title));
  title.addEventListener('keydown', ({ key }) => key === 'Enter' && title.blur());
  row.querySelector('button').addEventListener('click', () => device.remove(id));
  return row;
}

function log(list, kind, text) {
  const line = document.createElement('li');
  const time = document.createElement('time');
  time.textContent = new Date().toLocaleTimeString('en-GB');
  const said = document.createElement('span');
  said.textContent = text;
  line.className = kind;
  line.append(time, said);
  list.prepend(line);
  while (list.children.length > LINES) list.lastChild.remove();
}

function showAgreement() {
  const views = [...document.querySelectorAll('.device')];
  const agree = new Set(views.map((view) => view.dataset.tasks)).size === 1;
  const done = views.every((view) => view.dataset.pending === '0');
  part('agreement').textContent = agree ? (done ? 'Both agree' : 'Not all is sent') : 'They differ';
  part('agreement').classList.toggle('good', agree && done);
}

await renew();
setInterval(renew, NEW_TOKEN_EVERY_MS);
await watchReplicas();
part('devices').append(...NAMES.map(showDevice));
showReplicas();
part('loading').remove();
