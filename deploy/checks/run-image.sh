#!/bin/sh
# Runs a replica from an unpacked image (MANA_IMAGE_ROOT) as MANA_IMAGE_USER, on its own port, with TEST_DATABASE_URL:
# migrates, starts it, runs its health check, and stops it. Called by scripts/check-image.
set -eu

here=$(dirname "$0")
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
PORT=$(free_port)
issuer_port=$(free_port)
export PORT DATABASE_URL="$TEST_DATABASE_URL" LOG_FORMAT=text REPLICA_ID=image BIND_ADDRESS=127.0.0.1
export JWKS_URL=http://127.0.0.1:$issuer_port/jwks MANA_CREDITS_URL=http://127.0.0.1:9 DRAIN_DELAY_MS=200 DRAIN_WINDOW_MS=200
in_image() { unshare --mount --propagation private "$here/strictly.sh" "$MANA_IMAGE_ROOT" "$MANA_IMAGE_USER" "$@"; }

# An issuer, without which it would not become ready: the public key of RFC 8037, appendix A.2.
keys=$(mktemp -d)
echo '{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"image","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}' >"$keys/jwks"
python3 -m http.server --bind 127.0.0.1 --directory "$keys" "$issuer_port" >"$keys/log" 2>&1 &
issuer=$!
pid=""
clean() {
    # shellcheck disable=SC2086 # nothing, or a number
    kill -9 $issuer $pid 2>/dev/null || true
    rm -rf "$keys"
}
trap clean EXIT

in_image /mana-sync migrate
# Run directly, not in a function, so that after chroot the process is the program itself.
unshare --mount --propagation private "$here/strictly.sh" "$MANA_IMAGE_ROOT" "$MANA_IMAGE_USER" /mana-sync serve &
pid=$!

tries=0
until in_image /mana-sync health 2>/dev/null; do
    tries=$((tries + 1))
    if [ $tries -ge 100 ] || ! kill -0 $pid; then
        echo "FAIL: the replica does not get ready" >&2
        exit 1
    fi
    sleep 0.1
done

status() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"; }
holds() {
    [ "$2" = "$3" ] && echo "ok    $1: $2" && return
    echo "FAIL  $1: $2, not $3" >&2
    exit 1
}
zero=0000000000000000
uid=${MANA_IMAGE_USER%:*}
holds "user" "$(status Uid | tr '\t' ' ')" "$uid $uid $uid $uid"
holds "capabilities it has" "$(status CapEff)" $zero
holds "capabilities it may take" "$(status CapPrm)" $zero
holds "no new privileges" "$(status NoNewPrivs)" 1
holds "root file system" "$(awk '$5 == "/" { print substr($6, 1, 2) }' "/proc/$pid/mountinfo")" ro
holds "files open besides devices" "$(find "/proc/$pid/fd" -lname "$MANA_IMAGE_ROOT/*" ! -lname "$MANA_IMAGE_ROOT/dev/*" | wc -l)" 0
kill -TERM $pid
code=0
wait $pid || code=$?
pid=""
holds "exit status after SIGTERM" $code 0
