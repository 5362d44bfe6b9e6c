"""What the packages feed asks of a Makefile, as far as it can be read from the text: names, places
and forms of fields. `faults` returns one line for each thing a maintainer would send back."""

import re

import feedmake

# In this order at the top; whether the feed demands it.
FIELDS = (
    ("PKG_NAME", True), ("PKG_VERSION", True), ("PKG_RELEASE", True), ("PKG_SOURCE", True), ("PKG_SOURCE_URL", True), ("PKG_HASH", True),
    ("PKG_MAINTAINER", True), ("PKG_LICENSE", True), ("PKG_LICENSE_FILES", True), ("PKG_BUILD_DEPENDS", False), ("PKG_BUILD_PARALLEL", False),
)  # fmt: skip
SPDX = {"Apache-2.0", "MIT"}


def faults(path, root, release=False):
    """Faults of the Makefile at `path`; `root` is the source tree, for the licence files. With
    `release` the hash of the archive must be there, too."""
    text = path.read_text()
    found = []
    variables = dict(re.findall(r"^(PKG_[A-Z_]+):=(.*)$", text, re.M))
    for name, needed in FIELDS:
        if needed and not variables.get(name):
            found.append(f"{name} is missing")
    order = [n for n in re.findall(r"^(PKG_[A-Z_]+):=", text, re.M) if n in dict(FIELDS)]
    if order != [n for n, _ in FIELDS if n in order]:
        found.append(f"fields are not in the feed's order: {' '.join(order)}")
    if "SPDX-License-Identifier:" not in text.split("\n", 1)[0]:
        found.append("the first line is no SPDX-License-Identifier")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", variables.get("PKG_VERSION", "")):
        found.append("PKG_VERSION is not made of numbers")
    if not re.fullmatch(r"[1-9][0-9]*", variables.get("PKG_RELEASE", "")):
        found.append("PKG_RELEASE is no number from 1")
    if not re.fullmatch(r"[^<>@]+ <[^<>@ ]+@[^<>@ ]+\.[a-z]+>", variables.get("PKG_MAINTAINER", "")) or ".invalid>" in variables["PKG_MAINTAINER"]:
        found.append("PKG_MAINTAINER is not 'Name <address>'")
    unknown = set(variables.get("PKG_LICENSE", "").split()) - SPDX
    if unknown:
        found.append(f"PKG_LICENSE lists identifiers with blanks between; not one: {' '.join(sorted(unknown))}")
    for file in variables.get("PKG_LICENSE_FILES", "").split():
        if not (root / file).is_file():
            found.append(f"PKG_LICENSE_FILES: there is no {file}")
    if "$(PKG_VERSION)" not in variables.get("PKG_SOURCE", ""):
        found.append("PKG_SOURCE does not follow PKG_VERSION")
    if not variables.get("PKG_SOURCE_URL", "").startswith("https://"):
        found.append("PKG_SOURCE_URL is not https")
    hashed = re.fullmatch(r"[0-9a-f]{64}", variables.get("PKG_HASH", ""))
    if not hashed and (release or variables.get("PKG_HASH") != "skip"):
        found.append("PKG_HASH is no SHA-256; openwrt-feed/release writes it")
    if "include ../../lang/rust/rust-package.mk\n" not in text:
        found.append("the Rust rules are not included as ../../lang/rust/rust-package.mk")
    if not re.search(r"^include \$\(INCLUDE_DIR\)/package\.mk\ninclude \.\./\.\./lang/", text, re.M):
        found.append("package.mk is not included right before the Rust rules")
    for number, line in enumerate(text.splitlines(), 1):
        if line != line.rstrip():
            found.append(f"line {number} ends in blanks")
    return found + [f"{name}: {x}" for name, s in feedmake.read(path)[1].items() for x in _section(s, path)]


def _section(section, path):
    found = []
    if not section.title or len(section.title) > 60 or section.title.endswith("."):
        found.append("TITLE is missing, longer than 60 letters or ends in a full stop")
    if section.title and not section.title[0].isupper():
        found.append("TITLE does not begin with a capital")
    for key in ("section", "category", "submenu", "url"):
        if not getattr(section, key):
            found.append(f"{key.upper()} is missing")
    if not section.description or any(len(x) > 80 for x in section.description):
        found.append("the description is missing or has a line over 80 letters")
    files = {"/" + d for _, _, d in section.installs}
    for c in section.conffiles:
        if c not in files and not c.endswith("/"):
            found.append(f"conffile {c} is no file of the package, and no directory")
        if any(o != c and o.endswith("/") and c.startswith(o) for o in section.conffiles):
            found.append(f"conffile {c} is named again by its directory")
    if section.user and not re.fullmatch(r"([a-z-]+)=(\d+):\1=\2", section.user):
        found.append("USERID is not name=id:name=id")
    for mode, source, destination in section.installs:
        if destination.startswith("etc/init.d/"):
            script = (path.parent / source).read_text()
            for word, why in (("EXTRA_COMMANDS", "extra_command is used since 21.02"), ("USE_PROCD=1", None)):
                if (word in script) == bool(why):
                    found.append(f"{source}: {why or f'{word} is missing'}")
            if "procd_set_param file" not in script:
                found.append(f"{source}: a changed program does not restart it (procd_set_param file)")
    return found
