"""Checks deploy/ with the tools that read it, and against the code's defaults."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import images
import report
import yaml

DEPLOY = Path("deploy")
# Variables that the server does not read itself: for compose, the OpenTelemetry SDK, the log filter.
NOT_OURS = re.compile(
    r"OTEL_\w+|RUST_LOG|POD_NAMESPACE|MANA_(SYNC|DEV)_IMAGE|PUBLISH(_TLS)?|CERTIFICATES|ALERT_\w+_URL|(POSTGRES|REPLICA|GRAFANA)_PASSWORD"
)


def seconds(text):
    """The number of seconds in `1s`, `500ms`, `2m` or `45`."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)?", str(text)).groups()
    return int(number) * {"ms": 0.001, "s": 1, None: 1, "m": 60, "h": 3600}[unit]


# The stages of a stop: requests after the window and background tasks have a timeout each, then connections to the database
# are closed, and the last traces are sent.
STOP = ("DRAIN_DELAY_MS", "DRAIN_WINDOW_MS", "STEP_TIMEOUT_MS", "STEP_TIMEOUT_MS", "CLOSE_TIMEOUT_MS", "FLUSH_TIMEOUT_MS")


def stop_takes(settings):
    """The longest that a stop may take, in seconds, as in src/shutdown.rs, src/app.rs and src/main.rs."""
    return sum(int(settings[name]) for name in STOP) / 1000


def memory_needed(settings):
    """Bytes for request bodies and their decoded form, for answers that are not read, and for connections that were all
    opened at once (docs/operations.md)."""
    bodies, answers = int(settings["MAX_PUSH_BYTES_IN_FLIGHT"]), int(settings["MAX_STREAM_BYTES_IN_FLIGHT"])
    return 4 * bodies + answers * 3 // 2 + int(settings["MAX_CONNECTIONS"]) * 11 * 1024


def unit_memory(unit):
    """MemoryMax of a unit, in bytes."""
    number, suffix = re.search(r"^MemoryMax=(\d+)([MG])$", unit, re.M).groups()
    return int(number) << {"M": 20, "G": 30}[suffix]


def unknown_settings(names, settings):
    return [f"{name} is not a setting of the server" for name in names if name not in settings and not NOT_OURS.fullmatch(name)]


def check(settings):
    for file, crate in images.DOCKERFILES.items():
        report.run(f"{file}: hadolint", [report.tool("hadolint"), "--no-color", file])
        report.line(f"{file}: copies everything that it builds", images.problems(file, crate))
    compose = _compose()
    _alertmanager(compose)
    on_citus = _compose("citus/compose.yaml")
    with tempfile.TemporaryDirectory() as folder:
        _balancers(Path(folder), settings)
    _systemd()
    report.line("images have a tag, and not latest", _floating(compose) + _floating(on_citus))
    report.line("settings exist in the server", _unknown(compose, settings) + _unknown(on_citus, settings))
    report.line("stops, checks and timeouts agree with the code", _disagreements(compose, settings))


# The path of the certificate and its key in the examples.
CERTIFICATE = "/etc/mana-sync/certificates/site.pem"


def _balancers(folder, settings):
    """Checks each load balancer's configuration, with a temporary certificate."""
    certificate = folder / "site.pem"
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", folder / "site.key", "-out", folder / "site.crt"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "1"]
    subprocess.run(["openssl", "req", "-x509", *new_key, *files, *subject], check=True, capture_output=True)
    certificate.write_text((folder / "site.crt").read_text() + (folder / "site.key").read_text())
    (folder / "haproxy").mkdir()
    shutil.copy(certificate, folder / "haproxy")

    environment = os.environ | {"PORT": settings["PORT"], "TLS_PORT": "3443"}
    haproxy = ["haproxy", "-c", "-f", DEPLOY / "haproxy.cfg"]
    report.run("haproxy.cfg: haproxy -c", haproxy, "[WARNING]", env=environment | {"CERTIFICATES": str(folder / "haproxy")})
    # HAProxy warns about it, and starts.
    (folder / "empty").mkdir()
    without = environment | {"CERTIFICATES": str(folder / "empty")}
    report.run("haproxy.cfg: haproxy -c without a certificate", haproxy, env=without)
    nginx = folder / "nginx.conf"
    nginx.write_text((DEPLOY / "nginx.conf").read_text().replace(CERTIFICATE, str(certificate)))
    report.run("nginx.conf: nginx -t", ["nginx", "-t", "-c", nginx], "[warn]")
    caddy = [report.tool("caddy"), "validate", "--adapter", "caddyfile", "--config", DEPLOY / "Caddyfile"]
    report.run("Caddyfile: caddy validate", caddy, env=environment | {"CERTIFICATE": str(certificate)})


def _compose(*over):
    """The configuration that compose renders from its file and these overlays."""
    sample = DEPLOY / ".env.sample"
    files = [part for name in ("compose.yaml", *over) for part in ("-f", DEPLOY / name)]
    command = [report.tool("docker-compose"), *files, "--env-file", sample, "config"]
    return yaml.safe_load(report.run(f"{over[-1] if over else 'compose.yaml'}: compose config", command)) or {"services": {}}


def _alertmanager(compose):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(compose.get("configs", {}).get("alertmanager", {}).get("content", ""))
        file.flush()
        report.run("Alertmanager in compose: amtool check-config", ["amtool", "check-config", file.name])
        # Every severity must reach its receiver.
        for severity in ("page", "ticket"):
            test = ["amtool", "config", "routes", "test", "--config.file", file.name, f"--verify.receivers={severity}"]
            report.run(f"Alertmanager in compose: {severity} goes to {severity}", [*test, f"severity={severity}", "alertname=ManaSyncReplicaDown"])


def _systemd():
    name = "mana-sync.service: systemd-analyze verify"
    unit = (DEPLOY / "mana-sync.service").resolve()
    if not shutil.which("systemd-analyze"):
        return report.skip(name, "there is no systemd here")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    # The program itself is not installed here.
    problems = [text for text in done.stderr.splitlines() if unit.name in text and "is not executable" not in text]
    report.line(name, problems)


def _floating(compose):
    named = {name: service["image"] for name, service in compose["services"].items()}
    named |= {f"FROM in {file}": image for file in images.DOCKERFILES for image in re.findall(r"^FROM (?!scratch)(\S+)", file.read_text(), re.M)}
    return [f"{name}: {image}" for name, image in named.items() if not re.search(r":(?!latest)[\w.-]+$", image)]


def _unknown(compose, settings):
    names = set(re.findall(r"^#?([A-Z_]+)=", (DEPLOY / ".env.sample").read_text(), re.M))
    for service in ("mana-sync", "migrate"):
        names |= set(compose["services"].get(service, {}).get("environment", {}))
    return unknown_settings(sorted(names), settings)


def _disagreements(compose, settings):
    haproxy, nginx = (DEPLOY / "haproxy.cfg").read_text(), (DEPLOY / "nginx.conf").read_text()
    unit = (DEPLOY / "mana-sync.service").read_text()
    value = lambda pattern, text: seconds(re.search(pattern, text, re.M)[1])
    setting = lambda name: int(settings[name]) / 1000
    check_line = re.search(r"check inter (\w+) fall (\d+)", haproxy)
    noticed = seconds(check_line[1]) * int(check_line[2])
    silence = max(setting("SSE_HEARTBEAT_MS"), setting("DATABASE_STATEMENT_TIMEOUT_MS"), 30)
    port = settings["PORT"]
    compose_stop = seconds(compose["services"]["mana-sync"]["stop_grace_period"])
    server = compose["services"]["mana-sync"]
    enough = int(server["deploy"]["resources"]["limits"]["memory"]) >= memory_needed(settings | server["environment"])
    holds = {
        "compose: the memory is enough for bodies, answers and connections": enough,
        "compose: stop_grace_period is longer than a stop": compose_stop > stop_takes(settings),
        "systemd: TimeoutStopSec is longer than a stop": value(r"TimeoutStopSec=(\w+)", unit) > stop_takes(settings),
        "systemd: the memory is enough for bodies, answers and connections": unit_memory(unit) >= memory_needed(settings),
        "systemd: a migration is not cut short": "\nTimeoutStartSec=infinity\n" in unit,
        "systemd: a start is retried until it works": "\nStartLimitIntervalSec=0\n" in unit.partition("[Service]")[0],
        "HAProxy notices a draining replica while it still accepts": noticed < setting("DRAIN_DELAY_MS"),
        "HAProxy: timeout server is longer than any silence": value(r"timeout server (\w+)", haproxy) > silence,
        "HAProxy: timeout client is longer than any silence": value(r"timeout client (\w+)", haproxy) > silence,
        "HAProxy: timeout tunnel is longer than two pings": value(r"timeout tunnel (\w+)", haproxy) > 2 * setting("WS_PING_MS"),
        "nginx: proxy_read_timeout is longer than any silence": value(r"proxy_read_timeout (\w+)", nginx) > silence,
        "nginx closes idle connections first": value(r"keepalive_timeout (\w+)", nginx) < setting("HEADER_TIMEOUT_MS"),
        "every balancer has the certificate where compose mounts it": all(
            str(Path(CERTIFICATE).parent) in (DEPLOY / name).read_text() for name in ("compose.yaml", "nginx.conf", "Caddyfile")
        ),
        "HAProxy finds replicas on the default port": f"mana-sync:{port} " in haproxy,
        "the image exposes the default port": f"EXPOSE {port}\n" in (DEPLOY / "Dockerfile").read_text(),
    }
    return [f"no longer true: {what}" for what, so in holds.items() if not so]
