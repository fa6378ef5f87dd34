"""Settings: dataclasses filled from YAML, where an unknown or ill-typed key is an error and never ignored."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from .errors import LNSynthError
from .names import problem

T = TypeVar("T")


def resources() -> Path:
    """The Resources folder: inside the installed package, or beside the package in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "Resources", package.parent / "Resources"):
        if folder.is_dir():
            return folder
    raise LNSynthError(f"{package.parent / 'Resources'} is missing; reinstall lnsynth.")


def preset_path(folder: str, name: str | Path) -> Path:
    """The YAML that `name` means: a path to a file, or the stem of one in Resources/`folder`."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise LNSynthError(f"{path} does not exist; give a preset's name or the path of a YAML file.")
    presets = resources() / folder
    if not problem(str(name)) and (presets / f"{name}.yaml").is_file():
        return presets / f"{name}.yaml"
    known = ", ".join(sorted(p.stem for p in presets.glob("*.yaml")))
    raise LNSynthError(f"There is no {str(name)!r} in {presets}; choose one of {known}, or give a YAML file.")


def load_yaml(path: str | Path) -> dict:
    import yaml
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LNSynthError(f"{path} does not exist; check the path.") from None
    except OSError as error:
        raise LNSynthError(f"{path} cannot be read ({error.strerror}); check that it is a file you may read.") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # also odd dates, keys, nests
        raise LNSynthError(f"{path} is not valid YAML ({(str(error).splitlines() or [''])[0]}); correct it.") from None
    if not isinstance(content, dict):
        raise LNSynthError(f"{path} must hold a YAML mapping of settings; it holds {type(content).__name__}.")
    return content


def build(cls: type[T], values: dict, where: str = "settings") -> T:
    """An instance of the dataclass `cls` from a mapping, nested dataclasses included.

    Raises LNSynthError, naming `where` and the key, for an unknown key, a missing one or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise LNSynthError(f"{where}: a mapping of settings is needed here, not {values!r}.")
    hints, described = typing.get_type_hints(cls), dataclasses.fields(typing.cast(Any, cls))  # T has no bound to say it
    fields = {field.name: field for field in described if field.init}
    for key in values:
        if key not in fields:
            raise LNSynthError(f"{where}: unknown setting {key!r}; known are {', '.join(fields)}.")
    for name, field in fields.items():
        if (name not in values and field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING):
            raise LNSynthError(f"{where}: setting {name!r} is missing.")
    converted = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except LNSynthError as error:  # of values that do not go together, which knows no file
        raise error if where in str(error) else LNSynthError(f"{where}: {error}") from None


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else build(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        failures = []
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _convert(option, value, where)
            except LNSynthError as error:
                failures.append(error)
        raise failures[0]
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise LNSynthError(f"{where} must be one of {', '.join(map(str, arguments))}, not {value!r}.")
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        open_ended = origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis)
        if not open_ended and len(arguments) != len(value):
            raise LNSynthError(f"{where} needs {len(arguments)} values, not {len(value)}.")
        kinds = [arguments[0]] * len(value) if open_ended else arguments
        return origin(_convert(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {_convert(arguments[0], k, where): _convert(arguments[1], v, where) for k, v in value.items()}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(kind, type) and origin is None and isinstance(value, kind) and not (
            kind is int and isinstance(value, bool)):
        return value
    name = getattr(kind, "__name__", str(kind))
    raise LNSynthError(f"{where} must be of type {name}, not {value!r}.")


def override(values: dict, assignments: list[str]) -> dict:
    """A copy of nested `values` with each "a.b=value" assigned; the value is read as YAML."""
    import copy

    import yaml
    values = copy.deepcopy(values)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise LNSynthError(f"{assignment!r} is not of the form key=value.")
        *parents, last = key.strip().split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise LNSynthError(f"{key}: {parent!r} is a single value, it has no settings below it.")
        place[last] = yaml.safe_load(text)
    return values
