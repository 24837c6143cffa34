"""Turns the command line's flags and names into what completes them in a shell.

All names stand in the script itself, since nobody waits seconds for TensorFlow
on each press of TAB; whoever registers more makes it anew.
"""

import shlex
from collections.abc import Iterable

from absl import flags

from framework import describing
from framework.configuration import shipped_gin_files
from framework.registry import all_names

_BASH = """\
# Completes `framework` in bash; in ~/.bashrc:
#     source <(framework --completion=bash)
_framework() {{
    local IFS=$'\\n' at=$COMP_CWORD flag= before=
    local word=${{COMP_WORDS[at]}}
    # bash takes --mode=train for three words, unless it is told otherwise.
    if [[ $word == = ]]; then
        flag=${{COMP_WORDS[at - 1]}} word=
    elif [[ ${{COMP_WORDS[at - 1]}} == = ]]; then
        flag=${{COMP_WORDS[at - 2]}}
    elif [[ $word == --*=* ]]; then
        flag=${{word%%=*}} before=${{word%%=*}}= word=${{word#*=}}
    fi
    local words=
    case $flag in
{cases}
        --gin_file)
            COMPREPLY=($(compgen -P "$before" -f -X '!*.gin' -- "$word"
                compgen -P "$before" -d -S / -- "$word"))
            words={gin_files} ;;
        --workdir) COMPREPLY=($(compgen -P "$before" -d -- "$word")); return ;;
        "") [[ $word == -* ]] && words={flags} ;;
    esac
    words=${{words// /$'\\n'}}
    COMPREPLY+=($(compgen -P "$before" -W "$words" -- "$word"))
    COMPREPLY=($(printf '%s\\n' "${{COMPREPLY[@]}}" | sort -u))
    if [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *[=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}}
complete -o default -F _framework framework
"""
_ZSH = """\
#compdef framework
# Completes `framework` in zsh; in ~/.zshrc, after compinit:
#     source <(framework --completion=zsh)
_framework() {{
    local -a gin_files=({gin_files})
    _arguments \\
{arguments}
        '*:file:_files'
}}
compdef _framework framework
"""


def script(shell: str, known: Iterable[flags.Flag]) -> str:
    """What a shell has to read to complete the command `framework`.

    Args:
        shell: "bash" or "zsh".
        known: the command's flags.
    """
    describing.import_all()
    known = sorted(known, key=lambda flag: flag.name)
    gin_files = shipped_gin_files()
    choices = {
        flag.name: list(flag.parser.enum_values)
        for flag in known
        if isinstance(flag, flags.EnumFlag)
    }
    choices["describe"] = sorted([*all_names(), *describing.OF_RUNS])
    if shell == "zsh":
        return _ZSH.format(
            gin_files=" ".join(map(shlex.quote, gin_files)),
            arguments="\n".join(
                f"        {shlex.quote(spec)} \\"
                for flag in known
                for spec in _zsh(flag, choices)
            ),
        )
    given = [
        word if flag.boolean else f"{word}="
        for flag in known
        for word in _words(flag)
    ]
    cases = "\n".join(
        f"        --{name}) words={_quoted(values)} ;;"
        for name, values in choices.items()
    )
    return _BASH.format(
        cases=cases,
        gin_files=_quoted(gin_files),
        flags=_quoted([*given, "--help"]),
    )


def _words(flag: flags.Flag) -> list[str]:
    # What is true by default is only ever given to deny it.
    denied = flag.boolean and flag.default
    return [f"--no{flag.name}" if denied else f"--{flag.name}"]


def _zsh(flag: flags.Flag, choices: dict[str, list[str]]) -> list[str]:
    (word,) = _words(flag)
    if flag.boolean:
        return [word]
    what = "_files"
    if flag.name in choices:
        what = f"({' '.join(choices[flag.name])})"
    elif flag.name == "gin_file":
        # Both: shipped ones are found from anywhere.
        what = '{_files -g "*.gin"; compadd -a gin_files}'
    elif flag.name == "workdir":
        what = "_files -/"
    several = "*" if isinstance(flag, flags.MultiFlag) else ""
    return [f"{several}{word}=:{flag.name}:{what}"]


def _quoted(words: list[str]) -> str:
    return shlex.quote(" ".join(words))
