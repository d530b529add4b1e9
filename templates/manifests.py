"""What the manifests for Kubernetes share: variables that whoever applies them fills in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path


def misnamed(text: str, path: Path, variables: Mapping[str, str], guide: str, guide_path: Path) -> Iterator[str]:
    """The manifest has these variables and no others, and its guide says what each is.

    Args:
        text: Of the manifest, whose path this is.
        path: See there.
        variables: By name, with a value of the kind that it takes.
        guide: Text of the page that tells how it is applied.
        guide_path: Of that page.
    """
    for name in sorted(set(re.findall(r"\$\{(\w+)\}", text)) ^ set(variables)):
        yield f"{path}: ${{{name}}} is not one of {', '.join(variables)}, or is not used"
    yield from (f"{guide_path} does not say what {name}= is" for name in variables if f"{name}=" not in guide)


def filled(text: str, variables: Mapping[str, str]) -> str:
    """The manifest with its variables filled in."""
    for name, value in variables.items():
        text = text.replace(f"${{{name}}}", value)
    return text
