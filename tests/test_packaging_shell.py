"""Shell completion: the scripts load, and complete verbs and options; the rest of the shells' part is theirs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from accord.bench import cli

BINARIES = Path(sys.executable).parent

COMPLETE = """\
set -eu
source ./accord.bash
complete -p accord > /dev/null
COMP_WORDS=({words}) COMP_CWORD={index} COMPREPLY=()
set +eu
_tyro_accord accord
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def printed(capsys, shell: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(["completion", shell])
    assert not left.value.code
    return capsys.readouterr().out


def completed(folder: Path, script: str, *words: str) -> set[str]:
    """What bash offers for the last word, which may be empty."""
    (folder / "accord.bash").write_text(script)
    quoted = " ".join(f"'{word}'" for word in words)
    program = COMPLETE.format(words=quoted, index=len(words) - 1)
    environment = os.environ | {"PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "--noprofile", "--norc", "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_that_knows_every_verb(capsys, shell):
    script = printed(capsys, shell)
    assert all(f"'{verb}'" in script for verb in cli.VERBS)
    if shutil.which(shell):  # the shell's own parser reads it
        assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


def test_bash_completes_verbs_and_options(capsys, tmp_path):
    script = printed(capsys, "bash")
    assert completed(tmp_path, script, "accord", "") >= set(cli.VERBS)
    assert completed(tmp_path, script, "accord", "rep") == {"report", "reproduce"}
    assert "--preset" in completed(tmp_path, script, "accord", "run", "toy", "--pre")
    assert completed(tmp_path, script, "accord", "report", "toy", "--format", "ma") == {"markdown"}
    assert "--dataset" in completed(tmp_path, script, "accord", "data", "--")
    assert "--dataset" not in completed(tmp_path, script, "accord", "run", "--")


def test_a_shell_that_is_not_known_is_an_error(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["completion", "csh"])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert all(shell in told for shell in ("bash", "zsh", "fish"))
