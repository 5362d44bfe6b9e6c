"""Makes and reads .apk packages and their index, packages.adb, as apk-tools 3 of OpenWrt 25.12 has
them. tests/apk-vectors.json holds what the real tool made; `build` and `index` repeat its bytes."""

import hashlib
import os
import re
import struct
import tempfile
import zlib
from dataclasses import dataclass, field

import adb
import keys

PACKAGE, INDEX = 0x676B6370, 0x78646E69
BLOCK_ADB, BLOCK_SIGNATURE, BLOCK_DATA = 0, 1, 2
INFO = (
    "name", "version", "hashes", "description", "arch", "license", "origin", "maintainer", "url",
    "repo-commit", "build-time", "installed-size", "file-size", "provider-priority", "depends",
)  # fmt: skip
SCRIPTS = ("trigger", "pre-install", "post-install", "pre-deinstall", "post-deinstall", "pre-upgrade", "post-upgrade")
HASH = 20  # bytes of a package's identity that the package itself holds
MOST = 64 << 20  # bytes that a package may unpack to


class Bad(Exception):
    """A file that is no package or index of this form; says why."""


@dataclass
class Package:
    """What goes into one .apk."""

    info: dict  # name, version, description, arch, license, origin, maintainer, url
    depends: list = field(default_factory=list)
    files: dict = field(default_factory=dict)  # "etc/x": (mode, bytes)
    dirs: dict = field(default_factory=dict)  # "etc/y": mode; directories of files need not be named
    scripts: dict = field(default_factory=dict)  # "post-install": text

    def file_name(self):
        return f"{self.info['name']}-{self.info['version']}.apk"


@dataclass
class Read:
    """A package as it was read: everything in it has been checked against its hashes."""

    info: dict
    dirs: dict
    files: dict
    scripts: dict
    identity: bytes  # SHA-256 of the ADB
    signatures: list


def build(package, epoch, key=None):
    """The package's bytes, signed if `key` (PEM of an EC P-256 private key) is given."""
    block, contents = _package_adb(package, epoch)
    blocks = [(BLOCK_ADB, block), *_signatures(PACKAGE, block, key)]
    for (directory, number), content in contents.items():
        if content:
            blocks.append((BLOCK_DATA, struct.pack("<II", directory, number) + content))
    return _file(PACKAGE, blocks)


def index(packages, key=None, description=""):
    """The bytes of packages.adb. `packages` are the bytes of the .apk files it lists."""
    out = adb.Writer()
    described = out.blob(description)
    listed = []
    for content in packages:
        found = read(content)
        word = _listed_info(out, found.info, found.identity, len(content))
        listed.append((found.info["name"], _version_key(found.info["version"]), word))
    infos = [word for _, _, word in sorted(listed)]
    block = bytes(out.finish(out.object([described, out.object(infos)])))
    return _file(INDEX, [(BLOCK_ADB, block), *_signatures(INDEX, block, key)])


def read(content, public=None):
    """A package, every hash in it checked; with `public` (PEM) a good signature of that key too."""
    schema, blocks = _blocks(content)
    if schema != PACKAGE:
        raise Bad("not a package")
    block, signatures = _verified(schema, blocks, public)
    try:
        info, paths, *rest = adb.read(block)
        tree = [(*_padded(p, 3),) for p in paths]
    except (adb.Bad, TypeError, ValueError) as error:
        raise Bad(f"package: {error}") from error
    info = _info_fields(info)
    data = {}
    for kind, payload in blocks:
        if kind == BLOCK_DATA:
            data[struct.unpack_from("<II", payload)] = payload[8:]
    dirs, files = {}, {}
    for at, (name, acl, entries) in enumerate(tree, 1):
        path = _text(name)
        dirs[path] = acl[0] if acl else 0
        for number, entry in enumerate(entries or [], 1):
            file, facl, size, _, digest = _padded(entry, 5)
            body = data.pop((at, number), b"")
            full = f"{path}/{_text(file)}".lstrip("/")
            if len(body) != (size or 0) or hashlib.sha256(body).digest() != digest:
                raise Bad(f"{full}: the content is not what the package says")
            files[full] = (facl[0], body)
    if data:
        raise Bad("data of files that the package does not list")
    for path in [*dirs, *files]:
        if path.startswith("/") or ".." in path.split("/"):
            raise Bad(f"a path leaves the root: {path}")
    scripts = {n: _text(x) for n, x in zip(SCRIPTS, rest[0] if rest else []) if x}
    return Read(info, dirs, files, scripts, hashlib.sha256(block).digest(), signatures)


def read_index(content, public=None):
    """The packages that an index lists, as dictionaries of their fields."""
    schema, blocks = _blocks(content)
    if schema != INDEX:
        raise Bad("not an index")
    block, _ = _verified(schema, blocks, public)
    try:
        _, infos = _padded(adb.read(block), 2)
        return [_info_fields(x) for x in infos or []]
    except (adb.Bad, TypeError) as error:
        raise Bad(f"index: {error}") from error


def problems(content, name, arch, public=None):
    """Everything about a package that differs from the form our feed has; [] if nothing."""
    try:
        package = read(content, public)
    except Bad as fault:
        return [str(fault)]
    info, found = package.info, []
    if name != f"{info.get('name')}-{info.get('version')}.apk":
        found.append(f"the file is not called {info.get('name')}-{info.get('version')}.apk")
    if info.get("arch") not in (arch, "noarch"):
        found.append(f"architecture {info.get('arch')}, not {arch}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", info.get("name", "")):
        found.append(f"bad package name {info.get('name')}")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*-r[0-9]+", info.get("version", "")):
        found.append(f"version {info.get('version')}: want 1.2.3-r1")
    for wanted in ("description", "license", "maintainer", "url"):
        if not info.get(wanted):
            found.append(f"no {wanted}")
    lists = f"lib/apk/packages/{info.get('name')}"
    own = {f"{lists}{x}" for x in (".list", ".conffiles", ".conffiles_static")}
    want = "".join(f"/{p}\n" for p in sorted(package.files) if p not in own)
    if package.files.get(f"{lists}.list", (0, b""))[1].decode("utf-8", "replace") != want:
        found.append(f"{lists}.list does not list the files of the package")
    for line in package.files.get(f"{lists}.conffiles_static", (0, b""))[1].decode("utf-8", "replace").splitlines():
        path, _, digest = line.partition(" ")
        if hashlib.sha256(package.files.get(path.lstrip("/"), (0, b""))[1]).hexdigest() != digest:
            found.append(f"{lists}.conffiles_static: {path} is not what the package holds")
    for script, text in package.scripts.items():
        if not text.startswith("#!/bin/sh\n"):
            found.append(f"{script} does not begin with #!/bin/sh")
    for path, (mode, _) in package.files.items():
        if mode not in (0o600, 0o644, 0o755):
            found.append(f"{path} has mode {mode:o}")
    return found


def _package_adb(package, epoch):
    """(the ADB's bytes, {(directory number, file number): content})"""
    out = adb.Writer()
    info = {k: v for k, v in package.info.items() if k in INFO}
    words = {name: out.blob(info[name]) for name in INFO if name in info}
    depends = {d: out.object([out.blob(d)]) for d in package.depends}
    words["depends"] = out.object([depends[d] for d in sorted(depends)])
    paths, contents, size = [], {}, 0
    for number, (path, mode, files) in enumerate(_tree(package), 1):
        entries = []
        for at, (name, (file_mode, content)) in enumerate(files, 1):
            name_word, digest = out.blob(name), out.blob(hashlib.sha256(content).digest())
            mtime, length = out.integer(epoch), out.integer(len(content))
            entries.append(out.object([name_word, _acl(out, file_mode), length, mtime, digest]))
            contents[number, at] = content
            size += len(content)
        paths.append(out.object([out.blob(path), _acl(out, mode), out.object(entries)]))
    words["hashes"], hole = out.hole(HASH)
    words["installed-size"] = out.integer(size or 1)
    info_word = out.object([words.get(name, 0) for name in INFO])
    paths_word = out.object(paths)
    scripts = out.object([out.blob(package.scripts.get(name, "")) for name in SCRIPTS])
    block = out.finish(out.object([info_word, paths_word, scripts]))
    block[hole : hole + HASH] = hashlib.sha256(block).digest()[:HASH]
    return bytes(block), contents


def _tree(package):
    """[(path, mode, [(name, (mode, content))])], the root first."""
    dirs = {"": 0o755}
    for path in list(package.files) + list(package.dirs):
        parts = path.split("/")[:-1]
        for n in range(len(parts)):
            dirs.setdefault("/".join(parts[: n + 1]), 0o755)
    dirs |= package.dirs
    for path in sorted(dirs, key=str.encode):
        inside = {p.rpartition("/")[2]: f for p, f in package.files.items() if p.rpartition("/")[0] == path}
        yield path, dirs[path], sorted(inside.items(), key=lambda x: x[0].encode())


def _acl(out, mode):
    root = out.blob("root")
    return out.object([out.integer(mode), root, root])


def _listed_info(out, info, identity, size):
    """A package's info for the index: copied as it is, and then given the whole hash and the size."""
    words = {}
    for name in INFO:
        value = info.get(name)
        if name == "depends":
            words[name] = out.object([out.object([out.blob(d)]) for d in value or []])
        elif value is not None:
            words[name] = out.integer(value) if isinstance(value, int) else out.blob(value)
    words["hashes"], words["file-size"] = out.blob(identity), out.integer(size)
    return out.object([words.get(name, 0) for name in INFO])


def _info_fields(values):
    info = {}
    for name, value in zip(INFO, values):
        if name == "depends":
            info[name] = [_text(d[0]) for d in value or []]
        elif value is not None:
            info[name] = value if name == "hashes" or isinstance(value, int) else _text(value)
    return info


def _version_key(version):
    """Sorts the plain versions that our feed has."""
    return [int(x) if x.isdigit() else x for x in re.findall(r"\d+|\D+", version)]


def _text(value):
    return (value or b"").decode("utf-8", "replace")


def _padded(values, count):
    return (list(values) + [None] * count)[:count]


def _file(schema, blocks):
    raw = bytearray(b"ADB." + struct.pack("<I", schema))
    for kind, payload in blocks:
        raw += struct.pack("<I", kind << 30 | len(payload) + 4) + payload
        raw += bytes(-len(raw) % 8)
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"ADBd" + pack.compress(bytes(raw)) + pack.flush()


def raw(content):
    """The uncompressed file."""
    if content[:4] != b"ADBd":
        raise Bad("does not begin with ADBd")
    stream = zlib.decompressobj(-15)
    try:
        data = stream.decompress(content[4:], MOST)
    except zlib.error as error:
        raise Bad(f"damaged: {error}") from error
    if not stream.eof or stream.unused_data:
        raise Bad("cut off, too large, or something follows it")
    return data


def _blocks(content):
    data = raw(content)
    if data[:4] != b"ADB." or len(data) < 8:
        raise Bad("no ADB in it")
    (schema,) = struct.unpack_from("<I", data, 4)
    blocks, at = [], 8
    while at < len(data):
        if at + 4 > len(data):
            raise Bad("a block is cut off")
        (word,) = struct.unpack_from("<I", data, at)
        kind, size = word >> 30, word & ((1 << 30) - 1)
        if size < 4 or at + size > len(data) or kind not in (BLOCK_ADB, BLOCK_SIGNATURE, BLOCK_DATA):
            raise Bad("a block is cut off or of an unknown kind")
        if (kind == BLOCK_ADB) != (not blocks) or (kind == BLOCK_DATA and size < 12):
            raise Bad("blocks in an unknown order")
        blocks.append((kind, data[at + 4 : at + size]))
        at += size + (-size % 8)
    if not blocks:
        raise Bad("no block in it")
    return schema, blocks


def _verified(schema, blocks, public):
    block = blocks[0][1]
    signatures = [payload for kind, payload in blocks if kind == BLOCK_SIGNATURE]
    if public is not None and not any(_signed_by(schema, block, s, public) for s in signatures):
        raise Bad("no good signature of this key")
    return block, signatures


def _signatures(schema, block, key):
    if key is None:
        return []
    head = bytes([0, 4]) + keys.identity(keys.public_of(key))
    return [(BLOCK_SIGNATURE, head + keys.sign(_signed_bytes(schema, head, block), key))]


def _signed_by(schema, block, payload, public):
    head = payload[:18]
    if len(payload) < 19 or head[:2] != bytes([0, 4]) or head[2:] != keys.identity(public):
        return False
    return keys.verify(_signed_bytes(schema, head, block), payload[18:], public)


def _signed_bytes(schema, head, block):
    return struct.pack("<I", schema) + head + hashlib.sha512(block).digest()
