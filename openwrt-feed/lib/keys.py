"""EC P-256 keys as PEM, as apk has them in /etc/apk/keys, over the openssl command."""

import base64
import hashlib
import os
import subprocess
import tempfile

# SubjectPublicKeyInfo of a P-256 point, up to the 65 bytes of the point.
PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


class Bad(Exception):
    """A key that is not one; says why."""


def generate():
    """The PEM of a new private key."""
    return _openssl(["ecparam", "-name", "prime256v1", "-genkey", "-noout"]).decode()


def public_of(key):
    """The PEM of the public half; Bad if this is no P-256 private key."""
    public = _openssl(["pkey", "-pubout"], key.encode()).decode()
    _point(public)
    return public


def identity(public):
    """What signatures name the key by: 16 bytes."""
    return hashlib.sha512(_point(public)).digest()[:16]


def sign(message, key):
    """A DER signature, with SHA-512."""
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "key")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(key)
        return _openssl(["dgst", "-sha512", "-sign", path], message)


def verify(message, signature, public):
    """Whether a DER signature over SHA-512 fits."""
    with tempfile.TemporaryDirectory() as tmp:
        for name, content in (("key", public.encode()), ("signature", signature)):
            with open(os.path.join(tmp, name), "wb") as f:
                f.write(content)
        command = ["openssl", "dgst", "-sha512", "-verify", f"{tmp}/key", "-signature", f"{tmp}/signature"]
        return subprocess.run(command, input=message, capture_output=True).returncode == 0


def _point(public):
    lines = public.strip().splitlines()
    if lines[:1] != ["-----BEGIN PUBLIC KEY-----"] or lines[-1:] != ["-----END PUBLIC KEY-----"]:
        raise Bad("not a PEM public key")
    try:
        der = base64.b64decode("".join(lines[1:-1]), validate=True)
    except ValueError as error:
        raise Bad(f"public key: {error}") from error
    if not der.startswith(PREFIX) or len(der) != len(PREFIX) + 65 or der[len(PREFIX)] != 4:
        raise Bad("not an EC P-256 key")
    return der[len(PREFIX) :]


def _openssl(arguments, data=b""):
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True)
    if done.returncode:
        raise Bad(f"openssl {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
