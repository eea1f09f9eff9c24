// Reads what is stored, without a device id.

import { BEGINNING } from '../client/database.js';

/**
 * Returns every change of a table in the order of storing.
 * @param {{ url: string, token: string, app: string, table: string }} where
 */
export async function readLog({ url, token, app, table }) {
  const changes = [];
  let [since, hasMore] = [BEGINNING, true];
  while (hasMore) {
    const query = new URLSearchParams({ collection: table, since });
    const headers = { Authorization: `Bearer ${token}` };
    const response = await fetch(`${url}/sync/${app}/pull?${query}`, { headers });
    const page = await response.json();
    if (!response.ok) throw new Error(`${response.status} ${JSON.stringify(page)}`);
    changes.push(...page.serverChanges);
    [since, hasMore] = [page.syncedUntil, page.hasMore];
  }
  return changes;
}
