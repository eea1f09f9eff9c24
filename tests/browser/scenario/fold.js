// Computes what all devices must hold in the end, from people's edits alone.

import { BEGINNING } from '../client/database.js';

/** @typedef {import('../client/engine.js').Write} Write */

/**
 * Returns, per field, the write with the latest stamp. No two writes have the same stamp, except inserts without any,
 * each of which writes its own record.
 * @param {Write[]} writes in any order
 * @returns {Record<string, Record<string, [unknown, string, object | undefined]>>} as `Device.dump`
 */
export function fold(writes) {
  const folded = {};
  for (const { table, id, field, value, stamp, actor } of writes) {
    const record = (folded[`${table}/${id}`] ??= {});
    if (!(record[field]?.[1] > stamp)) record[field] = [value, stamp, actor];
  }
  return folded;
}

/**
 * Describes where a device differs from the fold; at most `limit` differences.
 * @param {string} who
 * @param {ReturnType<typeof fold>} expected
 * @param {ReturnType<typeof fold>} held
 * @param {boolean} withActors whether the device keeps who wrote a field
 */
export function differences(who, expected, held, withActors, limit = 5) {
  const found = [];
  const say = (text) => found.push(`${who}: ${text}`);
  for (const key of Object.keys(held)) if (!expected[key]) say(`${key} is not among what was written`);
  for (const [key, fields] of Object.entries(expected)) {
    if (!held[key]) {
      say(`${key} is missing`);
      continue;
    }
    for (const field of new Set([...Object.keys(fields), ...Object.keys(held[key])])) {
      const [want, got] = [comparable(fields[field], withActors), comparable(held[key][field], withActors)];
      if (want !== got && !isOwnUnstamped(fields[field], held[key][field])) say(`${key}.${field}: ${got}, expected ${want}`);
    }
  }
  const more = found.length - limit;
  return more > 0 ? [...found.slice(0, limit), `${who}: and ${more} more`] : found;
}

function comparable(field, withActors) {
  return field && inOrder(withActors ? field : field.slice(0, 2));
}

/** Returns JSON with members sorted by name: their original order means nothing. */
function inOrder(value) {
  const sorted = (_, member) =>
    member?.constructor === Object ? Object.fromEntries(Object.entries(member).sort()) : member;
  return JSON.stringify(value, sorted);
}

/** A device stamps its own insert, although it does not send the stamp. */
function isOwnUnstamped(want, got) {
  return want?.[1] === BEGINNING && inOrder(want[0]) === inOrder(got?.[0]);
}
