// Makes pages live: requests the page again and replaces the parts marked with data-part. Everything else works without it.

const main = document.querySelector('main');

/** Formats how long ago, or how soon, in one unit; or as a date, if that is long. */
function distance(time) {
  const seconds = (Date.now() - time) / 1000;
  if (Math.abs(seconds) > 60 * 86400) return new Date(time).toISOString().slice(0, 10);
  const units = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const [size, unit] = units.find(([size]) => Math.abs(seconds) >= size) ?? [1, 's'];
  const amount = `${Math.floor(Math.abs(seconds) / size)} ${unit}`;
  if (Math.abs(seconds) < 1) return 'just now';
  return seconds > 0 ? `${amount} ago` : `in ${amount}`;
}

function showTimes() {
  for (const time of document.querySelectorAll('time')) {
    const at = Date.parse(time.dateTime);
    if (!Number.isNaN(at)) time.textContent = distance(at);
  }
}

/**
 * True if somebody is using this part, so that it must not be replaced now. Not every browser focuses a pressed button, and
 * one that is replaced before it is released is not clicked.
 */
const isInUse = (part) =>
  part.querySelector(':active') !== null ||
  (part.contains(document.activeElement) && document.activeElement.matches('input, select, button'));

async function refresh() {
  const response = await fetch(location.href, { headers: { 'X-Live': '1' } });
  if (response.status === 401) {
    location.assign(`/login?${new URLSearchParams({ next: location.pathname + location.search })}`);
    return;
  }
  if (!response.ok) throw new Error(`answered ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), 'text/html');
  for (const part of document.querySelectorAll('[data-part]')) {
    const other = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
    if (other && !isInUse(part)) part.replaceChildren(...other.childNodes);
  }
  showTimes();
}

const every = Number(main?.dataset.refresh ?? 0);
async function live() {
  const offline = document.getElementById('offline');
  try {
    if (!document.hidden) await refresh();
    offline.hidden = true;
  } catch {
    offline.hidden = false;
  }
  setTimeout(live, every);
}

document.addEventListener('submit', (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

showTimes();
if (every > 0) setTimeout(live, every);
