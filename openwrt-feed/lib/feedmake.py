"""Reads the package sections of the feed's Makefile, so that the binary feed and an SDK build hold
the same files. Knows the plain forms this feed uses and refuses any other."""

import re
from dataclasses import dataclass, field

MODES = {"INSTALL_BIN": 0o755, "INSTALL_CONF": 0o600, "INSTALL_DATA": 0o644}


@dataclass
class Section:
    """One `Package/NAME`."""

    name: str
    title: str = ""
    depends: list = field(default_factory=list)
    user: str = ""
    arch: str = ""  # "all" for a package without programs
    section: str = ""
    category: str = ""
    submenu: str = ""
    url: str = ""
    origin: str = ""  # directory below the feed
    description: list = field(default_factory=list)
    conffiles: list = field(default_factory=list)
    dirs: list = field(default_factory=list)
    installs: list = field(default_factory=list)  # (mode, source, destination)
    scripts: dict = field(default_factory=dict)


class Unknown(Exception):
    """A line of the Makefile in a form that is not known here."""


def read(path):
    """(variables, {name: Section})"""
    text = path.read_text()
    variables = dict(re.findall(r"^(PKG_[A-Z_]+):=(.*)$", text, re.M))
    defines = dict(re.findall(r"^define ([^\n]+)\n(.*?)^endef$", text, re.M | re.S))
    sections = {}
    for name in re.findall(r"^\$\(eval \$\(call BuildPackage,([a-z-]+)\)\)$", text, re.M):
        sections[name] = _section(name, defines)
        sections[name].origin = "/".join(path.parts[-3:-1])
    return variables, sections


def _section(name, defines):
    s = Section(name)
    body = re.sub(r"^  \$\(call (Package/[\w-]+/Default)\)$", lambda m: defines[m[1]].rstrip("\n"), defines[f"Package/{name}"], flags=re.M)
    for line in body.splitlines():
        match = re.fullmatch(r"  ([A-Z]+):=(.*)", line)
        if not match:
            raise Unknown(f"{name}: {line}")
        key, value = match.groups()
        if key == "TITLE":
            s.title = value
        elif key == "USERID":
            s.user = value
        elif key == "URL":
            s.url = value
        elif key == "SECTION":
            s.section = value
        elif key == "PKGARCH":
            s.arch = value
        elif key == "CATEGORY":
            s.category = value
        elif key == "SUBMENU":
            s.submenu = value
        elif key == "DEPENDS":
            words = [w for w in value.split() if w != "$(RUST_ARCH_DEPENDS)"]
            if not all(w.startswith("+") for w in words):
                raise Unknown(f"{name}: DEPENDS {value}")
            s.depends = [w[1:] for w in words]
        else:
            raise Unknown(f"{name}: {key}")
    s.description = [x.strip() for x in defines[f"Package/{name}/description"].splitlines()]
    s.conffiles = defines.get(f"Package/{name}/conffiles", "").split()
    for line in defines[f"Package/{name}/install"].splitlines():
        directory = re.fullmatch(r"\t\$\(INSTALL_DIR\) \$\(1\)/(\S+)", line)
        file = re.fullmatch(r"\t\$\((INSTALL_[A-Z]+)\) (\S+) \$\(1\)/(\S+)", line)
        if directory:
            s.dirs.append(directory[1])
        elif file and file[1] in MODES:
            s.installs.append((MODES[file[1]], file[2], file[3]))
        else:
            raise Unknown(f"{name}/install: {line}")
    for script in ("preinst", "postinst", "prerm", "postrm"):
        if f"Package/{name}/{script}" in defines:
            s.scripts[script] = defines[f"Package/{name}/{script}"].replace("$$", "$")
    return s
