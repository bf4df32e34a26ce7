"""What is told of a wrong document: the place, what would be right, and what is there, in plain words and few."""

import json
import math
import re
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from bitq.errors import BitqError
from bitq.validation import DEEPEST, MOST_DIGITS, parsed, told


class Memory(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=8)]
    capacity_bytes: Annotated[float, Field(gt=0, lt=1e30, allow_inf_nan=False)] | None = None
    ports: Annotated[int, Field(ge=1, le=4)] = 1
    kind: Literal["SRAM", "DRAM"] = "SRAM"
    shared: bool = False

    @model_validator(mode="after")
    def _fits(self):
        if self.name == "odd":
            raise ValueError("nothing is called odd")
        return self


class Machine(BaseModel):
    memories: Annotated[tuple[Memory, ...], Field(min_length=1, max_length=3)]
    widths: dict[str, int] = {}


def said(document: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Machine.model_validate_json(document) if isinstance(document, str) else Machine.model_validate(document)
    return told(caught.value)


def memory(**changes: Any) -> dict[str, Any]:
    return {"memories": [{"name": "SRAM", **changes}]}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (memory(capacity_bytes="abc"), "memories.0.capacity_bytes must be a number, not 'abc'"),
        (memory(capacity_bytes=-1), "memories.0.capacity_bytes must be a number above 0, not -1"),
        (memory(capacity_bytes=1e31), "memories.0.capacity_bytes must be a number below 1e+30, not 1e+31"),
        (memory(capacity_bytes=float("inf")), "memories.0.capacity_bytes must be a finite number, not inf"),
        (memory(capacity_bytes={}), "memories.0.capacity_bytes must be a number, not named entries"),
        (memory(ports=1.5), "memories.0.ports must be a whole number, not 1.5"),
        (memory(ports="two"), "memories.0.ports must be a whole number, not 'two'"),
        (memory(ports=[2]), "memories.0.ports must be a whole number, not a list"),
        (memory(ports=0), "memories.0.ports must be a number of at least 1, not 0"),
        (memory(ports=5), "memories.0.ports must be a number of at most 4, not 5"),
        (memory(ports=10**5000), "memories.0.ports must be a number of at most 4, not a number of very many digits"),
        (memory(ports=None), "memories.0.ports must be a whole number, not empty"),
        (memory(name=3), "memories.0.name must be a text, not 3"),
        (memory(name=""), "memories.0.name must be a text of at least 1 character, not ''"),
        (memory(name="x" * 9), "memories.0.name must be a text of at most 8 characters, not 'xxxxxxxxx'"),
        (memory(name="odd"), "memories.0: nothing is called odd"),
        (memory(kind="flash"), "memories.0.kind must be 'SRAM' or 'DRAM', not 'flash'"),
        (memory(shared="maybe"), "memories.0.shared must be true or false, not 'maybe'"),
        (memory(colour="red"), "memories.0.colour is an entry that is not known; leave it out"),
        ({"memories": [{}]}, "memories.0.name is missing"),
        ({"memories": [3]}, "memories.0 must be named entries, not 3"),
        ({"memories": {}}, "memories must be a list, not named entries"),
        ({"memories": []}, "memories must have at least 1 entry, not 0"),
        ({"memories": [{"name": "a"}] * 4}, "memories must have at most 3 entries, not 4"),
        ({**memory(), "widths": {"a": "b"}}, "widths.a must be a whole number, not 'b'"),
        ({**memory(), "widths": 3}, "widths must be named entries, not 3"),
        ([], "it must be named entries, not a list"),
        ("{", "it is not JSON at line 1, column 1"),
        ("", "it is not JSON at line 1, column 0"),
    ],
)
def test_the_first_mistake_is_told(document, sentence):
    assert said(document) == sentence


def test_little_of_the_document_is_repeated():
    assert len(said(memory(capacity_bytes="x" * 10**6))) < 200
    assert len(said({**memory(), "widths": {"k" * 10**6: "b"}})) < 200
    assert len(said(memory(name="y" * 10**6))) < 200


JARGON = re.compile(r"Input should|Extra inputs|valid |pydantic|instance of|Traceback|object at", re.IGNORECASE)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KINDS = (str, int, float, bool, list[int], tuple[int, int], dict[str, int], Literal[1, "a"], Memory, None, int | str)


@given(st.sampled_from(KINDS), VALUES)
def test_no_word_of_a_library_is_said(kind, value):
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        sentence = told(error)
        assert not JARGON.search(sentence.replace(repr(value), ""))
        assert len(sentence) < 400


# JSON

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]))
def test_a_document_is_what_was_written(document, ascii_only, indent):
    content = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    assert parsed(content, 1000) == document


@given(st.binary(max_size=60) | st.text('[]{}",:\\0 u1eE-.tfn').map(str.encode))
def test_whatever_else_is_told(content):
    try:
        found = parsed(content, 1000)
    except BitqError as error:
        refusal = str(error)
    else:
        assert found == json.loads(content)
        return
    assert re.match("(is|has|names) ", refusal)


def nested(depth):
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1,2,3,4]", "has about 6 values, more than the 5"),
        (b'{"a":{},"b":[]}', "has about 8 values, more than the 5"),
        (b"{" * 10**6, "values, more than the 5"),
        (b'{"a": 1, "a": 2}', "names 'a' twice in one place"),
        (b"[NaN]", "has NaN where a finite number must stand"),
        (b"[-Infinity]", "has -Infinity where"),
        (b'"\xff"', "is not text in UTF-8 from byte 1 on"),
        ("[]".encode("utf-16"), "is not text in UTF-8 from byte 0 on"),
        (b"1" * (MOST_DIGITS + 1), f"has a number of {MOST_DIGITS + 1} digits"),
        (b"1" * 10**6, "has a number of 1000000 digits"),
        (b"", "is not JSON at line 1, column 1"),
        (b"[1,\n2", "is not JSON at line 2, column 2"),
        (b'"' + b"a" * 10**6, "is not JSON at line 1, column 1"),
    ],
)
def test_what_is_no_document_is_told(content, message):
    with pytest.raises(BitqError, match=message):
        parsed(content, 5)


def test_brackets_lie_so_deep_and_no_deeper():
    assert parsed(nested(DEEPEST), 1000)
    for depth in (DEEPEST + 1, 499):
        with pytest.raises(BitqError, match=f"has brackets {depth} deep"):
            parsed(nested(depth), 1000)


def test_what_stands_in_texts_is_no_value():
    text = '[{,"' * 1000
    assert parsed(json.dumps([text]).encode(), 5) == [text]


def test_numbers_that_are_none_where_they_may_stand():
    first, second, third = parsed(b"[NaN, Infinity, -Infinity]", 9, nan=True)
    assert math.isnan(first)
    assert (second, third) == (math.inf, -math.inf)
