"""The faults, and the alerts that each must raise: rows of docs/faults.md."""

import glob
import signal
import socket
import threading
import time
from dataclasses import dataclass, field

from cluster import free_port, sql
from proxy import SWALLOW

# The path in Debian's package.
FAKETIME = next(iter(sorted(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1"))), "")
# MAX_UNAUTHENTICATED of the cluster that is filled with unauthenticated sockets.
STRANGERS = 8


@dataclass
class Fault:
    name: str
    row: str
    # Alerts that must come, in any order; if empty, none may come.
    expected: list
    break_it: callable
    settings: dict = field(default_factory=dict)
    # Whether the path to PostgreSQL and external services can be broken.
    proxied: bool = False
    outside: bool = False


def _kill(cluster):
    cluster.signal(0, signal.SIGKILL)


def _kill_unlisted(cluster):
    """If targets are found by name, a dead replica is no longer a target."""
    _kill(cluster)
    del cluster.ports[0]


def _crash_again_and_again(cluster):
    def forever():
        index = 0
        while not cluster.stopped:
            cluster.signal(index, signal.SIGKILL)
            cluster.processes[index].wait()
            # Kubernetes' back-off before it restarts a container, divided.
            time.sleep(1)
            if cluster.stopped:
                return
            cluster.start(cluster.ports[0])
            index = len(cluster.processes) - 1
            time.sleep(5)

    threading.Thread(target=forever, daemon=True).start()


def _start_without_schema(cluster):
    empty = f"{cluster.database}_empty"
    sql("postgres", f"create database {empty}")
    url = cluster.env["DATABASE_URL"].replace(cluster.database, empty)
    cluster.start(DATABASE_URL=url, DATABASE_LISTEN_URL=url, MIGRATION_WAIT_MS="900000")


def _freeze(cluster):
    cluster.signal(0, signal.SIGSTOP)


def _terminate_backends(cluster):
    sql("postgres", f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{cluster.database}'")


def _swallow(proxy):
    proxy.mode = SWALLOW


def _gone(cluster):
    cluster.proxy.refuse()
    cluster.listen_proxy.refuse()


def _delay(proxy, seconds):
    proxy.delay = seconds


def _restart_database(cluster):
    """Looks like a restart to the replicas: the database is unavailable for a moment."""
    _gone(cluster)
    time.sleep(0.5)
    cluster.proxy.heal()
    cluster.listen_proxy.heal()


def _pool_listeners(cluster):
    """Routes the listeners through a pooler in transaction mode."""
    cluster.listen_proxy.to = cluster.pool()
    cluster.listen_proxy.cut()


def _start_with_clock_ahead(cluster):
    cluster.start(LD_PRELOAD=FAKETIME, FAKETIME="+300", FAKETIME_DONT_FAKE_MONOTONIC="1")


def _start_with_another_key(cluster):
    cluster.start(CHANNEL_KEY="a-key-that-none-of-the-others-has")


def _go_back(cluster):
    """Devices in otherwise idle logs have seen changes that the database then loses, and return."""
    cursors = {app: cluster.push(app) for app in (f"idle-{number}" for number in range(15))}
    lost = "delete from sync_changes where app_id like 'idle-%'; update sync_heads set head = head - interval '1 hour',"
    sql(cluster.database, lost + " previous = previous - interval '1 hour' where app_id like 'idle-%'")
    for app, cursor in cursors.items():
        cluster.pull(app, cursor)


def _lock(cluster):
    lock = "begin; lock table sync_changes in access exclusive mode; select pg_sleep(900)"
    cluster.processes.append(sql(cluster.database, lock, wait=False))


def _start_without_keys(cluster):
    cluster.issuer.instead = (503, "{}")
    cluster.start()


def _start_without_database(cluster):
    dead = f"postgres://postgres@127.0.0.1:{free_port()}/none"
    cluster.start(DATABASE_URL=dead, DATABASE_LISTEN_URL=dead)


def _restart_with(**settings):
    """Restarts the first replica with other settings, on its old port."""

    def break_it(cluster):
        cluster.signal(0, signal.SIGKILL)
        cluster.processes[0].wait()
        cluster.start(cluster.ports[0], **settings)

    return break_it


def _forge(cluster):
    def forever():
        while not cluster.stopped:
            sql(cluster.database, "notify mana_sync, 'none of ours'")
            time.sleep(0.5)

    threading.Thread(target=forever, daemon=True).start()


def _strangers(cluster):
    """Opens more connections that never authenticate than are allowed."""

    def forever():
        held = []
        while not cluster.stopped:
            held = held[-3 * STRANGERS :]
            stranger = socket.create_connection(("127.0.0.1", cluster.ports[0]))
            key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            stranger.sendall(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + b"\r\n")
            held.append(stranger)
            time.sleep(0.05)

    threading.Thread(target=forever, daemon=True).start()


def _credits(cluster, status, text):
    cluster.credits.instead = (status, text)


FAULTS = [
    Fault("health", "none", [], lambda cluster: None),
    Fault("killed", "a replica is killed and stays away", ["ManaSyncReplicaDown"], _kill),
    Fault(
        "killed-unlisted",
        "the same, and Prometheus finds replicas by name",
        ["ManaSyncReplicaDown"],
        _kill_unlisted,
    ),
    Fault("crashing", "a replica keeps dying", ["ManaSyncReplicaDown"], _crash_again_and_again),
    Fault("frozen", "a replica is frozen", ["ManaSyncReplicaDown"], _freeze),
    Fault(
        "listener-reset",
        "the listeners' connections are reset once",
        [],
        lambda cluster: cluster.listen_proxy.cut(),
        proxied=True,
    ),
    Fault(
        "listener-swallowed",
        "the listeners' network drops bytes silently, permanently",
        ["ManaSyncListenerDown", "ManaSyncDeliveryBudgetBurn (1h)", "ManaSyncReconcilerFindsWakeups"],
        lambda cluster: _swallow(cluster.listen_proxy),
        proxied=True,
    ),
    Fault(
        "listener-delayed",
        "the listeners are delayed by 200 ms",
        ["ManaSyncDeliveryBudgetBurn (1h)"],
        lambda cluster: _delay(cluster.listen_proxy, 0.2),
        proxied=True,
    ),
    Fault(
        "listener-refused",
        "the listeners are refused, permanently",
        ["ManaSyncListenerDown", "ManaSyncNoReplicaReady"],
        lambda cluster: cluster.listen_proxy.refuse(),
        proxied=True,
    ),
    Fault(
        "listener-slow",
        "the listeners are delayed by 600 ms",
        ["ManaSyncListenerSlow", "ManaSyncDeliveryBudgetBurn (1h)"],
        lambda cluster: _delay(cluster.listen_proxy, 0.6),
        proxied=True,
    ),
    Fault(
        "listener-pooled",
        "the listeners are routed through a pooler in transaction mode",
        ["ManaSyncListenerDown", "ManaSyncReconcilerFindsWakeups"],
        _pool_listeners,
        proxied=True,
    ),
    Fault("forged", "foreign notifications", ["ManaSyncNotificationsUnreadable"], _forge),
    Fault(
        "clock-ahead",
        "one more replica starts, whose clock is five minutes ahead",
        ["ManaSyncReplicasDisagree"],
        _start_with_clock_ahead,
    ),
    Fault(
        "another-key",
        "one more replica starts, with another CHANNEL_KEY",
        ["ManaSyncReplicasDisagree"],
        _start_with_another_key,
    ),
    Fault("backends-terminated", "all backends are terminated once", [], _terminate_backends),
    Fault(
        "database-swallowed",
        "the queries' network drops bytes silently, permanently",
        ["ManaSyncPushBudgetBurn (1h)"],
        lambda cluster: _swallow(cluster.proxy),
        proxied=True,
    ),
    Fault(
        "database-refused",
        "queries are refused, for good",
        ["ManaSyncPushBudgetBurn (1h)"],
        lambda cluster: cluster.proxy.refuse(),
        proxied=True,
    ),
    Fault(
        "database-delayed",
        "queries are delayed by 100 ms",
        ["ManaSyncDeliveryBudgetBurn (1h)"],
        lambda cluster: _delay(cluster.proxy, 0.1),
        proxied=True,
    ),
    Fault("database-restarted", "the database is restarted", [], _restart_database, proxied=True),
    Fault(
        "database-went-back",
        "the database goes back to an earlier state",
        ["ManaSyncDatabaseWentBack"],
        _go_back,
    ),
    Fault(
        "database-gone",
        "the database is gone, for good",
        ["ManaSyncNoReplicaReady", "ManaSyncPushBudgetBurn (1h)"],
        _gone,
        proxied=True,
    ),
    Fault("locked", "a table is locked for long", ["ManaSyncPushBudgetBurn (1h)"], _lock),
    Fault(
        "started-without-database",
        "a replica starts while its database is away",
        ["ManaSyncReplicaNotReady"],
        _start_without_database,
    ),
    Fault(
        "started-without-schema",
        "a replica starts that its schema lacks a migration for",
        ["ManaSyncReplicaNotReady"],
        _start_without_schema,
    ),
    Fault(
        "credits-failing",
        "the credits service fails",
        ["ManaSyncBillingFailingOpen"],
        lambda cluster: _credits(cluster, 500, "{}"),
        outside=True,
    ),
    Fault(
        "issuer-failing",
        "the issuer fails, while keys are at hand",
        ["ManaSyncJwksFailing"],
        lambda cluster: setattr(cluster.issuer, "instead", (503, "{}")),
        outside=True,
    ),
    Fault(
        "started-without-keys",
        "... and a replica has just started",
        ["ManaSyncReplicaNotReady"],
        _start_without_keys,
        outside=True,
    ),
    Fault(
        "wrong-audience",
        "a replica with a wrong JWT_AUDIENCE",
        ["ManaSyncRefusingEverybody"],
        _restart_with(JWT_AUDIENCE="somebody-else"),
    ),
    Fault(
        "nobody-paid",
        "credits that say of everybody that they have not paid",
        ["ManaSyncRefusingEverybody"],
        lambda cluster: _credits(cluster, 200, '{"active": false, "interval": "month", "pausedAt": null}'),
        outside=True,
    ),
    Fault(
        "strangers",
        "connect and never authenticate",
        ["ManaSyncRefusing"],
        _strangers,
        {"MAX_UNAUTHENTICATED": str(STRANGERS)},
    ),
]
