"""The module stands alone: as text in front of a handler, in a zip file, and without whatever makes a cold start slow."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

from retainwise_metrics import emf

ROOM = 24_000
"""Bytes: a template's body has 51,200, and the handler is in it as well."""

HANDLER = """
metrics = create_metrics_logger("Tests", clock=lambda: 1_800_000_000.0)

@metrics.handler
def handler(event, context):
    metrics.set_dimension("Op", "backup")
    metrics.set_property("upload", 7)
    metrics.put_metric("Size", 12, BYTES)
    return "done"
"""


def run_bare(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program without site packages, the environment and the current directory."""
    command = [sys.executable, "-I", "-S", *options, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def test_the_source_runs_in_a_bare_interpreter() -> None:
    """A handler pasted after it records and flushes."""
    done = run_bare(emf.inline_source() + HANDLER + "assert handler({}, None) == 'done'\n", "-W", "error")
    assert done.stderr == ""
    start, size, end = map(json.loads, done.stdout.splitlines())
    assert start["_aws"]["Timestamp"] == 1_800_000_000_000
    assert start["ColdStart"] == 1
    assert (size["Size"], size["Op"], size["upload"]) == (12, "backup", 7)
    assert (end["HandlerSuccess"], end["HandlerError"], end["upload"]) == (1, 0, 7)


def test_the_source_leaves_room_for_a_handler() -> None:
    """It fits into a CloudFormation template with a handler of the same size, and says where it comes from."""
    source = emf.inline_source()
    assert len(source.encode()) < ROOM
    assert source.isascii()
    assert source.startswith("# retainwise_metrics.emf")


def test_the_source_is_that_of_the_module() -> None:
    """Nothing but what readers need is left out: what is defined is the same."""
    defined: dict[str, object] = {"__name__": "inline"}
    exec(compile(emf.inline_source(), "inline", "exec"), defined)
    # pytest adds some names that are no identifiers.
    theirs = {name for name in vars(emf) if name.isidentifier() and not name.startswith("__")}
    assert theirs - defined.keys() == {"inline_source"}


def test_the_handlers_names_are_left_alone() -> None:
    """A handler may import and define what it likes, apart from the public names: those of other modules have an underscore here."""
    public = {name for name in vars(emf) if name.isidentifier() and not name.startswith("_")}
    assert public - {name for name in public if name.isupper()} == {
        "Entry", "FormatError", "MetricsLogger", "Stats", "annotations", "create_metrics_logger", "inline_source",
        "lambda_handler", "write_documents",
    }  # fmt: skip
    shadows = "import json as time, sys as os\nfrom datetime import time as sys\njson = deque = math = None\n"
    done = run_bare(emf.inline_source() + shadows + HANDLER + "handler({}, None)\n")
    assert json.loads(done.stdout.splitlines()[1])["Size"] == 12


def test_the_source_is_found_in_a_zip_file(tmp_path: Path) -> None:
    """Lambda layers and zipped deployments have no files to read."""
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(str(emf.__file__), "emf.py")
    done = run_bare(f"import sys; sys.path.insert(0, {str(archive)!r}); import emf; print(emf.inline_source(), end='')")
    assert done.stdout == emf.inline_source()


def test_byte_code_alone_is_refused(tmp_path: Path) -> None:
    """The error says why there is no source."""
    program = f"""
    import py_compile, sys
    py_compile.compile({str(emf.__file__)!r}, cfile={str(tmp_path / "emf.pyc")!r}, doraise=True)
    sys.path.insert(0, {str(tmp_path)!r})
    import emf
    try:
        emf.inline_source()
    except OSError as error:
        print(error)
    """
    assert "only its byte code" in run_bare(textwrap.dedent(program)).stdout


def test_importing_it_loads_nothing_that_is_slow() -> None:
    """Neither the AWS SDK nor the slow parts of the standard library, nor any other part of the package."""
    package = str(Path(str(emf.__file__)).parents[1])
    program = f"import sys; sys.path.insert(0, {package!r}); from retainwise_metrics import emf; print(*sys.modules)"
    loaded = set(run_bare(program).stdout.split())
    assert "retainwise_metrics.emf" in loaded
    assert not loaded & {"boto3", "botocore", "asyncio", "logging", "dataclasses", "inspect", "typing", "ast", "socket"}
    assert {name for name in loaded if name.startswith("retainwise_metrics.")} == {"retainwise_metrics.emf"}


def test_it_imports_the_standard_library_only() -> None:
    """Anything else would not be there in inline code."""
    tree = ast.parse(Path(str(emf.__file__)).read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert importlib.import_module("retainwise_metrics.emf") is emf
