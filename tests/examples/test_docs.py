"""The documentation is true: its examples run, its links lead somewhere, its table of settings is the code's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retainwise_metrics.config import PREFIX, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retainwise_metrics.config import Setting

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/README.md")])
SETTINGS_TABLE = re.compile(r"<!-- settings: .*? -->\n\n(.*?)\n<!-- /settings -->", re.DOTALL)

OFFLINE = """
import sys

def offline(event, arguments):
    if event in ("socket.connect", "socket.sendto") and arguments[1][0] != "127.0.0.1":
        raise OSError("an example reached for the network")

sys.addaudithook(offline)
page = sys.argv[1]
exec(compile(sys.stdin.read(), page, "exec"), {"__name__": "__main__"})
"""
"""Runs a program from standard input that may talk to this machine only."""

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "RETAINWISE_METRICS_SINK": "memory",
}
"""What an example finds: no account, and a process-wide client that delivers to memory."""


def page_name(page: Path) -> str:
    """Where a page is, for the name of its test."""
    return page.relative_to(ROOT).as_posix()


def lines_outside_blocks(text: str) -> Iterator[str]:
    """The prose of a page, without code."""
    inside = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            yield re.sub(r"`[^`]*`", "", line)


def program_of(text: str) -> str:
    """The Python blocks of a page in one program, everything else left blank: line numbers are those of the page."""
    program, indent = [], None
    for line in text.splitlines():
        code = line.lstrip()
        if indent is not None and code.startswith("```"):
            indent = None
        kept = line[indent:] if indent is not None else ""
        if code.startswith(("```python", "```py")):
            indent = len(line) - len(code)
        program.append(kept)
    return "\n".join(program)


def run(program: str, page: str) -> subprocess.CompletedProcess[str]:
    """Run the program of a page in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE, page],
        input=program,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, spelled as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The targets of a page's relative links."""
    prose = "\n".join(lines_outside_blocks(page.read_text("utf-8")))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in target]


def is_dead(page: Path, target: str) -> bool:
    """Whether a link's file or heading does not exist."""
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return not file.exists() or bool(anchor and anchor not in anchors(file))


def settings_table() -> str:
    """The table of settings, as it stands in the README."""
    rows = ["| Environment variable | Default | Allowed | Meaning |", "|---|---|---|---|"]
    rows += [settings_row(name, setting) for name, setting in SETTINGS.items()]
    return "\n".join(rows) + "\n"


def settings_row(name: str, setting: Setting) -> str:
    """One setting; numbers are written with thousands separators."""
    variables = ", ".join(f"`{variable}`" for variable in (PREFIX + name.upper(), *setting.variables))
    allowed = re.sub(r"\d[\d.e+]*", lambda number: f"{float(number[0]):,.13g}", setting.allowed)
    return f"| {variables} | {settings_default(setting)} | {allowed} | {setting.meaning} |"


def settings_default(setting: Setting) -> str:
    """What a setting is when nobody sets it."""
    if setting.default is None:
        return "none"
    if setting.kind is bool:
        return str(setting.default).lower()
    return f"{setting.default:,.13g}" if setting.kind in {int, float} else f"`{setting.default}`"


@pytest.mark.parametrize("page", [page for page in PAGES if program_of(page.read_text("utf-8")).strip()], ids=page_name)
def test_every_example_runs(page: Path) -> None:
    """The Python blocks of a page, taken together in their order, run without an error, a warning or the network."""
    done = run(program_of(page.read_text("utf-8")), str(page))
    assert done.returncode == 0, done.stderr


def test_an_example_that_is_wrong_is_reported_with_its_line() -> None:
    """A failing example fails its page, and the traceback names the line of the page."""
    done = run(program_of("Some words.\n\n```python\nassert 1 == 2\n```\n"), "page.md")
    assert done.returncode != 0
    assert '"page.md", line 4' in done.stderr


def test_an_example_cannot_reach_the_network() -> None:
    """An example that would talk to AWS fails instead."""
    done = run("import socket\nsocket.create_connection(('192.0.2.1', 443), timeout=5)", "page.md")
    assert "an example reached for the network" in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """Files that pages link to exist, and so do the headings they point at."""
    assert [target for target in links(page) if is_dead(page, target)] == []


def test_the_table_of_settings_is_that_of_the_code() -> None:
    """The README lists every setting with the names, default, range and meaning that `config.SETTINGS` declares."""
    found = SETTINGS_TABLE.search((ROOT / "README.md").read_text("utf-8"))
    assert found is not None, "the markers of the table of settings are gone"
    assert found[1] == settings_table(), "run `python tests/examples/test_docs.py` to make the table anew"


def main() -> None:
    """Write the table of settings into the README."""
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    found = SETTINGS_TABLE.search(text)
    if found is None:
        message = "the markers of the table of settings are gone from README.md"
        raise SystemExit(message)
    readme.write_text(text[: found.start(1)] + settings_table() + text[found.end(1) :], "utf-8")


if __name__ == "__main__":
    main()
