"""Checks k8s/chart: lints it with Helm's own code, renders every variant, and compares it with what kustomize renders from k8s/overlays/production."""

import base64
import copy
import re
import shutil
import tempfile
from pathlib import Path

import kubernetes
import live
import report
import yaml

CHART = Path("k8s/chart")
SERVER = "Deployment mana-sync"
# Enables what the components do that overlays/production does not use.
EVERYTHING = {
    "gateway": {"timeouts": True},
    "networkPolicy": {"outside": True},
    "admin": {"enabled": True, "token": "change-me-change-me"},
}
# Other values, each in addition to those of ci/production.yaml.
VARIANTS = {
    "keda": {"autoscaling": {"kind": "keda", "maxReplicas": 6}},
    "no autoscaler": {"autoscaling": {"kind": "none"}, "replicas": 2, "monitoring": {"enabled": False}},
    "gateway-timeouts and an issuer outside": {"gateway": {"timeouts": True}, "networkPolicy": {"outside": True}},
    "an admin port whose token somebody else made": {"admin": {"enabled": True, "existing": "another-secret"}},
    "an image, places and memory": {
        "image": {"repository": "registry.example.com/other", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        # Kubernetes takes only strings here; values files and `--set` make numbers and booleans of what looks like one.
        "nodeSelector": {"disk": "fast", "generation": 7},
        "tolerations": [{"key": "sync", "operator": "Exists"}],
        "priorityClassName": "high",
        "podAnnotations": {"example.com/team": "sync", "example.com/scrape": True, "example.com/version": 20260101.0},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "config": {"MAX_CONNECTIONS": 50000},
    },
    "other places in the network": {
        "networkPolicy": {
            "ingress": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}}],
            "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"protocol": "TCP", "port": 8443}]}],
        }
    },
    "a tag that no name may have, a port and a digest": {
        "image": {"repository": "registry.example.com:5000/sync/mana-sync", "tag": "V1_2-Feature@sha256:" + 64 * "0"},
    },
}
# Mistakes that must be refused, with a part of the expected message.
MISTAKES = {
    "config.JWKS_URL must be set": {"config": {"JWKS_URL": ""}},
    "autoscaler": {"autoscaler": {"kind": "hpa"}},
    "kind": {"autoscaling": {"kind": "vpa"}},
    "tag": {"image": {"tag": "latest"}},
    "token": {"admin": {"enabled": True, "token": "too-short"}},
}


def check(kustomized, settings, scanned):
    try:
        import helm_python
    except ImportError:
        return report.skip("chart", "there is no helm-python-sdk for this machine")
    values = yaml.safe_load((CHART / "ci/production.yaml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        # Follows links, as `helm package` does.
        tree = shutil.copytree(CHART, Path(folder) / "chart")
        found = helm_python.lint(tree, values, strict=True, namespace="mana-sync")["messages"]
        report.line("chart: helm lint", [f"{one['path']}: {one['error']}" for one in found if one["severity"] > 1])
        with helm_python.Chart.load(tree) as chart:
            report.line("chart: its version is the overlay's", _version(chart, kustomized["production"]))
            rendered = _render(chart, values)
            report.line("chart: the same as overlays/production", _differences(rendered, kustomized["production"]))
            report.line("chart: the same as overlays/production-keda", _differences(
                _render(chart, merged(values, {"autoscaling": {"kind": "keda"}})), kustomized["production-keda"]))
            report.line("chart: the same as production with every other component", _differences(
                _render(chart, merged(values, EVERYTHING)), kustomized["variants"]))
            for name, variant in VARIANTS.items():
                _check_variant(f"chart with {name}", _render(chart, merged(values, variant)), settings, scanned, folder)
            report.line("chart: a changed migration is a new Job, and an unchanged one is not", _job_names(chart, values))
            report.line("chart: numbers are written without exponents", _numbers(chart, values))
            report.line("chart: an upgrade keeps the autoscaler's count", _counts(helm_python, chart, values))
            report.line("chart: mistakes are refused", _accepted(helm_python, chart, values))


def rendered_variants():
    """(name, resources) of the chart with its required values only, as overlays/production, with everything, and of each variant."""
    import helm_python

    values = yaml.safe_load((CHART / "ci/production.yaml").read_text())
    required = {"config": {name: values["config"][name] for name in ("JWKS_URL", "MANA_CREDITS_URL")}}
    more = {"the values of overlays/production": {}, "every other part": EVERYTHING, **VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        with helm_python.Chart.load(shutil.copytree(CHART, Path(folder) / "chart")) as chart:
            yield "its defaults", _render(chart, required)
            for name, variant in more.items():
                yield name, _render(chart, merged(values, variant))


def _job_names(chart, values):
    """Jobs are immutable, so values that change the Job must change its name."""
    name = lambda more: next(r for r in _render(chart, merged(values, more)) if r["kind"] == "Job")["metadata"]["name"]
    changes = [
        {"image": {"repository": "registry.example.com:5000/other"}},
        {"image": {"tag": "1.2.3"}},
        {"image": {"pullPolicy": "Always"}},
        {"imagePullSecrets": [{"name": "registry"}]},
        {"nodeSelector": {"disk": "fast"}},
        {"priorityClassName": "high"},
        {"owner": {"existing": "another"}},
        {"owner": {"data": {"REPLICA_PASSWORD": "another"}}},
    ]
    problems = [] if name({}) == name({"config": {"MAX_CONNECTIONS": 50000}}) else ["a setting changes its name"]
    return problems + [f"{change} changes it under the same name" for change in changes if name(change) == name({})]


def _counts(helm_python, chart, values):
    """What an upgrade makes of `replicas` that the release before it, or an autoscaler, has set."""
    problems = []
    # Only a release that had `replicas` itself keeps them.
    cases = [(None, False, "hpa", None), (7, False, "hpa", 7), (7, False, "keda", 7), (7, False, "none", 2), (7, True, "hpa", None), (7, True, "none", 2)]
    for running, autoscaled, kind, expected in cases:
        wanted = merged(values, {"autoscaling": {"kind": kind, "maxReplicas": 9}, "replicas": 2})
        with live.cluster(helm_python, "mana-sync", "mana-sync", running, autoscaled) as cluster:
            texts = cluster.render(chart, wanted, name="mana-sync", namespace="mana-sync", is_upgrade=True).values()
        resources = [resource for text in texts for resource in yaml.safe_load_all(text) if resource]
        replicas = next(r for r in resources if _name(r) == SERVER)["spec"].get("replicas")
        if replicas != expected:
            problems.append(f"{kind}, {running} running{', autoscaled before' * autoscaled}: {replicas} instead of {expected}")
    return problems


def _numbers(chart, values):
    """Numbers in values files may be floats."""
    settings = {"MAX_STREAM_BYTES_IN_FLIGHT": 268435456.0, "MAX_CONNECTIONS": 50000, "OTEL_TRACES_SAMPLER_ARG": 0.25}
    resources = _render(chart, merged(values, {"config": settings}))
    data = next(r for r in resources if r["kind"] == "ConfigMap" and r["metadata"]["name"].startswith("mana-sync"))["data"]
    written = {"MAX_STREAM_BYTES_IN_FLIGHT": "268435456", "MAX_CONNECTIONS": "50000", "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    return [f"{name} is {data[name]}" for name, text in written.items() if data[name] != text]


def _render(chart, values):
    texts = chart.render(values, name="mana-sync", namespace="mana-sync").values()
    return [resource for text in texts for resource in yaml.safe_load_all(text) if resource]


def merged(values, more):
    merged = copy.deepcopy(values)
    for name, value in more.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return merged


def _version(chart, kustomized):
    image = next(r for r in kustomized if _name(r) == SERVER)["spec"]["template"]["spec"]["containers"][0]["image"]
    app = chart.metadata["appVersion"]
    return [] if image.endswith(f":{app}") else [f"appVersion is {app}, the overlay's image {image}"]


def _name(resource):
    return f"{resource['kind']} {resource['metadata']['name']}"


def _plain(resources):
    """Resources by name, without what each tool adds: hashes in names, namespaces, the checksum of the settings."""
    plain = {}
    for resource in copy.deepcopy(resources):
        if resource["kind"] == "Namespace":
            continue
        text = re.sub(r"\b(mana-sync(?:-admin|-owner)?)-[a-z0-9]{10}(?=\s|$)", r"\1", yaml.safe_dump(resource))
        # The chart's has hyphens for the tag's dots.
        text = re.sub(r"\bmana-sync-migrate-(\S+?)(-[0-9a-f]{8})?(?=\s|$)", lambda found: "mana-sync-migrate-" + found[1].replace(".", "-"), text)
        resource = yaml.safe_load(text)
        resource["metadata"].pop("namespace", None)
        if resource["kind"] == "Secret":
            # The tools break Base64 lines differently.
            resource["data"] = {key: base64.b64decode(value) for key, value in resource["data"].items()}
        if _name(resource) == SERVER:
            resource["spec"]["template"]["metadata"].pop("annotations", None)
            # See templates/server.yaml.
            resource["metadata"].pop("annotations", None)
        plain[_name(resource)] = resource
    return plain


def _differences(rendered, kustomized):
    ours, theirs = _plain(rendered), _plain(kustomized)
    problems = [f"the chart has no {name}" for name in sorted(theirs.keys() - ours.keys())]
    problems += [f"only the chart has {name}" for name in sorted(ours.keys() - theirs.keys())]
    problems += [f"{name} is not the same" for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
    return problems


def _check_variant(name, resources, settings, scanned, folder):
    file = Path(folder) / "variant.yaml"
    for resource in resources:
        # The namespace that Helm uses.
        resource["metadata"]["namespace"] = "mana-sync"
    file.write_text(yaml.safe_dump_all(resources))
    kubernetes.check_rendered(name, file, resources, settings, scanned)


def _accepted(helm_python, chart, values):
    problems = []
    for message, mistake in MISTAKES.items():
        try:
            wrong = merged(values, mistake)
            chart.validate_schema(wrong)
            _render(chart, wrong)
            problems.append(f"{mistake} is accepted")
        except helm_python.HelmError as error:
            if message not in str(error):
                problems.append(f"{mistake}: {error}")
    return problems
