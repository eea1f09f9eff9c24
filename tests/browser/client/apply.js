// What a received change makes of a record: three rules, as three generations of clients have them.

/** @typedef {import('./dialects.js').Dialect} Dialect */
/** @typedef {'stamps' | 'inserts' | 'everything'} Rule */

/** `stamps` compares always, `inserts` takes inserts as they come, `everything` takes updates as they come too. */
export const RULES = ['stamps', 'inserts', 'everything'];

/** The member of a record that holds what is known of its fields. It is never sent. */
export const META = '_fields';

/**
 * The record after the change; undefined if there is none then.
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
 * A copy of the record with those of the writes that win.
 * @param {object} record
 * @param {[string, unknown, string][]} writes field, value and stamp
 * @param {object} change that they belong to
 * @param {Dialect} dialect
 * @param {boolean} anyway whether they win whatever their stamps say
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
