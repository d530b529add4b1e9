"""Labels in a metric's name have one form."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemark.wire.labels import fault, labelled, parsed
from tidemark.wire.limits import Limits
from tidemark.wire.reasons import Reason, RejectedError

NAMES = st.text(st.characters(exclude_characters='{}=",\\ ', exclude_categories=["C", "Z"]), min_size=1)
VALUES = st.text()


@pytest.mark.parametrize(
    "metric",
    [
        "fps",
        "a}b",
        'fps{lens="wide"}',
        'a.b/c{le="+Inf",service.name="x y"}',
        r'm{a="\"",b="\\",c="\n"}',
        'm{a="}",b="{",c="=,"}',
        'm{ü="ö"}',
    ],
)
def test_one_form_is_taken(metric: str) -> None:
    assert fault(metric) is None
    Limits().check_name("metric", metric)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ('m{b="1",a="2"}', "sorted"),
        ('m{a="1",a="2"}', "each once"),
        ("m{}", "written as"),
        ("m{", "written as"),
        ('{a="1"}', "written as"),
        ('m{a=""}', "not empty"),
        ('m{a="1" ,b="2"}', "without blanks"),
        ('m{a="1",}', "written as"),
        ('m{a="1"} ', "written as"),
        ('m{a="1"}x', "written as"),
        ("m{a='1'}", "written as"),
        (r'm{a="\t"}', "escaped"),
        ('m{a="1"}{b="2"}', "written as"),
        ('m}{a="1"}', "written as"),
    ],
)
def test_every_other_is_refused_with_what_is_wanted(metric: str, said: str) -> None:
    with pytest.raises(RejectedError, match=re.escape(said)) as caught:
        Limits().check_name("metric", metric)
    assert caught.value.reason is Reason.BAD_NAME


@given(
    st.text(st.characters(exclude_characters='{"\\', exclude_categories=["C"]), min_size=1),
    st.dictionaries(NAMES, VALUES),
)
def test_what_is_made_is_right_and_says_which_labels(name: str, labels: dict[str, str]) -> None:
    metric = labelled(name.replace("}", "]"), labels)
    assert fault(metric) is None
    found = re.findall(r'([^{}=",\\\s]+)="((?:[^"\\]|\\.)+)"', metric[metric.index("{") :]) if "{" in metric else []
    unescaped = {
        label: re.sub(r"\\(.)", lambda one: {"n": "\n"}.get(one[1], one[1]), text, flags=re.DOTALL)
        for label, text in found
    }
    assert unescaped == {label: value for label, value in labels.items() if value}
    assert parsed(metric) == (name.replace("}", "]"), unescaped)
    assert labelled(*parsed(metric)) == metric


@pytest.mark.parametrize(
    ("metric", "name", "labels"),
    [
        ("fps", "fps", {}),
        ("a}b", "a}b", {}),
        ('fps{lens="wide"}', "fps", {"lens": "wide"}),
        ('a.b/c{le="+Inf",service.name="x y"}', "a.b/c", {"le": "+Inf", "service.name": "x y"}),
        (r'm{a="\"",b="\\",c="\n",d="\\n"}', "m", {"a": '"', "b": "\\", "c": "\n", "d": "\\n"}),
        (r'm{a="b=\"c\",d=\"e\"",f="}{"}', "m", {"a": 'b="c",d="e"', "f": "}{"}),
    ],
)
def test_labels_are_read(metric: str, name: str, labels: dict[str, str]) -> None:
    assert fault(metric) is None
    assert parsed(metric) == (name, labels)


@given(st.text('m{}=",\\n a\n', max_size=30))
def test_every_metric_in_the_right_form_is_what_its_labels_make(text: str) -> None:
    metric = "m" + text
    if fault(metric) is None:
        assert labelled(*parsed(metric)) == metric


def test_labels_are_of_metrics_only() -> None:
    Limits().check_name("project", "p{")
    Limits().check_name("source", 'x{b="1",a="2"}')


def test_a_hostile_name_takes_no_time() -> None:
    began = time.process_time()
    for metric in ('m{a="' + "\\" * 500 + '"', "m{" + 'a="b",' * 150, "m{" + "a" * 1000, 'm{a="' + "b" * 1000):
        for _ in range(100):
            fault(metric)
    assert time.process_time() - began < 1
