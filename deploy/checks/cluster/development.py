"""Applies overlays/development, and checks its start, a rollout that cannot succeed, restarts and evictions under pushes."""

import http.client
import json
import subprocess
import threading
import time

import report
from api import Failed, until

SPACE = "mana-sync-dev"
SERVER = "app.kubernetes.io/component=server"
PUSH = json.dumps({
    "clientId": "check",
    "since": "2100-01-01T00:00:00.000Z",
    "changes": [{"table": "check", "id": "probe", "op": "delete", "deletedAt": "2024-01-01T00:00:00.000Z"}],
})


def pods(kubectl, space):
    return kubectl.get("-n", space, "pods", "-l", SERVER)["items"]


def ready(pod):
    conditions = {c["type"]: c for c in pod["status"].get("conditions", [])}
    return "deletionTimestamp" not in pod["metadata"] and conditions.get("Ready", {}).get("status") == "True"


def ready_names(kubectl, space):
    return sorted(pod["metadata"]["name"] for pod in pods(kubectl, space) if ready(pod))


def accepted(kubectl, name, folder, *words):
    """Applies an overlay on the server's side, where fields are validated strictly; a warning is a problem too."""
    done = kubectl("apply", "--server-side", "--validate=strict", *words, "-k", folder)
    report.line(f"{name}: accepted without warnings", [done.stderr] if done.returncode or done.stderr.strip() else [])


def token(kubectl, space, user):
    return kubectl.must("-n", space, "exec", "deploy/issuer", "--", "/mana-dev", "token", "--key", "/keys/issuer-key.json", "--user", user).strip()


class Pushes:
    """Pushes through the Service, each over a connection of its own, until the block ends; `failed` has what went wrong."""

    def __init__(self, kubectl, space, bearer=None):
        self.address = kubectl.get("-n", space, "service", "mana-sync")["spec"]["clusterIP"]
        bearer = bearer or token(kubectl, space, "alice")
        self.headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        self.failed, self.done, self._stop = [], 0, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._push)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _push(self):
        while not self._stop.wait(0.05):
            try:
                connection = http.client.HTTPConnection(self.address, 80, timeout=10)
                connection.request("POST", "/sync/todo", PUSH, self.headers)
                answer = connection.getresponse()
                text = answer.read().decode(errors="replace")
                if answer.status != 200:
                    self.failed.append(f"{answer.status} {text[:200]}")
                connection.close()
            except OSError as error:
                self.failed.append(repr(error))
            self.done += 1

    def problems(self):
        return self.failed[:5] + ([f"only {self.done} pushes"] if self.done < 20 else [])


class Counts:
    """Every number of replicas that somebody asks for until the block ends."""

    def __init__(self, kubectl, space):
        self._command = ["kubectl", "-n", space, "get", "deployment", "mana-sync", "--watch", "-o", "jsonpath={.spec.replicas} "]
        self._environment, self.seen = kubectl.environment, set()

    def __enter__(self):
        self._process = subprocess.Popen(self._command, env=self._environment, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self.seen = {int(count) for count in self._process.communicate()[0].split()}


def check(kubectl):
    accepted(kubectl, "development", "k8s/overlays/development")
    job = "mana-sync-migrate-dev"
    kubectl.must("-n", SPACE, "wait", "--for=condition=complete", f"job/{job}", "--timeout=180s", timeout=200)
    kubectl.must("-n", SPACE, "rollout", "status", "deployment/mana-sync", "--timeout=180s", timeout=200)
    # The schema is there a moment before the migration's process ends, and that before the Job is told.
    attempts = kubectl.get("-n", SPACE, "pods", "-l", f"job-name={job}")["items"]
    ended = [status["state"].get("terminated", {}) for pod in attempts for status in pod["status"]["containerStatuses"]]
    migrated = next(end["startedAt"] for end in ended if end.get("exitCode") == 0)
    found = pods(kubectl, SPACE)
    since = [c["lastTransitionTime"] for pod in found for c in pod["status"]["conditions"] if c["type"] == "Ready"]
    report.line("development: three replicas get ready, after the migration", [] if len(since) == 3 and min(since) >= migrated else [f"migrated {migrated}, ready {since}"])
    ended_by = [status["lastState"]["terminated"] for pod in found for status in pod["status"]["containerStatuses"] if status["restartCount"]]
    report.line("development: none of them is restarted before there are a database, a schema and its role", ended_by)

    with Pushes(kubectl, SPACE) as pushes:
        before = set(ready_names(kubectl, SPACE))
        kubectl.must("-n", SPACE, "rollout", "restart", "deployment/mana-sync")
        kubectl.must("-n", SPACE, "rollout", "status", "deployment/mana-sync", "--timeout=300s", timeout=310)
        until("the old pods are gone", lambda: not before & {p["metadata"]["name"] for p in pods(kubectl, SPACE)}, 120)
    report.line(f"development: no push of {pushes.done} fails during a restart of every replica", pushes.problems())

    with Pushes(kubectl, SPACE) as pushes:
        first, second = ready_names(kubectl, SPACE)[:2]
        evicted, refused = _evict(kubectl, first), _evict(kubectl, second)
        until("three are ready again", lambda: first not in (now := ready_names(kubectl, SPACE)) and len(now) == 3, 120)
        until("the evicted pod is gone", lambda: first not in {p["metadata"]["name"] for p in pods(kubectl, SPACE)}, 90)
    report.line("development: the budget lets one replica be evicted, not two", [evicted.stderr] * (evicted.returncode != 0) +
                ["the second was evicted too"] * ("disruption budget" not in refused.stderr))
    report.line(f"development: no push of {pushes.done} fails during an eviction", pushes.problems())
    _stopped(kubectl)


def _evict(kubectl, pod):
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": SPACE}}
    return kubectl("create", "--raw", f"/api/v1/namespaces/{SPACE}/pods/{pod}/eviction", "-f", "-", stdin=json.dumps(body))


def _stopped(kubectl):
    """Without the issuer's keys a new replica does not get ready, so the rollout goes no further."""
    before = ready_names(kubectl, SPACE)
    kubectl.must("-n", SPACE, "set", "env", "deployment/mana-sync", "JWKS_URL=http://nobody.nowhere:3001/jwks")
    name = until("there is a new pod", lambda: next((p["metadata"]["name"] for p in pods(kubectl, SPACE) if p["metadata"]["name"] not in before), None))
    says = lambda: kubectl("-n", SPACE, "exec", name, "--", "/mana-sync", "health")
    try:
        until("the new pod says that it has no keys", lambda: "keys (JWKS_URL)" in (done := says()).stdout + done.stderr, 60)
        problems = []
    except Failed as failed:
        done = says()
        problems = [f"{failed}: {done.stdout}{done.stderr}"]
    # Several periods of the readiness probe.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not problems:
        now = ready_names(kubectl, SPACE)
        problems = [] if now == before else [f"{before} were ready, now {now}"]
    report.line("development: a rollout stops at a replica without the issuer's keys, and the old ones stay", problems)
    kubectl.must("-n", SPACE, "rollout", "undo", "deployment/mana-sync")
    kubectl.must("-n", SPACE, "rollout", "status", "deployment/mana-sync", "--timeout=120s", timeout=130)
