"""Checks k8s/: renders every overlay, validates it strictly, and compares it with itself and the code's defaults."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import report
import yaml
from files import memory_needed, stop_takes, unknown_settings

# API groups of other projects.
OTHERS = ("gateway.networking.k8s.io/", "networking.gke.io/", "keda.sh/", "monitoring.coreos.com/")
WORKLOADS = ("Deployment", "StatefulSet", "Job")


def check(settings, scanned):
    """The resources of each overlay, by its name. The rendered manifests are kept in the folder `scanned`."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        # Secrets are not in the repository, so the examples replace them.
        tree = shutil.copytree("k8s", Path(folder) / "k8s")
        for example in tree.rglob("*.example"):
            shutil.copy(example, example.with_suffix(""))
        add_variants(tree / "overlays")
        _refuse_digest_alone(tree / "overlays")
        for overlay in sorted((tree / "overlays").iterdir()):
            rendered = Path(folder) / f"{overlay.name}.yaml"
            name = f"k8s {overlay.name}"
            text = report.run(f"{name}: kubectl kustomize", [report.tool("kubectl"), "kustomize", overlay])
            rendered.write_text(text)
            found[overlay.name] = [resource for resource in yaml.safe_load_all(text) if resource]
            check_rendered(name, rendered, found[overlay.name], settings, scanned)
    return found


def check_rendered(name, file, resources, settings, scanned):
    """Runs every check on these resources, which are in a file too."""
    validate(name, file)
    shutil.copy(file, scanned / f"{name.replace(' ', '-')}.yaml")
    check_others(name, [r for r in resources if r["apiVersion"].startswith(OTHERS)])
    if any(r["kind"] in WORKLOADS for r in resources):
        for what, problems in _assertions(resources, settings).items():
            report.line(f"{name}: {what}", problems)


def add_variants(overlays):
    """Adds an overlay with the components that no overlay of ours uses."""
    variant = overlays / "variants"
    variant.mkdir()
    components = [f"../../components/{name}" for name in ("gateway-timeouts", "outside-issuer", "admin")]
    secrets = [{"name": "mana-sync-admin", "envs": ["admin.env"]}]
    shutil.copy(overlays / "production/admin.env", variant)
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "mana-sync",
        "resources": ["../production"],
        "components": components,
        "secretGenerator": secrets,
    }
    (variant / "kustomization.yaml").write_text(yaml.safe_dump(content))
    moved = "registry.example.com:5000/sync/mana-sync"
    image = f'{{ name: registry.example.com/mana-sync, newName: "{moved}", newTag: 0.2.0, digest: "{DIGEST}" }}'
    production_with(overlays, "pinned", image)


DIGEST = f"sha256:{64 * '0'}"


def production_with(overlays, name, image):
    """Copies the production overlay with another line for the image."""
    copied = shutil.copytree(overlays / "production", overlays / name)
    file = copied / "kustomization.yaml"
    text, count = re.subn(r"^  - \{ name: registry\.example\.com/mana-sync, newTag: [^}]* \}$", f"  - {image}", file.read_text(), flags=re.M)
    if count != 1:
        raise SystemExit(f"{file} no longer has a line for the image of the server")
    file.write_text(text)
    return copied


def _refuse_digest_alone(overlays):
    """Without a tag there is no version to name the migration after, so rendering must fail: otherwise an API server would accept only part of it."""
    copied = production_with(overlays, "digest-alone", f'{{ name: registry.example.com/mana-sync, digest: "{DIGEST}" }}')
    done = subprocess.run([report.tool("kubectl"), "kustomize", copied], capture_output=True, text=True)
    shutil.rmtree(copied)
    report.line("k8s: an image with only a digest is refused", ["it is rendered"] if done.returncode == 0 else [])


def validate(name, file):
    command = [report.tool("kubernetes-validate"), "--strict", "--quiet", "--no-warn", file]
    report.run(f"{name}: strict schemas", command)


def scan_posture(folder):
    """Scans everything at once, because the scanner takes long to start."""
    scan = report.TOOLS / "posture/bin/checkov"
    report.run("posture scan of everything rendered", [scan, "--config-file", "k8s/checkov.yaml", "--directory", folder])


def check_others(name, resources):
    name += ": strict schemas of other projects"
    if not resources:
        return
    if not shutil.which("node") or not (report.TOOLS / "npm/node_modules").exists():
        return report.skip(name, "there is no node here")
    # Node looks for packages next to the script.
    folder = report.TOOLS / "npm"
    script = shutil.copy("deploy/checks/crds.mjs", folder)
    command = ["node", script]
    done = subprocess.run(command, input=json.dumps(resources), capture_output=True, text=True, cwd=folder)
    report.line(name, json.loads(done.stdout) if done.returncode == 0 else [done.stderr])


def _assertions(resources, settings):
    pods = {f"{r['kind']} {r['metadata']['name']}": r["spec"]["template"] for r in resources if r["kind"] in WORKLOADS}
    server = next(pod for name, pod in pods.items() if name == "Deployment mana-sync")
    configured = {}
    for resource in resources:
        if resource["kind"] == "ConfigMap" and resource["metadata"]["name"].startswith("mana-sync") and "data" in resource:
            configured |= {key: value for key, value in resource["data"].items() if key.isupper()}
        if resource["kind"] == "Secret" and resource["metadata"]["name"].startswith("mana-sync"):
            configured |= {key: None for key in resource["data"]}
    configured |= {entry["name"]: entry.get("value") for entry in server["spec"]["containers"][0]["env"]}
    effective = settings | {key: value for key, value in configured.items() if value is not None}
    return {
        "selectors match": _selectors(resources, pods),
        "ports match": _ports(resources, pods, effective),
        "the admin port is off, or private": _admin(resources, server["spec"]["containers"][0], effective),
        "images have a tag, and not latest": _images(pods),
        "requests and limits are set": _resources(pods) + _memory(server["spec"], effective),
        "pods are restricted": _posture(pods),
        "probes, drain and grace agree with the code": _lifecycle(server["spec"], effective),
        "settings exist in the server, and none is missing": unknown_settings(configured, settings)
        + [f"{name} is not set" for name in ("DATABASE_URL", "DATABASE_LISTEN_URL", "JWKS_URL", "MANA_CREDITS_URL",
           "MANA_SERVICE_KEY", "REPLICA_ID") if name not in configured],
        "scaling agrees": _scaling(resources),
        "the migration is named after the image's tag": _migration(resources),
    }


def _containers(pods):
    return [(f"{name}/{c['name']}", c) for name, pod in pods.items() for c in pod["spec"]["containers"]]


def _selected(selector, pods):
    labels = selector.get("matchLabels", {})
    return [pod for pod in pods.values() if labels.items() <= pod["metadata"]["labels"].items()]


def _selectors(resources, pods):
    problems = []
    for r in resources:
        spec, name = r.get("spec", {}), f"{r['kind']} {r['metadata']['name']}"
        selector = {
            "Service": lambda: {"matchLabels": spec["selector"]},
            "NetworkPolicy": lambda: spec["podSelector"],
        }.get(r["kind"], lambda: spec.get("selector"))()
        if selector is None:
            continue
        selected = _selected(selector, pods)
        if not selected:
            problems.append(f"{name} selects no pod")
        if r["kind"] in ("Deployment", "StatefulSet", "Service", "PodDisruptionBudget", "PodMonitor") and len(selected) > 1:
            problems.append(f"{name} selects pods of more than one workload")
    for name, pod in pods.items():
        for constraint in pod["spec"].get("topologySpreadConstraints", []):
            if pod not in _selected(constraint["labelSelector"], pods):
                problems.append(f"{name} spreads other pods than its own")
    return problems


def _ports(resources, pods, settings):
    problems = []
    named = lambda pod: {p["name"]: p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports", [])}
    services = {r["metadata"]["name"]: r["spec"] for r in resources if r["kind"] == "Service"}
    for name, spec in services.items():
        for port in spec["ports"]:
            for pod in _selected({"matchLabels": spec["selector"]}, pods):
                if port["targetPort"] not in named(pod) and port["targetPort"] not in named(pod).values():
                    problems.append(f"Service {name}: no pod has the port {port['targetPort']}")
    for r in resources:
        if r["kind"] == "HTTPRoute":
            backends = [backend for rule in r["spec"]["rules"] for backend in rule["backendRefs"]]
            for backend in backends:
                if backend["port"] not in [p["port"] for p in services.get(backend["name"], {"ports": []})["ports"]]:
                    problems.append(f"HTTPRoute: no Service {backend['name']} with port {backend['port']}")
        if r["kind"] == "PodMonitor":
            for pod in _selected(r["spec"]["selector"], pods):
                problems += [f"PodMonitor: no port {e['port']}" for e in r["spec"]["podMetricsEndpoints"] if e["port"] not in named(pod)]
        if r["kind"] == "NetworkPolicy":
            for pod in _selected(r["spec"]["podSelector"], pods):
                ports = [p["port"] for rule in r["spec"].get("ingress", []) for p in rule["ports"]]
                problems += [f"NetworkPolicy {r['metadata']['name']}: no port {p}" for p in ports if p not in named(pod)]
    server = pods["Deployment mana-sync"]
    if str(named(server).get("http")) != settings["PORT"]:
        problems.append(f"the server listens on {settings['PORT']}, its container's port is {named(server).get('http')}")
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if server["spec"]["containers"][0][kind]["httpGet"]["port"] != "http":
            problems.append(f"{kind} asks another port")
    return problems


def _admin(resources, container, settings):
    """Only Prometheus may reach the admin port from another pod, nothing may publish it, and its token must come from a Secret."""
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    kinds = lambda kind: [r for r in resources if r["kind"] == kind]
    token = next((e for e in container["env"] if e["name"] == "ADMIN_TOKEN"), {})
    if not settings["ADMIN_PORT"]:
        return ["there is an admin port, and no ADMIN_PORT"] if "admin" in ports or token else []
    ours = ("admin", ports.get("admin"))
    published = [f"Service {s['metadata']['name']}" for s in kinds("Service") for p in s["spec"]["ports"] if p["targetPort"] in ours]
    holds = {
        f"the server's admin port is {settings['ADMIN_PORT']}": str(ports.get("admin")) == settings["ADMIN_PORT"],
        "the token comes from a Secret": "secretKeyRef" in token.get("valueFrom", {}),
        f"nothing publishes it: {published}": not published,
        "metrics are in one place, and scraped there": settings["PUBLIC_METRICS"] == "false"
        and all(e["port"] == "admin" for m in kinds("PodMonitor") for e in m["spec"]["podMetricsEndpoints"]),
    }
    for policy in kinds("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            # No ports means all of them.
            if not rule.get("ports") or any(p.get("port") in ours for p in rule["ports"]):
                names = [peer.get("namespaceSelector", {}).get("matchLabels", {}) for peer in rule.get("from", [{}])]
                only = all(name == {"kubernetes.io/metadata.name": "monitoring"} for name in names)
                holds[f"{policy['metadata']['name']} lets Prometheus alone in"] = only
    return [f"no longer so: {what}" for what, so in holds.items() if not so]


def _images(pods):
    containers = _containers(pods)
    return [f"{name}: {c['image']}" for name, c in containers if not re.search(r":(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?$", c["image"])]


def _resources(pods):
    problems = []
    for name, container in _containers(pods):
        requests = container.get("resources", {}).get("requests", {})
        limits = container.get("resources", {}).get("limits", {})
        problems += [f"{name}: no request of {what}" for what in ("cpu", "memory") if what not in requests]
        if "memory" not in limits:
            problems.append(f"{name}: no memory limit")
        if "cpu" in limits:
            problems.append(f"{name}: a CPU limit, which only adds to the latency")
    return problems


def _memory(spec, settings):
    limit, unit = re.fullmatch(r"(\d+)(Mi|Gi)", spec["containers"][0]["resources"]["limits"]["memory"]).groups()
    limit = int(limit) << {"Mi": 20, "Gi": 30}[unit]
    needed = memory_needed(settings)
    return [] if limit >= needed else [f"the memory limit is less than the {needed >> 20} MiB of bodies, answers and connections"]


def _posture(pods):
    problems = []
    for name, pod in pods.items():
        spec, context = pod["spec"], pod["spec"].get("securityContext", {})
        holds = {
            "runs as a number other than 0": context.get("runAsNonRoot") and context.get("runAsUser", 0) > 0,
            "has the runtime's seccomp profile": context.get("seccompProfile") == {"type": "RuntimeDefault"},
            "gets no token of Kubernetes": spec.get("automountServiceAccountToken") is False,
            "gets no variables of Services": spec.get("enableServiceLinks") is False,
            "shares nothing with its node": not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            "mounts no folder of its node": not any("hostPath" in volume for volume in spec.get("volumes", [])),
        }
        problems += [f"{name} no longer {what}" for what, so in holds.items() if not so]
    for name, container in _containers(pods):
        context = container.get("securityContext", {})
        holds = {
            "cannot gain privileges": context.get("allowPrivilegeEscalation") is False,
            "has a root file system that is read-only": context.get("readOnlyRootFilesystem") is True,
            "drops all capabilities": context.get("capabilities") == {"drop": ["ALL"]},
        }
        problems += [f"{name} no longer {what}" for what, so in holds.items() if not so]
    return problems


def _lifecycle(spec, settings):
    container = spec["containers"][0]
    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = spec["terminationGracePeriodSeconds"]
    lasts = lambda probe: container[probe]["periodSeconds"] * container[probe]["failureThreshold"]
    path = lambda probe: container[probe]["httpGet"]["path"]
    routes = Path("src/http/router.rs").read_text()
    holds = {
        f"preStop {pre_stop} s and a stop of {stop_takes(settings):g} s fit in {grace} s": pre_stop + stop_takes(settings) < grace,
        "readiness fails before a draining replica stops accepting": lasts("readinessProbe") < int(settings["DRAIN_DELAY_MS"]) / 1000,
        "readiness asks /health/ready": path("readinessProbe") == "/health/ready",
        "a start ends when it is ready": path("startupProbe") == "/health/ready",
        "a start may take minutes": lasts("startupProbe") >= 120,
        "a start waits for its migration, and not longer than its probe": 60 <= int(settings["MIGRATION_WAIT_MS"]) / 1000 < lasts("startupProbe"),
        "liveness asks for the process alone": path("livenessProbe") == "/health/live",
        "the server has these paths": all(f'"{path(probe)}"' in routes for probe in ("startupProbe", "livenessProbe", "readinessProbe")),
    }
    return [f"no longer so: {what}" for what, so in holds.items() if not so]


def _migration(resources):
    image = lambda r: r["spec"]["template"]["spec"]["containers"][0]["image"]
    deployment = next(r for r in resources if r["kind"] == "Deployment" and r["metadata"]["name"] == "mana-sync")
    jobs = [r for r in resources if r["kind"] == "Job"]
    tag = re.sub(r"[^a-z0-9.]+", "-", image(deployment).partition("@")[0].rpartition(":")[2].lower())[:30].rstrip("-.")
    # The chart adds a hash of the Job, and has no dots. Names must not be longer than a label may be.
    fits = lambda name: re.fullmatch(rf"mana-sync-migrate-({re.escape(tag)}|{tag.replace('.', '-')}-[0-9a-f]{{8}})", name) and len(name) <= 63
    problems = [f"{r['metadata']['name']} is not mana-sync-migrate-{tag}" for r in jobs if not fits(r["metadata"]["name"])]
    return problems + [f"{r['metadata']['name']} runs {image(r)}" for r in jobs if image(r) != image(deployment)]


def _scaling(resources):
    kinds = lambda kind: [r for r in resources if r["kind"] == kind]
    deployment = next(r for r in kinds("Deployment") if r["metadata"]["name"] == "mana-sync")
    scalers = kinds("HorizontalPodAutoscaler") + kinds("ScaledObject")
    problems = [f"scales {s['spec']['scaleTargetRef']['name']}" for s in scalers if s["spec"]["scaleTargetRef"]["name"] != "mana-sync"]
    if len(scalers) > 1:
        problems.append("two autoscalers for one Deployment")
    for scaler in kinds("ScaledObject"):
        fallback, adopted = scaler["spec"].get("fallback", {}), scaler["metadata"].get("annotations", {})
        autoscaler = scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"].get("name")
        if fallback.get("behavior") != "currentReplicasIfHigher":
            problems.append("without Prometheus KEDA would scale down to its fallback")
        if autoscaler != "mana-sync" or adopted.get("scaledobject.keda.sh/transfer-hpa-ownership") != "true":
            problems.append("KEDA leaves the autoscaler of components/hpa beside its own")
    if scalers and "replicas" in deployment["spec"]:
        problems.append("an apply would reset the autoscaler's count: remove replicas")
    if not scalers and deployment["spec"].get("replicas", 1) < 2:
        problems.append("one replica only")
    if deployment["spec"]["strategy"]["rollingUpdate"] != {"maxSurge": 1, "maxUnavailable": 0}:
        problems.append("the rollout is not one more, none less")
    return problems
