"""Who may ask for what: a token is answered of its project and its source, and of nothing else, whatever it asks."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.query.served import METRICS, MINE, OTHERS, SOURCES, THEIR_OWN, Answer, Serving, serving
from tests.query.wrong import SQL
from tests.waiting import eventually
from tidemark.edge.tokens import line_of, new_token
from tidemark.local.postgres import Postgres
from tidemark.query.paths import OPENAPI, PATHS

TOKENS = {name: new_token() for name in ("mine", "theirs", "of a source", "writes", "both")}
LINES = [
    line_of(TOKENS["mine"], MINE, ["read"]),
    line_of(TOKENS["theirs"], OTHERS, ["read"]),
    line_of(TOKENS["of a source"], MINE, ["read"], source=SOURCES[1]),
    line_of(TOKENS["writes"], MINE, ["write"]),
    line_of(TOKENS["both"], MINE, ["write", "read"]),
]
NEEDED = {"metric": "fps", "from": "now-3d", "since": "now-3d"}
SELECTORS = (
    '{__name__=~".+"}',
    '{__name__=~"(?s).*",source!="x"}',
    f'{{__name__="{THEIR_OWN}"}}',
    f'{{source="{THEIR_OWN}"}}',
    f'{{__name__=~".+",project="{OTHERS}"}}',
    f'fps{{project="{OTHERS}"}}',
    'fps{project!=""}',
)
ALL = "aggregation=avg&aggregation=min&aggregation=max&aggregation=first&aggregation=last&aggregation=sum&columns=min"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text("\n".join([*LINES, ""]))
    return path


@pytest.fixture(scope="module")
def served(standing: Postgres, tokens: Path) -> Iterator[Serving]:
    with serving(f"--database_url={standing.url()}", f"--tokens=file:{tokens}") as made:
        yield made


def get(served: Serving, who: str, target: str, **headers: str) -> Answer:
    return served.get(target, {"Authorization": f"Bearer {TOKENS[who]}", **headers})


def target(path: str, project: str, *without: str, more: str = "") -> str:
    """A request that is answered, but for what is left out."""
    names = [each.name for each in PATHS[path].parameters]
    pairs = [f"{name}={value}" for name, value in NEEDED.items() if name in names and name not in without]
    return f"{path}?{'&'.join([*(['project=' + project] if 'project' in names else []), *pairs])}{more}"


def is_mine(answer: Answer) -> None:
    """It says nothing of the other project: neither a name of it nor a value."""
    for theirs in (THEIR_OWN, OTHERS, "10000000000"):
        assert theirs.encode() not in answer.body, answer


def sources(told: Any) -> set[str]:
    """All that stand in an answer."""
    if isinstance(told, list):
        return {source for each in told for source in sources(each)}
    if isinstance(told, dict):
        return {told["source"]} if "source" in told else sources(list(told.values()))
    return set()


def test_there_is_something_to_be_told(served: Serving) -> None:
    """Else nothing below could fail."""
    for path in ("/v1/query", "/v1/latest", "/v1/points"):
        theirs = get(served, "theirs", target(path, OTHERS, more="&limit=9" if path == "/v1/points" else ""))
        assert theirs.status == 200
        assert b"10000000000" in theirs.body
    assert THEIR_OWN.encode() in get(served, "theirs", target("/v1/series", OTHERS, "metric")).body


@pytest.mark.parametrize("path", PATHS)
def test_another_project_is_refused_and_whether_there_is_one_is_not_said(served: Serving, path: str) -> None:
    mine = get(served, "mine", target(path, MINE))
    assert mine.status == 200
    is_mine(mine)
    if not PATHS[path].parameters:
        return
    refused = [
        get(served, who, target(path, project)) for project in (OTHERS, "nobody's") for who in ("mine", "of a source")
    ]
    refused += [get(served, "mine", target(path, quote(project))) for project in ("CAMS", "cams ", "%", "", "*", *SQL)]
    for answer in refused:
        assert answer.status == 403 or b"is empty" in answer.body
        assert answer.told()["parameter"] == "project"
        assert OTHERS.encode() not in answer.body
    assert len({answer.body for answer in refused if answer.status == 403}) == 1
    both = get(served, "mine", target(path, MINE, more=f"&project={OTHERS}"))
    assert (both.status, both.told()["detail"]) == (400, "`project` is given twice.")


@pytest.mark.parametrize(
    ("path", "name"), [(path, each.name) for path in PATHS for each in PATHS[path].parameters if each.name != "project"]
)
def test_nothing_of_another_project_comes_by_any_parameter(served: Serving, path: str, name: str) -> None:
    without = ["metric", name] if name == "match" else [name]
    for text in (THEIR_OWN, OTHERS, *SELECTORS, *SQL, *theirs(served), f"{OTHERS}\x1f{THEIR_OWN}", f"project:{OTHERS}"):
        answer = get(served, "mine", target(path, MINE, *without, more=f"&{name}={quote(text, safe='')}"))
        assert answer.status < 500
        if answer.status == 200:
            is_mine(answer)
            assert sources(answer.told()) <= set(SOURCES)


def theirs(served: Serving) -> list[str]:
    """Cursors of the other project, and some that lead into it."""
    found = [
        get(served, "theirs", target(path, OTHERS, more="&limit=1")).told()["next"]
        for path in ("/v1/series", "/v1/points")
    ]
    raw = [f'["","{OTHERS}"]', '["",""]', "[0,0]", "[1000000,0]", "[-1,-1]"]
    return [*found, *(base64.urlsafe_b64encode(text.encode()).decode() for text in raw)]


def test_pages_go_through_all_of_a_project_and_nothing_else(served: Serving) -> None:
    for path, rows, many in (("/v1/series", "series", 12), ("/v1/points", "points", 1200)):
        after, found = "", []
        while True:
            told = get(served, "mine", target(path, MINE, *["metric"] * (many == 12), more=f"&limit=5{after}")).told()
            found += told[rows]
            if "next" not in told:
                break
            after = f"&after={told['next']}"
            assert len(told[rows]) == 5
        assert len(found) == many
        assert len({str(row) for row in found}) == many
        assert sources(found) == set(SOURCES)


@pytest.mark.parametrize("path", PATHS)
def test_who_has_a_token_of_a_source_is_told_of_that_source(served: Serving, path: str) -> None:
    names = [each.name for each in PATHS[path].parameters]
    answer = get(served, "of a source", target(path, MINE))
    assert answer.status == 200
    assert sources(answer.told()) <= {SOURCES[1]}
    whole = sources(get(served, "mine", target(path, MINE)).told())
    assert whole in (set(SOURCES), set())
    assert sources(answer.told()) == whole & {SOURCES[1]}
    if "source" in names:
        assert get(served, "of a source", target(path, MINE, more=f"&source={SOURCES[1]}")).body.count(b"gw-1") > 0
        for others in ("&source=gw-0", "&source=gw-1&source=gw-0", "&source=none", "&source=GW-1"):
            refused = get(served, "of a source", target(path, MINE, more=others))
            assert (refused.status, refused.told()["parameter"]) == (403, "source")
        for selector in SELECTORS:
            refused = get(served, "of a source", target(path, MINE, "metric", more=f"&match={quote(selector)}"))
            assert (refused.status, refused.told()["parameter"]) == (403, "match")
    if "search" in names:
        assert get(served, "of a source", target(path, MINE, "metric", more="&search=gw-0")).told()["series"] == []
    if path == "/v1/metrics":
        assert [row["series"] for row in answer.told()["metrics"]] == [1] * len(METRICS)


def test_answers_to_the_same_question_at_once_are_not_mixed_up(served: Serving) -> None:
    asked = {
        ("mine", target("/v1/query", MINE, more="&" + ALL)): set(SOURCES),
        ("of a source", target("/v1/query", MINE, more="&" + ALL)): {SOURCES[1]},
        ("both", target("/v1/query", MINE, more="&" + ALL)): set(SOURCES),
        ("mine", "/v1/projects"): {MINE},
        ("theirs", "/v1/projects"): {OTHERS},
    }
    wrong: list[Any] = []

    def ask() -> None:
        for (who, where), wanted in list(asked.items()) * 8:
            told = get(served, who, where).told()
            if (set(told["projects"]) if "projects" in told else sources(told)) != wanted:
                wrong.append((who, where, told))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_what_is_known_by_a_tag_is_known_to_its_own(served: Serving) -> None:
    where = target("/v1/query", MINE, more="&until=now-1d")
    tags = {who: get(served, who, where).headers["etag"] for who in ("mine", "of a source")}
    assert len(set(tags.values())) == 2
    assert get(served, "mine", where, **{"If-None-Match": tags["mine"]}).status == 304
    assert get(served, "mine", where, **{"If-None-Match": tags["of a source"]}).status == 200
    assert served.get(where, {"If-None-Match": tags["mine"]}).status == 401


# who it is


def _basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"any:{password}".encode()).decode()


T = TOKENS["mine"]
HEADERS: dict[str, int] = {
    f"Bearer {T}": 200,
    f"bearer   {T} ": 200,
    f"Token {T}": 200,
    _basic(T): 200,
    f"Bearer {TOKENS['both']}": 200,
    f"Bearer {TOKENS['writes']}": 403,
    _basic(TOKENS["writes"]): 403,
    "": 401,
    T: 401,
    "Bearer": 401,
    f"Bearer {T} {T}": 401,
    f"Bearer {T}, Bearer {T}": 401,
    f"Bearer {T[:-1]}": 401,
    f"Bearer {T}x": 401,
    f"Bearer {T.swapcase()}": 401,
    f'Bearer "{T}"': 401,
    f"Digest {T}": 401,
    f"Bearer \xfc{T}": 401,
    "Bearer " + "a" * 15_000: 401,
    "Basic !!!": 401,
    "Basic YW55": 401,
    _basic(""): 401,
    "Bearer ' OR 1=1 --": 401,
}


@pytest.mark.parametrize("path", PATHS)
def test_only_a_token_that_may_read_lets_in(served: Serving, path: str) -> None:
    for header, status in HEADERS.items():
        answer = served.get(target(path, MINE), {"Authorization": header} if header else {})
        assert answer.status == status, header
        assert (answer.headers.get("www-authenticate") == 'Bearer realm="tidemark"') == (status == 401)
        assert answer.headers["content-type"] == ("application/json" if status == 200 else "application/problem+json")
        assert T[5:] not in answer.body.decode()
    for wrong in ("project=x&project=y", "nonsense=1", "%ff", f"project={OTHERS}"):  # nothing is said to nobody
        assert served.get(f"{path}?{wrong}").status == 401
    assert served.get(f"{target(path, MINE)}&access_token={T}&token={T}").status == 401
    head = served.head(target(path, MINE), f"Authorization: Bearer {T}", f"Authorization: Bearer {TOKENS['theirs']}")
    assert served.exchange(head, half_close=True).startswith(b"HTTP/1.1 401 ")


def test_what_is_said_to_everybody(served: Serving) -> None:
    for path in (OPENAPI, "/healthz", "/readyz"):
        assert served.get(path).status == 200


def test_a_token_that_is_taken_away_lets_in_no_longer(served: Serving, tokens: Path) -> None:
    before = tokens.read_text()
    again = new_token()
    where = target("/v1/latest", MINE)
    try:
        assert get(served, "both", where).status == 200
        tokens.write_text("\n".join([*LINES[:4], line_of(again, MINE, ["read"]), ""]))
        eventually(lambda: get(served, "both", where).status == 401)
        assert served.get(where, {"Authorization": f"Bearer {again}"}).status == 200
        tokens.write_text("no tokens\n")
        eventually(lambda: served.metric("tokens_stale") == 1)
        assert get(served, "mine", where).status == 200
    finally:
        tokens.write_text(before)
    eventually(lambda: get(served, "both", where).status == 200)


def test_without_tokens_it_listens_to_this_machine_only(standing: Postgres) -> None:
    with pytest.raises(AssertionError, match="--tokens is missing"), contextlib.suppress(OSError):
        Serving(f"--database_url={standing.url()}", "--http_address=0.0.0.0")
