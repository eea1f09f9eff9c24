"""A stand-in for an API server with one Deployment, for what Helm looks up in a cluster before it renders a chart."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": "apps/v1",
    "resources": [
        {"name": "deployments", "singularName": "deployment", "namespaced": True, "kind": "Deployment", "verbs": ["get"]}
    ],
}
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


@contextlib.contextmanager
def cluster(helm_python, namespace, name, replicas, autoscaled):
    """Helm's connection to a cluster in which this Deployment has so many replicas; None: it is not there yet. If it was
    autoscaled already, the release before has no count."""
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "annotations": {"mana-sync/replicas": "autoscaler"} if autoscaled else {}},
        "spec": {"replicas": replicas},
    }
    answers = {"/apis/apps/v1": KINDS}
    if replicas is not None:
        answers[f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"] = deployment

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            text = json.dumps(answers.get(path, NOT_FOUND)).encode()
            self.send_response(200 if path in answers else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with helm_python.Config(
            kube_apiserver=f"http://127.0.0.1:{server.server_port}",
            kubeconfig_content="apiVersion: v1\nkind: Config\n",
            namespace=namespace,
            storage_driver="memory",
        ) as config:
            yield config
    finally:
        server.shutdown()
        server.server_close()
