"""The cluster's API: kubectl as an operator has it, and watches for what follows the cluster's state."""

import http.client
import json
import os
import ssl
import subprocess
import threading
import time

import report

ADDRESS = "10.250.0.1"
PORT = 6443


class Kubectl:
    def __init__(self, folder):
        self.config = str(folder / "admin.kubeconfig")
        # Commands that are run by a shell, as written in a page, find this kubectl first.
        path = f"{report.TOOLS / 'venv/bin'}:{os.environ['PATH']}"
        self.environment = os.environ | {"KUBECONFIG": self.config, "PATH": path, "HOME": str(folder)}

    def __call__(self, *words, stdin=None, timeout=120):
        """Runs kubectl; the result has returncode, stdout and stderr."""
        command = ["kubectl", *(str(word) for word in words)]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=self.environment, timeout=timeout)

    def must(self, *words, **options):
        """The output of a command that has to succeed for the checks to go on."""
        done = self(*words, **options)
        if done.returncode != 0:
            raise Failed(f"kubectl {' '.join(map(str, words))}: {done.stderr or done.stdout}")
        return done.stdout

    def get(self, *words):
        return json.loads(self.must("get", *words, "-o", "json"))

    def apply(self, resources, *words):
        return self.must("apply", *words, "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": resources}))


class Failed(Exception):
    """Something that the checks need did not happen."""


def until(what, condition, seconds=120, every=0.2):
    """Waits for a condition, whose value is returned; an exception says what it last was."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(every)


class Watch:
    """Follows all resources of a kind in the background; `changed` is set whenever one of them changes."""

    def __init__(self, folder, path, changed):
        self.items, self.path, self.changed = {}, path, changed
        self._lock = threading.Lock()
        self._tls = ssl.create_default_context(cafile=folder / "ca.crt")
        self._tls.load_cert_chain(folder / "admin.crt", folder / "admin.key")
        threading.Thread(target=self._follow, daemon=True).start()

    def list(self):
        with self._lock:
            return list(self.items.values())

    def _follow(self):
        while True:
            try:
                self._once()
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.2)

    def _request(self, query):
        connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=self._tls)
        connection.request("GET", self.path + query)
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(response.status)
        return response

    def _once(self):
        all_of_them = json.load(self._request(""))
        with self._lock:
            self.items = {_key(item): item for item in all_of_them["items"]}
        self.changed.set()
        version = all_of_them["metadata"]["resourceVersion"]
        for line in self._request(f"?watch=1&resourceVersion={version}"):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return
            with self._lock:
                if event["type"] == "DELETED":
                    self.items.pop(_key(event["object"]), None)
                else:
                    self.items[_key(event["object"])] = event["object"]
            self.changed.set()


def _key(item):
    return item["metadata"].get("namespace"), item["metadata"]["name"]
