"""Parser of all commands: that of jsonargparse, with one informative line instead of a tree of alternatives.

jsonargparse builds a parser of the same class for the options of each class that YAML names, and reports an
error as text that every level wraps into more text. Here each level encodes its key and the reason as a
`Problem`, which the levels above pass on unchanged. The outermost reports the full path, the reason, and the
file and line of the value.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, NoReturn, Union, get_args, get_origin

from jsonargparse import (  # type: ignore[attr-defined]  # ActionConfigFile is public, and not in __all__
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    Namespace,
)

from segbench.parsing.command_line import check_words
from segbench.parsing.expected import alternatives, base_classes, not_text_keys, refusal
from segbench.parsing.names import class_names, component_options, did_you_mean, init_options, option_hint
from segbench.parsing.reasons import reason, single_line
from segbench.utils.yaml_files import line_of

_KEY = re.compile(r'Parser key "([^"]+)"')
_SEALED = re.compile("\x02([0-9a-f]+)\x03")
_UNKNOWN = re.compile(
    r"(?:Group '(\S+?)' does not accept|Subcommand '\S+' does not accept|^).*?[Oo]ption '(\S+?)'"
)
_COMMAND = re.compile(r"^(fit|validate|test|predict)\.")
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_CHOICE = re.compile(r"argument ([^:]*): invalid choice: '(.*?)' \(choose from (.*)\)")
_NO_VALUE = re.compile(r"argument (\S+): expected (?:one|at least one) argument")
_within: ContextVar[bool] = ContextVar("_within", default=False)  # inside parse_args of the outermost parser
_final: ContextVar[bool] = ContextVar("_final", default=False)  # final validation of the whole configuration


class Problem(NamedTuple):
    """A refused option.

    Attributes:
        keys: Path of the option, outermost first.
        reason: Why it was refused.
        file: The file that was being read, if known.
    """

    keys: tuple[str, ...]
    reason: str
    file: str = ""

    @property
    def path(self) -> str:
        """Dotted path of the option, as on the command line."""
        return ".".join(self.keys)

    def seal(self) -> str:
        """Encodes the problem so that it can be extracted from surrounding text."""
        return f"\x02{json.dumps(self).encode().hex()}\x03"


def unseal(message: str) -> Problem | None:
    """Extracts the problem from a message; of several alternatives, the one with the longest path.

    Args:
        message: Text that may contain encoded problems.
    """
    found = [json.loads(bytes.fromhex(sealed)) for sealed in _SEALED.findall(message)]
    problems = [Problem(tuple(keys), reason, file) for keys, reason, file in found]
    return max(problems, key=lambda problem: len(problem.keys)) if problems else None


class ExplainedParser(ArgumentParser):
    """A parser whose errors are one line: full path of the option, accepted values, file and line.

    Abbreviated options are refused, since each new option could change the meaning of an abbreviation. Errors
    are raised and do not exit the process.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "exit_on_error": False} | kwargs)
        self.files: dict[str, str] = {}  # contents, by path, of files that are passed on in parts

    @property
    def also(self) -> tuple[str, ...]:
        """Names of options that are removed from the command line before parsing."""
        return ()

    def parse_args(self, args: Any = None, namespace: Any = None, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parses a command line; the outermost parser raises errors meant for the user."""
        words = list(args or [])
        if not _within.get():
            args = words = self._normalized(words)
        if getattr(self, "_inner_parser", False):  # jsonargparse formats values it has read: null as None
            args = words = [re.sub(r"=None$", "=null", word) for word in words]
        own = self._option_string_actions.get("--config")  # for `convert` it is a file of another tool
        foreign = own is not None and not isinstance(own, ActionConfigFile)
        with self._explained(words, {} if _within.get() else check_words(words, not foreign)):
            parsed: Namespace = super().parse_args(args, namespace, **kwargs)
            return parsed

    def _normalized(self, words: Sequence[str]) -> list[str]:
        """Spells options as they are declared.

        Args:
            words: The command line.

        Returns:
            The same with underscores for hyphens in the names of known options, and `=true` for boolean options
            without a value.
        """
        parser = self._parser_of(words)
        found: list[str] = []
        for index, word in enumerate(words):
            if word == "--":
                return [*found, *words[index:]]
            option, equals, value = word.partition("=")
            if option.startswith("--"):
                option = parser._declared(option)
                following = words[index + 1 : index + 2]
                if not equals and parser._is_flag(option[2:], following[0] if following else None):
                    equals, value = "=", "true"
            found.append(f"{option}{equals}{value}")
        return found

    def _declared(self, option: str) -> str:
        spelt = f"--{option[2:].replace('-', '_')}"
        if spelt == option or option in self._option_string_actions:
            return option
        is_nested = ".init_args." in spelt and spelt.rpartition(".")[2] in component_options()
        return spelt if spelt in self._option_string_actions or is_nested else option

    def _is_flag(self, name: str, following: str | None) -> bool:
        """Whether an option is a boolean that is given without a value.

        Args:
            name: Dotted, without dashes.
            following: The next word of the command line.
        """
        action = self._option_string_actions.get(f"--{name}")
        kinds = set(alternatives(getattr(action, "_typehint", None)))
        if action is None and ".init_args." in name and component_options().get(name.rpartition(".")[2]):
            kinds = {bool, object}  # perhaps more than a boolean: the type is known when its class is
        if bool not in kinds:
            return False
        is_value = following is not None and not following.startswith("--")
        if kinds <= {bool, NoneType} and is_value:
            return str(following).lower() not in {"true", "false", "null", "none", "yes", "no", "on", "off"}
        return not is_value

    def _add_signature_parameter(
        self, container: Any, nested_key: Any, param: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Keeps integers where integers and floats are accepted: 1 batch must not become 100 % of them."""
        param = dataclasses.replace(param, annotation=_whole_first(param.annotation))
        return super()._add_signature_parameter(container, nested_key, param, *args, **kwargs)

    def parse_object(self, *args: Any, **kwargs: Any) -> Namespace:
        """Parses values from Python; the outermost parser raises errors meant for the user."""
        with self._explained([], {}):
            parsed: Namespace = super().parse_object(*args, **kwargs)
            return parsed

    @contextmanager
    def _explained(self, words: list[str], texts: dict[str, str]) -> Iterator[None]:
        if _within.get():
            yield
            return
        token = _within.set(True)
        try:
            yield
        except ArgumentError as error:
            problem = unseal(str(error)) or self._problem(str(error))
            raise ArgumentError(None, _message(problem, words, texts | self.files)) from error
        finally:
            _within.reset(token)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Parses a file and adds its path to errors."""
        try:
            parsed: Namespace = super().parse_path(path, *args, **kwargs)
            return parsed
        except ArgumentError as error:
            problem = unseal(str(error))
            if problem is None or problem.file:
                raise
            raise ArgumentError(None, problem._replace(file=str(path)).seal()) from error

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """Validates a configuration; the final validation also refuses null where it is not accepted."""
        namespace = args[0] if args else kwargs["namespace"]
        with _final_validation(self):
            if _final.get():
                self._refuse_misread(namespace)
            super().validate(*args, **kwargs)

    def _refuse_misread(self, namespace: Namespace) -> None:
        for action in self._actions:
            hint = getattr(action, "_typehint", None)
            if hint is None or action.dest not in namespace:
                continue
            parts, value = alternatives(hint), namespace[action.dest]
            if value is None and action.default is not None and not {NoneType, Any, object} & {*parts}:
                raise TypeError(Problem((action.dest,), refusal(hint, None, True)).seal())
            if isinstance(value, dict) and (wrong := not_text_keys(hint, value)):
                raise TypeError(Problem((action.dest,), wrong).seal())

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises an error that contains the encoded problem."""
        super().error(self._problem(message).seal(), ex)

    def _problem(self, message: str) -> Problem:
        sealed, key = unseal(message), _KEY.search(message.partition("\x02")[0])
        action = None if key is None else self._action(key[1])
        if sealed is not None:
            if key is None or key[1] == sealed.path:
                return sealed
            many = action is not None and "list" in str(getattr(action, "_typehint", ""))[:40].lower()
            outer = f"{key[1]}[]" if many else key[1]
            return sealed._replace(keys=(outer, "init_args", *sealed.keys))
        if required := _REQUIRED.search(message):
            return self._missing(required[1].split(", "))
        if choice := _CHOICE.search(message):
            names = choice[3].replace("'", "").split(", ")
            return Problem(
                (), f"{choice[1]}: unknown value '{choice[2]}'; {did_you_mean(choice[2], names, 'choices')}"
            )
        if alone := _NO_VALUE.search(message):
            return Problem((), f"{alone[1].rpartition('/')[2]} needs a value after it")
        if "unrecognized arguments: " in message:
            return Problem((), self._unrecognized(message.partition("unrecognized arguments: ")[2].split()))
        if (unknown := _UNKNOWN.search(message)) and "not accept" in message:
            option = f"{unknown[1]}.{unknown[2]}" if unknown[1] else unknown[2]
            options = self._options()
            hint = option_hint(option, options).replace("--", "")
            tops = sorted({name.partition(".")[0] for name in options})
            return Problem((option,), f"unknown option; {hint or did_you_mean(option, tops, 'options')}")
        if key is not None and "Unable to load config" in message:
            return Problem((key[1],), f"give its options one by one, as in --{key[1]}.NAME VALUE")
        if key is not None and action is not None:
            return Problem((key[1],), reason(getattr(action, "_typehint", None), message))
        if key is not None:
            return Problem((key[1],), single_line(message[key.end() :]))
        return Problem((), single_line(message))

    def _missing(self, names: Sequence[str]) -> Problem:
        short = [_COMMAND.sub("", name) for name in names]
        if short != [*names]:
            return Problem((), f"{' and '.join(short)} missing; give them by --config experiments/NAME.yaml")
        if getattr(self, "_inner_parser", False):
            if len(names) == 1:
                return Problem((names[0],), "needs a value: it is missing or null")
            return Problem((), f"{', '.join(names)} need values: they are missing or null")
        options = {action.dest: action.option_strings for action in self._actions}
        words = [options[name][-1] if options.get(name) else name.upper() for name in names]
        return Problem((), f"{' and '.join(words)} must be given")

    def _unrecognized(self, words: Sequence[str]) -> str:
        word = next((word for word in words if word.startswith("-")), words[0])
        option = word.partition("=")[0]
        if option.startswith("-"):
            hint = option_hint(option.lstrip("-"), self._options())
            return f"unknown option {option}; {hint or f'`{self._program} --help` lists the options'}"
        path = Path(word)
        if path.suffix in {".ckpt", ".safetensors"}:
            return f"'{word}' has no option; write --checkpoint {word}"
        if path.suffix in {".yaml", ".yml"}:
            return f"'{word}' has no option; write --config {word}"
        return f"'{word}' belongs to no option; quote values that contain spaces, as in --option 'a b'"

    @property
    def _program(self) -> str:
        return self._verb().prog.replace(" [options]", "")

    def _options(self) -> list[str]:
        """Returns dotted options: ours, those of the command, and those of the classes it can build."""
        parser = self._verb()
        names = [*parser.also]
        for action in parser._actions:
            names += [word.removeprefix("--") for word in action.option_strings if word.startswith("--")]
            if parser.prog and action.dest in {"model", "data"}:
                kinds = base_classes(getattr(action, "_typehint", None))
                for cls in class_names(kinds).values():
                    names += [f"{action.dest}.init_args.{name}" for name in init_options(cls)]
        return [name for name in dict.fromkeys(names) if name != "help" and not name.endswith("+")]

    def _verb(self) -> "ExplainedParser":
        return self._parser_of(getattr(self, "args", None) or [])

    def _parser_of(self, words: Sequence[str]) -> "ExplainedParser":
        """Returns the parser of the subcommand that a command line names, or this one."""
        for action in self._actions:
            parsers = getattr(action, "_name_parser_map", None)
            if parsers and words and words[0] in parsers:
                verb: ExplainedParser = parsers[words[0]]
                return verb
        return self

    def _action(self, key: str) -> Any:
        parser = self._verb()
        return next((action for action in parser._actions if action.dest in {key, key.partition(".")[2]}), None)


@contextmanager
def _final_validation(parser: ArgumentParser) -> Iterator[None]:
    """Marks the validation of a whole configuration, which the outermost parser starts."""
    outermost = hasattr(parser, "args") and not getattr(parser, "_inner_parser", False)
    token = _final.set(_final.get() or outermost)
    try:
        yield
    finally:
        _final.reset(token)


def _message(problem: Problem, words: Sequence[str], texts: dict[str, str]) -> str:
    """Returns the line that the user sees."""
    path = _COMMAND.sub("", problem.path)
    place = _place(path, problem.file, words, texts)
    return f"{path}: {problem.reason}{place}" if path else f"{problem.reason}{place}"


def _place(path: str, file: str, words: Sequence[str], texts: dict[str, str]) -> str:
    """Returns the file and line of a refused value, in parentheses."""
    typed = [word.partition("=")[0].removeprefix("--").removesuffix("+") for word in words if word[:2] == "--"]
    above = {path, f"{path}.class_path", *(path[: found.start()] for found in re.finditer(r"\.", path))}
    if not file and above & {*typed}:
        return ""
    keys = re.sub(r"\[\].*", "", path).split(".")
    for name in [file] if file else reversed(texts):
        text = texts.get(name)
        line = None if text is None else line_of(text, keys)
        if line is not None:
            return f" ({name}, line {line})"
    return f" ({file})" if file else ""


def _whole_first(hint: Any) -> Any:
    """Orders int before float in a union, since jsonargparse takes the first type that fits.

    The order in the source is not reliable: typing caches one `Optional[Union[...]]` for both orders, the first
    that
    any module created. All other types keep their positions: str, which fits everything, comes last.
    """
    kinds = list(get_args(hint))
    if get_origin(hint) not in (Union, UnionType) or not {int, float} <= set(kinds):
        return hint
    if kinds.index(float) < kinds.index(int):
        kinds.remove(int)
        kinds.insert(kinds.index(float), int)
    return Union[tuple(kinds)]  # noqa: UP007 (made of a tuple)
