"""Installs k8s/chart with Helm's own code, upgrades it, rolls it back and uninstalls it, under pushes.

Values are those of ci/production.yaml, with what the check of overlays/production changes too, and a database and a
namespace of its own."""

import re
import shutil

import report
import yaml
from api import until
from chart import CHART, merged
from containers import SERVER
from development import Counts, Pushes, pods, ready_names
from production import JWKS_URL, NEXT, REQUESTS

SPACE, NAME = "chart", "mana-sync"
DATABASE = "postgres://{}:change-me@mana-sync-db-rw.databases:5432/chart"


def _values(**more):
    replica = DATABASE.format("mana_sync_replica")
    values = merged(yaml.safe_load((CHART / "ci/production.yaml").read_text()), {
        "owner": {"data": {"DATABASE_URL": DATABASE.format("mana_sync")}},
        "resources": {"requests": REQUESTS, "limits": {"memory": "1280Mi"}},
    })
    values["config"]["JWKS_URL"] = JWKS_URL
    values["secret"]["data"] |= {"DATABASE_URL": replica, "DATABASE_LISTEN_URL": replica}
    return values | more


def check(kubectl, around, folder):
    try:
        import helm_python
    except ImportError:
        return report.skip("chart", "there is no helm-python-sdk for this machine")
    kubectl.must("create", "namespace", SPACE)
    kubectl.must("label", "namespace", SPACE, "pod-security.kubernetes.io/enforce=restricted")
    # Follows links, as `helm package` does.
    tree = shutil.copytree(CHART, folder / "chart")
    with helm_python.Config(kubeconfig_path=kubectl.config, namespace=SPACE) as helm, helm_python.Chart.load(tree) as chart:
        tag = chart.metadata["appVersion"]
        helm.install(chart, NAME, _values(), namespace=SPACE)
        report.line("chart: installed, and the autoscaler's minimum gets ready", _rolled_out(kubectl, tag, 3))
        # As an autoscaler would.
        kubectl.must("-n", SPACE, "scale", "deployment/mana-sync", "--replicas=4")
        _rolled_out(kubectl, tag, 4)
        with Pushes(kubectl, SPACE, around.key.token("carol")) as pushes, Counts(kubectl, SPACE) as counts:
            helm.upgrade(chart, NAME, _values(image={"tag": NEXT}), namespace=SPACE)
            report.line("chart: an upgrade replaces the replicas, and the migration runs", _rolled_out(kubectl, NEXT, 4))
            helm.rollback(NAME)
            report.line("chart: a rollback replaces them again", _rolled_out(kubectl, tag, 4))
            until("the replaced are gone", lambda: len(pods(kubectl, SPACE)) == 4, 90)
        report.line(f"chart: no push of {pushes.done} fails meanwhile", pushes.problems())
        report.line("chart: the autoscaler's count stays meanwhile", [] if counts.seen == {4} else [counts.seen])
        helm.uninstall(NAME)
    report.line("chart: uninstalling leaves nothing but pods that are stopping", _left(kubectl))
    kubectl("delete", "namespace", SPACE, "--wait=false")


def _rolled_out(kubectl, tag, count):
    """Waits for so many replicas; returns those that are not of this tag, and a migration of this tag that is not complete."""
    kubectl.must("-n", SPACE, "rollout", "status", "deployment/mana-sync", "--timeout=90s", timeout=100)
    until(f"{count} replicas are ready", lambda: len(ready_names(kubectl, SPACE)) == count, 60)
    image = f"{SERVER}:{tag}"
    running = {p["metadata"]["name"]: p["spec"]["containers"][0]["image"] for p in pods(kubectl, SPACE) if "deletionTimestamp" not in p["metadata"]}
    jobs = {job["spec"]["template"]["spec"]["containers"][0]["image"]: job["status"] for job in kubectl.get("-n", SPACE, "jobs")["items"]}
    problems = [running] if set(running.values()) != {image} else []
    return problems + ([] if jobs.get(image, {}).get("succeeded") == 1 else [jobs])


def _left(kubectl):
    """What is there beside what every namespace has, and pods that are still stopping."""
    kinds = kubectl.must("api-resources", "--namespaced", "--verbs=list,delete", "-o", "name").split()
    everything = kubectl.must("-n", SPACE, "get", ",".join(kind for kind in kinds if not kind.startswith("events")), "-o", "name", "--ignore-not-found")
    # Certificates of the cluster's authorities are in every namespace.
    own = re.compile(r"configmap/.*-ca\.crt|serviceaccount/default")
    transient = ("pod/", "endpointslice", "endpoints/", "replicaset", "controllerrevision")
    return [name for name in everything.split() if not own.fullmatch(name) and not name.startswith(transient)]
