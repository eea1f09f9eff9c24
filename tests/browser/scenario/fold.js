// What all devices must hold in the end, from what people did and nothing else.

import { BEGINNING } from '../client/database.js';

/** @typedef {import('../client/engine.js').Write} Write */

/**
 * Per field the write with the latest stamp. No two writes have the same, but for the inserts without any, each of
 * which writes a record of its own.
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
 * Where a device holds something else than the fold says, in words; at most `limit` of it.
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

/** JSON whose members are in the order of their names: the order that they came in means nothing. */
function inOrder(value) {
  const sorted = (_, member) =>
    member?.constructor === Object ? Object.fromEntries(Object.entries(member).sort()) : member;
  return JSON.stringify(value, sorted);
}

/** A device stamps its own insert, though it says nothing of it to others. */
function isOwnUnstamped(want, got) {
  return want?.[1] === BEGINNING && inOrder(want[0]) === inOrder(got?.[0]);
}
