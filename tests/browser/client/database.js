import Dexie from 'dexie';

/** The cursor of a device without data. */
export const BEGINNING = '1970-01-01T00:00:00.000Z';

/**
 * Opens the IndexedDB of one device: a store for each table, the pending changes, and a cursor for each table.
 * @param {string} name
 * @param {string[]} tables
 */
export function openDatabase(name, tables) {
  const database = new Dexie(name);
  const records = Object.fromEntries(tables.map((table) => [table, 'id']));
  database.version(1).stores({ ...records, pending: '++seq', cursors: 'table' });
  return database;
}

/**
 * Returns the cursor of each table, in the order of `tables`.
 * @returns {Promise<string[]>}
 */
export async function readCursors(database, tables) {
  const rows = await database.table('cursors').bulkGet(tables);
  return rows.map((row) => row?.cursor ?? BEGINNING);
}

/**
 * Stores a cursor for each of these tables, even if it is before the previous one: a client that applies what it receives
 * without comparing stamps has then read older changes again, and must continue from there.
 */
export async function keepCursor(database, tables, cursor) {
  await database.table('cursors').bulkPut(tables.map((table) => ({ table, cursor })));
}
