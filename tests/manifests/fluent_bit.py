"""What Fluent Bit makes of a file, by the rendered configuration: enough of it to see that our lines fit its parsers.

Neither Debian nor PyPI has the program, and npm only the source of 1.8.15, without a library that it needs. So what it
does by itself, and not by the configuration, is written here from its source: ``src/multiline/flb_ml_parser_cri.c``
(the pattern of a CRI line, and how parts are joined), ``plugins/filter_parser`` (what does not parse goes on as it
was), ``plugins/filter_modify/modify.c`` (the rules, and the condition under which they hold), ``plugins/out_es/es.c``
(the index, the time and the id).

That 1.8.15, built by hand with Oniguruma and with the fix of
fluent/fluent-bit#6243, gave the same documents for lines, texts and parts as this does, and the same ids when it read
them again; but for an empty line, which it does not take for one of CRI, while 4.2 keeps empty fields. That was before
JSON was told apart by container: this is by the source alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import yaml

from tests.manifests.rendering import Rendered

Record = dict[str, Any]
#: ``FLB_ML_CRI_REGEX`` and ``FLB_ML_CRI_TIME``. The record keeps the time as text, too.
CRI = re.compile(r"^(?P<time>.+?) (?P<stream>stdout|stderr) (?P<_p>F|P) (?P<log>.*)$")
CRI_TIME = "%Y-%m-%dT%H:%M:%S.%L%z"


def pattern(onigmo: str) -> re.Pattern[str]:
    """A Ruby regular expression for Python: named groups are written in another way."""
    return re.compile(re.sub(r"\(\?<(?![=!])", "(?P<", onigmo))


def moment(text: str, time_format: str) -> str:
    """UTC with nanoseconds, as Elasticsearch gets it, of a text in a format of Fluent Bit. Raises ``ValueError``."""
    before, _, after = time_format.partition(".%L")
    found = re.fullmatch(r"(.*?)\.([0-9]{1,9})(Z|[+-][0-9:]+)", text)
    if found is None or after != "%z":
        raise ValueError(text)
    whole, fraction, zone = found.groups()
    at = datetime.strptime(whole + zone, before + "%z").astimezone(UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{fraction:<09}Z"


def several(given: str | list[str] | None) -> list[str]:
    """The values of an option that may be there never, once, or more than once."""
    return given if isinstance(given, list) else [given] if given else []


def _holds(condition: str | None, record: Record) -> bool:
    """Whether a filter's rules are applied: its expression is searched for, not matched whole."""
    if condition is None:
        return True
    kind, name, regex = condition.split()
    assert kind == "Key_value_matches"
    return name in record and pattern(regex).search(record[name]) is not None


@dataclass(frozen=True)
class Document:
    """What Elasticsearch is sent."""

    index: str
    id: str
    source: Record


@dataclass(frozen=True)
class FluentBit:
    """The configuration that a combination has."""

    found: Rendered

    @cached_property
    def config(self) -> dict[str, Any]:
        """The file."""
        (text,) = [
            one["data"]["fluent-bit.yaml"]
            for one in self.found.of("ConfigMap")
            if "fluent-bit.yaml" in one.get("data", {})
        ]
        config: dict[str, Any] = yaml.safe_load(text)
        return config

    @property
    def tail(self) -> Mapping[str, Any]:
        """The one input."""
        (only,) = self.config["pipeline"]["inputs"]
        return only  # type: ignore[no-any-return]

    @property
    def es(self) -> Mapping[str, Any]:
        """The one output."""
        (only,) = self.config["pipeline"]["outputs"]
        return only  # type: ignore[no-any-return]

    def read(self, path: str, lines: Iterable[str]) -> list[Document]:
        """What is sent of these lines of a file of the node."""
        return [self._sent(*self._filtered(record, at)) for record, at in self._joined(path, lines)]

    def _joined(self, path: str, lines: Iterable[str]) -> Iterator[tuple[Record, str]]:
        assert self.tail["multiline.parser"] == "cri"
        parts: dict[str, Record] = {}
        for line in lines:
            found = CRI.match(line)
            assert found is not None, line
            record: Record = found.groupdict()
            stream = record["stream"]
            if stream in parts:
                parts[stream]["log"] += record["log"]
            else:
                parts[stream] = record | {self.tail["path_key"]: path}
            if record["_p"] == "F":
                whole = parts.pop(stream)
                yield whole, moment(whole["time"], CRI_TIME)

    def _filtered(self, record: Record, at: str) -> tuple[Record, str]:
        for one in self.config["pipeline"]["filters"]:
            if one["name"] == "parser":
                record, at = self._parsed(one, record, at)
            elif _holds(one.get("condition"), record):
                for old, new in map(str.split, several(one.get("rename"))):
                    if old in record and new not in record:
                        record[new] = record.pop(old)
                for name in several(one.get("remove")):
                    record.pop(name, None)
                for name, value in map(str.split, several(one.get("add"))):
                    record.setdefault(name, value)
        return record, at

    def _parsed(self, one: Mapping[str, Any], record: Record, at: str) -> tuple[Record, str]:
        (parser,) = [parser for parser in self.config["parsers"] if parser["name"] == one["parser"]]
        text = record.get(one["key_name"])
        if text is None:
            return record, at
        if parser["format"] == "regex":
            found = pattern(parser["regex"]).match(text)
            fields: Record | None = found and found.groupdict()
        else:
            try:
                value = json.loads(text)
            except ValueError:
                value = None
            fields = value if isinstance(value, dict) else None
        if fields is None:
            return record, at
        assert one["reserve_data"] is True
        rest = {key: value for key, value in record.items() if key != one["key_name"]}
        assert not rest.keys() & fields.keys(), "a key that is there twice"
        if "time_key" in parser and parser["time_key"] in fields:
            # Where it is not in that format, the record keeps the time that it had.
            with contextlib.suppress(ValueError):
                at = moment(fields.pop(parser["time_key"]), parser["time_format"])
        return fields | rest, at

    def _sent(self, record: Record, at: str) -> Document:
        es = self.es
        assert (es["logstash_format"], es["time_key_nanos"], es["generate_id"]) == (True, True, True)
        source = {es["time_key"]: at} | record
        day = datetime.fromisoformat(at[:10]).strftime(es["logstash_dateformat"])
        digest = hashlib.sha256(json.dumps(source).encode()).hexdigest()
        return Document(f"{es['logstash_prefix']}-{day}", digest, source)
