"""Runs every kubectl command of the runbooks and the pages beside them, as written, against a cluster in their namespace.

Lines that a page looks for in the log are not all produced here: then only the command before the pipe is run, and has to
print the log of every replica. Nothing answers as the credits service: there, curl only has to run."""

import http.client
import os
import re
import signal
import subprocess
from pathlib import Path

import overlays
import report
import runbooks
from api import Failed, until
from development import accepted, pods, ready_names

SPACE = "mana-sync"
# Lines that are in the log by now.
PRODUCED = ("are refused", "WARN|ERROR")


def prepare(kubectl, folder):
    """The development overlay with what production has: the namespace, logs in JSON, and the admin port."""
    overlay = overlays.added(folder, "commands", {
        "namespace": SPACE,
        "resources": ["../development"],
        "components": ["../../components/admin"],
        "configMapGenerator": [{"name": "mana-sync", "behavior": "merge", "literals": ["LOG_FORMAT=json"]}],
        "secretGenerator": [{"name": "mana-sync-admin", "envs": ["admin.env"]}],
    }, ["admin.env"])
    accepted(kubectl, "admin", overlay)
    kubectl.must("-n", SPACE, "rollout", "status", "deployment/mana-sync", "--timeout=240s", timeout=250)


def scale(kubectl):
    """New replicas take part in the cluster."""
    kubectl.must("-n", SPACE, "scale", "deployment/mana-sync", "--replicas=6")
    kubectl.must("-n", SPACE, "rollout", "status", "deployment/mana-sync", "--timeout=180s", timeout=190)
    names = ready_names(kubectl, SPACE)
    shown = lambda: kubectl("-n", SPACE, "exec", "deploy/mana-sync", "--", "/mana-sync", "admin", "cluster").stdout
    until(f"`admin cluster` shows all of {names}", lambda: not set(names) - set(shown().split()), 60, every=1)
    report.line("scaling from 3 to 6: every replica is in `admin cluster`", [] if len(names) == 6 else [names])
    kubectl.must("-n", SPACE, "scale", "deployment/mana-sync", "--replicas=3")
    until("three are left", lambda: len(pods(kubectl, SPACE)) == 3, 120)


def check(kubectl):
    pod = _restart_one(kubectl)
    _refuse_tokens(kubectl)
    kubectl.environment |= {
        "JWKS_URL": "http://issuer:3001/api/auth/jwks",
        "MANA_CREDITS_URL": "http://mana-credits.credits:3061",
        "MANA_SERVICE_KEY": "dev-service-key",
    }
    pages = [*sorted(runbooks.PAGES.glob("*.md")), *runbooks.BESIDE]
    commands = [(page, command) for page in pages for command in runbooks.kubectl_commands(page.read_text())]
    # Those that take something away come last.
    for page, command in sorted(commands, key=lambda one: " delete " in one[1]):
        if " apply -k " in command:
            report.skip(f"{page.name}: {command}", "the checks of production apply it, with what this machine needs changed")
            continue
        problems = _run(kubectl, command.replace("<pod>", pod).replace("<url>", kubectl.environment["JWKS_URL"]))
        report.line(f"{page.name}: {command}" + " (only before the pipe)" * (_run_of(command) != command), problems)


def _restart_one(kubectl):
    """Kills one replica's process, so that there is a log of a previous container."""
    pod = ready_names(kubectl, SPACE)[0]
    status = lambda: next(p for p in pods(kubectl, SPACE) if p["metadata"]["name"] == pod)["status"]["containerStatuses"][0]
    # It may have restarted before, while there was no database yet.
    before = status()["restartCount"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"REPLICA_ID={pod}\0".encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            pass
    again = lambda: (now := status())["restartCount"] > before and now["ready"]
    until("the killed replica is restarted", lambda: again() and len(ready_names(kubectl, SPACE)) == 3, 90)
    return pod


def _refuse_tokens(kubectl):
    for pod in pods(kubectl, SPACE):
        connection = http.client.HTTPConnection(pod["status"]["podIP"], 3050, timeout=10)
        connection.request("GET", "/sync/todo/pull?collection=tasks&since=1970-01-01T00:00:00.000Z", headers={"Authorization": "Bearer of.no.token"})
        status = connection.getresponse().status
        connection.close()
        if status != 401:
            raise Failed(f"a token that is none is answered {status}")


def _run_of(command):
    """What is run of a command: without its search for lines that nothing here has produced."""
    return command if any(text in command for text in PRODUCED) else command.split(" | ")[0]


def _run(kubectl, command):
    if " port-forward " in command:
        return _forward(kubectl, command)
    before_pipe, command = command.split(" | ")[0], _run_of(command)
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=kubectl.environment, stdin=subprocess.DEVNULL, timeout=180)
    output = done.stdout + done.stderr
    if done.returncode != 0:
        return [output or f"exit status {done.returncode}"]
    names = [pod["metadata"]["name"] for pod in pods(kubectl, SPACE)]
    expected = []
    if " logs -l " in command and "component=server" in command:
        expected = [f"[pod/{name}/mana-sync]" for name in names] if command == before_pipe else ["[pod/"]
    elif "get pods" in command:
        expected = names
    elif "/mana-sync admin cluster" in command:
        expected = names
    elif " debug " in command:
        return [] if re.search(r"HTTP/|curl: \(", output) and not ("jwks" in command.lower() and "HTTP/1.1 200" not in output) else [output]
    elif "get configmap" in command:
        expected = [kubectl.environment["JWKS_URL"], kubectl.environment["MANA_CREDITS_URL"]]
    elif "get nodes" in command:
        expected = [" Ready "]
    elif " delete pod " in command:
        return [f"{name} is still there" for name in names if f" {name} " in command]
    elif not done.stdout.strip() and " delete " not in command:
        return ["it prints nothing"]
    return [f"{text} is missing in:\n{output[-1500:]}" for text in expected if text not in output]


def _forward(kubectl, command):
    port = int(re.search(r"mana-sync (\d+)", command).group(1))
    process = subprocess.Popen(["bash", "-c", "exec " + command.split(" #")[0]], env=kubectl.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        line = process.stdout.readline()
        if "Forwarding from" not in line:
            return [line + process.stdout.read()]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
        return [] if status == 200 else [f"/health/ready answers {status}"]
    finally:
        process.terminate()
        process.wait()
