// The stamps of fields as written and read by the generations of clients.

/**
 * The metadata of a field in a record: older clients keep only the stamp, the newest also who wrote it.
 * @typedef {string | { at: string, actor?: unknown, origin?: string }} FieldMeta
 *
 * @typedef {object} Dialect
 * @property {string} name
 * @property {(meta: FieldMeta | undefined) => string} stampOf the stamp in a record's field meta; none is ''
 * @property {(stamp: string, change: object) => FieldMeta} meta the metadata for a field that `change` writes
 * @property {(field: object) => string} readStamp the stamp of one received field; none is ''
 * @property {(value: unknown, stamp: string) => object} field one field of an update, as it is sent
 * @property {(actor: object) => object} members additional members of a change
 * @property {object} bodyMembers additional members of the body of a push
 * @property {(stamp: string, withStamp: boolean) => object} insertStamps the stamps that a new record has as fields
 * @property {(stamp: string) => object} editStamps the fields that every edit writes in addition
 * @property {boolean} followsHasMore whether a push with `hasMore` is followed by another
 * @property {boolean} namesItself whether `auth` on the socket carries the `clientId`
 */

/** @type {Dialect} */
const older = {
  name: 'older',
  stampOf: (meta) => meta ?? '',
  meta: (stamp) => stamp,
  readStamp: (field) => field.updatedAt ?? '',
  field: (value, updatedAt) => ({ value, updatedAt }),
  members: () => ({}),
  bodyMembers: {},
  insertStamps: (stamp) => ({ createdAt: stamp, updatedAt: stamp }),
  editStamps: (stamp) => ({ updatedAt: stamp }),
  followsHasMore: false,
  namesItself: false,
};

/** @type {Dialect} */
const middle = {
  ...older,
  name: 'middle',
  bodyMembers: { schemaVersion: 1 },
  insertStamps: (stamp) => ({ createdAt: stamp }),
  editStamps: () => ({}),
};

/** @type {Dialect} */
const newest = {
  name: 'newest',
  stampOf: (meta) => meta?.at ?? '',
  meta: (at, change) => ({ at, actor: change.actor, origin: change.origin }),
  readStamp: (field) => field.at ?? '',
  field: (value, at) => ({ value, at }),
  members: (actor) => ({ actor, origin: 'user', schemaVersion: 1 }),
  bodyMembers: { schemaVersion: 1 },
  insertStamps: (stamp, withStamp) => (withStamp ? { createdAt: stamp } : {}),
  editStamps: () => ({}),
  followsHasMore: true,
  namesItself: true,
};

/** @type {Record<string, Dialect>} */
export const DIALECTS = { older, middle, newest };
