"""Writes the results of one suite into docs/conformance.md, between the marks that carry its name, and a summary to stdout.

Usage: table.py DOCUMENT SUITE CROZE-RT RUNC CRUN     (files of RESULT<tab>NAME[<tab>REASON])
       table.py DOCUMENT --versions LINE…

A suite of thousands of assertions ("PROGRAM.ASSERTION") gets a row for each program, and one for each assertion that some runtime fails.

What croze-rt fails is explained by name in the document itself, in the table below "What fails, and why": rows "| SUITE: NAME | reason |",
where a name that ends with * stands for all that begin so. Exits with 1 if a failure is not explained there, or if a peer passes what
croze-rt does not reach.
"""

import collections
import pathlib
import re
import sys

COLUMNS = ("croze-rt", "runc", "crun")
# More rows than this and a suite's table is by programs.
MOST_ROWS = 1000


def read(path):
    results = {}
    for line in pathlib.Path(path).read_text(errors="replace").splitlines():
        result, name, *reason = line.split("\t")
        results[name] = (result, reason[0] if reason else "")
    return results


def replace_part(document, mark, text):
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    path = pathlib.Path(document)
    whole = path.read_text()
    if begin not in whole or end not in whole:
        sys.exit(f"table.py: {document} has no marks for {mark!r}")
    head, _, rest = whole.partition(begin)
    _, _, tail = rest.partition(end)
    path.write_text(f"{head}{begin}\n```\n{text}\n```\n{end}{tail}")


def explanations(document, suite):
    """The names of a suite's failures that the document explains."""
    _, _, part = pathlib.Path(document).read_text().partition("## What fails, and why")
    part, _, _ = part.partition("\n## ")
    rows = re.findall(r"^\| (\w+): (.+?) \| .+ \|$", part, re.MULTILINE)
    return [name for of, name in rows if of == suite]


def stands_for(explanation, name):
    return name.startswith(explanation[:-1]) if explanation.endswith("*") else name == explanation


def table(rows):
    width = max((len(name) for name, _ in rows), default=4)
    head = f"{'test':{width}}  " + "".join(f"{column:15} " for column in COLUMNS).rstrip()
    return [head] + [f"{name:{width}}  " + "".join(f"{cell:15} " for cell in cells).rstrip() for name, cells in rows]


def cells(results, name):
    return [column.get(name, ("-", ""))[0] for column in results]


def by_program(results, names):
    """A row for each program: how many assertions passed, were skipped and failed; then the assertions that are not the same everywhere."""
    programs = dict.fromkeys(name.split(".")[0] for name in names)
    rows = []
    for program in programs:
        row = []
        for column in results:
            own = [result for name, (result, _) in column.items() if name.split(".")[0] == program]
            counts = collections.Counter(own)
            text = f"{counts['ok']} ok"
            row.append(text + (f", {counts['FAIL']} FAIL" if counts["FAIL"] else ""))
        rows.append((program, row))
    single = [(name[:110], cells(results, name)) for name in names if "FAIL" in cells(results, name)]
    return table(rows) + ["", "assertions that some runtime fails:"] + table(single)


def main():
    document, suite, *files = sys.argv[1:]
    if suite == "--versions":
        replace_part(document, "versions", "\n".join(files))
        return
    results = [read(file) for file in files]
    names = list(dict.fromkeys(name for column in results for name in column))
    if len(names) > MOST_ROWS:
        lines = by_program(results, names)
    else:
        lines = table([(name, cells(results, name)) for name in names])
    skipped = {}
    for name, (result, reason) in results[0].items():
        if result == "skip" and reason:
            skipped.setdefault(reason, []).append(name)
    if len(names) <= MOST_ROWS:
        lines += [f"skipped, {reason}: {', '.join(those)}" for reason, those in skipped.items()]
    total = []
    for column, result in zip(COLUMNS, results):
        counts = collections.Counter(kind for kind, _ in result.values())
        text = f"{column}: {counts['ok']} ok, {counts['skip']} skipped, {counts['FAIL']} not ok"
        absent = len(names) - len(result)
        total.append(text + (f", {absent} not reached" if absent else ""))
    replace_part(document, suite, "\n".join(lines + total))
    print(f"{suite}:", *total, sep="\n  ")
    behind = [name for name in names if cells(results, name)[0] not in ("ok", "skip") and "ok" in cells(results, name)[1:]]
    failed = [name for name in names if cells(results, name)[0] == "FAIL" or name in behind]
    explained = explanations(document, suite)
    unexplained = [name for name in failed if not any(stands_for(one, name) for one in explained)]
    for name in failed:
        result, reason = results[0].get(name, ("not reached", ""))
        words = ["a peer passes it"] * (name in behind) + ["not explained"] * (name in unexplained)
        print(f"  {result} {name}{' (' + ', '.join(words) + ')' if words else ''}: {reason}")
    for one in explained:
        if not any(stands_for(one, name) for name in failed):
            print(f"  passes, but is still explained: {one}")
    if unexplained:
        sys.exit(f"{suite}: {len(unexplained)} not ok that {document} does not explain")


main()
