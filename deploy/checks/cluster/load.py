"""Devices that push, pull, and hold WebSockets and streams open through the Service, while something happens to the
replicas: `mana-load`, as the pages run it, from where the gateway is. At the end it says what was missed."""

import json
import os
import select
import subprocess
import time

from api import Failed

USERS = 12
# What the promise allows after a failure (docs/guarantees.md).
LATEST = 5000


class Load:
    """Each name of `phases` is something that happens, in a phase of so many seconds."""

    def __init__(self, around, programs, address, phases):
        self._folder = around.folder / "load"
        self._folder.mkdir()
        self._phases = phases
        tokens, scenario = self._folder / "tokens.txt", self._folder / "check.toml"
        tokens.write_text("\n".join(around.key.token(f"user-{number}") for number in range(USERS)))
        scenario.write_text(_scenario(phases))
        self._pipes = {}
        for name in ("begun", "done"):
            os.mkfifo(self._folder / name)
            # Opened for both, so that it neither waits for the other side nor ends with it.
            self._pipes[name] = os.open(self._folder / name, os.O_RDWR)
        self._log = open(self._folder / "log", "w+")
        self._process = subprocess.Popen(
            [*around.inside("gateway", "pod"), programs / "mana-load", "run", scenario, "--quiet", "--targets", f"http://{address}",
             "--tokens", tokens, "--folder", self._folder, "--rollout-command", f"echo >{self._folder}/begun && read answer <{self._folder}/done"],
            stdout=self._log, stderr=self._log)

    def during(self, name, step):
        """Does something in the phase with this name; returns how long it took, and its problems."""
        if not select.select([self._pipes["begun"]], [], [], 90)[0]:
            raise Failed(f"the load does not get to {name}: {self._text()}")
        os.read(self._pipes["begun"], 1)
        begun = time.monotonic()
        try:
            problems = step()
        finally:
            os.write(self._pipes["done"], b"\n")
        took = time.monotonic() - begun
        return took, problems + (["that was longer than the load"] if took > self._phases[name] else [])

    def finish(self):
        """What happened: the numbers, and the problems."""
        status = self._process.wait(90)
        report = self._folder / "check.json"
        if status not in (0, 1) or not report.exists():
            return "", [self._text()]
        found = json.loads(report.read_text())
        problems = [f"{check['name']}: {check['detail']}" for check in found["checks"] if not check["passed"]]
        problems += [f"{limit['name']}: {limit['measured']}" for limit in found["thresholds"] if not limit["passed"]]
        done = {operation["name"]: operation["done"] for operation in found["operations"]}
        problems += [f"{operation['name']} failed: {operation['errors']}" for operation in found["operations"] if operation.get("errors")]
        problems += [f"there was no {name}" for name in ("push 1", "wakeup", "delivery") if not done.get(name)]
        return f"{done.get('push 1')} pushes, {done.get('wakeup')} wake-ups and {done.get('delivery')} changes on streams", problems

    def stop(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in self._pipes.values():
            os.close(pipe)

    def _text(self):
        self._log.seek(0)
        return self._log.read()[-1500:]


def _scenario(phases):
    around = [("before", 3, ""), *((name, seconds, "rollout") for name, seconds in phases.items()), ("after", 22, "")]
    text = f"""
name = "check"
description = "While the replicas are replaced."
users = {{ count = {USERS}, devices = 2 }}
connections = {{ websockets = {2 * USERS}, streams = {USERS} }}
"""
    for operation, weight in (("push", 70), ("pull", 30)):
        text += f'[[mix]]\noperation = "{operation}"\nweight = {weight}\n'
    for name, seconds, event in around:
        text += f'[[phases]]\nname = "{name}"\nseconds = {seconds}\nrate = 30\n' + f'event = "{event}"\n' * bool(event)
    for operation in ("push 1", "delivery"):
        text += f'[[thresholds]]\noperation = "{operation}"\nmax_ms = {LATEST}\n'
    return text
