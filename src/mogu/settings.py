"""A preset, a TOML file and `key=value` arguments -> one pydantic model. Knows no setting by name.

Later sources win: the preset, then the file, then the arguments. All mistakes are reported at once.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from mogu.errors import MoguError

Settings = TypeVar("Settings", bound=BaseModel)

# How "no value" is written, since TOML has no word for it.
NO_VALUE = ("none", "null")


class _Given(NamedTuple):
    value: Any
    place: str  # where the user wrote it


def merge_settings(
    preset: Settings, *, file: Path | None = None, assignments: Sequence[str] = ()
) -> Settings:
    """Changes the settings of a preset as the user asked.

    Args:
        preset: The settings to start from.
        file: A TOML file with the names of the settings as keys.
        assignments: Texts `key=value`; lists as in TOML, `none` for a setting that may be without a value.

    Returns:
        New settings of the preset's class.

    Raises:
        MoguError: The file cannot be read, or settings are unknown or wrong: the message lists them all.
    """
    known = type(preset).model_fields
    given: dict[str, _Given] = {}
    mistakes: list[str] = []
    for item in [*_from_file(file), *_from_assignments(assignments)]:
        match item:
            case str():
                mistakes.append(item)
            case key, _Given() as value if key in known:
                given[key] = value
            case key, value:
                mistakes.append(f"{value.place}: there is no setting '{key}'; {_suggest(key, list(known))}")
    values = {key: _no_value(given[key].value, known[key].annotation) for key in given}
    try:
        settings = type(preset).model_validate(preset.model_dump() | values)
    except ValidationError as error:
        mistakes += _describe(error, given)
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise MoguError("\n  ".join([f"{count} in the settings:", *mistakes]))
    return settings


def _from_file(file: Path | None) -> list[tuple[str, _Given]]:
    if file is None:
        return []
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MoguError(f"{file}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MoguError(f"{file}: not TOML ({error}).") from error
    return [(key, _Given(value, str(file))) for key, value in content.items()]


def _from_assignments(assignments: Sequence[str]) -> Iterator[tuple[str, _Given] | str]:
    """Yields the settings, and a text for each argument that is none."""
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not key or not equals:
            yield f"'{assignment}' is no setting; write key=value"
        else:
            yield key, _Given(_parse(value), f"'{assignment}'")


def _parse(value: str) -> Any:
    """Reads a list as TOML does; pydantic reads numbers and truth values from their text by itself."""
    if not value.startswith("["):
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _no_value(value: Any, annotation: Any) -> Any:
    optional = NoneType in get_args(annotation)
    return None if optional and isinstance(value, str) and value.lower() in NO_VALUE else value


def _suggest(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"


def _describe(error: ValidationError, given: Mapping[str, _Given]) -> Iterator[str]:
    for mistake in error.errors(include_url=False, include_context=False):
        key = str(mistake["loc"][0]) if mistake["loc"] else ""
        place = f"{given[key].place}: " if key in given else ""
        named = f"'{key}' is {mistake['input']!r}: " if key else ""
        reason = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
        yield f"{place}{named}{reason}"
