"""Text that leaves the program holds no control characters and no secrets."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cluster.disclosure import disclose, is_secret_name, printable, secret_in_url
from cluster.errors import DamagedError, InputError
from cluster.tables.background_writes import BackgroundWrites
from cluster.tables.storage import Storage
from cluster.watch.heartbeat import end_state
from cluster.workers.failures import describe
from cluster.workers.stage_log import StageLog

CLEAR = "\x1b[2J\x1b]0;title\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("one\r\ntwo\tthree\n", "one\\r\ntwo\tthree\n"),
        ("\x9b2J \x00 \x7f", "\\x9b2J \\x00 \\x7f"),
        ("txt.\u202eexe", "txt.\\u202eexe"),
        ("Zürich → 東京 🙂", "Zürich → 東京 🙂"),
    ],
)
def test_control_characters_are_written_out_and_other_text_stays(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://ann:pass@host/v1: no", "at https://***@host/v1: no"),
        ("s3://AKIA:s/e@bucket and more", "s3://***@bucket and more"),
        ("abfs://container@account.dfs/run", "abfs://container@account.dfs/run"),
        ("GET https://x/y?sv=1&sig=abc%3D&se=2 failed", "GET https://x/y?sv=1&sig=***&se=2 failed"),
        ("--set generation.engine_args.hf_token=hf_abc: unknown", "--set generation.engine_args.hf_token=*** unknown"),
        ("PGPASSWORD=abc OPENAI_APIKEY=abc MYTOKEN=abc x", "PGPASSWORD=*** OPENAI_APIKEY=*** MYTOKEN=*** x"),
        ("accessKey=abc&authToken=abc&n=1", "accessKey=***&authToken=***&n=1"),
        (
            "https://x/y?auth=abc&a=1 https://x/y?pwd=abc https://x/y#token=abc",
            "https://x/y?auth=***&a=1 https://x/y?pwd=*** https://x/y#token=***",
        ),
        ('{"api_key": "a b", "model": "m"}', '{"api_key": "***", "model": "m"}'),
        ("{'authToken' : 'abc', 'n': 1}", "{'authToken' : '***', 'n': 1}"),
        ("Authorization: Bearer abc.def-123 sent", "Authorization: *** sent"),
        ("-H 'Authorization: Basic YWJjOmRlZg==' -H 'X-Api-Key: abc'", "-H 'Authorization: ***' -H 'X-Api-Key: ***'"),
        ("rejected bearer abcdef.ghijkl", "rejected bearer ***"),
        ("Incorrect API key provided: sk-proj-abcdefghij0123456789.", "Incorrect API key provided: ***."),
        ("hf_abcdefghijklmnopqrstuvwx AKIAABCDEFGHIJKLMNOP", "*** ***"),
        ("ghp_" + "a1" * 18 + " glpat-abcdefghij0123456789 AIza" + "b" * 35, "*** *** ***"),
        ("xoxb-123456789012-123456789012-abcdefghijklmnopqrstuvwx", "***"),
        (
            "cut: ghp_" + "a1" * 10 + " gho_" + "b2" * 12 + " glpat-abcdefghij012345 xoxp-1234567890",
            "cut: *** *** *** ***",
        ),
        ("sk_live_" + "a1" * 12 + " SG." + "a" * 22 + "." + "b" * 43, "*** ***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9 sent", "*** sent"),
        ("a -----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY----- b", "a *** b"),
        ("cut: -----BEGIN PRIVATE KEY-----\nMIIE", "cut: ***"),
        ("sha 3f786850e387550fdab836ed7e6dc881de23001b of /w/0123456789abcdef01234567.parquet at 10.0.0.1:80",) * 2,
        (
            "the bearer of news; author=Ann design=2 turkey=3 n_tokens=4",
            "the bearer of news; author=Ann design=2 turkey=3 n_tokens=4",
        ),
        ("max_tokens=64 top_k=5 monkey=1 key frames", "max_tokens=64 top_k=5 monkey=1 key frames"),
        ("https://host:8080/@ann/page https://host/@ann", "https://host:8080/@ann/page https://host/@ann"),
    ],
)
def test_secrets_in_urls_and_in_fields_with_a_secrets_name_are_hidden(text: str, shown: str) -> None:
    assert disclose(text) == shown


def test_values_of_secret_variables_are_hidden_and_short_words_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "marker-0123456789")
    monkeypatch.setenv("SOME_SESSION_TOKEN", "marker-0123456789-longer")
    monkeypatch.setenv("SOME_SECRET", "the")
    monkeypatch.setenv("SOME_KEY_FILE", "/keys/one-of-them")
    text = "the server got marker-0123456789-longer and marker-0123456789 of /keys/one-of-them"
    assert disclose(text) == "the server got *** and *** of /keys/one-of-them"


def test_errors_and_logs_are_cleaned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_API_KEY", "marker-0123456789")
    unsafe = f"passage {CLEAR} with marker-0123456789"
    outputs = [str(InputError(unsafe)), str(DamagedError("x", unsafe)), describe(ValueError(unsafe))]
    log = StageLog(storage := Storage(str(tmp_path)), "queries", BackgroundWrites(storage))
    log.add(unsafe, "w0", "node", "00000")
    log.close()
    outputs.append((tmp_path / "logs" / "queries.log").read_text())
    for shown in outputs:
        assert "\\x1b[2J" in shown
        assert "\x1b" not in shown
        assert "marker" not in shown


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "hf_token",
        "password",
        "AWS_SECRET",
        "x.client-secret",
        "sig",
        "apikey",
        "PGPASSWORD",
        "OPENAI_APIKEY",
        "MYTOKEN",
        "accessKey",
        "authToken",
        "auth",
        "db.pwd",
    ],
)
def test_a_secret_field_is_recognised_by_its_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "batch_tokens", "author", "monkey_business", "true_token", "keyboard", "monkey", "design", "text"],
)
def test_other_names_do_not_count_as_secret(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "url",
    ["s3://KEY:mar/marker@bucket/run", "https://marker@host/v1", "az://c/run?sig=marker", "gs://b/r?x=1&token=marker"],
)
def test_a_storage_url_with_a_secret_is_refused_and_the_secret_is_not_shown(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InputError, match="holds a secret") as refused:
        Storage(url)
    assert "marker" not in str(refused.value) + caplog.text
    assert "environment" in str(refused.value)


@pytest.mark.parametrize("text", ["s3://bucket/run", "abfs://container@account/run", "a: b@c?key=1", "https://h/?q=1"])
def test_urls_without_secrets_are_left_alone(text: str) -> None:
    assert secret_in_url(text) is None


def test_an_error_that_nobody_foresaw_reveals_nothing_in_the_state_of_a_run() -> None:
    error = ValueError("GET https://x/y?sig=marker-0123456789 failed\nand more")
    assert end_state(ValueError, error) == ("failed", "GET https://x/y?sig=*** failed")


def test_the_folder_a_person_is_in_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/home/ada/project")
    monkeypatch.setenv("OLDPWD", "/home/ada/before")
    monkeypatch.setenv("DB_PWD", "/home/ada/and-a-password")
    text = "/home/ada/project/recipe.yaml /home/ada/before /home/ada/and-a-password"
    assert disclose(text) == "/home/ada/project/recipe.yaml /home/ada/before ***"
