"""When a request to a server is sent again."""

from __future__ import annotations

import email.utils
import time

from cluster.traffic import advised_wait


def test_a_server_says_how_long_to_wait_in_seconds_milliseconds_or_as_a_date():
    assert advised_wait({"retry-after": "7"}) == 7
    assert advised_wait({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert advised_wait({"retry-after": "soon"}) is None
    assert advised_wait({}) is None
    then = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 <= advised_wait({"retry-after": then}) <= 31
    past = email.utils.formatdate(time.time() - 30, usegmt=True)
    assert advised_wait({"retry-after": past}) == 0
