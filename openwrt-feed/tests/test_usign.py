"""Signatures against vectors made with real usign and signify."""

import base64
import json
import pathlib
import unittest

import usign

HERE = pathlib.Path(__file__).parent
VECTORS = json.loads((HERE / "usign-vectors.json").read_text())


def message(vector):
    if "message_base64" in vector:
        return base64.b64decode(vector["message_base64"])
    return b"A" * int(vector["message"].removeprefix("A*"))


class Vectors(unittest.TestCase):
    def test_signatures(self):
        self.assertEqual(len(VECTORS["vectors"]), 36)
        for vector in VECTORS["vectors"]:
            key = VECTORS["keys"][vector["key"]]
            text = message(vector)
            with self.subTest(key=vector["key"], message=vector["message"]):
                self.assertTrue(usign.verify(text, vector["signature_file"], key["public_file"]))
                self.assertFalse(usign.verify(text + b"x", vector["signature_file"], key["public_file"]))
                if text:
                    ours = usign.sign(text, key["secret_file"])
                    self.assertEqual(ours.splitlines()[1], vector["signature_file"].splitlines()[1])

    def test_keys(self):
        for key in VECTORS["keys"].values():
            self.assertEqual(usign.fingerprint(key["public_file"]), key["fingerprint"])
            self.assertEqual(usign.fingerprint(key["secret_file"]), key["fingerprint"])
            self.assertEqual(usign.public_of(key["secret_file"]).splitlines()[1], key["public_file"].splitlines()[1])

    def test_a_key_with_passphrase_is_refused(self):
        with self.assertRaisesRegex(usign.Bad, "passphrase"):
            usign.sign(b"x", VECTORS["passphrase_key"]["secret_file"])

    def test_forms_that_either_tool_refuses_are_refused(self):
        key = VECTORS["keys"]["a"]["public_file"]
        text = message(VECTORS["vectors"][0])
        for form in VECTORS["signature_file_forms"]:
            both = form["usign_exit"] == 0 and form["signify_exit"] == 0
            with self.subTest(form["what"]):
                try:
                    taken = usign.verify(text, form["signature_file"], key)
                except usign.Bad:
                    taken = False
                if not both:
                    self.assertFalse(taken)
        self.assertTrue(usign.verify(text, VECTORS["signature_file_forms"][0]["signature_file"], key))

    def test_a_new_key_signs_and_verifies_and_another_does_not(self):
        secret, public = usign.generate()
        _, other = usign.generate()
        signature = usign.sign(b"index", secret)
        self.assertTrue(usign.verify(b"index", signature, public))
        self.assertFalse(usign.verify(b"index", signature, other))
        self.assertEqual(usign.public_of(secret), public)

    def test_the_feed_real_opkg_took(self):
        feed = HERE / "reference-feed"
        key = (feed / "aabe708ea18932a6").read_text()
        self.assertTrue(usign.verify((feed / "Packages").read_bytes(), (feed / "Packages.sig").read_text(), key))


if __name__ == "__main__":
    unittest.main()
