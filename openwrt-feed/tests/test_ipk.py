"""The checker of packages against what opkg was seen to do with 77 deviations, and the builder
against the checker and against a package that opkg took."""

import gzip
import io
import json
import lzma
import pathlib
import re
import tarfile
import unittest

import ipk

HERE = pathlib.Path(__file__).parent
CASES = json.loads((HERE / "opkg-cases.json").read_text())["package_deviations"]
EPOCH = 1_700_000_000
ARCH = "mips_24kc"
# Taken by opkg and wrong all the same: it writes outside the root, changes modes or owners of
# what is there, or installs what the text does not say.
HARMFUL = {"uid1000", "dirmode", "dotdot", "conffile_absent", "conffile_dir", "conffile_space", "conffile_rel", "data_slash", "ext"}


def sample():
    package = ipk.Package("ctrl-exec-sample", "1.0-r1", ARCH, ["libc"], ["sample package", "second line of it"])
    package.fields = {"License": "Apache-2.0", "Section": "net"}
    package.files = {
        "etc/init.d/sample": (0o755, b"#!/bin/sh /etc/rc.common\n"),
        "etc/sample.conf": (0o600, b"default one\n"),
        "etc/sample.d/two.conf": (0o644, b"default two\n"),
        "usr/sbin/sampled": (0o755, b"#!/bin/sh\nsleep 1000\n"),
    }
    package.conffiles = ["/etc/sample.conf", "/etc/sample.d/two.conf"]
    package.scripts = {n: "#!/bin/sh\nexit 0\n" for n in ("preinst", "postinst", "prerm", "postrm")}
    return package


NAME = sample().file_name()


class Parts:
    """A package taken apart, to be put together wrongly."""

    def __init__(self):
        self.control, self.data = ipk.unpack(ipk.build(sample(), EPOCH))
        self.format = tarfile.GNU_FORMAT
        self.pax = {}
        self.pack_data = self.pack_control = self.pack_outer = ipk._gzip
        self.outer_names = ["./debian-binary", "./data.tar.gz", "./control.tar.gz"]
        self.binary = b"2.0\n"
        self.extra = []

    def member(self, members, name):
        return next(m for m in members if m.name.lstrip("./") == name.lstrip("./"))

    def text(self, change):
        control = self.member(self.control, "./control")
        control.content = change(control.content.decode()).encode()

    def conffiles(self, change):
        found = self.member(self.control, "./conffiles")
        found.content = change(found.content.decode()).encode()

    def add(self, name, content=b"x", **info):
        self.extra.append((name, content, info))

    def tar(self, members, extra=()):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=self.format) as tar:
            for m in members:
                info = tarfile.TarInfo(m.name)
                info.mode, info.uid, info.gid, info.mtime = m.mode, m.uid, m.gid, EPOCH
                info.pax_headers = dict(self.pax)
                if m.kind == "5":
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
                else:
                    info.size = len(m.content)
                    tar.addfile(info, io.BytesIO(m.content))
            for name, content, changes in extra:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                for key, value in changes.items():
                    setattr(info, key, value)
                tar.addfile(info, io.BytesIO(content))
        return raw.getvalue()

    def bytes(self):
        data = self.tar(self.data, self.extra)
        self.text(lambda t: re.sub(r"Installed-Size: \d+", f"Installed-Size: {len(data)}", t))
        contents = {
            "debian-binary": self.binary,
            "data.tar.gz": self.pack_data(data),
            "control.tar.gz": self.pack_control(self.tar(self.control)),
        }
        outer = [ipk.Member(n, 0o644, 0, 0, "0", contents[n.lstrip("./")]) for n in self.outer_names]
        return self.pack_outer(self.tar(outer))


def deviant(case):
    """(bytes, file name) of the package that a case describes."""
    p, name = Parts(), NAME
    long = "./usr/" + "d" * 60 + "/" + "f" * 60
    rename = lambda members, f: [setattr(m, "name", f(m.name)) for m in members]  # noqa: E731
    field = lambda f: (lambda t: re.sub(rf"^{f}:.*\n", "", t, flags=re.M))  # noqa: E731

    def script(which):
        p.member(p.control, "./" + which).content = b"exit 1\n"

    def outer(f):
        p.outer_names = [f(n) for n in p.outer_names]

    def drop(names):
        p.control = [m for m in p.control if m.name not in names]

    def ar(raw):
        head = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (b"debian-binary", EPOCH, 0, 0, b"100644", 4)
        return b"!<arch>\n" + head + b"2.0\n"

    def dirs_off(keep_root):
        p.data = [m for m in p.data if m.kind != "5" or (keep_root and m.name == "./")]

    def long_name(fmt):
        p.format = fmt
        p.add(long)

    steps = {
        "base": lambda: None,
        "order_deb": lambda: setattr(p, "outer_names", ["./debian-binary", "./control.tar.gz", "./data.tar.gz"]),
        "order_rev": lambda: setattr(p, "outer_names", ["./control.tar.gz", "./data.tar.gz", "./debian-binary"]),
        "order_data_first": lambda: setattr(p, "outer_names", ["./data.tar.gz", "./control.tar.gz", "./debian-binary"]),
        "no_debian_binary": lambda: p.outer_names.pop(0),
        "debian_binary_other": lambda: setattr(p, "binary", b"9.9\n"),
        "outer_noprefix": lambda: outer(lambda n: n[2:]),
        "outer_slash": lambda: outer(lambda n: n[1:]),
        "data_noprefix": lambda: (rename(p.data, lambda n: n[2:]), p.data.pop(0)),
        "data_slash": lambda: rename(p.data, lambda n: n[1:]),
        "control_noprefix": lambda: (rename(p.control, lambda n: n[2:] or "./"),),
        "control_slash": lambda: rename(p.control, lambda n: n[1:]),
        "nodirs": lambda: dirs_off(False),
        "noroot": lambda: p.data.pop(0),
        "outer_tar_plain": lambda: setattr(p, "pack_outer", bytes),
        "outer_xz": lambda: setattr(p, "pack_outer", lzma.compress),
        "data_xz": lambda: setattr(p, "pack_data", lzma.compress),
        "data_zst": lambda: setattr(p, "pack_data", lambda d: b"\x28\xb5\x2f\xfd" + d[:100]),
        "data_plain": lambda: setattr(p, "pack_data", bytes),
        "control_xz": lambda: setattr(p, "pack_control", lzma.compress),
        "control_plain": lambda: setattr(p, "pack_control", bytes),
        "ustar": lambda: setattr(p, "format", tarfile.USTAR_FORMAT),
        "pax": lambda: setattr(p, "format", tarfile.PAX_FORMAT),
        "pax_mtime": lambda: (setattr(p, "format", tarfile.PAX_FORMAT), p.pax.update(mtime="1700000000.5")),
        "gnu_longname": lambda: long_name(tarfile.GNU_FORMAT),
        "ustar_prefix": lambda: long_name(tarfile.USTAR_FORMAT),
        "pax_longname": lambda: (setattr(p, "format", tarfile.PAX_FORMAT), p.add("./usr/" + "f" * 120)),
        "uid1000": lambda: [(setattr(m, "uid", 1000), setattr(m, "gid", 1000)) for m in p.data],
        "setuid": lambda: setattr(p.member(p.data, "./usr/sbin/sampled"), "mode", 0o4755),
        "dirmode": lambda: setattr(p.member(p.data, "./etc/"), "mode", 0o700),
        "symlink": lambda: p.add("./usr/sbin/link", b"", type=tarfile.SYMTYPE, linkname="sampled"),
        "emptydir": lambda: p.data.append(ipk.Member("./etc/empty/", 0o755, 0, 0, "5", b"")),
        "dotdot": lambda: p.add("./../../escape"),
        "no_installed_size": lambda: p.text(field("Installed-Size")),
        "no_arch": lambda: p.text(field("Architecture")),
        "wrong_arch": lambda: p.text(lambda t: t.replace(ARCH, "arm_cortex-a7")),
        "arch_all": lambda: p.text(lambda t: t.replace(ARCH, "all")),
        "arch_noarch": lambda: p.text(lambda t: t.replace(ARCH, "noarch")),
        "no_version": lambda: p.text(field("Version")),
        "no_package": lambda: p.text(field("Package")),
        "no_maint_desc": lambda: p.text(lambda t: field("Section")(re.sub(r"Description:.*", "", t, flags=re.S))),
        "minimal": lambda: p.text(lambda t: f"Package: sample\nVersion: 1.0-r1\nArchitecture: {ARCH}\n"),
        "no_final_newline": lambda: p.text(lambda t: t[:-1]),
        "no_final_newline_min": lambda: p.text(lambda t: f"Package: sample\nVersion: 1.0-r1\nArchitecture: {ARCH}"),
        "crlf": lambda: p.text(lambda t: t.replace("\n", "\r\n")),
        "blank_first": lambda: p.text(lambda t: "\n" + t),
        "blank_middle": lambda: p.text(lambda t: t.replace("Architecture", "\nArchitecture")),
        "lowercase_fields": lambda: p.text(lambda t: re.sub(r"^([A-Z][\w-]*):", lambda m: m[0].lower(), t, flags=re.M)),
        "nospace": lambda: p.text(lambda t: re.sub(r"^([A-Z][\w-]*): ", r"\1:", t, flags=re.M)),
        "unknown_fields": lambda: p.text(lambda t: "X-Foo: 1\nFoo: 2\n" + t),
        "desc_nonindented": lambda: p.text(lambda t: t.replace("\n second", "\nsecond")),
        "utf8_desc": lambda: p.text(lambda t: t.replace("sample package", "Paket für Ärger")),
        "name_upper": lambda: p.text(lambda t: t.replace("ctrl-exec-sample", "Sample-Agent_x")),
        "dep_missing": lambda: p.text(lambda t: t.replace("Depends: libc", "Depends: libc, libnotthere")),
        "dep_version": lambda: p.text(lambda t: t.replace("Depends: libc", "Depends: libc (>= 9)")),
        "dep_none": lambda: p.text(field("Depends")),
        "conffile_absent": lambda: p.conffiles(lambda t: t + "/etc/notthere\n"),
        "conffile_nonl": lambda: p.conffiles(lambda t: t[:-1]),
        "conffile_blank": lambda: p.conffiles(lambda t: t + "\n"),
        "conffile_rel": lambda: p.conffiles(lambda t: t.replace("/etc/sample.conf", "./etc/sample.conf")),
        "conffile_dir": lambda: p.conffiles(lambda t: t + "/etc/sample.d/\n"),
        "conffile_space": lambda: p.conffiles(lambda t: t.replace(".conf\n", ".conf \n")),
        "no_conffiles": lambda: drop({"./conffiles"}),
        "no_scripts": lambda: drop({"./preinst", "./postinst", "./prerm", "./postrm"}),
        "preinst_fail": lambda: script("preinst"),
        "postinst_fail": lambda: script("postinst"),
        "prerm_fail": lambda: script("prerm"),
        "postrm_fail": lambda: script("postrm"),
        "trailing": lambda: None,
        "zeros": lambda: None,
        "truncated": lambda: None,
        "empty": lambda: None,
        "ar": lambda: setattr(p, "pack_outer", ar),
        "multigz": lambda: setattr(p, "pack_outer", lambda d: ipk._gzip(d[:700]) + ipk._gzip(d[700:])),
        "gzname": lambda: setattr(p, "pack_outer", lambda d: named_gzip(d)),
        "filename": lambda: None,
        "ext": lambda: None,
    }
    steps[case]()
    raw = p.bytes()
    after = {"trailing": raw + b"garbage", "zeros": raw + bytes(1024), "truncated": raw[:-200], "empty": b""}
    name = {"filename": "other.ipk", "ext": NAME[:-4] + ".pkg"}.get(case, name)
    return after.get(case, raw), name


def named_gzip(data):
    raw = io.BytesIO()
    with gzip.GzipFile("outer.tar", "wb", fileobj=raw, mtime=EPOCH) as f:
        f.write(data)
    return raw.getvalue()


class Deviations(unittest.TestCase):
    def test_every_recorded_case_is_made_and_the_bad_ones_are_found(self):
        self.assertEqual(len(CASES), 77)
        for case in CASES:
            with self.subTest(case["case"], what=case["deviation"], opkg=case["verdict"]):
                raw, name = deviant(case["case"])
                found = ipk.problems(raw, name, ARCH)
                if case["case"] == "base":
                    self.assertEqual(found, [])
                elif case["verdict"] != "accepted" or case["case"] in HARMFUL:
                    self.assertNotEqual(found, [])

    def test_a_package_without_conffiles_or_scripts_or_with_empty_directories_is_fine(self):
        for case in ("no_conffiles", "no_scripts", "emptydir", "utf8_desc"):
            self.assertEqual(ipk.problems(*deviant(case), ARCH), [], case)


class Builder(unittest.TestCase):
    def test_twice_the_same_bytes(self):
        self.assertEqual(ipk.build(sample(), EPOCH), ipk.build(sample(), EPOCH))

    def test_versions_that_sort_wrongly_are_refused(self):
        for version in ("0.1.0-rc1", "0.1.0_rc1-r1", "0.1.0-1", "1:0.1-r1", "0.1.0"):
            package = sample()
            package.version = version
            self.assertNotEqual(ipk.problems(ipk.build(package, EPOCH), package.file_name(), ARCH), [], version)

    def test_index_has_the_form_of_the_one_real_opkg_took(self):
        reference = (HERE / "reference-feed/Packages").read_text()
        theirs = [x.split(":")[0] for x in reference.splitlines() if ":" in x and not x.startswith(" ")]
        import tempfile

        with tempfile.TemporaryDirectory() as tmp:
            directory = pathlib.Path(tmp)
            (directory / NAME).write_bytes(ipk.build(sample(), EPOCH))
            text = ipk.index([NAME], directory)
        ours = [x.split(":")[0] for x in text.splitlines() if ":" in x and not x.startswith(" ")]
        self.assertEqual(ours, theirs)
        self.assertTrue(text.endswith("\n\n"))

    def test_the_package_real_opkg_took_differs_only_in_known_ways(self):
        name = "sample_1.0-r1_mips_24kc.ipk"
        found = ipk.problems((HERE / "reference-feed" / name).read_bytes(), name, ARCH)
        # Its directories are not sorted and its control file carries two fields we leave out.
        self.assertEqual([f for f in found if not re.search(r"unknown field (Source|SourceName)$|directory entry", f)], [])


if __name__ == "__main__":
    unittest.main()
