"""Debian packages of other architectures, unpacked and not installed."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "ctrl-exec"
KEY = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"


def unpacked(arch, packages, label=""):
    """A directory with the unpacked Debian packages of another architecture, kept in the cache."""
    root = CACHE / f"debian-{arch}{label}"
    if (root / "ok").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    state = root / "apt"
    (state / "lists/partial").mkdir(parents=True)
    (state / "cache/archives/partial").mkdir(parents=True)
    (state / "status").write_text("")
    options = [
        f"APT::Architecture={arch}", f"APT::Architectures={arch}", f"Dir::State={state}", f"Dir::State::Lists={state}/lists",
        f"Dir::State::status={state}/status", f"Dir::Cache={state}/cache", "APT::Sandbox::User=root", "Acquire::Languages=none",
        f"Dir::Etc::SourceList={state}/sources.list", "Dir::Etc::SourceParts=/dev/null",
    ]  # fmt: skip
    flags = [x for o in options for x in ("-o", o)]
    mirror, release = _mirror()
    (state / "sources.list").write_text(f"deb {KEY} {mirror} {release} main\n")
    _quiet(["apt-get", *flags, "update", "-qq"])
    wanted = []
    for package in packages:
        # A kernel's name without version only points to the one with it.
        depends = _quiet(["apt-cache", *flags, "depends", package])
        real = re.search(r"Depends: (linux-image-\S+)", depends)
        wanted.append(real[1] if real else package)
    _quiet(["apt-get", *flags, "download", "-qq", *wanted], cwd=root)
    for deb in root.glob("*.deb"):
        _quiet(["dpkg-deb", "-x", str(deb), str(root)])
        deb.unlink()
    shutil.rmtree(state)
    (root / "ok").touch()
    return root


def source(package, directory):
    """Unpacks the upstream source of a package into `directory`, without Debian's patches."""
    fetched = directory.parent / f"{directory.name}.fetched"
    shutil.rmtree(fetched, ignore_errors=True)
    (fetched / "lists/partial").mkdir(parents=True)
    mirror, release = _mirror()
    (fetched / "sources.list").write_text(f"deb-src {KEY} {mirror} {release} main\n")
    options = [f"Dir::Etc::SourceList={fetched}/sources.list", "Dir::Etc::SourceParts=/dev/null", f"Dir::State::Lists={fetched}/lists", "APT::Sandbox::User=root"]
    flags = [x for o in options for x in ("-o", o)]
    _quiet(["apt-get", *flags, "update", "-qq"])
    _quiet(["apt-get", *flags, "source", "-qq", "--download-only", package], cwd=fetched)
    (archive,) = fetched.glob(f"{package}_*.orig.tar.*z")
    directory.mkdir(parents=True)
    _quiet(["tar", "-xf", str(archive), "-C", str(directory), "--strip-components=1"])
    shutil.rmtree(fetched)


def _mirror():
    """(address, code name) of this machine's release"""
    release = subprocess.run(["bash", "-c", ". /etc/os-release; echo $VERSION_CODENAME"], capture_output=True, text=True).stdout.strip()
    lines = subprocess.run(["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"], capture_output=True, text=True).stdout
    mirror = next((x.split()[1] for x in lines.splitlines() if x.split()[0] == release), None)
    if mirror is None:
        sys.exit("apt knows no mirror of this release; run apt-get update")
    return mirror, release


def _quiet(command, **kwargs):
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout
