"""Hostile inputs through the real command: each is refused in one sentence, soon, in little memory, or does no harm."""

import re

import pytest

from attacks import attacks
from confined import confined

ATTACKS = attacks()


@pytest.mark.parametrize("attack", ATTACKS, ids=[f"{each.name}-{each.words[0]}" for each in ATTACKS])
def test_attack_fails(attack, tmp_path):
    assert attack.tries, "say in a line what it tries"
    attack.make(tmp_path)
    ended = confined(attack.words, tmp_path)
    assert not ended.fault, (ended.fault, ended.out, ended.err)
    assert ended.code == attack.code, ended.err
    last = "".join(ended.err.strip().splitlines()[-1:])
    assert re.search(attack.says, last), last
    assert len(last) < 1300, last
