"""A profile's TOML -> Profile. Strict: an unknown key or word is an error with a did-you-mean.

What contradicts itself (`profiles.consistency`) is refused too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agent.identity import ISA_WORDS
from agent.versions import version_key
from profiles import Engine, Fitted, PowerMode, Profile, Scale, Stack
from profiles.consistency import contradictions
from profiles.fields import Fields
from profiles.toml_text import read_toml

ENGINES = ("cpu", "gpu", "npu", "dla")
PRECISIONS = ("f32", "tf32", "f16", "bf16", "int8", "fp8", "fp4")
PLATFORMS = ("linux", "android", "ios", "windows", "macos")
STATUS_KEYS = ("compiled", "emulated", "measured")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_REQUIRED = ("name", "target", "title", "arch", "engines", "status", "match")
_OPTIONAL = (
    *("platform", "isa", "cores", "memory_bytes", "bandwidth_gb_s", "sm"),
    *("software", "power_modes", "fitted"),
)
_KEYS = (*_REQUIRED, *_OPTIONAL)
_FITTED = (*("ms", "kinds", "rows", "held_out", "error", "low", "high", "date", "device", "tools"),)
_SCALE = (
    *(
        "factors",
        "base",
        "reports",
        "unstable",
        "models",
        "devices",
        "fingerprints",
        "date",
        "tools",
    ),
)
_SCALE_ERRORS = ("error_before", "error", "low", "high")
_PARTS = ("fixed", "work")
_CLOCKS = ("cores", "cpu_mhz", "gpu_mhz", "memory_mhz", "watts")
_RUNTIMES = "software.runtimes."
_PATHS: dict[str, type] = {
    **dict.fromkeys(("identity.arch", "identity.soc", "identity.gpu", "identity.sm"), str),
    **dict.fromkeys(("software.os", "software.driver", "software.jetpack"), str),
    **dict.fromkeys(("conditions.power_mode", "conditions.governor"), str),
    "identity.isa": list,
    "identity.cores": int,
    "identity.memory_bytes": int,
    "identity.emulated": bool,
}
"""Every path of a fingerprint -> what stands there."""
_FORMS: dict[type, str] = {
    str: "a string that is not empty",
    int: "an integer",
    bool: "true or false",
}
_OPERATORS: dict[type, tuple[str, ...]] = {
    str: ("min", "below"),
    int: ("min", "below"),
    list: ("has",),
    bool: (),
}


def read(text: str, origin: str) -> Profile:
    """See `profiles.parse`."""
    return _Reader(origin).profile(read_toml(text, origin))


class _Reader(Fields):
    """One profile being read."""

    def profile(self, document: dict[str, Any]) -> Profile:
        self._keys(document, _REQUIRED, _KEYS, "")
        name = self._text(document["name"], "name")
        if not _NAME.fullmatch(name) or name == "host":
            raise self._wrong(
                "name", "lower-case letters, digits, '.', '_', '-', and not 'host'", name
            )
        arch = self._one_of(document["arch"], tuple(ISA_WORDS), "arch")
        isa, complete = self._isa(document.get("isa"), arch)
        cores, memory = document.get("cores"), document.get("memory_bytes")
        bandwidth = document.get("bandwidth_gb_s")
        profile = Profile(
            name=name,
            target=self._text(document["target"], "target"),
            title=self._text(document["title"], "title"),
            match=self._match(document["match"]),
            platform=self._one_of(document.get("platform", "linux"), PLATFORMS, "platform"),
            arch=arch,
            isa=isa,
            isa_complete=complete,
            cores=None if cores is None else self._count(cores, "cores"),
            memory_bytes=None if memory is None else self._count(memory, "memory_bytes"),
            bandwidth_gb_s=None if bandwidth is None else self._figure(bandwidth, "bandwidth_gb_s"),
            engines=self._engines(document["engines"]),
            sm=self._sm(document.get("sm")),
            software=self._software(document.get("software", {})),
            power_modes=self._power_modes(document.get("power_modes", {})),
            fitted=tuple(self._fitted(document.get("fitted", {}))),
            scales=tuple(self._scales(document.get("fitted", {}))),
            status=self._status(document["status"]),
            sources={
                key: document[key]["source"]
                for key in ("isa", "cores", "memory_bytes", "sm")
                if key in document
            },
            origin=self._origin,
        )
        for found in contradictions(profile):
            raise self._error(found.path, found.what, found.cause, found.remedy)
        return profile

    def _isa(self, value: Any, arch: str) -> tuple[tuple[str, ...], bool]:
        if value is None:
            return (), False
        table = self._table(value, "isa")
        self._keys(table, ("value", "source"), ("value", "source", "complete"), "isa")
        self._text(table["source"], "isa.source")
        if not isinstance(table["value"], list):
            raise self._wrong("isa.value", "a list of words", table["value"])
        for index, word in enumerate(table["value"]):
            self._one_of(word, ISA_WORDS[arch], f"isa.value[{index}]")
        complete = table.get("complete", False)
        if not isinstance(complete, bool):
            raise self._wrong("isa.complete", "true or false", complete)
        return tuple(sorted(set(table["value"]))), complete

    def _engines(self, value: Any) -> dict[str, Engine]:
        table = self._table(value, "engines")
        self._keys(table, ("cpu",), ENGINES, "engines")
        engines = {}
        for name, entry in table.items():
            path = f"engines.{name}"
            self._keys(self._table(entry, path), ("title",), ("title", "peak", "precisions"), path)
            peak = self._table(entry.get("peak", {}), f"{path}.peak")
            self._keys(peak, (), PRECISIONS, f"{path}.peak")
            engines[name] = Engine(
                name=name,
                title=self._text(entry["title"], f"{path}.title"),
                peak={key: self._figure(peak[key], f"{path}.peak.{key}") for key in peak},
                **self._precisions(entry.get("precisions"), f"{path}.precisions"),
            )
        return engines

    def _precisions(self, value: Any, path: str) -> dict[str, Any]:
        if value is None:
            return {}
        table = self._table(value, path)
        self._keys(table, ("value", "source"), ("value", "source"), path)
        if not isinstance(table["value"], list) or not table["value"]:
            raise self._wrong(f"{path}.value", "a list of words", table["value"])
        words = [self._one_of(word, PRECISIONS, f"{path}.value") for word in table["value"]]
        source = self._text(table["source"], f"{path}.source")
        return {"precisions": tuple(words), "precisions_source": source}

    def _sm(self, value: Any) -> str | None:
        if value is None:
            return None
        table = self._table(value, "sm")
        self._keys(table, ("value", "source"), ("value", "source"), "sm")
        self._text(table["source"], "sm.source")
        if not isinstance(table["value"], str) or not re.fullmatch(
            r"[0-9]+\.[0-9]", table["value"]
        ):
            raise self._wrong("sm.value", 'a compute capability like "8.7"', table["value"])
        return str(table["value"])

    def _software(self, value: Any) -> dict[str, Stack]:
        stacks = {}
        for name, entry in self._table(value, "software").items():
            path = f"software.{name}"
            known = ("python", "runtimes", "source")
            self._keys(self._table(entry, path), ("runtimes", "source"), known, path)
            runtimes = self._texts(entry["runtimes"], f"{path}.runtimes")
            for runtime, version in runtimes.items():
                if version_key(version) is None:
                    raise self._wrong(f"{path}.runtimes.{runtime}", "a version", version)
            python = entry.get("python")
            stacks[name] = Stack(
                name=name,
                python=None if python is None else self._python(python, f"{path}.python"),
                runtimes=runtimes,
                source=self._text(entry["source"], f"{path}.source"),
            )
        return stacks

    def _python(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"3\.[0-9]{1,2}", value):
            raise self._wrong(path, 'a version of Python like "3.10"', value)
        return value

    def _power_modes(self, value: Any) -> dict[str, PowerMode]:
        modes = {}
        for name, entry in self._table(value, "power_modes").items():
            path = f"power_modes.{name}"
            self._keys(self._table(entry, path), ("source",), ("source", *_CLOCKS), path)
            for key in _CLOCKS:
                number = entry.get(key, 1)
                kinds = (int, float) if key == "watts" else (int,)
                if type(number) not in kinds or not 0 < number < 1e9:
                    expected = "a number above 0" if key == "watts" else "a whole number above 0"
                    raise self._wrong(f"{path}.{key}", expected, number)
            clocks = {key: entry[key] for key in _CLOCKS if key in entry}
            source = self._text(entry["source"], f"{path}.source")
            modes[name] = PowerMode(name=name, source=source, **clocks)
        return modes

    def _fitted(self, value: Any) -> Iterator[Fitted]:
        for toolchain, engines in self._table(value, "fitted").items():
            self._keys(
                self._table(engines, f"fitted.{toolchain}"), (), ENGINES, f"fitted.{toolchain}"
            )
            for engine, entry in engines.items():
                path = f"fitted.{toolchain}.{engine}"
                if self._table(entry, path).keys() == {"scale"}:
                    continue
                self._keys(entry, _FITTED, (*_FITTED, "scale"), path)
                terms = self._table(entry["ms"], f"{path}.ms")
                yield Fitted(
                    toolchain=toolchain,
                    engine=engine,
                    ms={t: self._number(terms[t], f"{path}.ms.{t}", least=0) for t in terms},
                    kinds=self._words(entry["kinds"], f"{path}.kinds"),
                    rows=self._natural(entry["rows"], f"{path}.rows"),
                    held_out=self._natural(entry["held_out"], f"{path}.held_out"),
                    error=self._number(entry["error"], f"{path}.error", least=0),
                    low=self._number(entry["low"], f"{path}.low", least=1e-6),
                    high=self._number(entry["high"], f"{path}.high", least=1e-6),
                    date=self._text(entry["date"], f"{path}.date"),
                    device=self._text(entry["device"], f"{path}.device"),
                    tools=self._texts(entry["tools"], f"{path}.tools"),
                )

    def _scales(self, value: Any) -> Iterator[Scale]:
        for toolchain, engines in value.items():
            for engine, outer in engines.items():
                path = f"fitted.{toolchain}.{engine}.scale"
                if "scale" not in outer:
                    continue
                entry = self._table(outer["scale"], path)
                self._keys(entry, _SCALE, (*_SCALE, *_SCALE_ERRORS), path)
                kinds = self._table(entry["factors"], f"{path}.factors")
                yield Scale(
                    toolchain=toolchain,
                    engine=engine,
                    factors={k: self._parts(kinds[k], f"{path}.factors.{k}") for k in kinds},
                    base=self._text(entry["base"], f"{path}.base"),
                    reports=self._natural(entry["reports"], f"{path}.reports"),
                    unstable=int(self._number(entry["unstable"], f"{path}.unstable", least=0)),
                    models=self._natural(entry["models"], f"{path}.models"),
                    devices=self._natural(entry["devices"], f"{path}.devices"),
                    fingerprints=self._words(entry["fingerprints"], f"{path}.fingerprints"),
                    date=self._text(entry["date"], f"{path}.date"),
                    tools=self._texts(entry["tools"], f"{path}.tools"),
                    **{
                        key: self._number(entry[key], f"{path}.{key}", least=0)
                        for key in _SCALE_ERRORS
                        if key in entry
                    },
                )

    def _parts(self, value: Any, path: str) -> dict[str, float]:
        self._keys(self._table(value, path), _PARTS, _PARTS, path)
        return {key: self._number(value[key], f"{path}.{key}", least=0) for key in _PARTS}

    def _match(self, value: Any) -> dict[str, Any]:
        table = self._table(value, "match")
        if not table:
            raise self._error(
                "match", "is empty", "An empty predicate fits every device.", "Add a condition."
            )
        for path, condition in table.items():
            self._condition(path, condition)
        return table

    def _condition(self, path: str, condition: Any) -> None:
        where = f"match.{path}"
        if path in ("identity", "software", "conditions"):
            raise self._error(
                where,
                "is a table",
                "Without quotes, TOML takes the dots of a path for nested tables.",
                'Quote the path: "identity.arch" = "x86_64"',
            )
        if not (path.startswith(_RUNTIMES) and path != _RUNTIMES):
            self._one_of(path, (*_PATHS, f"{_RUNTIMES}NAME"), where, noun="path")
        kind = _PATHS.get(path, str)
        if isinstance(condition, dict):
            self._keys(condition, (), _OPERATORS[kind], where)
            if not condition:
                raise self._wrong(where, "a value, a list or {min, below, has}", condition)
            for operator in ("min", "below"):
                if isinstance(condition.get(operator), list):
                    raise self._wrong(f"{where}.{operator}", "one value", condition[operator])
        operands = condition.values() if isinstance(condition, dict) else [condition]
        single = str if kind is list else kind
        for operand in operands:
            for item in operand if isinstance(operand, list) else [operand]:
                if type(item) is not single or not str(item).strip():
                    raise self._wrong(where, _FORMS[single], item)
        if condition == []:
            raise self._wrong(where, "a list with a value", condition)
        if kind is list and not isinstance(condition, dict):
            raise self._wrong(where, "{ has = [words] }", condition)

    def _status(self, value: Any) -> dict[str, str]:
        table = self._texts(value, "status")
        self._keys(table, STATUS_KEYS, STATUS_KEYS, "status")
        return table
