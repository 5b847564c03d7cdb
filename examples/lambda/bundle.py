"""
Puts a handler and what it imports into one file, for the inline source of a Lambda function.

    python examples/lambda/bundle.py etcd_backup --output examples/lambda/template/etcd_backup.inline.txt

The file is the handler, preceded by the source of `operations.py` and of `retainwise_metrics.emf`, which it makes modules of.
Comments, docstrings and blank lines are left out: a CloudFormation template holds 51,200 bytes, source and all.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from pathlib import Path

from retainwise_metrics import emf

HERE = Path(__file__).parent
HANDLERS = sorted(path.parent.name for path in HERE.glob("*/handler.py"))
FIRST = "from __future__ import annotations\n"

HEAD = """\
# Made by examples/lambda/bundle.py from {sources}; do not edit.
{first}import sys
import types


def _module(name, source=""):
    module = sys.modules[name] = types.ModuleType(name)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    try:
        exec(compile(source, name.replace(".", "/") + ".py", "exec"), module.__dict__)
    except Exception as error:
        # A handler works without its metrics; what it needs itself it will miss when it imports it.
        del sys.modules[name]
        if parent:
            delattr(sys.modules[parent], child)
        print(f"{{name}} is broken: {{error!r}}", file=sys.stderr)


_module("retainwise_metrics")
sys.modules["retainwise_metrics"].__path__ = []
"""


def bundle(name: str, *, emf_source: str | None = None) -> str:
    """
    The source of a handler that needs nothing but boto3.

    Args:
        name: The handler's directory.
        emf_source: Other metrics code than the installed package's.
    """
    metrics = emf.inline_source() if emf_source is None else emf_source
    operations = (HERE / "operations.py").read_text("utf-8")
    handler = (HERE / name / "handler.py").read_text("utf-8")
    return "".join(
        [
            HEAD.format(sources=f"{name}/handler.py, operations.py and retainwise_metrics.emf", first=FIRST),
            embedded("retainwise_metrics.emf", metrics),
            embedded("operations", operations),
            slim(handler).replace(FIRST, "", 1),
        ]
    )


def embedded(name: str, source: str) -> str:
    """A statement that makes a module of a source."""
    text = slim(source)
    if "'''" in text:
        message = f"The source of {name} has ''' in it, which stands around it in the bundle; write it another way."
        raise ValueError(message)
    return f"_module({name!r}, r'''\n{text}''')\n"


def slim(source: str) -> str:
    """Leave out comments, docstrings and blank lines."""
    lines = source.splitlines()
    inside: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, column), (last, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip()
        elif last > row:
            # Blank lines in a string are part of it.
            inside.update(range(row, last + 1))
    for first, last, replacement in docstrings(ast.parse(source)):
        lines[first - 1 : last] = [replacement, *[""] * (last - first)]
        inside.difference_update(range(first, last + 1))
    return "".join(f"{line}\n" for row, line in enumerate(lines, 1) if line.strip() or row in inside)


def docstrings(tree: ast.Module) -> list[tuple[int, int, str]]:
    """The strings that are statements: first line, last line, and what has to stand there instead."""
    found = []
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        for statement in body if isinstance(body, list) else []:
            if is_string(statement):
                instead = " " * statement.col_offset + "pass" if len(body) == 1 else ""
                found.append((statement.lineno, statement.end_lineno or statement.lineno, instead))
    return found


def is_string(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a text."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def main(arguments: list[str] | None = None) -> None:
    """Write a bundle to a file or to standard output."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("handler", choices=HANDLERS)
    parser.add_argument("--output", type=Path, help="the file to write; standard output without it")
    chosen = parser.parse_args(arguments)
    text = bundle(chosen.handler)
    if chosen.output:
        chosen.output.write_text(text, "utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
