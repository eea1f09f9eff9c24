"""What overlays/production expects around it: PostgreSQL with its roles in the namespace of databases, an issuer, and pods
elsewhere that try who may connect to whom."""

import json
import subprocess
from pathlib import Path

import containers
import node as nodes
import yaml
from tokens import Key

# Where the overlay's policies let something in or out, and one that they don't mention.
SPACES = ("databases", "auth", "gateway", "monitoring", "elsewhere")
ISSUER = f"{containers.SERVER}-dev:dev"
ROLES = """
create role mana_sync login password 'change-me';
create role mana_sync_replica login password 'change-me';
create database mana_sync owner mana_sync;
create database chart owner mana_sync;
"""


class Surroundings:
    def __init__(self, kubectl, node, folder):
        self.kubectl, self.node, self.folder, self.key = kubectl, node, folder, Key(folder)

    def start(self):
        for name in SPACES:
            self.kubectl.must("create", "namespace", name)
        service = lambda space, name, port, labels: {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": space},
            "spec": {"selector": labels, "ports": [{"port": port}]},
        }
        database, issuer = {"cnpg.io/cluster": "mana-sync-db"}, {"app": "issuer"}
        listens = {"args": ["issuer", "--bind", "0.0.0.0:3001", "--key", "/keys/issuer-key.json"], "image": ISSUER, "readinessProbe": {"tcpSocket": {"port": 3001}, "periodSeconds": 1}}
        self.kubectl.apply([
            _database(database),
            # The pooler is left out: both names lead to the primary.
            service("databases", "mana-sync-db-rw", 5432, database),
            service("databases", "mana-sync-db-pooler-rw", 5432, database),
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": "auth"}, "stringData": {"issuer-key.json": json.dumps(self.key.jwk)}},
            _pod("auth", "issuer", issuer, listens | {"volumeMounts": [{"name": "key", "mountPath": "/keys"}]}, {"secret": {"secretName": "key"}}),
            service("auth", "mana-auth", 3001, issuer),
            # It listens on the issuer's port, so that only a policy can keep anybody from connecting.
            _pod("elsewhere", "pod", {"app": "pod"}, listens | {"volumeMounts": [{"name": "key", "mountPath": "/keys"}]}, {"emptyDir": {}}, 65532),
            *(_pod(space, "pod", {"app": "pod"}, {"image": nodes.PAUSE}) for space in ("gateway", "monitoring")),
        ])
        for space in SPACES:
            self.kubectl.must("-n", space, "wait", "--for=condition=ready", "pod", "--all", "--timeout=60s", timeout=70)
        self.sql(ROLES)

    def sql(self, text, database="postgres"):
        psql = ["psql", "-U", "postgres", "-h", "/var/run/postgresql", "-d", database, "-qAt", "-v", "ON_ERROR_STOP=1"]
        return self.kubectl.must("-n", "databases", "exec", "-i", "database", "--", *psql, stdin=text)

    def address(self, space, name):
        return self.kubectl.get("-n", space, "pod", name)["status"]["podIP"]

    def inside(self, space, name):
        """The beginning of a command that runs in the network of a pod."""
        pod = self.kubectl.get("-n", space, "pod", name)
        container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        return ["nsenter", f"--net=/proc/{self.node.process(container)}/ns/net", "--"]

    def connects(self, source, address, port):
        """Whether somebody in the network of this pod can connect; a policy drops packets, so this may take a second."""
        script = f"exec 3<>/dev/tcp/{address}/{port}"
        return subprocess.run([*self.inside(*source), "timeout", "1", "bash", "-c", script], capture_output=True).returncode == 0

    def answer(self, source, url, token=None, body=None):
        """The status of an HTTP request from the network of this pod, and what was answered."""
        words = ["curl", "-sS", "-m", "10", "-w", "\n%{http_code}", url]
        words += ["-H", f"Authorization: Bearer {token}"] * bool(token)
        words += ["-H", "Content-Type: application/json", "-d", body] if body else []
        done = subprocess.run([*self.inside(*source), *words], capture_output=True, text=True)
        text, _, status = done.stdout.rpartition("\n")
        return int(status or 0), text or done.stderr


def _pod(space, name, labels, container, volume=None, group=None):
    spec = {"containers": [{"name": name, **container}], "terminationGracePeriodSeconds": 1}
    spec |= {"volumes": [{"name": "key", **volume}]} if volume else {}
    spec |= {"securityContext": {"fsGroup": group}} if group else {}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": space, "labels": labels}, "spec": spec}


def _database(labels):
    """The PostgreSQL of overlays/development with another administrator, and without a disk."""
    resources = yaml.safe_load_all(Path("k8s/overlays/development/postgres.yaml").read_text())
    spec = next(resource for resource in resources if resource["kind"] == "StatefulSet")["spec"]["template"]["spec"]
    spec["volumes"].append({"name": "data", "emptyDir": {}})
    spec["terminationGracePeriodSeconds"] = 5
    spec["containers"][0] |= {
        "envFrom": [],
        "env": [{"name": f"POSTGRES_{name}", "value": value} for name, value in {"USER": "postgres", "PASSWORD": "postgres", "DB": "unused"}.items()],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "database", "namespace": "databases", "labels": labels}, "spec": spec}
