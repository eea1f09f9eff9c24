"""Stands in for kube-proxy, for the cluster's DNS, and for the part of a network plug-in that enforces network policies.

It follows the API server, and translates Services, EndpointSlices, Pods and NetworkPolicies to rules of nftables."""

import ipaddress
import socket
import struct
import subprocess
import threading

from api import ADDRESS, Watch
from node import DNS, SERVICES

KINDS = {
    "services": "/api/v1/services",
    "slices": "/apis/discovery.k8s.io/v1/endpointslices",
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
}
# Where the DNS is, for policies: in a real cluster it runs in pods.
RESOLVER = {
    "metadata": {"name": "resolver", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
    "spec": {"containers": []},
    "status": {"podIP": ADDRESS},
}


class Network:
    def __init__(self, folder):
        self._changed = threading.Event()
        self._watches = {name: Watch(folder, path, self._changed) for name, path in KINDS.items()}
        self._names, self._rules = {}, None
        self.problem = None
        threading.Thread(target=self._follow, daemon=True).start()
        threading.Thread(target=self._answer, daemon=True).start()

    def _follow(self):
        while True:
            self._changed.wait()
            self._changed.clear()
            items = {name: watch.list() for name, watch in self._watches.items()}
            self._names = _names(items["services"], items["slices"])
            rules = _rules(items)
            if rules != self._rules:
                done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True)
                self._rules = rules
                if done.returncode != 0:
                    self.problem = f"{done.stderr}\n{rules}"

    def _answer(self):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((ADDRESS, 53))
        while True:
            question, client = server.recvfrom(512)
            try:
                server.sendto(_answer(question, self._names), client)
            except (struct.error, IndexError):
                pass


def _names(services, slices):
    """The addresses of each name: a Service's own, or those of its endpoints."""
    names = {}
    for service in services:
        metadata, spec = service["metadata"], service["spec"]
        if spec.get("clusterIP") == "None":
            addresses = [address for address, _ in _endpoints(service, None, slices)]
        else:
            addresses = [spec["clusterIP"]] if spec.get("clusterIP") else []
        names[f"{metadata['name']}.{metadata['namespace']}.svc.cluster.local"] = addresses
    return names


def _answer(question, names):
    """An answer to a DNS question with the addresses that are known, if it asks for those."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode().lower())
        at += 1 + question[at]
    kind, _ = struct.unpack_from(">HH", question, at + 1)
    known = names.get(".".join(labels))
    addresses = known if known and kind == 1 else []
    status = 0 if known is not None else 3
    header = question[:2] + struct.pack(">HHHHH", 0x8580 | status, 1, len(addresses), 0, 0)
    records = [struct.pack(">HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address) for address in addresses]
    return header + question[12 : at + 5] + b"".join(records)


def _endpoints(service, port, slices):
    """(address, port) of each endpoint that is ready; if none is, of those that are still serving."""
    metadata = service["metadata"]
    ready, serving = [], []
    for piece in slices:
        its = piece["metadata"]
        if its["namespace"] != metadata["namespace"] or its["labels"].get("kubernetes.io/service-name") != metadata["name"]:
            continue
        number = next((p["port"] for p in piece.get("ports") or [] if port is None or p.get("name", "") == port.get("name", "")), None)
        for endpoint in piece.get("endpoints") or []:
            found = [(address, number) for address in endpoint["addresses"]]
            conditions = endpoint.get("conditions", {})
            if conditions.get("ready", True):
                ready += found
            elif conditions.get("serving"):
                serving += found
    return sorted(ready or serving, key=str)


def _rules(items):
    services = "\n".join(_service_rules(items))
    egress, ingress = _policy_rules(items["pods"] + [RESOLVER], items["namespaces"], items["policies"])
    return f"""
table ip kube
delete table ip kube
table ip kube {{
  chain services {{
    ip daddr {DNS} dnat to {ADDRESS}
{services}
  }}
  chain egress {{
{egress}
  }}
  chain ingress {{
{ingress}
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
  chain output {{ type nat hook output priority -100; jump services; }}
  chain from_node {{ type filter hook output priority 0; ip daddr {SERVICES} reject; }}
  chain to_node {{ type filter hook input priority 0; ct state established,related accept; jump egress; }}
  chain between {{ type filter hook forward priority 0; ct state established,related accept; ip daddr {SERVICES} reject; jump egress; jump ingress; }}
}}
"""


def _service_rules(items):
    for service in items["services"]:
        spec = service["spec"]
        if spec.get("clusterIP") in (None, "", "None"):
            continue
        for port in spec["ports"]:
            found = _endpoints(service, port, items["slices"])
            where = f"    ip daddr {spec['clusterIP']} {port['protocol'].lower()} dport {port['port']}"
            if len(found) == 1:
                yield f"{where} dnat to {found[0][0]}:{found[0][1]}"
            elif found:
                targets = ", ".join(f"{number} : {address} . {to}" for number, (address, to) in enumerate(found))
                yield f"{where} dnat ip to numgen random mod {len(found)} map {{ {targets} }}"


def _policy_rules(pods, namespaces, policies):
    labels = {n["metadata"]["name"]: n["metadata"].get("labels", {}) for n in namespaces}
    present = [p for p in pods if p["status"].get("podIP") and not p["spec"].get("hostNetwork") and p["status"].get("phase") not in ("Succeeded", "Failed")]
    lines = {"Egress": [], "Ingress": []}
    for pod in present:
        own = [p["spec"] for p in policies if p["metadata"]["namespace"] == pod["metadata"]["namespace"]
               and _selects(p["spec"].get("podSelector", {}), pod["metadata"].get("labels", {}))]
        for direction, mine, others in (("Egress", "saddr", "daddr"), ("Ingress", "daddr", "saddr")):
            isolating = [spec for spec in own if direction in spec.get("policyTypes", ["Ingress"])]
            if not isolating:
                continue
            here = f"    ip {mine} {pod['status']['podIP']}"
            for spec in isolating:
                for rule in spec.get(direction.lower()) or []:
                    for text in _allowed(rule, direction, others, pod, present, labels):
                        lines[direction].append(f"{here}{text} return")
            lines[direction].append(f"{here} drop")
    return "\n".join(lines["Egress"]), "\n".join(lines["Ingress"])


def _allowed(rule, direction, others, pod, pods, labels):
    peers = rule.get("to" if direction == "Egress" else "from")
    if not peers:
        yield from _ports(rule, "", pod if direction == "Ingress" else None)
    for peer in peers or []:
        if "ipBlock" in peer:
            if ipaddress.ip_network(peer["ipBlock"]["cidr"]).version == 4:
                outside = "".join(f" ip {others} != {net}" for net in peer["ipBlock"].get("except", []))
                yield from _ports(rule, f" ip {others} {peer['ipBlock']['cidr']}{outside}", None)
            continue
        for other in pods:
            namespace = other["metadata"]["namespace"]
            inside = _selects(peer["namespaceSelector"], labels.get(namespace, {})) if "namespaceSelector" in peer else namespace == pod["metadata"]["namespace"]
            if inside and _selects(peer.get("podSelector", {}), other["metadata"].get("labels", {})):
                target = pod if direction == "Ingress" else other
                yield from _ports(rule, f" ip {others} {other['status']['podIP']}", target)


def _ports(rule, where, target):
    if not rule.get("ports"):
        yield where
    for port in rule.get("ports") or []:
        protocol, number = port.get("protocol", "TCP").lower(), port.get("port")
        if isinstance(number, str):
            named = [p for c in target["spec"]["containers"] for p in c.get("ports", []) if p.get("name") == number] if target else []
            if not named:
                continue
            number = named[0]["containerPort"]
        yield f"{where} {protocol} dport {number}" if number else f"{where} meta l4proto {protocol}"


def _selects(selector, labels):
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    holds = {
        "In": lambda e: labels.get(e["key"]) in e["values"],
        "NotIn": lambda e: labels.get(e["key"]) not in e["values"],
        "Exists": lambda e: e["key"] in labels,
        "DoesNotExist": lambda e: e["key"] not in labels,
    }
    return all(holds[e["operator"]](e) for e in selector.get("matchExpressions") or [])
