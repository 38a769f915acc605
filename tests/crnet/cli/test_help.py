"""Every option is explained, with its default; the documents call only what exists."""

import argparse
import dataclasses
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crnet.cli.arguments import Command, Parser
from crnet.cli.options import open_device
from crnet.cli.parser import command_line, main
from crnet.cli.train import GROUPS, field_texts
from crnet.training.recipe import Recipe, defaults

ROOT = Path(__file__).parents[3]


def commands(parser: Parser) -> Iterator[Command]:
    """Yield the parsers of all commands, with their options."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                if inner.module:
                    yield inner.fill()
                else:
                    yield from commands(inner)


COMMANDS = {p.prog: p for p in commands(command_line())}


def options(parser: Parser) -> list[argparse.Action]:
    return [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_text_and_every_value_its_default(command: str) -> None:
    for action in options(COMMANDS[command]):
        assert action.help, action
        optional = action.option_strings or action.nargs == "*"
        if optional and action.nargs != 0:
            assert "(default: " in action.help, action


@pytest.mark.parametrize(
    ("flag", "having"),
    [
        ("--model", "upscale evaluate compare inspect demo"),
        ("--data", "evaluate compare data_check train export"),
        ("--sets", "evaluate compare data_check train export"),
        ("--device", "upscale evaluate compare inspect train export models"),
    ],
)
def test_one_thing_has_one_flag(flag: str, having: str) -> None:
    parsers = [p for p in COMMANDS.values() if flag in p._option_string_actions]
    names = {p.prog.removeprefix("crnet ").replace(" ", "_") for p in parsers}
    assert names == set(having.split())
    if flag == "--device":
        assert {p.get_default("device") for p in parsers} == {"auto"}


def test_every_field_of_a_recipe_is_an_option_with_the_text_of_its_docstring() -> None:
    texts, values = field_texts(), defaults()
    assert texts.keys() == {field.name for field in dataclasses.fields(Recipe)}
    assert all(texts.values())
    help_text = " ".join(COMMANDS["crnet train"].format_help().split())
    for name, text in texts.items():
        flag = f"--{name.replace('_', '-')}"
        assert f" {flag} " in help_text or f" {flag}, " in help_text
        assert " ".join(text.split()) in help_text
    assert f"steps in which the rate rises linearly from zero (default: {values['warmup']})" in (
        help_text
    )
    for title in (*GROUPS, "run"):
        assert f"fields of the recipe: {title}:" in help_text
    assert {name for names in GROUPS.values() for name in names} <= texts.keys()


def documented() -> Iterator[tuple[str, list[str]]]:
    """Yield the calls of ``crnet`` in the documents: lines of code, and code within sentences."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = re.findall(r"^(?: {4})?crnet (\w.*)$", text, re.MULTILINE)
        for call in lines + re.findall(r"`crnet ([^`]+)`", text):
            words = shlex.split(call, comments=True)
            if words[0] != "COMMAND":
                yield page.name, words


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return why a call is refused, or nothing."""
    try:
        command_line().parse_args(words)
    except SystemExit:
        return capsys.readouterr().err
    return ""


def test_the_documents_call_only_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    calls = list(documented())
    assert len(calls) > 10
    for page, words in calls:
        why = refused(words, capsys)
        # A sentence may name a command alone, or one flag of it.
        alone = "are required" in why and f"crnet {words[0]}" in " ".join(COMMANDS)
        assert not why or alone, f"{page}: crnet {' '.join(words)}: {why}"


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (["upscale"], "(see crnet upscale --help)"),
        (["upscale", "a.png", "--foo"], "(see crnet upscale --help)"),
        (["data", "check", "--foo"], "(see crnet data check --help)"),
        (["evaluate", "--scales", "1"], "(see crnet evaluate --help)"),
        (["paint"], "(see crnet --help)"),
        ([], "(see crnet --help)"),
    ],
)
def test_an_error_names_the_help_of_its_command(call: list[str], hint: str, capsys, tmp_path):
    if call and call[0] == "evaluate":
        call = [*call, "--data", str(tmp_path)]
    try:
        code = main(call)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert capsys.readouterr().err.rstrip().endswith(hint)


@pytest.mark.parametrize("call", [["--help"], ["data", "--help"], ["paint"]])
def test_help_needs_no_torch(call: list[str]) -> None:
    code = (
        "import sys, crnet.cli\n"
        f"try: crnet.cli.main({call})\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert "crnet" in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_is_a_gpu_where_there_is_one(monkeypatch, cuda: bool, mps: bool, device: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert open_device("auto") == device
