"""The checks of scripts/check-kubernetes: k8s/, its chart and the commands of docs/ on a real Kubernetes of one node.

The first call prepares: it builds the images, and makes control groups and namespaces, in which it calls itself again."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import autoscaling
import commands
import containers
import development
import keda
import kinds
import node as nodes
import overlays
import production
import releases
import report
import rollouts
from api import Failed, Kubectl, until
from containers import SERVER
from network import Network
from surroundings import Surroundings

INSIDE = "--inside"


def prepare(binaries, programs):
    folder = Path(tempfile.mkdtemp(prefix="mana-kubernetes-"))
    groups = []
    try:
        folder.chmod(0o755)
        made, builder = containers.all_archives(folder / "images", programs)
        made.append((nodes.PAUSE, builder.pause(nodes.PAUSE)))
        groups = _control_groups(folder.name)
        enter = "for group in $GROUPS_OF_OURS; do echo $$ >$group/cgroup.procs; done; exec setpriv --pdeathsig KILL unshare \
            --mount --net --pid --cgroup --ipc --fork --kill-child --propagation private --mount-proc sh -c '\"$@\"; exit $?' sh \"$@\""
        command = ["sh", "-c", enter, "sh", sys.executable, __file__.removesuffix("/__main__.py"), INSIDE, folder, binaries, programs]
        environment = os.environ | {"GROUPS_OF_OURS": " ".join(map(str, groups))}
        return subprocess.run(command, env=environment).returncode
    finally:
        for group in groups:
            _remove_group(group)
        if os.environ.get("KEEP_LOGS"):
            print(f"logs are in {folder}/logs")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _mounted_groups():
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(words[4]) for words in lines if words[words.index("-") + 1] in ("cgroup", "cgroup2")]


def _control_groups(name):
    """A control group for everything in each hierarchy."""
    made = []
    for hierarchy in _mounted_groups():
        group = hierarchy / name
        group.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / setting).exists():
                (group / setting).write_text((hierarchy / setting).read_text())
        made.append(group)
    return made


def _remove_group(group):
    for folder, _, _ in os.walk(group, topdown=False):
        # A process that was killed leaves its group a moment later.
        until(f"{folder} is empty", lambda: not Path(folder, "cgroup.procs").read_text().strip(), 20)
        Path(folder).rmdir()


def inside(folder, binaries, programs):
    for hierarchy in _mounted_groups():
        group = hierarchy / folder.name
        if group.exists():
            subprocess.run(["mount", "--bind", group, hierarchy], check=True)
    node = nodes.Node(folder, binaries)
    kubectl = Kubectl(folder)
    os.environ["PATH"] = kubectl.environment["PATH"]
    node.start()
    for archive in sorted((folder / "images").glob("*.tar")):
        node.add_image(archive)
    network = Network(folder)
    until("the node is ready", lambda: "True" in kubectl("get", "node", nodes.NODE, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}").stdout)
    report.line("the node is ready", [])
    try:
        defined = kinds.define(kubectl)
        around = functools.cache(lambda: _around(kubectl, node, folder))
        steps = {
            "kinds": lambda: kinds.check(kubectl, folder, defined),
            "production": lambda: _production(kubectl, node, folder, programs, around()),
            "chart": lambda: releases.check(kubectl, around(), folder),
            "development": lambda: _development(kubectl, folder),
            "commands": lambda: _commands(kubectl, folder),
        }
        wanted = os.environ.get("STEPS", ",".join(steps)).split(",")
        for name, step in steps.items():
            if name in wanted:
                _step(name, step)
        report.line("Services and policies become rules", [network.problem] if network.problem else [])
    finally:
        for resources in ("pods -A -o wide", "events -A"):
            (node.logs / f"{resources.split()[0]}.log").write_text(kubectl("get", *resources.split()).stdout)
    return report.finish()


def _around(kubectl, node, folder):
    """What production and the chart have around them."""
    for tag in (overlays.version(), production.NEXT):
        node.name_image(f"{SERVER}:dev", f"{SERVER}:{tag}")
    around = Surroundings(kubectl, node, folder)
    around.start()
    return around


def _production(kubectl, node, folder, programs, around):
    production.check(kubectl, around, folder)
    _step("rollouts", lambda: rollouts.check(kubectl, around, folder, programs))
    metrics = autoscaling.stand_in(kubectl, node)
    _step("autoscaling", lambda: autoscaling.check(kubectl, metrics))
    _step("KEDA", lambda: keda.check(kubectl, node, folder, metrics))
    kubectl("delete", "namespace", production.SPACE, "--wait=false")


def _development(kubectl, folder):
    _disk(kubectl, folder)
    development.check(kubectl)
    kubectl("delete", "namespace", development.SPACE, "--timeout=120s", timeout=130)


def _commands(kubectl, folder):
    # Production had the same.
    kubectl.must("delete", "namespace", commands.SPACE, "--ignore-not-found", "--timeout=120s", timeout=130)
    _disk(kubectl, folder)
    commands.prepare(kubectl, folder)
    _step("scaling", lambda: commands.scale(kubectl))
    _step("commands of the pages", lambda: commands.check(kubectl))


def _step(name, check):
    """Goes on with the next checks if what these need does not happen."""
    try:
        check()
    except (Failed, subprocess.TimeoutExpired) as failed:
        report.line(name, [failed])


def _disk(kubectl, folder):
    """A disk for the one claim of overlays/development, as a provisioner would make it."""
    place = Path(tempfile.mkdtemp(prefix="disk-", dir=folder))
    on_node = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [nodes.NODE]}]}
    kubectl.apply([{
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"disk-{place.stat().st_ino}"},
        "spec": {
            "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"],
            "local": {"path": str(place)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [on_node]}},
        },
    }])


def main(arguments):
    # So that what was made is removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments[:1] == [INSIDE]:
        return inside(*map(Path, arguments[1:]))
    return prepare(*(Path(argument).resolve() for argument in arguments))


sys.exit(main(sys.argv[1:]))
