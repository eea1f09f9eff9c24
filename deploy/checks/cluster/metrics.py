"""Stands in for metrics-server and for an adapter: APIs of other servers that the API server passes requests on to, with
numbers that the checks set."""

import datetime
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from api import ADDRESS

PORT = 8443
SPACE = "kube-system"
NAME = "metrics"
CPU, CUSTOM = "metrics.k8s.io/v1beta1", "custom.metrics.k8s.io/v1beta2"
RESOURCES = {
    CPU: [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]}],
    CUSTOM: [{"name": "pods/mana_sync_connections_total", "singularName": "", "namespaced": True, "kind": "MetricValueList", "verbs": ["get"]}],
}


class Metrics:
    """`millicores` and `connections` are every pod's; `pods` returns the names of those that there are."""

    def __init__(self, kubectl, node, pods):
        self.kubectl, self.pods, self.millicores, self.connections = kubectl, pods, 0, 0
        self.folder = node.folder
        node.certificate("metrics", "/CN=metrics", f"DNS:{NAME}.{SPACE}.svc")
        self._serve()
        name = {"name": NAME, "namespace": SPACE}
        # A Service without a selector, whose only endpoint is the node itself.
        kubectl.apply([
            {"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": {"ports": [{"name": "https", "port": 443, "targetPort": PORT}]}},
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": name | {"labels": {"kubernetes.io/service-name": NAME}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [ADDRESS]}],
                "ports": [{"name": "https", "port": PORT}],
            },
        ])

    def publish(self, *versions):
        """Makes these APIs available, and no others."""
        for each in (CPU, CUSTOM):
            if each not in versions:
                self.kubectl.must("delete", "apiservice", _registered(each), "--ignore-not-found")
        if not versions:
            return
        self.kubectl.apply([{
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": _registered(each)},
            "spec": {
                "group": each.split("/")[0],
                "version": each.split("/")[1],
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {"name": NAME, "namespace": SPACE},
            },
        } for each in versions])
        for each in versions:
            self.kubectl.must("wait", "--for=condition=available", "apiservice", _registered(each), "--timeout=60s", timeout=70)

    def _serve(self):
        metrics = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer = metrics.answer(self.path.split("?")[0])
                text = json.dumps(answer or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}).encode()
                self.send_response(200 if answer else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.folder / "metrics.crt", self.folder / "metrics.key")
        server = ThreadingHTTPServer((ADDRESS, PORT), Handler)
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def answer(self, path):
        version, _, rest = path.removeprefix("/apis/").partition("/namespaces/")
        if version not in RESOURCES:
            return None
        if not rest:
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": RESOURCES[version]}
        space, now = rest.split("/")[0], datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        items = [self._cpu(space, pod, now) if version == CPU else self._connections(space, pod, now) for pod in self.pods()]
        return {"kind": "PodMetricsList" if version == CPU else "MetricValueList", "apiVersion": version, "metadata": {}, "items": items}

    def _cpu(self, space, pod, now):
        usage = {"cpu": f"{self.millicores}m", "memory": "100Mi"}
        return {"metadata": {"name": pod, "namespace": space}, "timestamp": now, "window": "10s", "containers": [{"name": "mana-sync", "usage": usage}]}

    def _connections(self, space, pod, now):
        described = {"kind": "Pod", "namespace": space, "name": pod, "apiVersion": "/v1"}
        return {"describedObject": described, "metric": {"name": "mana_sync_connections_total"}, "timestamp": now, "value": str(self.connections)}


def _registered(version):
    group, number = version.split("/")
    return f"{number}.{group}"
