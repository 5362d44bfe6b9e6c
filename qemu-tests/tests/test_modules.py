"""No two files of qemu-tests/lib import each other, on whatever way."""

import pathlib
import re
import unittest

LIB = pathlib.Path(__file__).resolve().parents[1] / "lib"


class Imports(unittest.TestCase):
    def test_no_circle(self):
        names = {p.stem for p in LIB.glob("*.py")}
        uses = {n: {m for m in re.findall(r"^\s*(?:import|from) (\w+)", (LIB / f"{n}.py").read_text(), re.M) if m in names} for n in names}
        self.assertIn("bench", uses["lifecycle"])
        done = set()
        while ready := {n for n in names - done if uses[n] <= done}:
            done |= ready
        self.assertEqual(names - done, set(), "these import one another")


if __name__ == "__main__":
    unittest.main()
