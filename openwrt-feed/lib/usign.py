"""Keys and signatures in the format of OpenWrt's usign (and OpenBSD's signify), over the
Ed25519 of the openssl command."""

import base64
import hashlib
import os
import subprocess
import tempfile

SECRET_PREFIX = bytes.fromhex("302e020100300506032b657004220420")  # PKCS#8 of an Ed25519 seed
PUBLIC_PREFIX = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo


class Bad(Exception):
    """A key or signature file that is not one; says why."""


def generate():
    """(secret file, public file) as text."""
    seed = _openssl(["genpkey", "-algorithm", "ed25519", "-outform", "DER"])[-32:]
    public = _openssl(["pkey", "-inform", "DER", "-pubout", "-outform", "DER"], SECRET_PREFIX + seed)[-32:]
    number = os.urandom(8)
    check = hashlib.sha512(seed + public).digest()[:8]
    secret = b"EdBK" + bytes(4) + os.urandom(16) + check + number + seed + public
    return _file(f"private key {number.hex()}", secret), _file(f"public key {number.hex()}", b"Ed" + number + public)


def fingerprint(key_text):
    """Name of the key in /etc/opkg/keys: 16 lower-case hex digits, no suffix."""
    raw = _decode(key_text)
    return (raw[32:40] if raw[:4] == b"EdBK" else raw[2:10]).hex()


def public_of(secret_text):
    raw = _secret(secret_text)
    return _file(f"public key {raw[32:40].hex()}", b"Ed" + raw[32:40] + raw[72:104])


def sign(message, secret_text):
    """The text of a signature file over `message`."""
    raw = _secret(secret_text)
    if not message:
        raise Bad("an empty file cannot be signed: usign refuses it")
    with tempfile.TemporaryDirectory() as tmp:
        key, data = os.path.join(tmp, "key"), os.path.join(tmp, "data")
        _write(key, SECRET_PREFIX + raw[40:72])
        _write(data, message)
        signature = _openssl(["pkeyutl", "-sign", "-keyform", "DER", "-inkey", key, "-rawin", "-in", data])
    return _file(f"signed by key {raw[32:40].hex()}", b"Ed" + raw[32:40] + signature)


def verify(message, signature_text, public_text):
    """Whether the signature fits; Bad if a file is malformed. Takes only what usign and signify both take."""
    signature, public = _decode(signature_text), _decode(public_text)
    if len(signature) != 74 or len(public) != 42 or signature[:2] != b"Ed" or public[:2] != b"Ed":
        raise Bad("not an Ed25519 signature and public key")
    if signature[2:10] != public[2:10]:
        return False
    with tempfile.TemporaryDirectory() as tmp:
        key, data, sig = (os.path.join(tmp, n) for n in ("key", "data", "sig"))
        _write(key, PUBLIC_PREFIX + public[10:])
        _write(data, message)
        _write(sig, signature[10:])
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", key, "-rawin", "-in", data, "-sigfile", sig]
        return subprocess.run(command, capture_output=True).returncode == 0


def _file(comment, raw):
    return f"untrusted comment: {comment}\n{base64.b64encode(raw).decode()}\n"


def _decode(text):
    lines = text.split("\n")
    if len(lines) != 3 or lines[2] != "" or not lines[0].startswith("untrusted comment: "):
        raise Bad("want a line 'untrusted comment: …' and a line of base64, each with its newline")
    try:
        return base64.b64decode(lines[1].rstrip("\r"), validate=True)
    except ValueError as error:
        raise Bad(f"second line: {error}") from error


def _secret(text):
    raw = _decode(text)
    if len(raw) != 104 or raw[:4] != b"EdBK":
        raise Bad("not an Ed25519 secret key")
    if raw[4:8] != bytes(4):
        raise Bad("the secret key has a passphrase: usign cannot use it")
    if hashlib.sha512(raw[40:104]).digest()[:8] != raw[24:32]:
        raise Bad("the secret key is damaged")
    return raw


def _write(path, data):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
        f.write(data)


def _openssl(args, data=b""):
    done = subprocess.run(["openssl", *args], input=data, capture_output=True)
    if done.returncode:
        raise Bad(f"openssl {args[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
