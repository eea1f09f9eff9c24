"""External services that can be broken: an issuer and a credits service; and a receiver for alerts."""

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def serve(answer):
    """Serves `answer(handler, body)`, which returns a status and a text, on its own port. Returns the URL."""

    class Handler(BaseHTTPRequestHandler):
        def _any(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, text = answer(self, body)
            data = text.encode()
            try:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except ConnectionError:
                # The client has given up.
                self.close_connection = True

        do_GET = do_POST = _any

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


class Front:
    """A proxy for a service: forwards requests until it is told to answer itself."""

    def __init__(self, to):
        self.to, self.instead = to, None
        self.url = serve(self._answer)

    @property
    def like(self):
        """The service's own URL, with our host and port."""
        return self.url + urllib.parse.urlsplit(self.to).path.rstrip("/")

    def _answer(self, request, _):
        if self.instead:
            return self.instead
        target = urllib.parse.urljoin(self.to, request.path)
        headers = {name: value for name, value in request.headers.items() if name.lower() in ("authorization", "x-service-key")}
        try:
            with urllib.request.urlopen(urllib.request.Request(target, headers=headers), timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


class Alerts:
    """Receives what Alertmanager sends, and when. Keeps only the burn rates over an hour: there is no time to fill longer
    windows, so they would describe a service that has just started."""

    UNFILLED = ("6h", "3d")

    def __init__(self):
        self.first = {}
        self.url = serve(self._answer)

    def _answer(self, _, body):
        now = time.monotonic()
        for alert in json.loads(body)["alerts"]:
            labels = alert["labels"]
            if alert["status"] == "firing" and labels.get("window") not in self.UNFILLED:
                name = labels["alertname"] + (f" ({labels['window']})" if "window" in labels else "")
                key = (labels.get("namespace", ""), name, labels["severity"])
                self.first.setdefault(key, now)
        return 200, "{}"

    def of(self, namespace):
        """(time, name, severity) of each alert of a cluster, in order of arrival."""
        return sorted((at, name, severity) for (where, name, severity), at in self.first.items() if where == namespace)
