"""The autoscaler of components/hpa with numbers that others would measure: up under load, and down again slowly.

Its ten minutes before it scales down are too long for a check: it has to wait at first, and is then told to wait less."""

import json
import time

import report
from api import until
from development import ready_names
from metrics import CPU, CUSTOM, Metrics
from production import REQUESTS, SPACE

# Millicores and connections of each replica: hardly any, twice the CPU that it asks for, and twice the connections that it
# is meant to hold.
ASKED = int(REQUESTS["cpu"].removesuffix("m"))
IDLE, BUSY, CROWDED = (ASKED // 10, 10), (2 * ASKED, 10), (ASKED // 10, 20000)


def stand_in(kubectl, node):
    return Metrics(kubectl, node, lambda: ready_names(kubectl, SPACE))


def check(kubectl, metrics):
    load = lambda numbers: (setattr(metrics, "millicores", numbers[0]), setattr(metrics, "connections", numbers[1]))
    try:
        before = follow(kubectl, 3, 10)
        load(BUSY)
        metrics.publish(CPU)
        seen = follow(kubectl, 6, 60, before)
        # It may take less account of the CPU of a replica that started a moment ago.
        up = seen[0] == 3 and seen[-1] == 6 and seen == sorted(seen)
        report.line(f"autoscaling: CPU alone scales up, by three in half a minute: {seen}", [] if up else ["that is not from 3 to 6"])
        load(IDLE)
        _wait_less(kubectl)
        stays = follow(kubectl, 5, 15)
        report.line("autoscaling: as long as one of the two metrics is missing, it does not scale down", [] if stays == [6] else [stays])
        metrics.publish(CPU, CUSTOM)
        seen = follow(kubectl, 3, 90, stays)
        report.line(f"autoscaling: without load it scales down to its minimum, one by one: {seen}", [] if seen == [6, 5, 4, 3] else ["that is not 6, 5, 4, 3"])
        _wait_as_written(kubectl)
        load(CROWDED)
        seen = follow(kubectl, 6, 90, [3])
        report.line(f"autoscaling: connections alone scale up: {seen}", [] if seen == [3, 6] else ["that is not 3, 6"])
        load(IDLE)
        reason = lambda: next(c["reason"] for c in kubectl.get("-n", SPACE, "hpa", "mana-sync")["status"]["conditions"] if c["type"] == "AbleToScale")
        until("it waits before it scales down", lambda: reason() == "ScaleDownStabilized", 30, every=0.5)
        stays = follow(kubectl, 5, 10)
        report.line("autoscaling: as written, it waits before it scales down", [] if stays == [6] else [stays])
    finally:
        # An API that nobody serves would keep namespaces from being deleted.
        metrics.publish()


def follow(kubectl, wanted, seconds, before=()):
    """The numbers of replicas that are asked for, one after the other, until there are so many or the time is over.
    `before`: those that were seen until now, as a step may be over before the first look."""
    deadline, seen = time.monotonic() + seconds, list(before)
    while time.monotonic() < deadline and wanted not in seen:
        now = kubectl.get("-n", SPACE, "deployment", "mana-sync")["spec"]["replicas"]
        seen += [now] if seen[-1:] != [now] else []
    return seen


def _wait_less(kubectl):
    _patch(kubectl, {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 6}]})


def _wait_as_written(kubectl):
    _patch(kubectl, {"stabilizationWindowSeconds": 600, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}]})


def _patch(kubectl, down):
    kubectl.must("-n", SPACE, "patch", "hpa", "mana-sync", "--type=merge", "-p", json.dumps({"spec": {"behavior": {"scaleDown": down}}}))
