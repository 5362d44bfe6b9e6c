"""The two kinds of package out of one Makefile section, as OpenWrt's own build makes them: .ipk for
24.10 and older, .apk for 25.12."""

import hashlib

import apk
import ipk

IPK_POSTINST = """#!/bin/sh
[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0
[ -s "${IPKG_INSTROOT}/lib/functions.sh" ] || exit 0
. "${IPKG_INSTROOT}/lib/functions.sh"
default_postinst "$0" "$@"
"""
IPK_PRERM = """#!/bin/sh
[ -s "${IPKG_INSTROOT}/lib/functions.sh" ] || exit 0
. "${IPKG_INSTROOT}/lib/functions.sh"
default_prerm "$0" "$@"
"""
APK_HEAD = """[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
export root="${IPKG_INSTROOT}"
export pkgname="%s"
"""


class Contents:
    """Files and lists of one package, the same for both kinds."""

    def __init__(self, section, read):
        self.files = {destination: (mode, read(source)) for mode, source, destination in section.installs}
        self.dirs = set(section.dirs)
        # Packaged files are conffiles, other paths go to sysupgrade's list; the tool that makes an
        # .ipk puts the files of a directory in its place.
        self.conffiles = [c for c in section.conffiles if c.lstrip("/") in self.files]
        kept = [c for c in section.conffiles if c not in self.conffiles]
        within = [f"/{p}" for p in self.files if any(f"/{p}".startswith(c) for c in kept if c.endswith("/"))]
        self.expanded = sorted({*self.conffiles, *within})
        if kept:
            self.files[f"lib/upgrade/keep.d/{section.name}"] = (0o644, _lines(kept))


def make_ipk(section, variables, version, arch, read, epoch):
    """An ipk.Package."""
    contents = Contents(section, read)
    package = ipk.Package(
        name=section.name,
        version=version,
        arch=section.arch or arch,
        depends=["libc", *section.depends],
        description=section.description,
        scripts={"postinst": IPK_POSTINST, "prerm": IPK_PRERM},
    )
    package.fields = {"License": variables["PKG_LICENSE"], "Section": section.section}
    if section.user:
        package.fields["Require-User"] = section.user
    package.fields |= {"SourceDateEpoch": str(epoch), "URL": section.url, "Maintainer": variables["PKG_MAINTAINER"]}
    package.files, package.dirs, package.conffiles = contents.files, contents.dirs, contents.expanded
    for script, text in section.scripts.items():
        package.scripts[script + ("-pkg" if script in ("postinst", "prerm") else "")] = text
    return package


def make_apk(section, variables, version, arch, read):
    """An apk.Package."""
    contents = Contents(section, read)
    name = section.name
    lists = f"lib/apk/packages/{name}"
    files = dict(contents.files)
    if section.user:
        files[f"{lists}.rusers"] = (0o644, _lines([section.user]))
    files[f"{lists}.list"] = (0o644, _lines(sorted("/" + p for p in files)))
    if section.conffiles:
        sums = [f"{c} {hashlib.sha256(contents.files[c.lstrip('/')][1]).hexdigest()}" for c in contents.conffiles]
        files[f"{lists}.conffiles"] = (0o644, _lines(section.conffiles))
        files[f"{lists}.conffiles_static"] = (0o644, _lines(sums))
    postinst = '[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0\n' + APK_HEAD % name + "add_group_and_user\ndefault_postinst\n"
    postinst += _body(section.scripts.get("postinst", ""))
    scripts = {
        "post-install": "#!/bin/sh\n" + postinst,
        "post-upgrade": "#!/bin/sh\nexport PKG_UPGRADE=1\n" + postinst,
        "pre-deinstall": "#!/bin/sh\n" + APK_HEAD % name + "default_prerm\n" + _body(section.scripts.get("prerm", "")),
    }
    if "preinst" in section.scripts:
        scripts["pre-install"] = section.scripts["preinst"]
        scripts["pre-upgrade"] = "#!/bin/sh\nexport PKG_UPGRADE=1\n" + _body(section.scripts["preinst"])
    if "postrm" in section.scripts:
        scripts["post-deinstall"] = section.scripts["postrm"]
    info = {
        "name": name,
        "version": version,
        "description": " ".join(" ".join(section.description).split()),
        "arch": "noarch" if section.arch == "all" else section.arch or arch,
        "license": variables["PKG_LICENSE"],
        "origin": f"feeds/ctrl_exec/{section.origin}",
        "url": section.url,
        "maintainer": variables["PKG_MAINTAINER"],
    }
    return apk.Package(info, ["libc", *section.depends], files, {d: 0o755 for d in contents.dirs}, scripts)


def _body(script):
    """A script's text without its first line, as it is appended to another."""
    return "".join(line for line in script.splitlines(True) if not line.lstrip().startswith("#!"))


def _lines(words):
    return "".join(w + "\n" for w in words).encode()
