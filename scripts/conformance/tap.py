"""Turns one program's TAP on standard input into lines RESULT<tab>NAME<tab>REASON. Usage: tap.py PROGRAM

A description that comes more than once gets a number; numbers and UUIDs in it become `N`, so that the same test has the same name with
every runtime. The TAP that runtime-tools' inner program wrote stands in a note as JSON, and counts too.
"""

import collections
import json
import re
import sys

LINE = re.compile(r"^(ok|not ok) \d+(?: -)? ?(.*)$")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
seen = collections.Counter()


def tests(lines):
    """Yields (result, description, notes)."""
    found = None
    for line in lines:
        match = LINE.match(line)
        if match:
            if found:
                yield found
            result = "ok" if match[1] == "ok" else "FAIL"
            description = match[2]
            if "# SKIP" in description:
                result = "skip"
            elif "# TODO" in description:
                result = "skip"
            found = (result, description.replace("# SKIP", "").replace("# TODO", "").strip(), [])
        elif line.startswith("  {"):
            try:
                notes = json.loads(line)
            except ValueError:
                continue
            if isinstance(notes, dict) and LINE.search(str(notes.get("stdout", "")).partition("\n")[2].partition("\n")[0]):
                yield from tests(notes["stdout"].split("\n"))
            elif found:
                found[2].append(notes)
    if found:
        yield found


def reason(notes):
    for note in notes:
        if isinstance(note, dict):
            for key in ("error", "stderr"):
                if note.get(key):
                    return str(note[key])
    return json.dumps(notes[-1]) if notes else ""


for result, description, notes in tests(sys.stdin.read().split("\n")):
    name = re.sub(r"\d+", "N", UUID.sub("N", description)) or "(no words)"
    seen[name] += 1
    number = f" #{seen[name]}" if seen[name] > 1 else ""
    why = reason(notes) if result == "FAIL" else ""
    print(f"{result}\t{sys.argv[1]}.{name}{number}\t{' '.join(why.split())[:160]}")
