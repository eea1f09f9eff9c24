"""An issuer's key, and tokens that it signs with the claims that overlays/production asks for."""

import base64
import json
import subprocess
import time
from pathlib import Path

import yaml


class Key:
    def __init__(self, folder):
        self._file = folder / "issuer.pem"
        self._openssl("genpkey", "-algorithm", "ed25519", "-out", self._file)
        # The last bytes of each form are the key itself.
        private = self._openssl("pkey", "-in", self._file, "-outform", "DER")[-32:]
        public = self._openssl("pkey", "-in", self._file, "-pubout", "-outform", "DER")[-32:]
        self.jwk = {"kty": "OKP", "crv": "Ed25519", "kid": "check", "x": _base64url(public), "d": _base64url(private)}

    def token(self, user, **claims):
        """A token for an hour, with production's issuer and audience unless the claims name others."""
        now = int(time.time())
        claims = {"sub": user, "iat": now, "exp": now + 3600, **_asked(), **claims}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in ({"alg": "EdDSA", "typ": "JWT", "kid": "check"}, claims))
        file = self._file.with_suffix(".signed")
        file.write_text(signed)
        return f"{signed}.{_base64url(self._openssl('pkeyutl', '-sign', '-inkey', self._file, '-rawin', '-in', file))}"

    def _openssl(self, *words):
        return subprocess.run(["openssl", *words], check=True, capture_output=True).stdout


def _base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _asked():
    """The claims that the overlay's settings ask for."""
    generators = yaml.safe_load(Path("k8s/overlays/production/kustomization.yaml").read_text())["configMapGenerator"]
    settings = dict(literal.split("=", 1) for literal in generators[0]["literals"])
    return {"iss": settings["JWT_ISSUER"], "aud": settings["JWT_AUDIENCE"]}
