"""The table of what was seen of each architecture. Kept beside the programs, in dist/results.json,
for a booted machine and user mode are seen in different runs; what was seen of other programs
than those lying there now is not shown."""

import gzip
import hashlib
import json
import re

COLUMNS = ("target", "agent, bytes (gzip)", "executor, bytes (gzip)", "user mode", "suites", "booted machine", "idle, KiB (anonymous)", "first answer")


def measured(checks, before, mode):
    """The columns that a run of this mode fills; `before` is what `checks.outcomes` held at its start."""
    seen = {name: (ok, note) for name, (ok, note) in checks.outcomes.items() if name not in before}
    if mode == "user":
        suites = {name: x for name, x in seen.items() if ": tests of " in name or ": the test programs " in name}
        rest = {name: x for name, x in seen.items() if name not in suites}
        tests = sum(int(note.split()[0]) for ok, note in suites.values() if ok and " passed" in note)
        found = {"user mode": share(rest)}
        if suites:
            found["suites"] = f"{tests} passed" if all(ok for ok, _ in suites.values()) else f"FAILED: {share(suites)} crates"
        return found
    notes = "\n".join(note for _, note in seen.values())
    memory = re.search(r"ctrl-exec-agent RSS (\d+) KiB(?: \(anonymous (\d+))?.*; after", notes)
    first = re.search(r"first answer ([0-9.]+ s)", notes)
    return {
        "booted machine": share(seen),
        "idle, KiB (anonymous)": f"{memory[1]} ({memory[2] or '?'})" if memory else "?",
        "first answer": first[1] if first else "?",
    }


def share(outcomes):
    return f"{sum(ok for ok, _ in outcomes.values())} of {len(outcomes)}"


def record(dist, target, found):
    """Adds columns to what is known of the target's present programs."""
    path = dist / "results.json"
    if not dist.exists():
        return  # nothing was built, so nothing was tried
    known = _load(path)
    identity = _identity(dist / target)
    row = known.get(target, {})
    known[target] = (row if row.get("programs") == identity else {"programs": identity}) | found
    path.write_text(json.dumps(known, indent=1) + "\n")


def table(dist, targets):
    """The table as the documentation has it."""
    known = _load(dist / "results.json")
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for target in targets:
        name = target["name"]
        row = known.get(name, {})
        if row.get("programs") != _identity(dist / name):
            row = {}
        cells = [name, *(_size(dist / name / program) for program in ("ctrl-exec-agent", "ctrl-exec-exec"))]
        for column in COLUMNS[3:]:
            booted = column in COLUMNS[5:]
            cells.append("no machine" if booted and not target["system"] else row.get(column, "not run"))
        rows.append(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _size(path):
    if not path.exists():
        return "not built"
    data = path.read_bytes()
    return f"{len(data):,} ({len(gzip.compress(data, 9)):,})"


def _identity(directory):
    found = [p for p in (directory / "ctrl-exec-agent", directory / "ctrl-exec-exec") if p.exists()]
    return hashlib.sha256(b"".join(p.read_bytes() for p in found)).hexdigest()


def _load(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
