"""Turns gin files and bindings into statements that know where they stand.

gin itself, while it parses, forgets where a value came from and what it took
the place of. Its grammar is read here by its own parser, and nothing is bound.
"""

import contextlib
import dataclasses
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

from gin import config_parser

from framework.configuration.files import find_gin_file, open_gin_file
from framework.configuration.importing import why_not
from framework.errors import UserError

# A comment that begins so, beside a binding or the head of a block: what is
# bound there may be unused.
MAY_BE_UNUSED = "may be unused"
_MARK = re.compile(rf"#+\s*{MAY_BE_UNUSED}\b", re.I)
# A line of its own before the first statement: so may all of the file be.
ALL_MAY_BE_UNUSED = f"# All of it {MAY_BE_UNUSED}."
_MARK_OF_ALL = re.compile(rf"#+\s*All of it {MAY_BE_UNUSED}\.?$", re.I)
# A line of its own: what is below may bind once more what is above.
OVERRIDES = "# Given besides, in place of what is above:"
COMMAND_LINE = "--gin_param"
# `some/macro.value = 3` is `some = 3`.
_AT_LENGTH = (("macro", "value"), ("gin.macro", "value"))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where something stands: "gin/smoke.gin:12".

    Attributes:
        file: as it was named.
        line: from 1 on.
    """

    file: str
    line: int

    def __str__(self) -> str:
        if self.file == COMMAND_LINE:
            return COMMAND_LINE
        return f"{self.file}:{self.line}"


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@scope/name` or `@scope/name()`, not looked up."""

    scope: str
    name: str
    is_made: bool
    place: Place

    def __str__(self) -> str:
        return f"@{scoped(self.scope, self.name)}{'()' * self.is_made}"

    __repr__ = __str__


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%name`, not looked up."""

    name: str
    place: Place

    def __str__(self) -> str:
        return f"%{self.name}"

    __repr__ = __str__


@dataclasses.dataclass(frozen=True)
class Binding:
    """`scope/name.parameter = value`; of a macro only a scoped name.

    Attributes:
        scope: "" for none.
        name: of what is configured; "" for a macro, whose name is the scope.
        parameter: "" for a macro.
        value: with `Reference` and `Macro` in it.
        place: of its first line.
        may_be_unused: whether a comment says so.
        section: how many `OVERRIDES` are above it in its file.
        is_in_block: whether a `Block` is its name.
    """

    scope: str
    name: str
    parameter: str
    value: Any
    place: Place
    may_be_unused: bool = False
    section: int = 0
    is_in_block: bool = False

    @property
    def key(self) -> str:
        """The left side, as it is written."""
        if not self.name:
            return self.scope
        return f"{scoped(self.scope, self.name)}.{self.parameter}"


@dataclasses.dataclass(frozen=True)
class Import:
    """An `import` of a gin file."""

    text: str
    module: str
    place: Place


@dataclasses.dataclass(frozen=True)
class Block:
    """`scope/name:` with bindings below; it may have none."""

    name: str
    place: Place


@dataclasses.dataclass
class Text:
    """What one file says, or the command line, with what it includes.

    Attributes:
        name: as it was named.
        statements: in their order; an include is a `Text` itself.
        place: of the `include`, None for the first file.
    """

    name: str
    statements: "list[Binding | Import | Block | Text]"
    place: Place | None = None

    def flat(self) -> "Iterator[Binding | Import | Block]":
        """All statements, in the order in which gin takes them."""
        for statement in self.statements:
            if isinstance(statement, Text):
                yield from statement.flat()
            else:
                yield statement

    def bindings(self) -> Iterator[Binding]:
        return (each for each in self.flat() if isinstance(each, Binding))

    def texts(self) -> "Iterator[Text]":
        """This one and all included ones."""
        yield self
        for statement in self.statements:
            if isinstance(statement, Text):
                yield from statement.texts()


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong with what was written."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def scoped(scope: str, name: str) -> str:
    """`scope/name`, or the name alone where there is no scope."""
    return f"{scope}/{name}" if scope else name


def read(gin_file: str, bindings: Sequence[str]) -> tuple[Text, list[Problem]]:
    """What a gin file and the bindings that override it say, and can't say.

    Args:
        gin_file: path, or the name of a shipped one.
        bindings: gin lines.

    Returns:
        one text of two, the file and the command line; and what is no gin. Of
        a file nothing is read beyond the first such place.

    Raises:
        UserError: there is no such file.
    """
    find_gin_file(gin_file)
    reader = _Reader()
    file = reader.file(gin_file, None)
    given = reader.text(COMMAND_LINE, "\n".join(bindings))
    return Text("", [file, given]), reader.problems


def parse(bindings: Sequence[str]) -> Text:
    """What gin lines say, as far as they can be read."""
    return _Reader().text(COMMAND_LINE, "\n".join(bindings))


class _Reader:
    """Files -> texts; keeps the problems."""

    def __init__(self):
        self.problems: list[Problem] = []
        self._open: list[str] = []  # Files that are being read.

    def file(self, name: str, place: Place | None) -> Text:
        path = find_gin_file(name)
        if path in self._open:
            raise UserError(
                f"{name!r} includes itself, by way of "
                f"{' and '.join(self._open)}. Expected no circle of includes."
            )
        with open_gin_file(path) as file:
            written = file.read()
        self._open.append(path)
        made = self.text(name, written, place)
        self._open.pop()
        return made

    def text(self, name: str, written: str, place: Place | None = None) -> Text:
        statements: list[Any] = []
        lines = written.split("\n")
        marked = _marked(written)
        parser = None
        try:
            parser = _Parser(written, name)
            while statement := parser.parse_statement():
                here = Place(name, statement.location.line_num)
                made = self._statement(
                    statement,
                    here,
                    may_be_unused=here.line in marked,
                    section=lines[: here.line].count(OVERRIDES),
                    is_in_block=here.line in parser.in_blocks,
                )
                if made is not None:
                    statements.append(made)
        except (
            SyntaxError,
            ValueError,
            TypeError,  # Of a mapping, whose keys may be lists.
            tokenize.TokenError,
        ) as error:
            self.problems.append(_syntax(error, parser, name, lines))
        return Text(name, statements, place)

    def _statement(self, found: Any, here: Place, **kind: Any) -> Any:
        if isinstance(found, config_parser.BindingStatement):
            scope, name, parameter = found.scope, found.selector, found.arg_name
            if not parameter:  # Of a macro.
                scope, name = scoped(scope, name), ""
            elif scope and (name, parameter) in _AT_LENGTH:
                name = parameter = ""
            return Binding(scope, name, parameter, found.value, here, **kind)
        if isinstance(found, config_parser.BlockDeclaration):
            return Block(found.selector, here)
        if isinstance(found, config_parser.ImportStatement):
            return Import(found.format(), found.module, here)
        try:
            return self.file(found.filename, here)
        except UserError as error:
            self.problems.append(Problem(here, error.message))
            return None


class _Parser(config_parser.ConfigParser):
    """gin's parser, with references that are not looked up.

    Attributes:
        in_blocks: the lines of bindings whose name is a block's.
    """

    def __init__(self, written: str, name: str):
        self._name = name
        self._line = 0
        self._keys: list[list[Any]] = []  # Of the mappings around an item.
        self.in_blocks: set[int] = set()
        super().__init__(io.StringIO(written), self)

    # gin asks these two of a delegate, which may not know of the parser.
    def configurable_reference(self, name: str, evaluate: bool) -> Reference:
        *scopes, bare = name.split("/")
        return Reference("/".join(scopes), bare, evaluate, self._here())

    def macro(self, name: str) -> Macro:
        return Macro(name, self._here())

    def _here(self) -> Place:
        return Place(self._name, self._line)

    def _maybe_parse_configurable_reference(self):
        self._line = self._current_token.start[0]
        return super()._maybe_parse_configurable_reference()

    def _maybe_parse_container(self):
        self._keys.append([])
        found = super()._maybe_parse_container()
        self._keys.pop()
        return found

    def _parse_dict_item(self):
        here = self._current_location()
        key, value = super()._parse_dict_item()
        # Two references differ by their places.
        same = str(key) if isinstance(key, (Reference, Macro)) else key
        if same in self._keys[-1]:
            self._raise_syntax_error(f"The key {key!r} is there twice.", here)
        self._keys[-1].append(same)
        return key, value

    def _parse_binding_block(self, *args, **kwargs):
        block, bindings = super()._parse_binding_block(*args, **kwargs)
        self.in_blocks.update(each.location.line_num for each in bindings)
        return block, bindings

    def _maybe_parse_macro(self):
        self._line = self._current_token.start[0]
        return super()._maybe_parse_macro()


def _marked(written: str) -> set[int]:
    """The lines with statements of which a comment says they may be unused."""
    lines: set[int] = set()
    first = last = None  # Of a statement: its first token, the latest one.
    is_marked = has_any = head = False
    blocks = [False]  # Whether all of a block is, by the blocks around a line.
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(written).readline):
            if token.type == tokenize.COMMENT:
                text = token.string.rstrip()
                if first is not None:
                    is_marked = is_marked or bool(_MARK.match(text))
                elif not has_any and _MARK_OF_ALL.match(text):
                    blocks[0] = True
            elif token.type == tokenize.INDENT:
                blocks.append(blocks[-1] or head)
            elif token.type == tokenize.DEDENT:
                blocks.pop()
            elif token.type == tokenize.NEWLINE:
                head = is_marked and last.string == ":"
                if first and (is_marked or blocks[-1]):
                    lines.update(range(first.start[0], token.start[0] + 1))
                first, is_marked = None, False
            elif token.type not in (tokenize.NL, tokenize.ENDMARKER):
                first, last, has_any = first or token, token, True
    return lines


# What gin and Python say of a line, in plainer words.
_PLAINER = {
    "malformed node": "the value is neither a number, a text in quotes nor a "
    "list",
    r"Expected '\)'": "a bracket is not closed, or a reference is given "
    "arguments: it has none (@name(), and a line name.parameter = value)",
    r"Expected ('[,:]' or )?'[])}]'": "a comma or a bracket is missing",
    "EOF in multi-line": "a bracket or a text is not closed",
    "unhashable": "what a mapping has before a colon is a list or a mapping",
    "Expected indentation": "the block above it is empty, or not indented",
}


def _syntax(
    error: Exception, parser: _Parser | None, name: str, lines: Sequence[str]
) -> Problem:
    """What gin's parser, or Python's tokenizer below it, can't read."""
    line = getattr(error, "lineno", None)
    if line is None and len(error.args) > 1:
        location = error.args[1]  # Of Python's tokenizer: (line, column).
        line = location[0] if isinstance(location[0], int) else location[1]
    if line is None:
        line = parser.current_token.start[0] if parser else 1
    line = min(max(line, 1), max(len(lines), 1))
    while line > 1 and not lines[line - 1].strip():  # At the end of the file.
        line -= 1
    why = " ".join(str(error.args[0] if error.args else error).split())
    for pattern, plain in _PLAINER.items():
        if re.match(pattern, why):
            why = plain
    shown = lines[line - 1].strip() if lines else ""
    return Problem(
        Place(name, line),
        f"{shown!r} can't be read: {why.rstrip('.')}. Expected a line as "
        "name.parameter = value, include 'file.gin' or import module; texts "
        "stand in quotes.",
    )


def imported(statement: Import) -> str | None:
    """Imports what a gin file asks for; tells why it can't, or None."""
    if statement.module.startswith("__gin__"):
        return (
            f"{statement.text!r} asks for names that nobody registered. "
            "Expected imports of modules that register theirs "
            "(@TASKS.register())."
        )
    why = why_not(statement.module)
    return f"{statement.module!r} can't be imported: {why}." if why else None
