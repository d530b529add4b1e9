"""Kustomize's patches, as far as ours need them: JSON patches (RFC 6902) and the removal of a part."""

from __future__ import annotations

from typing import Any

import yaml


def patched(parts: list[dict[str, Any]], kustomization: dict[str, Any]) -> list[dict[str, Any]]:
    """Change the parts of a manifest, in place, as its kustomization says; returns those that are left.

    Raises:
        KeyError, IndexError, ValueError: a patch changes what is not there.
    """
    for patch in kustomization["patches"]:
        target = patch["target"]
        found = [p for p in parts if (p["kind"], p["metadata"]["name"]) == (target["kind"], target["name"])]
        if len(found) != 1:
            raise ValueError(f"there is no {target['kind']} {target['name']} to patch")
        change = yaml.safe_load(patch["patch"])
        if isinstance(change, list):
            for operation in change:
                _apply(found[0], operation)
        elif change["$patch"] == "delete":
            parts = [part for part in parts if part is not found[0]]
        else:
            raise ValueError(f"this patch is not known: {change}")
    return parts


def _apply(at: Any, operation: dict[str, Any]) -> None:
    *way, last = operation["path"].strip("/").split("/")
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if operation["op"] == "add" and isinstance(at, list) and last == "-":
        at.append(operation["value"])
    elif isinstance(at, dict) and (operation["op"] == "add" or (operation["op"] == "replace" and last in at)):
        at[last] = operation["value"]
    elif operation["op"] == "remove":
        del at[last]
    else:
        raise ValueError(f"this operation is not known, or changes what is not there: {operation}")
