-- Tokens that operators refuse, by their ids (jti), until they expire. Replicas read them when they begin to listen: one that
-- starts must not accept what the others refuse, and all of them may start anew at once. The table in a bucket's own schema
-- stays empty.
create table sync_refused_tokens (
    token_id   text primary key,
    expires_at timestamptz not null
);
