from __future__ import annotations

import pytest

from pipelines.options import parse
from tidemark.errors import UsageError

GOOD = (
    "--subscription=projects/p/subscriptions/s",
    "--rollup_dataset=project.dataset",
    "--database_secret=file:/tmp/url",
)


def test_good_options_are_taken() -> None:
    _, values = parse([*GOOD, "--tiers_s=60,3600"])
    assert values.tiers_s == (60, 3600)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("--horizn_s=5", "--horizn_s"),
        ("--horizon_s=soon", "--horizon_s"),
        ("--horizon_s=-1", "--horizon_s"),
        ("--tiers_s=60,90", "--tiers_s"),
        ("--subscription=mine", "--subscription"),
        ("--rollup_dataset=nodots", "--rollup_dataset"),
    ],
)
def test_a_wrong_option_is_one_sentence_that_names_it(wrong: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse([*GOOD, wrong])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_database_url_is_refused_on_dataflow_and_never_repeated() -> None:
    url = "postgresql://u:canary@h/d"
    with pytest.raises(UsageError) as caught:
        parse([*GOOD, f"--database_url={url}", "--runner=DataflowRunner", "--project=p"])
    assert "canary" not in str(caught.value)


def test_a_missing_subscription_is_named() -> None:
    with pytest.raises(UsageError, match="--subscription is missing"):
        parse(GOOD[1:])
