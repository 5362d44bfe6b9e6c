"""Makes and checks .ipk packages.

opkg takes many a malformed package with exit 0 and then unpacks nothing, or too much
(tests/opkg-cases.json holds what it was seen to do). So `build` writes exactly one form, the one
that OpenWrt's own build writes, and `problems` accepts no other.
"""

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from dataclasses import dataclass, field

ZERO = b"\0" * 512
CONTROL_MEMBERS = {"control", "conffiles", "preinst", "postinst", "prerm", "postrm", "postinst-pkg", "prerm-pkg"}
NEEDED_FIELDS = ("Package", "Version", "Architecture", "Depends", "Installed-Size", "Description")
BASE = ("libc", "luci-base", "rpcd-mod-ucode")  # what every router, or every one with LuCI, can have
KNOWN_FIELDS = NEEDED_FIELDS + ("License", "Section", "Require-User", "SourceDateEpoch", "URL", "Maintainer")


@dataclass
class Package:
    """What goes into one .ipk."""

    name: str
    version: str
    arch: str
    depends: list
    description: list  # lines
    fields: dict = field(default_factory=dict)  # further control fields
    files: dict = field(default_factory=dict)  # "etc/x": (mode, bytes)
    dirs: set = field(default_factory=set)  # "etc/y", also empty ones
    conffiles: list = field(default_factory=list)  # "/etc/x"
    scripts: dict = field(default_factory=dict)  # "postinst": text

    def file_name(self):
        return f"{self.name}_{self.version}_{self.arch}.ipk"


def build(package, epoch):
    """The package's bytes: gzip'd tar of ./debian-binary, ./data.tar.gz, ./control.tar.gz."""
    dirs = set(package.dirs)
    for path in list(package.files) + list(dirs):
        parts = path.split("/")[:-1]
        dirs.update("/".join(parts[: i + 1]) for i in range(len(parts)))
    members = [("./", 0o755, None)]
    # opkg leaves out files whose directories the archive does not name first.
    for path in sorted(dirs | set(package.files)):
        if path in package.files:
            members.append(("./" + path, *package.files[path]))
        else:
            members.append(("./" + path + "/", 0o755, None))
    data = _tar(members, epoch)
    control = [("./", 0o755, None), ("./control", 0o644, _control(package, len(data)).encode())]
    if package.conffiles:
        control.append(("./conffiles", 0o644, "".join(c + "\n" for c in package.conffiles).encode()))
    control += [("./" + n, 0o755, text.encode()) for n, text in sorted(package.scripts.items())]
    outer = [
        ("./debian-binary", 0o644, b"2.0\n"),
        ("./data.tar.gz", 0o644, _gzip(data)),
        ("./control.tar.gz", 0o644, _gzip(_tar(control, epoch))),
    ]
    return _gzip(_tar(outer, epoch))


def problems(content, file_name, arch):
    """Everything about a package that differs from the one form opkg handles well; [] if nothing."""
    found = []
    if not file_name.endswith(".ipk"):
        found.append("the file name does not end in .ipk")
    try:
        outer = _members(_gunzip(content, "the package"), "the package")
        if [m.name for m in outer] != ["./debian-binary", "./data.tar.gz", "./control.tar.gz"]:
            raise Fault(f"outer members are {[m.name for m in outer]}")
        if outer[0].content != b"2.0\n":
            found.append("debian-binary is not 2.0")
        data_tar = _gunzip(outer[1].content, "data.tar.gz")
        data = _members(data_tar, "data.tar.gz")
        control = _members(_gunzip(outer[2].content, "control.tar.gz"), "control.tar.gz")
    except Fault as fault:
        return found + [str(fault)]
    found += _tree_problems(data, "data.tar.gz") + _tree_problems(control, "control.tar.gz")
    texts = {m.name[2:]: m.content for m in control if m.kind == "0"}
    for name in sorted(set(texts) - CONTROL_MEMBERS):
        found.append(f"unknown control member {name}")
    if "control" not in texts:
        return found + ["no control file"]
    found += _control_problems(texts["control"], file_name, arch, len(data_tar))
    found += _conffile_problems(texts.get("conffiles"), data)
    for member in control:
        name = member.name[2:]
        if name not in ("", "control", "conffiles"):
            if member.mode != 0o755:
                found.append(f"{name} is not executable")
            if not member.content.startswith(b"#!/bin/sh\n"):
                found.append(f"{name} does not begin with #!/bin/sh")
    return found


def control_fields(content):
    """The control text of a package that has no problems."""
    outer = _members(_gunzip(content, "the package"), "the package")
    control = _members(_gunzip(outer[2].content, "control.tar.gz"), "control.tar.gz")
    return next(m.content for m in control if m.name == "./control").decode()


def unpack(content):
    """(control members, data members) as opkg would see them, for the stand-in used in tests."""
    outer = _members(_gunzip(content, "the package"), "the package")
    return (
        _members(_gunzip(outer[2].content, "control.tar.gz"), "control.tar.gz"),
        _members(_gunzip(outer[1].content, "data.tar.gz"), "data.tar.gz"),
    )


def index(packages, directory):
    """Text of the feed's Packages file; `packages` are file names in `directory`."""
    stanzas = []
    for name in sorted(packages):
        content = (directory / name).read_bytes()
        lines = control_fields(content).splitlines()
        lines = [x for x in lines if not re.match(r"(Maintainer|LicenseFiles|Source|SourceName|Require-User|SourceDateEpoch):", x)]
        at = next(i for i, x in enumerate(lines) if x.startswith("Description:"))
        lines[at:at] = [f"Filename: {name}", f"Size: {len(content)}", f"SHA256sum: {hashlib.sha256(content).hexdigest()}"]
        stanzas.append("\n".join(lines) + "\n\n")
    text = "".join(stanzas)
    # usign before August 2019 computes a wrong hash for these two lengths.
    while len(text.encode()) % 128 in (46, 47):
        text += "\n"
    return text


class Fault(Exception):
    """A package that cannot be read further."""


@dataclass
class Member:
    name: str
    mode: int
    uid: int
    gid: int
    kind: str  # tar type flag
    content: bytes


def _control(package, installed_size):
    lines = [f"Package: {package.name}", f"Version: {package.version}", f"Depends: {', '.join(package.depends)}"]
    lines += [f"{k}: {v}" for k, v in package.fields.items()]
    lines += [f"Architecture: {package.arch}", f"Installed-Size: {installed_size}"]
    text = package.description
    return "\n".join(lines + [f"Description:  {text[0]}"] + [f" {x}" for x in text[1:]]) + "\n"


def _tar(members, epoch):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, mode, content in members:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = mode, epoch
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def _gzip(data):
    return gzip.compress(data, 9, mtime=0)


def _gunzip(content, what):
    """One gzip member, nothing after it, no file name or time in its header."""
    if content[:3] != b"\x1f\x8b\x08":
        raise Fault(f"{what} is not gzip")
    if content[3] != 0 or content[4:8] != b"\0\0\0\0":
        raise Fault(f"{what}: the gzip header holds a name or a time")
    stream = zlib.decompressobj(31)
    try:
        data = stream.decompress(content)
    except zlib.error as error:
        raise Fault(f"{what}: {error}") from error
    if not stream.eof:
        raise Fault(f"{what} is cut off")
    if stream.unused_data:
        raise Fault(f"{what}: something follows the gzip member")
    return data


def _members(raw, what):
    """The members of a tar of plain headers; a Fault for any extension."""
    found, at = [], 0
    if len(raw) % 512:
        raise Fault(f"{what}: not a tar")
    while raw[at : at + 512] != ZERO:
        head = raw[at : at + 512]
        if len(head) < 512:
            raise Fault(f"{what}: the tar has no end")
        if head[257:262] != b"ustar" or not _checksum_fits(head):
            raise Fault(f"{what}: not a tar")
        kind = chr(head[156])
        name = head[:100].rstrip(b"\0").decode("utf-8", "replace")
        if kind not in "05":
            raise Fault(f"{what}: {name} is of tar type {kind!r}; only files and directories are sure to be unpacked")
        if head[257:265] != b"ustar  \0":
            raise Fault(f"{what}: not a GNU tar")
        size, uid, gid, mode = (int(head[a:b].strip(b"\0 ") or b"0", 8) for a, b in ((124, 136), (108, 116), (116, 124), (100, 108)))
        content = raw[at + 512 : at + 512 + size]
        if len(content) < size:
            raise Fault(f"{what}: {name} is cut off")
        found.append(Member(name, mode, uid, gid, kind, content))
        at += 512 + (size + 511) // 512 * 512
    return found


def _checksum_fits(head):
    return int(head[148:156].strip(b"\0 ") or b"0", 8) == sum(head[:148]) + 8 * 32 + sum(head[156:])


def _tree_problems(members, what):
    found, known = [], set()
    if not members or members[0].name != "./":
        found.append(f"{what} does not begin with ./")
    for m in members:
        if not m.name.startswith("./") or ".." in m.name.split("/") or "//" in m.name:
            found.append(f"{what}: bad member name {m.name}")
        if m.name in known:
            found.append(f"{what}: {m.name} twice")
        known.add(m.name)
        parent = m.name.rstrip("/").rsplit("/", 1)[0] + "/"
        if m.name != "./" and parent not in known:
            found.append(f"{what}: no directory entry {parent} before {m.name}")
        if (m.uid, m.gid) != (0, 0):
            found.append(f"{what}: {m.name} belongs to {m.uid}:{m.gid}")
        # opkg gives existing directories the mode of the archive.
        if m.kind == "5" and m.mode != 0o755:
            found.append(f"{what}: directory {m.name} has mode {m.mode:o}")
        if m.kind == "0" and m.mode not in (0o600, 0o644, 0o755):
            found.append(f"{what}: {m.name} has mode {m.mode:o}")
    return found


def _control_problems(raw, file_name, arch, data_size):
    text = raw.decode("utf-8", "replace")
    if "\r" in text or not text.endswith("\n") or re.search(r"(^|\n)[ \t]*\n", text):
        return ["control has a carriage return, an empty line or no last newline"]
    fields, name = {}, None
    for line in text.splitlines():
        if line.startswith(" ") and name == "Description":
            continue
        match = re.fullmatch(r"([A-Z][A-Za-z-]*): (.*)", line)
        if not match or match[1] in fields:
            return [f"control: bad or repeated line {line!r}"]
        name = match[1]
        fields[name] = match[2]
    found = [f"control lacks {n}" for n in NEEDED_FIELDS if n not in fields]
    found += [f"control has the unknown field {n}" for n in fields if n not in KNOWN_FIELDS]
    if found:
        return found
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", fields["Package"]):
        found.append(f"bad package name {fields['Package']}")
    if not re.fullmatch(r"[0-9][0-9.]*(~[a-z0-9]+)?-r[0-9]+", fields["Version"]):
        found.append(f"version {fields['Version']} may sort wrongly: want 1.2.3-r1 or 1.2.3~rc1-r1")
    if fields["Architecture"] != arch:
        found.append(f"architecture {fields['Architecture']}, not {arch}")
    if fields["Installed-Size"] != str(data_size):
        found.append(f"Installed-Size {fields['Installed-Size']}, the data tar has {data_size} bytes")
    for depend in fields["Depends"].split(", "):
        if depend not in BASE and not re.fullmatch(r"ctrl-exec-[a-z]+", depend):
            found.append(f"depends on {depend!r}, which is not ours")
    want = f"{fields['Package']}_{fields['Version']}_{arch}.ipk"
    if file_name != want:
        found.append(f"the file is not called {want}")
    return found


def _conffile_problems(raw, data):
    if raw is None:
        return []
    files = {m.name[1:] for m in data if m.kind == "0"}
    text = raw.decode("utf-8", "replace")
    found = [] if text.endswith("\n") else ["conffiles has no last newline"]
    for line in text.splitlines():
        if line not in files:
            found.append(f"conffiles names {line!r}, which is no file of the package")
    return found
