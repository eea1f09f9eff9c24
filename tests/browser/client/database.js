import Dexie from 'dexie';

/** Where a device that knows nothing begins. */
export const BEGINNING = '1970-01-01T00:00:00.000Z';

/**
 * The IndexedDB of one device: a store for each table, the pending changes, and a cursor for each table.
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
 * The cursor of each table, in the order of `tables`.
 * @returns {Promise<string[]>}
 */
export async function readCursors(database, tables) {
  const rows = await database.table('cursors').bulkGet(tables);
  return rows.map((row) => row?.cursor ?? BEGINNING);
}

/**
 * Keeps a cursor for each of these tables, also where it is before the one that was there: a client that applies what
 * it receives without comparing stamps has then read older changes again, and must read on from there.
 */
export async function keepCursor(database, tables, cursor) {
  await database.table('cursors').bulkPut(tables.map((table) => ({ table, cursor })));
}
