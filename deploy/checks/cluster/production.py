"""Applies overlays/production as an operator does, with the secrets of the examples, and checks that it serves, whom it lets
in and out, and what its autoscaler does without metrics.

Three things are changed, because one small machine has to do: the requests of CPU and memory are smaller, the issuer is
reached over plain http, and there is neither a pooler nor a credits service."""

import kinds
import kubernetes
import overlays
import report
from api import ADDRESS, PORT, until
from containers import SERVER
from development import PUSH, pods, ready, ready_names

SPACE = "mana-sync"
JWKS_URL = "http://mana-auth.auth:3001/api/auth/jwks"
REQUESTS = {"cpu": "50m", "memory": "256Mi"}
NEXT = "0.99.0"
API = (ADDRESS, PORT)


def overlay(folder, tag, admin=False):
    """The production overlay with this tag, and what had to be changed; perhaps with the admin port."""
    tree = overlays.copied(folder) / "overlays"
    if not (tree / f"tag-{tag}").exists():
        kubernetes.production_with(tree, f"tag-{tag}", f"{{ name: {SERVER}, newTag: {tag} }}")
    patch = f"- {{ op: replace, path: /spec/template/spec/containers/0/resources/requests, value: {{ cpu: {REQUESTS['cpu']}, memory: {REQUESTS['memory']} }} }}"
    more = {"components": ["../../components/admin"], "secretGenerator": [{"name": "mana-sync-admin", "envs": ["admin.env"]}]} if admin else {}
    return overlays.added(folder, f"here-{tag}", more | {
        "namespace": SPACE,
        "resources": [f"../tag-{tag}"],
        "configMapGenerator": [{"name": "mana-sync", "behavior": "merge", "literals": [f"JWKS_URL={JWKS_URL}"]}],
        "patches": [{"target": {"kind": "Deployment", "name": "mana-sync"}, "patch": patch}],
    }, ["admin.env"] * admin)


def apply(kubectl, folder, tag, admin=False):
    """Applies it; returns what was said beside that it was done."""
    done = kubectl("apply", "-k", overlay(folder, tag, admin))
    said = kinds.DOTS.sub("", done.stderr)
    return [done.stderr] if done.returncode or said.strip() else []


def _with_a_wrong_password(kubectl, folder):
    """A first installation in which the owner's password is wrong, until it is applied again with the right one."""
    secret = overlay(folder, overlays.version()).parent / f"tag-{overlays.version()}/owner.env"
    right = secret.read_text()
    secret.write_text(right.replace("change-me", "wrong"))
    said = apply(kubectl, folder, overlays.version())
    attempts = lambda: kubectl.get("-n", SPACE, "pods", "-l", "app.kubernetes.io/component=migration")["items"]
    failed = lambda: [s for p in attempts() for s in p["status"].get("containerStatuses", []) if s["restartCount"] or s["lastState"].get("terminated") or s["state"].get("terminated")]
    until("the migration fails", failed, 60)
    secret.write_text(right)
    return said


def check(kubectl, around, folder):
    report.line("production: applied with a wrong password for the owner", _with_a_wrong_password(kubectl, folder))
    report.line("production: applied with the right one, smaller requests, an issuer over plain http, no pooler and no credits service", apply(kubectl, folder, overlays.version()))
    job = f"mana-sync-migrate-{overlays.version()}"
    kubectl.must("-n", SPACE, "wait", "--for=condition=complete", f"job/{job}", "--timeout=120s", timeout=130)
    until("three replicas are ready", lambda: len(ready_names(kubectl, SPACE)) == 3, 120)
    restarts = {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["restartCount"] for p in pods(kubectl, SPACE)}
    report.line("production: the migration that failed completes with the right one, and three replicas on one node get ready without a restart", [restarts] if any(restarts.values()) else [])
    _without_metrics(kubectl)
    refused = kubectl("-n", SPACE, "run", "wrong", "--image=wrong:1").stderr
    report.line("production: a pod that is not restricted is refused", [] if 'violates PodSecurity "restricted:latest"' in refused else [refused or "it is not"])
    budget = kubectl.get("-n", SPACE, "poddisruptionbudget", "mana-sync")["status"]
    report.line("production: the budget lets one of three be evicted", [] if (budget["disruptionsAllowed"], budget["expectedPods"]) == (1, 3) else [budget])
    _requests(kubectl, around)
    _policies(kubectl, around)


def _without_metrics(kubectl):
    """The autoscaler says what it lacks, and leaves the replicas alone."""
    conditions = lambda: {c["type"]: c for c in kubectl.get("-n", SPACE, "hpa", "mana-sync")["status"].get("conditions", [])}
    active = until("the autoscaler has looked for metrics", lambda: conditions().get("ScalingActive"), 60)
    reasons = lambda: {e["reason"] for e in kubectl.get("-n", SPACE, "events", "--field-selector=involvedObject.kind=HorizontalPodAutoscaler")["items"]}
    wanted = {"FailedGetResourceMetric", "FailedGetPodsMetric"}
    until(f"there are events with {wanted}", lambda: wanted <= reasons(), 30, every=1)
    replicas = kubectl.get("-n", SPACE, "deployment", "mana-sync")["spec"]["replicas"]
    problems = [] if (active["status"], replicas) == ("False", 3) else [active, f"{replicas} replicas"]
    report.line("production: without metrics the autoscaler keeps its minimum, and events say what is missing", problems)


def _requests(kubectl, around):
    """Through the Service, from where the gateway is."""
    url = f"http://{kubectl.get('-n', SPACE, 'service', 'mana-sync')['spec']['clusterIP']}"
    push = lambda **claims: around.answer(("gateway", "pod"), f"{url}/sync/todo", around.key.token("alice", **claims), PUSH)
    until("a push is answered", lambda: push()[0], 20)
    answers = {"ours": push(), "of another issuer": push(iss="https://other.example.com"), "for another audience": push(aud="other")}
    wanted = {"ours": 200, "of another issuer": 401, "for another audience": 401}
    problems = [f"a token {name} is answered {answers[name]}" for name in wanted if answers[name][0] != wanted[name]]
    report.line("production: pushes through the Service are answered, and only with tokens of its issuer and audience", problems)


def _policies(kubectl, around):
    """Each pair of those that must connect, and of those that must not; what is listened on, the node can reach."""
    server = pods(kubectl, SPACE)
    name, address = server[0]["metadata"]["name"], server[0]["status"]["podIP"]
    pod = lambda space: (space, {"databases": "database", "auth": "issuer"}.get(space, "pod"))
    ours, port = (SPACE, name), 3050
    allowed = [
        (pod("gateway"), address, port),
        (pod("monitoring"), address, port),
        (ours, around.address(*pod("databases")), 5432),
        (ours, around.address(*pod("auth")), 3001),
    ]
    forbidden = [
        *((pod(space), address, port) for space in ("databases", "auth", "elsewhere")),
        (ours, around.address(*pod("elsewhere")), 3001),
        (ours, server[1]["status"]["podIP"], port),
        (ours, *API),
    ]
    problems = _unlike(around, allowed, forbidden)
    report.line(f"production: its policies let {len(allowed)} pairs of pods connect, and {len(forbidden)} not, among them the API server", problems)


def admin_policies(kubectl, around):
    """The same for the admin port."""
    address = next(p["status"]["podIP"] for p in pods(kubectl, SPACE) if ready(p))
    monitoring, port = ("monitoring", "pod"), 3090
    forbidden = [(("gateway", "pod"), address, port), (("elsewhere", "pod"), address, port)]
    problems = _unlike(around, [(monitoring, address, port)], forbidden, monitoring)
    metrics = {3050: 404, port: 200}
    answers = {at: around.answer(monitoring, f"http://{address}:{at}/metrics") for at in metrics}
    problems += [f"/metrics on {at}: {answers[at][0]} {answers[at][1][:200]}" for at in metrics if answers[at][0] != metrics[at]]
    report.line("production: the admin port is for Prometheus alone, and so are the metrics then", problems)


def _unlike(around, allowed, forbidden, control=("gateway", "pod")):
    """Pairs that can or cannot connect against the rules."""
    shown = lambda one: f"{'/'.join(one[0])} to {one[1]}:{one[2]}"
    problems = [f"cannot connect: {shown(one)}" for one in allowed if not around.connects(*one)]
    problems += [f"can connect: {shown(one)}" for one in forbidden if around.connects(*one)]
    # Otherwise nobody could connect there anyway.
    listened = [(control, *one[1:]) for one in forbidden]
    return problems + [f"nothing listens on {one[1]}:{one[2]}" for one in listened if not around.connects(*one)]
