"""Under load: a new tag beside the old one's Job, a restart, the way back a day later, and the drain of a node."""

import subprocess
import time

import overlays
import production
import report
from api import until
from containers import SERVER
from development import SERVER as LABEL
from development import Counts, Pushes, pods, ready_names
from load import Load
from node import NODE
from production import NEXT, SPACE

# A migration that only the next version knows.
LATER = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'of the next version', true, '', 0)"


def check(kubectl, around, folder, programs):
    address = kubectl.get("-n", SPACE, "service", "mana-sync")["spec"]["clusterIP"]
    steps = {
        "a new tag": (25, lambda: _new_tag(kubectl, folder)),
        "a restart": (25, lambda: _restart(kubectl)),
        "the way back": (25, lambda: _back(kubectl, around, folder)),
        "a drain": (35, lambda: _drain(kubectl)),
    }
    load = Load(around, programs, address, {name: seconds for name, (seconds, _) in steps.items()})
    try:
        with Pushes(kubectl, SPACE, around.key.token("bob")) as pushes, Counts(kubectl, SPACE) as counts:
            for name, (_, step) in steps.items():
                took, problems = load.during(name, step)
                report.line(f"production: {name} under load, in {took:.0f} s", problems)
                if name == "a new tag":
                    production.admin_policies(kubectl, around)
            numbers, problems = load.finish()
        report.line(f"production: nothing is missed meanwhile: {numbers}", problems)
        report.line("production: an apply leaves the autoscaler's count alone", [] if counts.seen == {3} else [counts.seen])
        report.line(f"production: none of {pushes.done} pushes over new connections fails meanwhile", pushes.problems())
    finally:
        load.stop()


def _job(kubectl, tag):
    return kubectl.get("-n", SPACE, "job", f"mana-sync-migrate-{tag}")


def _rolled_out(kubectl, tag):
    """Waits for the rollout; returns what is not of this tag."""
    kubectl.must("-n", SPACE, "rollout", "status", "deployment/mana-sync", "--timeout=60s", timeout=70)
    image = f"{SERVER}:{tag}"
    running = {p["metadata"]["name"]: p["spec"]["containers"][0]["image"] for p in pods(kubectl, SPACE) if "deletionTimestamp" not in p["metadata"]}
    return [running] if len(running) != 3 or set(running.values()) != {image} else []


def _new_tag(kubectl, folder):
    before = _job(kubectl, overlays.version())
    problems = production.apply(kubectl, folder, NEXT, admin=True)
    problems += _rolled_out(kubectl, NEXT)
    kubectl.must("-n", SPACE, "wait", "--for=condition=complete", f"job/mana-sync-migrate-{NEXT}", "--timeout=30s")
    after = _job(kubectl, overlays.version())
    return problems + ([] if after["metadata"]["uid"] == before["metadata"]["uid"] else ["the old Job was replaced"])


def _restart(kubectl):
    kubectl.must("-n", SPACE, "rollout", "restart", "deployment/mana-sync")
    return _rolled_out(kubectl, NEXT)


def _back(kubectl, around, folder):
    """To the previous tag, whose Job is gone by then, on a schema that is newer."""
    around.sql(LATER, "mana_sync")
    kubectl.must("-n", SPACE, "delete", "job", f"mana-sync-migrate-{overlays.version()}")
    problems = production.apply(kubectl, folder, overlays.version())
    problems += _rolled_out(kubectl, overlays.version())
    kubectl.must("-n", SPACE, "wait", "--for=condition=complete", f"job/mana-sync-migrate-{overlays.version()}", "--timeout=30s")
    return problems


def _drain(kubectl):
    """As an operator does it. With a single node the new replicas have no place until it is released again, which is when
    the budget must hold the others back."""
    old = set(ready_names(kubectl, SPACE))
    staying = lambda: {p["metadata"]["name"] for p in pods(kubectl, SPACE) if "deletionTimestamp" not in p["metadata"]} & old
    words = ["drain", NODE, f"--pod-selector={LABEL}", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s"]
    drain = subprocess.Popen(["kubectl", *words], env=kubectl.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until("one is evicted", lambda: len(staying()) == 2, 10)
        # kubectl tries again after five seconds.
        deadline, fewest = time.monotonic() + 7, 3
        while time.monotonic() < deadline:
            fewest = min(fewest, len(set(ready_names(kubectl, SPACE)) & staying()))
        kubectl.must("uncordon", NODE)
        while staying():
            fewest = min(fewest, len(ready_names(kubectl, SPACE)))
            if time.monotonic() > deadline + 60:
                return [f"{staying()} are still there"]
        problems = [] if fewest == 2 else [f"only {fewest} were ready"]
        until("three are ready", lambda: len(ready_names(kubectl, SPACE)) == 3, 30)
    finally:
        kubectl("uncordon", NODE)
        drain.kill()
        said = drain.communicate()[0]
    return problems + ([] if "would violate the pod's disruption budget" in said else [said])
