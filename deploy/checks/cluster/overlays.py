"""A copy of k8s/ that can be applied: with the secrets of the examples, and overlays of the checks beside ours."""

import shutil
from pathlib import Path

import yaml


def copied(folder):
    """The copy, which is made once."""
    tree = folder / "k8s"
    if not tree.exists():
        shutil.copytree("k8s", tree)
        for example in tree.rglob("*.example"):
            shutil.copy(example, example.with_suffix(""))
    return tree


def added(folder, name, content, secrets=()):
    """Adds an overlay with these members of a kustomization and these files of production's secrets."""
    overlay = copied(folder) / "overlays" / name
    overlay.mkdir(exist_ok=True)
    for file in secrets:
        shutil.copy(copied(folder) / "overlays/production" / file, overlay)
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"} | content
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return overlay


def version():
    """The tag that the production overlay names."""
    images = yaml.safe_load(Path("k8s/overlays/production/kustomization.yaml").read_text())["images"]
    return images[0]["newTag"]
