"""The .apk writer against what apk-tools 3.0.2 with OpenWrt's patches made (apk-vectors.json), and
its reader against damage."""

import base64
import hashlib
import json
import pathlib
import re
import struct
import unittest

import adb
import apk
import keys

HERE = pathlib.Path(__file__).parent
VECTORS = json.loads((HERE / "apk-vectors.json").read_text())
EPOCH = 1_700_000_000
KEY, PUBLIC = VECTORS["key"], VECTORS["public_key"]


def content(entry):
    """What a file of the recorded tree held."""
    text = entry["content"]
    if text.endswith(" repeated"):
        unit = text.removesuffix(" repeated").encode()
        return (unit * (entry["size"] // len(unit) + 1))[: entry["size"]]
    return text.encode()


def package(name):
    recorded = VECTORS["packages"][name]
    files = {e["path"]: (int(e["mode"], 8), content(e)) for e in recorded["tree"] if "content" in e}
    dirs = {e["path"]: int(e["mode"], 8) for e in recorded["tree"] if "content" not in e}
    return apk.Package(dict(recorded["info"]), list(recorded["depends"]), files, dirs, dict(recorded["scripts"]))


def adb_of(content):
    return apk._blocks(content)[1][0][1]


class Vectors(unittest.TestCase):
    def test_every_package_byte_for_byte(self):
        self.assertEqual(len(VECTORS["packages"]), 3)
        for name, recorded in VECTORS["packages"].items():
            with self.subTest(name):
                made = apk.build(package(name), EPOCH)
                self.assertEqual(base64.b64encode(adb_of(made)).decode(), recorded["adb_base64"])
                self.assertEqual(hashlib.sha256(adb_of(made)).hexdigest(), recorded["adb_sha256"])
                raw = apk.raw(made)
                self.assertEqual((len(raw), hashlib.sha256(raw).hexdigest()), (recorded["uncompressed_size"], recorded["uncompressed_sha256"]))

    def test_every_index_byte_for_byte(self):
        self.assertEqual(set(VECTORS["indexes"]), {"unsigned", "signed"})
        for name, recorded in VECTORS["indexes"].items():
            with self.subTest(name):
                listed = []
                for file in recorded["of"]:
                    source = file.removesuffix(".apk").removesuffix("-signed")
                    # Signatures are random, and their length is in the index: the recorded files.
                    signed = base64.b64decode(VECTORS["packages"][source]["signed_file_base64"])
                    listed.append(signed if name == "signed" else apk.build(package(source), EPOCH))
                made = apk.index(listed, KEY if name == "signed" else None)
                self.assertEqual(adb_of(made), adb_of(base64.b64decode(recorded["file_base64"])))
                self.assertEqual(len(apk.read_index(made, PUBLIC if name == "signed" else None)), len(listed))

    def test_what_the_real_tool_signed_is_taken_and_says_what_its_dump_says(self):
        for name, recorded in VECTORS["packages"].items():
            with self.subTest(name):
                found = apk.read(base64.b64decode(recorded["signed_file_base64"]), PUBLIC)
                for key, value in recorded["info"].items():
                    self.assertEqual(found.info[key], value)
                self.assertIn(f"  hashes: {found.info['hashes'].hex()}\n", recorded["dump"])
                self.assertEqual(found.files, {p: f for p, f in package(name).files.items()})
                self.assertEqual(found.scripts, recorded["scripts"])
        index = base64.b64decode(VECTORS["indexes"]["signed"]["file_base64"])
        self.assertEqual([x["name"] for x in apk.read_index(index, PUBLIC)], ["full", "minimal"])

    def test_what_is_signed_here_verifies(self):
        for name in VECTORS["packages"]:
            made = apk.build(package(name), EPOCH, KEY)
            self.assertEqual(apk.read(made, PUBLIC).info["name"], name)
            self.assertEqual(adb_of(made), adb_of(apk.build(package(name), EPOCH)))


class Refused(unittest.TestCase):
    def setUp(self):
        self.signed = apk.build(package("full"), EPOCH, KEY)

    def pack(self, raw):
        import zlib

        stream = zlib.compressobj(9, zlib.DEFLATED, -15)
        return b"ADBd" + stream.compress(bytes(raw)) + stream.flush()

    def test_another_key_and_no_signature(self):
        other = keys.public_of(keys.generate())
        for content, public in ((self.signed, other), (apk.build(package("full"), EPOCH), PUBLIC)):
            with self.assertRaisesRegex(apk.Bad, "no good signature"):
                apk.read(content, public)
        with self.assertRaisesRegex(apk.Bad, "no good signature"):
            apk.read_index(apk.index([self.signed], KEY), other)

    def test_a_changed_bit_anywhere_that_counts(self):
        raw = apk.raw(self.signed)
        size = len(adb_of(self.signed))
        # In the ADB, in the signature, in the data of files.
        for at in (13, 40, size - 1, size + 40, size + 80, size + 200, len(raw) // 2, len(raw) - 12):
            damaged = bytearray(raw)
            damaged[at] ^= 4
            with self.subTest(at=at), self.assertRaises(apk.Bad):
                apk.read(self.pack(damaged), PUBLIC)

    def test_cut_off_garbage_and_other_formats(self):
        for content in (b"", b"ADBd", b"\x1f\x8b\x08" + bytes(20), self.signed[:-40], self.signed + b"x", b"ADBz" + self.signed[4:]):
            with self.assertRaises(apk.Bad):
                apk.read(content)
        raw = apk.raw(self.signed)
        for cut in range(0, 400, 7):
            with self.assertRaises(apk.Bad):
                apk.read(self.pack(raw[:cut]))
        with self.assertRaises(apk.Bad):
            apk.read(apk.index([self.signed]))
        with self.assertRaises(apk.Bad):
            apk.read_index(self.signed)

    def test_offsets_that_lead_nowhere_or_in_a_circle(self):
        for word in (0xE0000008, 0x80000008, 0x90FFFFFF, 0x20000009, 0x30000000, 0xE0FFFFFF):
            with self.subTest(hex(word)), self.assertRaises(adb.Bad):
                # An array of one word that is the word itself.
                adb.read(struct.pack("<II2I", 0, 0xE0000008, 2, word if word >> 28 != 0x8 else 0x80FFFFFF))

    def test_a_path_out_of_the_root(self):
        bad = package("minimal")
        bad.files["../../etc/shadow"] = (0o644, b"x")
        with self.assertRaisesRegex(apk.Bad, "leaves the root"):
            apk.read(apk.build(bad, EPOCH))

    def test_keys_that_are_none(self):
        for key in ("", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
            with self.assertRaises(keys.Bad):
                keys.public_of(key)
        with self.assertRaises(keys.Bad):
            keys.identity("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n")

    def test_versions_are_listed_in_their_order(self):
        listed = []
        for version in ("1.0-r10", "1.0-r2", "0.9-r1", "0.10-r1"):
            p = package("minimal")
            p.info["version"] = version
            listed.append(apk.build(p, EPOCH))
        self.assertEqual([x["version"] for x in apk.read_index(apk.index(listed))], ["0.9-r1", "0.10-r1", "1.0-r2", "1.0-r10"])

    def test_long_strings_and_large_numbers(self):
        p = package("minimal")
        p.info["description"] = "x" * 70_000
        self.assertEqual(apk.read(apk.build(p, 1 << 30)).info["description"], "x" * 70_000)
        self.assertFalse(re.search(rb"x{70001}", apk.raw(apk.build(p, 0))))


if __name__ == "__main__":
    unittest.main()
