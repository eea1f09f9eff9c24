"""Checks k8s/examples against the schemas, and against the policies of k8s/base, which only let two namespaces in."""

from pathlib import Path

import kubernetes
import report
import yaml

EXAMPLES = Path("k8s/examples")
# The backup plug-in publishes no schema for this kind.
WITHOUT_SCHEMA = ("ObjectStore",)
OTHERS = (*kubernetes.OTHERS, "postgresql.cnpg.io/")
# Examples whose requests come from sources that base/network-policy.yaml does not allow.
ASKING = ("gke", "ingress", "load-job")
SERVER = {"app.kubernetes.io/name": "mana-sync", "app.kubernetes.io/component": "server"}


def check():
    for file in sorted(EXAMPLES.glob("*.yaml")):
        name, resources = f"k8s {file.relative_to('k8s')}", list(yaml.safe_load_all(file.read_text()))
        kubernetes.validate(name, file)
        others = [r for r in resources if r["apiVersion"].startswith(OTHERS)]
        kubernetes.check_others(name, [r for r in others if r["kind"] not in WITHOUT_SCHEMA])
        if file.stem in ASKING:
            report.line(f"{name}: clients of the server are let in", _shut_out(resources))


def _shut_out(resources):
    lets_in = lambda rule: rule["from"] and {"protocol": "TCP", "port": "http"} in rule["ports"]
    policies = [r["spec"] for r in resources if r["kind"] == "NetworkPolicy" and r["metadata"]["namespace"] == "mana-sync"]
    ours = [spec for spec in policies if spec["podSelector"]["matchLabels"].items() <= SERVER.items()]
    return [] if any(lets_in(rule) for spec in ours for rule in spec["ingress"]) else ["no policy lets it reach the server"]
