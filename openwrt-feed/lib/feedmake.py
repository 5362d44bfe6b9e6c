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
    variables = dict(re.findall(r"^((?:PKG|LUCI)_[A-Z_]+):=(.*)$", text, re.M))
    if "\ninclude ../../luci.mk\n" in text:
        return variables, {variables["PKG_NAME"]: _luci(variables, path.parent)}
    defines = dict(re.findall(r"^define ([^\n]+)\n(.*?)^endef$", text, re.M | re.S))
    sections = {}
    for name in re.findall(r"^\$\(eval \$\(call BuildPackage,([a-z-]+)\)\)$", text, re.M):
        sections[name] = _section(name, defines)
        sections[name].origin = "/".join(path.parts[-3:-1])
    return variables, sections


# What LuCI's luci.mk runs after installation, in words of our own: its caches are stale, and rpcd has
# new methods.
LUCI_POSTINST = """#!/bin/sh
[ -n "${IPKG_INSTROOT}" ] && exit 0
rm -rf /tmp/luci-indexcache.* /tmp/luci-modulecache
/etc/init.d/rpcd reload
exit 0
"""


def _luci(variables, directory):
    """The package of a LuCI application: luci.mk installs htdocs below /www, and root as it is."""
    s = Section(variables["PKG_NAME"], variables["LUCI_TITLE"], arch=variables["LUCI_PKGARCH"], section="luci", category="LuCI")
    s.submenu, s.url = "3. Applications", variables["LUCI_URL"]
    s.origin = "/".join(directory.parts[-2:])
    s.depends = [w.removeprefix("+") for w in variables["LUCI_DEPENDS"].split()]
    s.description = [variables["LUCI_DESCRIPTION"]]
    s.scripts["postinst"] = LUCI_POSTINST
    for top, place in (("htdocs", "www/"), ("root", "")):
        for file in sorted((directory / top).rglob("*")):
            if file.is_file():
                s.installs.append((0o644, str(file.relative_to(directory)), place + str(file.relative_to(directory / top))))
    return s


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
