"""KEDA itself: with overlays/production-keda it takes over the autoscaler of overlays/production, scales by what Prometheus
answers, and does not scale down when Prometheus is gone.

It runs beside the control plane rather than in pods, and asks a stand-in for Prometheus."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import overlays
import report
import yaml
from api import ADDRESS, until
from autoscaling import IDLE, follow
from metrics import CPU
from production import SPACE

PROGRAMS = ("keda-operator", "keda-adapter")
# Beside ScaledObject: the operator does not start without them.
KINDS = ("scaledjobs", "triggerauthentications", "clustertriggerauthentications")
PROMETHEUS, OPERATOR, ADAPTER = 9090, 9666, 8444
OURS = "keda"
API = "v1beta1.external.metrics.k8s.io"
THRESHOLD = 10000


def check(kubectl, node, folder, metrics):
    missing = [name for name in PROGRAMS if not (node.programs / name).exists()]
    missing += [kind for kind in KINDS if kubectl("get", "crd", f"{kind}.keda.sh").returncode]
    if missing:
        return report.skip("autoscaling by KEDA", f"there is no {', no '.join(missing)} in KUBERNETES_BIN or CRDS")
    prometheus = Prometheus()
    load = lambda each: (setattr(metrics, "millicores", each[0]), metrics.publish(CPU))
    try:
        load(IDLE)
        prometheus.connections = 3
        _start(kubectl, node)
        before = _autoscaler(kubectl)
        kubectl.apply([_scaled_object(kubectl, folder)], "-n", SPACE)
        _taken_over(kubectl, before)
        count = kubectl.get("-n", SPACE, "deployment", "mana-sync")["spec"]["replicas"]
        # More than the fallback's six.
        wanted = 9
        prometheus.connections = wanted * THRESHOLD - 1
        seen = follow(kubectl, wanted, 120)
        up = seen[0] == count and seen[-1] == wanted and seen == sorted(seen)
        report.line(f"KEDA: connections scale up: {seen}", [] if up else [f"that is not from {count} to {wanted}"])
        prometheus.stop()
        until("it falls back", lambda: _conditions(kubectl).get("Fallback") == "True", 150, every=1)
        stays = follow(kubectl, 6, 20)
        report.line("KEDA: when Prometheus is gone, there are as many as before", [] if stays == [wanted] else [stays])
        _given_back(kubectl, folder, before)
    finally:
        kubectl("delete", "apiservice", API, "--ignore-not-found")
        metrics.publish()
        node.stop(*PROGRAMS)


class Prometheus:
    """Answers every query with a number of connections."""

    def __init__(self):
        self.connections = 0
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                vector = {"resultType": "vector", "result": [{"metric": {}, "value": [0, str(answers.connections)]}]}
                text = json.dumps({"status": "success", "data": vector}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer((ADDRESS, PROMETHEUS), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def _start(kubectl, node):
    names = {"operator": f"keda-operator.{OURS}.svc", "adapter": f"keda-metrics-apiserver.{OURS}.svc"}
    node.certificate("keda", "/CN=keda", f"IP:127.0.0.1,{','.join(f'DNS:{name}' for name in names.values())}")
    certificates = node.folder / "keda"
    certificates.mkdir()
    for name, file in {"ca.crt": "ca.crt", "tls.crt": "keda.crt", "tls.key": "keda.key"}.items():
        shutil.copy(node.folder / file, certificates / name)
    config = node.folder / "admin.kubeconfig"
    environment = {"KUBECONFIG": str(config), "POD_NAMESPACE": OURS, "KEDA_CLUSTER_OBJECT_NAMESPACE": OURS, "WATCH_NAMESPACE": ""}
    kubectl.must("create", "namespace", OURS)
    node.run("keda-operator", "--cert-dir", certificates, f"--metrics-service-bind-address=127.0.0.1:{OPERATOR}",
             "--metrics-bind-address=127.0.0.1:8092", "--health-probe-bind-address=127.0.0.1:8093", **environment)
    files = [f"--{use}-kubeconfig={config}" for use in ("lister", "authentication", "authorization")]
    node.run("keda-adapter", *files, f"--secure-port={ADAPTER}", "--cert-dir", certificates, f"--tls-cert-file={certificates}/tls.crt",
             f"--tls-private-key-file={certificates}/tls.key", f"--metrics-service-address=127.0.0.1:{OPERATOR}", "--port=8094", **environment)
    name = {"name": "keda-metrics-apiserver", "namespace": OURS}
    kubectl.apply([
        {"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": {"ports": [{"name": "https", "port": 443, "targetPort": ADAPTER}]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": name | {"labels": {"kubernetes.io/service-name": name["name"]}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ADDRESS]}],
            "ports": [{"name": "https", "port": ADAPTER}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": API},
            "spec": {"group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
                     "insecureSkipTLSVerify": True, "service": name},
        },
    ])
    kubectl.must("wait", "--for=condition=available", "apiservice", API, "--timeout=120s", timeout=130)


def _scaled_object(kubectl, folder):
    """That of the overlay, which asks the stand-in."""
    rendered = yaml.safe_load_all(kubectl.must("kustomize", overlays.copied(folder) / "overlays/production-keda"))
    [scaled] = [resource for resource in rendered if resource["kind"] == "ScaledObject"]
    for trigger in scaled["spec"]["triggers"]:
        if trigger["type"] == "prometheus":
            trigger["metadata"]["serverAddress"] = f"http://{ADDRESS}:{PROMETHEUS}"
    return scaled


def _autoscaler(kubectl):
    return kubectl.get("-n", SPACE, "hpa", "mana-sync")


def _conditions(kubectl):
    status = kubectl.get("-n", SPACE, "scaledobject", "mana-sync").get("status", {})
    return {one["type"]: one["status"] for one in status.get("conditions", [])}


def _taken_over(kubectl, before):
    owner = lambda: [one["kind"] for one in _autoscaler(kubectl)["metadata"].get("ownerReferences", [])]
    until("KEDA takes over the autoscaler", lambda: owner() == ["ScaledObject"] and _conditions(kubectl).get("Ready") == "True", 60)
    ours, same = _autoscaler(kubectl)["spec"], ("minReplicas", "maxReplicas", "behavior", "scaleTargetRef")
    problems = [f"{name} is {ours[name]}, and was {before['spec'][name]}" for name in same if ours[name] != before["spec"][name]]
    kinds = sorted(metric["type"] for metric in ours["metrics"])
    problems += [] if kinds == ["External", "Resource"] else [f"it scales on {kinds}"]
    report.line("KEDA: it takes over the autoscaler of production, with the same limits and the same pace", problems)


def _given_back(kubectl, folder, before):
    """The way back, as components/keda describes it."""
    kubectl.must("-n", SPACE, "delete", "scaledobject", "mana-sync", "--timeout=60s", timeout=70)
    until("KEDA's autoscaler is gone", lambda: kubectl("-n", SPACE, "get", "hpa", "mana-sync").returncode, 60)
    rendered = yaml.safe_load_all(kubectl.must("kustomize", overlays.copied(folder) / "overlays/production"))
    kubectl.apply([resource for resource in rendered if resource["kind"] == "HorizontalPodAutoscaler"], "-n", SPACE)
    after = _autoscaler(kubectl)
    problems = [] if after["spec"]["metrics"] == before["spec"]["metrics"] and "ownerReferences" not in after["metadata"] else [after]
    report.line("KEDA: without its ScaledObject, production's autoscaler is there again", problems)
