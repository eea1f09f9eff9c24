"""scripts/rehearse-alerts: breaks a cluster for each fault, and prints which alerts arrive and after how long."""

import os
import signal
import subprocess
import sys
import tempfile
import time

from cluster import FOLDER, Cluster, free_port
from faults import FAULTS
from stubs import Alerts
from watch import Watch

FACTOR = int(os.environ.get("FACTOR", 20))
# Number of clusters at a time: more than a small machine can run would cause other faults.
AT_ONCE = int(os.environ.get("AT_ONCE", 6))
# Time before anything breaks, so that a window of an hour is full: the longest window of the alerts that page first.
WARM_UP = float(os.environ.get("WARM_UP", 3600 / FACTOR))
# Our slowest alert takes about forty minutes, including its preconditions; and some more.
WATCHED = float(os.environ.get("WATCHED", 3000 / FACTOR))


def main(names):
    # When terminated, stop everything that was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    unknown = set(names) - {fault.name for fault in FAULTS}
    if unknown:
        raise SystemExit(f"no fault is called {', '.join(sorted(unknown))}")
    faults = [fault for fault in FAULTS if not names or fault.name in names]
    batches = [faults[at : at + AT_ONCE] for at in range(0, len(faults), AT_ONCE)]
    say(f"times are in real time: measured times {FACTOR}; Prometheus scrapes every {15 / FACTOR:.2f} s, which stands for 15 s")
    print("| fault | alerts, in real time | measured |\n|---|---|---|")
    wrong = [line for batch in batches for line in rehearse(batch)]
    for line in wrong:
        print(f"FAIL  {line}", file=sys.stderr)
    return 1 if wrong else 0


def rehearse(faults):
    """Breaks a cluster for each of these faults at the same time, reports the alerts, and returns what is wrong with them."""
    alerts = Alerts()
    watch = Watch(tempfile.mkdtemp(dir=FOLDER), FACTOR, alerts.url, free_port)
    clusters = [Cluster(fault.name, FACTOR, fault.settings, fault.proxied, fault.outside) for fault in faults]
    broken = {}
    try:
        for cluster in clusters:
            cluster.start()
            cluster.start()
        for cluster in clusters:
            cluster.wait_ready()
            cluster.use(token(cluster.name))
        # Starting up is not yet normal operation.
        time.sleep(10)
        watch.targets(clusters)
        watch.start()
        watch.wait_up(2 * len(clusters))
        say(f"{len(clusters)} clusters run; {WARM_UP:.0f} s of normal operation")
        time.sleep(WARM_UP)
        early = alerts.first.copy()
        for fault, cluster in zip(faults, clusters):
            broken[fault.name] = time.monotonic()
            fault.break_it(cluster)
        watch.targets(clusters)
        say(f"all are broken; {WATCHED:.0f} s of watching")
        time.sleep(WATCHED)
    finally:
        watch.stop()
        for cluster in clusters:
            cluster.stop()
    return tell(faults, alerts, broken, early)


def tell(faults, alerts, broken, early):
    """Prints a row for each fault, and returns the alerts that are missing or should not have come."""
    wrong = [f"{name} of {where} before anything was broken" for where, name, _ in early]
    for fault in faults:
        came = [(at - broken[fault.name], name, severity) for at, name, severity in alerts.of(fault.name)]
        real = "; ".join(f"{name} ({severity}) {minutes(after * FACTOR)}" for after, name, severity in came)
        measured = "; ".join(f"{after:.1f} s" for after, _, _ in came)
        print(f"| {fault.row} | {real or 'none'} | {measured or '–'} |", flush=True)
        missing = set(fault.expected) - {name for _, name, _ in came}
        wrong += [f"{fault.name}: {name} is missing" for name in sorted(missing)]
        if not fault.expected:
            wrong += [f"{fault.name}: {name} came" for _, name, _ in came]
    return wrong


def minutes(seconds):
    return f"{seconds / 60:.1f} min"


def token(user):
    command = [os.environ["MANA_DEV_EXE"], "token", "--user", user, "--key", os.environ["MANA_LOAD_KEY"]]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def say(text):
    print(text, file=sys.stderr, flush=True)


sys.exit(main(sys.argv[1:]))
