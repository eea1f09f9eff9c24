// Applies a received change to a record, by one of three rules: those of three generations of clients.

/** @typedef {import('./dialects.js').Dialect} Dialect */
/** @typedef {'stamps' | 'inserts' | 'everything'} Rule */

/** `stamps` always compares stamps, `inserts` applies inserts without comparing, `everything` updates too. */
export const RULES = ['stamps', 'inserts', 'everything'];

/** The member of a record with its fields' metadata. It is never sent. */
export const META = '_fields';

/**
 * Returns the record after the change; undefined if it does not exist then.
 * @param {object | undefined} record never modified
 * @param {object} change as received
 * @param {{ dialect: Dialect, rule: Rule, now: () => string }} options
 * @returns {object | undefined}
 */
export function applied(record, change, { dialect, rule, now }) {
  if (change.op === 'delete') {
    if (!change.deletedAt || !record) return undefined;
    return written(record, [['deletedAt', change.deletedAt, change.deletedAt]], change, dialect, false);
  }
  const isInsert = change.op === 'insert';
  const anyway = rule === 'everything' || (rule === 'inserts' && isInsert);
  const writes = isInsert ? insertWrites(change.data, now) : updateWrites(change.fields, dialect);
  return written(record ?? { id: change.id, [META]: {} }, writes, change, dialect, anyway);
}

function insertWrites(data, now) {
  const stamp = data.updatedAt || data.createdAt || now();
  return Object.entries(data).map(([name, value]) => [name, value, stamp]);
}

function updateWrites(fields, dialect) {
  return Object.entries(fields).map(([name, field]) => [name, field.value, dialect.readStamp(field)]);
}

/**
 * Returns a copy of the record with the winning writes applied.
 * @param {object} record
 * @param {[string, unknown, string][]} writes field, value and stamp
 * @param {object} change that they belong to
 * @param {Dialect} dialect
 * @param {boolean} anyway whether they win regardless of their stamps
 */
export function written(record, writes, change, dialect, anyway) {
  const result = { ...record, [META]: { ...record[META] } };
  for (const [name, value, stamp] of writes) {
    if (name === 'id' || name === META) continue;
    if (!anyway && !(stamp >= dialect.stampOf(result[META][name]))) continue;
    result[name] = value;
    result[META][name] = dialect.meta(stamp, change);
  }
  return result;
}
