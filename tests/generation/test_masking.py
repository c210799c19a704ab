"""What names a person in a logged query is masked, and ordinary numbers stay."""

from __future__ import annotations

import json
import time

import pytest
from pydantic import ValidationError

from cluster.workers.worker import Task
from generation import query_log
from generation.masking import is_only_masks, mask
from generation.settings import CorpusSettings

DEFAULT = CorpusSettings(path="unused")


def masked(text: str, **settings) -> str:
    corpus = DEFAULT.model_copy(update=settings)
    shown, found = mask(text, corpus.query_log_mask, corpus.query_log_phone_regions)
    assert sum(found.values()) == sum(shown.count(f"<{kind}>") for kind in ("email", "phone", "card"))
    return shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("reset password for anna.k+shop@mail.example.co.uk", "reset password for <email>"),
        ("(john_doe@example.org)?", "(<email>)?"),
        ("müller@köln.example", "<email>"),
        ("from a@b.io to c@d.io", "from <email> to <email>"),
    ],
)
def test_email_addresses_are_masked(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("who called me from +1 415 555 2671", "who called me from <phone>"),
        ("+4915112345678 reviews", "<phone> reviews"),
        ("+81 3-3224-5000", "<phone>"),  # a country that is not listed
        ("(415) 555-2671 plumber", "<phone> plumber"),
        ("is 212.736.5000 a hotel", "is <phone> a hotel"),
        ("1-800-275-2273 apple support", "<phone> apple support"),
        ("020 7946 0958 or 0800 123 4567", "<phone> or <phone>"),  # of Ofcom's numbers for films
        ("restaurant 01 42 68 53 00", "restaurant <phone>"),
        ("arzt 030 901820", "arzt <phone>"),
        ("call 4155552671", "call <phone>"),
        ("anruf von 015112345678", "anruf von <phone>"),
    ],
)
def test_phone_numbers_are_masked(text, shown):
    assert masked(text) == shown


# numbers that the issuers publish for tests of payments
CARDS = ["4111111111111111", "5555555555554444", "378282246310005", "6011111111111117", "30569309025904",
         "3530111333300000", "2223003122003222", "4222222222222", "6200000000000005",
         "6205500000000000004"]  # fmt: skip


@pytest.mark.parametrize("digits", CARDS)
def test_cards_are_masked_however_they_are_grouped(digits):
    groups = [4, 6, 5] if len(digits) in (14, 15) else [4, 4, 4, 4, 3]
    parts, rest = [], digits
    for size in groups:
        parts, rest = [*parts, rest[:size]], rest[size:]
    for written in (digits, " ".join(filter(None, parts)), "-".join(filter(None, parts))):
        assert masked(f"refund to {written} please") == "refund to <card> please"


@pytest.mark.parametrize("digits", CARDS)
def test_no_number_that_differs_from_a_card_in_one_digit_is_masked(digits):
    for place, digit in enumerate(digits):
        for other in set("0123456789") - {digit}:
            wrong = digits[:place] + other + digits[place + 1 :]
            assert masked(wrong) == wrong


@pytest.mark.parametrize(
    "text",
    [
        "iso 9001:2015", "iso 9001 2015 27001", "error 0x80070057", "model 2080 ti", "rtx 2080 3080 4090",
        "isbn 978-3-16-148410-0", "isbn 9783161484100", "isbn 0-306-40615-2", "0306406152", "2253004227",
        "ean 4006381333931", "upc 036000291452", "2019-2020 season", "2024-11-28", "28.11.2024", "2021 12 31 23 59",
        "1990 2000 2010 2020", "2010 2015 2020 2025", "20240115123456", "1700000000", "epoch 1609459200",
        "part number 1234567890", "serial 0123456789", "sku 100-200-3000", "2125551234", "lot 555-1234",
        "imei 490154203237518", "imei 352099001761481", "doi 10.1145/3397271.3401075", "arxiv 2104.08663",
        "rfc 2616 7230", "cas 7732-18-5", "orcid 0000-0002-1825-0097", "CVE-2021-44228", "192.168.0.1",
        "0.123456789", "3.14159265358979", "1,234,567.89", "1 234 567 890", "2 000 000 km", "zip 94107-1234",
        "1234567890123456", "4111 1111 1111 1112", "A4111111111111111", "x@y", "@anna", "types/node@18.0", "5 @ 3.50",
        "call of duty 4", "phone 12 pro 256", "PD 0332991 in cell lines", "what to call PD-0332991",
    ],
)  # fmt: skip
def test_ordinary_numbers_stay(text):
    assert masked(text) == text


def test_the_recipe_says_what_is_masked_and_whose_numbers_are_known():
    text = "a@b.io 4111111111111111 912 345 678"
    assert masked(text) == "<email> <card> 912 345 678"
    assert masked(text, query_log_mask=["card"]) == "a@b.io <card> 912 345 678"
    assert masked(text, query_log_mask=[]) == text
    assert masked(text, query_log_phone_regions=["ES"]) == "<email> <card> <phone>"
    with pytest.raises(ValidationError, match="'Spain': expected two-letter codes"):
        CorpusSettings(path="unused", query_log_phone_regions=["Spain"])


def test_a_number_beside_a_card_is_no_part_of_it():
    assert masked("4111 1111 1111 1111 912") == "<card> 912"
    assert masked("order 6345 4111 1111 1111 1111") == "order 6345 <card>"
    assert masked("5555-5555-5555-4444 4111-1111-1111-1111") == "<card> <card>"


def test_a_query_of_masks_alone_is_told_from_one_that_asks_something():
    assert is_only_masks("<phone>, <email>!")
    assert not is_only_masks("who is <phone>")


@pytest.mark.parametrize("text", ["a." * 20_000, "1 " * 3_000, "a" * 100_000 + "@", "1-" * 3_000, "@." * 20_000])
def test_no_line_of_a_log_takes_long(text):
    begun = time.process_time()
    masked(text)
    assert time.process_time() - begun < 1


def test_a_log_is_masked_and_each_kind_counted(tmp_path):
    texts = ["salted herring", "mail a@b.io", "+1 415 555 2671", "refund 4111111111111111 to a@b.io", ""]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"_id": n, "text": text}) + "\n" for n, text in enumerate(texts)))
    (shard,) = query_log.scan(str(path), 10).shards
    worker = query_log.QueryLogWorker(str(path), DEFAULT.query_log_mask, DEFAULT.query_log_phone_regions)

    output = worker.process(Task(shard, 0, shard.rows, None))

    assert output.rows["text"].to_pylist() == ["salted herring", "mail <email>", "refund <card> to <email>"]
    assert output.stats == {"masked_email": 2, "masked_phone": 1, "masked_card": 1}
    assert output.drops == {"empty": 1, "only_personal": 1}
