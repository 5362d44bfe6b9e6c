"""The table of what was seen of each architecture."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import bench  # noqa: E402
import results  # noqa: E402

MIPS, X86 = {"name": "mips", "system": "malta-be"}, {"name": "x86_64", "system": ""}


def outcomes(*found):
    checks = bench.Checks()
    checks.outcomes = {name: (ok, note) for name, ok, note in found}
    return checks


class Results(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.dist = pathlib.Path(self.directory.name)
        for target in (MIPS, X86):
            (self.dist / target["name"]).mkdir()
            for program in ("ctrl-exec-agent", "ctrl-exec-exec"):
                (self.dist / target["name"] / program).write_bytes(b"\0" * 1500)

    def row(self, target):
        return [x.strip() for x in results.table(self.dist, [target]).splitlines()[2].split("|")[1:-1]]

    def test_runs_of_the_same_programs_are_put_together(self):
        seen = outcomes(
            ("mips: pairs", True, "code 1"), ("mips: the test programs build", True, "9 programs"),
            ("mips: tests of ctrl-exec-protocol", True, "142 passed, 0 not emulated"),
            ("mips: tests of ctrl-exec-exec", True, "34 passed, 4 not emulated"),
        )  # fmt: skip
        results.record(self.dist, "mips", results.measured(seen, set(), "user"))
        seen = outcomes(
            ("mips: starts", True, "first answer 2.8 s after start"), ("mips: is removed", False, ""),
            ("mips: keeps its memory", True, "ctrl-exec-agent RSS 1456 KiB (anonymous 240, PSS 900); after 2000 requests 0 KiB more"),
        )  # fmt: skip
        results.record(self.dist, "mips", results.measured(seen, set(), "system"))
        self.assertEqual(self.row(MIPS)[3:], ["1 of 1", "176 passed", "2 of 3", "1456 (240)", "2.8 s"])
        self.assertTrue(self.row(MIPS)[1].startswith("1,500 ("))

    def test_what_was_seen_of_other_programs_is_not_shown(self):
        results.record(self.dist, "mips", {"user mode": "15 of 15"})
        (self.dist / "mips/ctrl-exec-exec").write_bytes(b"\1")
        self.assertEqual(self.row(MIPS)[3:], ["not run"] * 5)

    def test_earlier_targets_of_the_same_run_do_not_count(self):
        seen = outcomes(("x86_64: serves", False, ""), ("mips: serves", True, ""))
        self.assertEqual(results.measured(seen, {"x86_64: serves"}, "user"), {"user mode": "1 of 1"})

    def test_a_failed_suite_says_so(self):
        seen = outcomes(("mips: tests of ctrl-exec-host", False, ""), ("mips: the test programs build", True, "2 programs"))
        self.assertEqual(results.measured(seen, set(), "user")["suites"], "FAILED: 1 of 2 crates")

    def test_a_target_without_machine_or_programs(self):
        self.assertEqual(self.row(X86)[3:], ["not run", "not run"] + ["no machine"] * 3)
        (self.dist / "x86_64/ctrl-exec-agent").unlink()
        self.assertEqual(self.row(X86)[1], "not built")


if __name__ == "__main__":
    unittest.main()
