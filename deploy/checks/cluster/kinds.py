"""What the API server says to everything that can be rendered from k8s/: each overlay, the chart with each of its parts,
and the examples. Fields are validated strictly, a warning is a problem too, and nothing is stored.

Kinds of other projects are checked if a folder has their CustomResourceDefinitions (CRDS); otherwise stand-ins take
whatever is in them, so that the rest can be checked and applied."""

import os
import re
from pathlib import Path

import chart as charts
import kubernetes
import overlays
import report
import yaml

SPACE = "mana-sync"
SPACES = (SPACE, "databases", "gateway", "mana-load", "monitoring")
# The migration's Job is named after the image's tag, of which kustomize cannot replace characters (k8s/README.md).
DOTS = re.compile(r"Warning: metadata.name: .* a DNS label is recommended: \[must not contain dots\]\n")
# Those of the overlays and the chart. Examples that need others are left out if there are none.
OTHERS = {
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "ScaledObject": "keda.sh/v1alpha1",
}
# A Deployment that restricted pods security refuses, and a route with a misspelt field.
WRONG = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: wrong, namespace: {SPACE} }}
spec:
  selector: {{ matchLabels: {{ app: wrong }} }}
  template:
    metadata: {{ labels: {{ app: wrong }} }}
    spec: {{ containers: [{{ name: wrong, image: "wrong:1" }}] }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: wrong, namespace: {SPACE} }}
spec: {{ rules: [{{ matchs: [] }}] }}
"""


def define(kubectl):
    """Defines the kinds of other projects; returns those that the API server knows the schema of."""
    found = _definitions(os.environ.get("CRDS"))
    missing = {f"{kind} of {version}" for kind, version in OTHERS.items() if (kind, version.partition("/")[0]) not in found}
    if missing:
        report.skip(f"the fields of {', '.join(sorted(missing))}", "CRDS names no folder with their CustomResourceDefinitions")
    defined = {key[0]: definition for key, definition in found.items()}
    stand_ins = [_stand_in(kind, version) for kind, version in OTHERS.items() if kind not in defined]
    # They are too long for the annotation of an apply on the client's side.
    kubectl.must("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all([*found.values(), *stand_ins]))
    kubectl.must("wait", "--for=condition=established", "crd", "--all", "--timeout=60s")
    return set(defined)


def _definitions(folder):
    """The CustomResourceDefinitions in a folder's YAML files, by kind and group."""
    files = sorted(Path(folder).rglob("*.yaml")) if folder else []
    found = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    found = [document for document in found if document and document.get("kind") == "CustomResourceDefinition"]
    return {(one["spec"]["names"]["kind"], one["spec"]["group"]): one for one in found}


def _stand_in(kind, version):
    group, version = version.split("/")
    plural = f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in"}},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural},
            "scope": "Namespaced",
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}],
        },
    }


def check(kubectl, folder, defined):
    for name in SPACES:
        kubectl.must("create", "namespace", name)
    # So that pods which would be refused later are warned of now.
    kubectl.must("label", "namespace", SPACE, "pod-security.kubernetes.io/warn=restricted")
    said = _said(kubectl, WRONG)
    expected = ["violate PodSecurity"] + ["matchs: field not declared"] * ("HTTPRoute" in defined)
    report.line("the API server refuses misspelt fields, and warns of pods that are not restricted", [f"no {text} in: {said}" for text in expected if text not in str(said)])
    tree = overlays.copied(folder)
    if not (tree / "overlays/variants").exists():
        kubernetes.add_variants(tree / "overlays")
    for overlay in sorted((tree / "overlays").iterdir()):
        if overlay.name == "development":
            # It has a namespace of its own, and is applied later.
            continue
        text = kubectl.must("kustomize", overlay)
        report.line(f"dry run of overlays/{overlay.name}", _said(kubectl, text, but=DOTS))
    try:
        variants = list(charts.rendered_variants())
    except ImportError:
        variants = []
        report.skip("dry run of the chart", "there is no helm-python-sdk for this machine")
    for name, resources in variants:
        report.line(f"dry run of the chart with {name}", _said(kubectl, yaml.safe_dump_all(resources), "-n", SPACE))
    for file in sorted(Path("k8s/examples").glob("*.yaml")):
        _example(kubectl, file)
    kubectl.must("delete", "namespace", *SPACES, "--timeout=60s")


def _example(kubectl, file):
    name = f"dry run of {file.relative_to('k8s')}"
    versions = {resource["apiVersion"] for resource in yaml.safe_load_all(file.read_text())}
    unknown = versions - set(kubectl.must("api-versions").split())
    if unknown:
        return report.skip(name, f"CRDS has no {', '.join(sorted(unknown))}")
    report.line(name, _said(kubectl, file.read_text()))


def _said(kubectl, text, *words, but=None):
    """The API server's errors, and its warnings but those."""
    done = kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", *words, "-f", "-", stdin=text)
    warnings = but.sub("", done.stderr) if but else done.stderr
    return [done.stderr or done.stdout] if done.returncode or warnings.strip() else []
