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
    const shown = Number.isNaN(at) ? time.textContent : distance(at);
    // Replacing a text ends its selection.
    if (time.textContent !== shown) time.textContent = shown;
  }
}

/**
 * True if somebody is using this part, so that it must not be replaced now: a button that is replaced before it is released is
 * not clicked, and a selected text that is replaced cannot be copied.
 */
function isInUse(part) {
  const selection = getSelection();
  return (
    part.querySelector(':active') !== null ||
    (part.contains(document.activeElement) && document.activeElement.matches('input, select')) ||
    (!selection.isCollapsed && selection.containsNode(part, true))
  );
}

/** Says what a button does: the action of its form, and on what. */
const deed = (button) => [button.form?.action, ...(button.form ? new FormData(button.form).values() : [])].join('\n');

/** Replaces what a part shows. A button that has the focus keeps it, if there still is one that does the same. */
function replace(part, other) {
  const focused = part.querySelector('button:focus');
  part.replaceChildren(...other.childNodes);
  if (!focused) return;
  const same = [...part.querySelectorAll('button')].find((button) => deed(button) === deed(focused));
  same?.focus({ preventScroll: true });
}

/** After so long without an answer the page says so, and after so long it asks again. A frozen replica never answers. */
const LATE = 5_000;
const TIMEOUT = 20_000;

async function refresh() {
  const response = await fetch(location.href, { headers: { 'X-Live': '1' }, signal: AbortSignal.timeout(TIMEOUT) });
  if (response.status === 401) {
    location.assign(`/login?${new URLSearchParams({ next: location.pathname + location.search })}`);
    return;
  }
  if (!response.ok) throw new Error(`answered ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), 'text/html');
  // A proxy may answer with a page of its own.
  if (!fresh.querySelector('[data-part]')) throw new Error('answered by something else');
  for (const part of document.querySelectorAll('[data-part]')) {
    const other = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
    const isHeld = isInUse(part);
    // Dimmed, because what it shows grows old.
    part.classList.toggle('held', isHeld);
    if (other && !isHeld) replace(part, other);
  }
  showTimes();
}

const every = Number(main?.dataset.refresh ?? 0);
async function live() {
  const offline = document.getElementById('offline');
  const late = setTimeout(() => (offline.hidden = false), LATE);
  try {
    if (!document.hidden) {
      await refresh();
      offline.hidden = true;
    }
  } catch {
    offline.hidden = false;
  }
  clearTimeout(late);
  setTimeout(live, every);
}

document.addEventListener('submit', (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

showTimes();
// Ages grow, on pages that are not refreshed and while nothing answers, too.
setInterval(showTimes, 1_000);
if (every > 0) setTimeout(live, every);
