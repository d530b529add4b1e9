"""The parameters of the flex template, made from the settings: `python -m pipelines.template` prints its metadata."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from tidemark.settings import DATABASE_SECRET, INGEST, ROLLUP_DATASET, SUBSCRIPTION, Setting, flag

_TYPES: Final = {SUBSCRIPTION.name: "PUBSUB_SUBSCRIPTION"}
_REQUIRED: Final = (SUBSCRIPTION, ROLLUP_DATASET, DATABASE_SECRET)
_WHOLE: Final = "^[0-9]+$"
_NUMBER: Final = r"^[0-9]+(\.[0-9]+)?$"
_LABEL_WORDS: Final = {"s": "in seconds", "url": "URL", "bytes": "in bytes", "bigquery": "BigQuery", "days": "in days"}


def metadata() -> dict[str, Any]:
    """Dataflow's TemplateMetadata: every setting that means something there, and that may be seen."""
    ours = [setting for setting in INGEST if not setting.local and not setting.secret]
    ours.sort(key=lambda setting: setting not in _REQUIRED)
    return {
        "name": "Tidemark ingest",
        "description": "Time-series points from Pub/Sub: every point to TimescaleDB, rollups to BigQuery, settled from the raw points.",
        "streaming": True,
        "supportsAtLeastOnce": True,
        "supportsExactlyOnce": True,
        "defaultStreamingMode": "AT_LEAST_ONCE",
        "parameters": [_parameter(setting) for setting in ours],
    }


def _parameter(setting: Setting) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": setting.name,
        "label": _label(setting.name),
        "helpText": setting.help,
        "isOptional": setting not in _REQUIRED,
        "paramType": _type(setting),
    }
    regex = _regex(setting)
    if regex:
        made["regexes"] = [regex]
    if setting.default is not None:
        made["defaultValue"] = setting.default
    if setting.choices:
        made["enumOptions"] = [{"value": value, "label": label} for value, label in setting.choices.items()]
    return made


def _type(setting: Setting) -> str:
    if setting.choices:
        return "ENUM"
    if setting.parse is flag:
        return "BOOLEAN"
    if setting.parse in (int, float):
        return "NUMBER"
    return _TYPES.get(setting.name, "TEXT")


def _regex(setting: Setting) -> str | None:
    if setting.pattern:
        return f"^(?:{setting.pattern})$"
    if setting.parse is flag:
        return "^(?:true|false)$"
    return {int: _WHOLE, float: _NUMBER}.get(setting.parse)  # type: ignore[call-overload, no-any-return]


def _label(name: str) -> str:
    words = [_LABEL_WORDS.get(word, word) for word in name.split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def text() -> str:
    """The file's text."""
    return json.dumps(metadata(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
