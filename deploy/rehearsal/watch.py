"""Runs Prometheus and Alertmanager with the rules of deploy/prometheus, with all times divided."""

import json
import os
import re
import subprocess
import time
import urllib.request

UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def divided(text, factor):
    """A duration in Prometheus' format."""
    millis = int(text[:-1]) * UNITS[text[-1]] / factor
    return f"{max(int(millis), 0)}ms"


def rules(text, factor):
    """The rules with ranges and waits divided. Names and labels stay, so they show real time."""
    text = re.sub(r"\[(\d+[smhd])\]", lambda found: f"[{divided(found[1], factor)}]", text)
    return re.sub(r"(\bfor: )(\d+[smhd])\b", lambda found: found[1] + divided(found[2], factor), text)


class Watch:
    def __init__(self, folder, factor, receiver, port):
        self.folder, self.factor, self.started = folder, factor, []
        self.prometheus, self.alertmanager = f"127.0.0.1:{port()}", f"127.0.0.1:{port()}"
        with open("deploy/prometheus/rules.yaml") as source, open(f"{folder}/rules.yaml", "w") as target:
            target.write(rules(source.read(), factor))
        config = {
            # The wait for other alerts of a group is Alertmanager's default, 30 s.
            "route": {
                "receiver": "rehearsal",
                "group_by": ["namespace", "alertname", "window"],
                "group_wait": divided("30s", factor),
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [{"name": "rehearsal", "webhook_configs": [{"url": receiver}]}],
        }
        # JSON is YAML.
        self._write("alertmanager.yml", config)

    def targets(self, clusters):
        """Watches these replicas from now on; each cluster is a namespace."""
        of = [
            {"targets": [f"127.0.0.1:{port}" for port in one.ports], "labels": {"namespace": one.name}}
            for one in clusters
        ]
        self._write("targets.json", of)

    def start(self):
        interval = divided("15s", self.factor)
        self._write(
            "prometheus.yml",
            {
                "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
                "rule_files": ["rules.yaml"],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [self.alertmanager]}]}]},
                "scrape_configs": [
                    {
                        "job_name": "mana-sync",
                        "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}],
                    }
                ],
            },
        )
        self._run(
            "prometheus",
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/prometheus",
            f"--web.listen-address={self.prometheus}",
            f"--query.lookback-delta={divided('5m', self.factor)}",
            # A continuing alert is sent again after this time, and Alertmanager resolves it after four times that.
            f"--rules.alert.resend-delay={divided('1m', self.factor)}",
        )
        self._run(
            "prometheus-alertmanager",
            f"--config.file={self.folder}/alertmanager.yml",
            f"--storage.path={self.folder}/alertmanager",
            f"--web.listen-address={self.alertmanager}",
            "--cluster.listen-address=",
        )

    def active(self):
        """(namespace, name, state) of the alerts that are pending or firing in Prometheus."""
        with urllib.request.urlopen(f"http://{self.prometheus}/api/v1/alerts", timeout=10) as reply:
            alerts = json.load(reply)["data"]["alerts"]
        return sorted({(a["labels"].get("namespace", ""), a["labels"]["alertname"], a["state"]) for a in alerts})

    def wait_up(self, targets):
        """Waits until this many targets are up."""
        until = time.monotonic() + 60
        while True:
            try:
                query = f"http://{self.prometheus}/api/v1/query?query=sum(up)"
                with urllib.request.urlopen(query, timeout=5) as reply:
                    result = json.load(reply)["data"]["result"]
                if result and int(result[0]["value"][1]) >= targets:
                    return
            except OSError:
                pass
            if time.monotonic() > until:
                raise SystemExit(f"Prometheus does not see {targets} replicas: see its log in {self.folder}")
            time.sleep(0.3)

    def stop(self):
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.wait()

    def _run(self, program, *arguments):
        with open(os.path.join(self.folder, f"{program}.log"), "w") as log:
            self.started.append(subprocess.Popen([program, *arguments], stdout=log, stderr=log))

    def _write(self, name, what):
        path = os.path.join(self.folder, name)
        with open(path + ".new", "w") as file:
            json.dump(what, file)
        os.rename(path + ".new", path)
