"""API keys: their file, their lookup, their limits."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import stat
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hindsight.cli import compose
from service import keyring
from service.access import Access, grpc_authorize
from service.errors import KeyRequired, NotAllowed, RateLimited
from service.keyring import KeyRing
from service.keys import Key, KeysError, create_key, digest_of, read_keys, revoke_key
from service.keys_cli import keys as keys_program
from service.metrics import Metrics
from service.ratelimit import RateLimits, TokenBucket
from service.settings import Settings
from service.visit import count_images

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(keys_program, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_the_file_holds_a_hash_and_only_its_owner_may_read_it(file: Path) -> None:
    secret = create_key(file, "camera-1", "user", rate=2.5)
    assert len(secret) >= 43 and secret.startswith("hsk_")
    text = file.read_text()
    assert secret not in text and secret[4:] not in text
    assert hashlib.sha256(secret.encode()).hexdigest() in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    [key] = read_keys(file)
    assert (key.name, key.role, key.rate, key.burst, key.expires) == ("camera-1", "user", 2.5, 2, None)
    assert create_key(file, "camera-2", "user") != secret
    assert [key.name for key in read_keys(file)] == ["camera-1", "camera-2"]
    assert [each.name for each in file.parent.iterdir()] == ["keys.jsonl"]


def test_a_name_is_given_once_and_a_revoked_key_is_gone(file: Path) -> None:
    create_key(file, "a", "admin")
    with pytest.raises(KeysError, match="has a key 'a' already"):
        create_key(file, "a", "user")
    with pytest.raises(KeysError, match="no key 'b'; it has: a"):
        revoke_key(file, "b")
    revoke_key(file, "a")
    assert read_keys(file) == []


HEADER = '{"format": "hindsight-keys", "version": 1}\n'
GOOD = {"name": "a", "role": "user", "hash": "sha256:" + "0" * 64, "created": "2026-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ":1: expected"),
        ('{"format": "hindsight-keys", "version": 2}\n', ":1: expected"),
        (HEADER + "[" * 100_000 + "\n", ":2: expected a JSON object"),
        (HEADER + "nonsense\n", ":2: expected a JSON object"),
        (HEADER + json.dumps(GOOD)[:-9], ":2: the last line is cut short"),
        (HEADER + json.dumps({**GOOD, "secret": "x"}) + "\n", ":2: unknown ['secret']"),
        (HEADER + json.dumps({"name": "a"}) + "\n", "missing"),
        (HEADER + json.dumps({**GOOD, "role": "root"}) + "\n", "role must be one of user, metrics, admin"),
        (HEADER + json.dumps({**GOOD, "role": ["user"]}) + "\n", "role must be one of"),
        (HEADER + json.dumps({**GOOD, "hash": "md5:1"}) + "\n", "hash must be"),
        (HEADER + json.dumps({**GOOD, "hash": 7}) + "\n", "hash must be"),
        (HEADER + json.dumps({**GOOD, "name": "a b"}) + "\n", "a name has"),
        (HEADER + json.dumps({**GOOD, "created": "yesterday"}) + "\n", "is not a time"),
        (HEADER + json.dumps({**GOOD, "expires": "2026-01-01"}) + "\n", "with its zone"),
        (HEADER + json.dumps({**GOOD, "rate": 1}) + "\n", "go together"),
        (HEADER + json.dumps({**GOOD, "rate": True, "burst": 1}) + "\n", "rate must be"),
        (HEADER + json.dumps({**GOOD, "rate": 1, "burst": 0}) + "\n", "burst must be"),
        (HEADER + (json.dumps(GOOD) + "\n") * 2, ":3: key 'a' repeats 'a'"),
    ],
)
def test_a_file_that_is_not_in_order_is_refused_with_its_line(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(KeysError) as caught:
        read_keys(file)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_every_key_is_compared_in_constant_time_whatever_is_presented(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = [create_key(file, f"k{number}", "user") for number in range(5)]
    ring = KeyRing(file, Metrics())
    compared: list[tuple[bytes, bytes]] = []

    real = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return real(left, right)

    monkeypatch.setattr(keyring.hmac, "compare_digest", compare)
    wrong = [secrets[0][:-1], secrets[0] + "x", "", "x" * 10_000, "\udce4"]
    for presented in [*secrets, *wrong]:
        compared.clear()
        try:
            assert ring.find(presented).name == f"k{secrets.index(presented)}"
        except KeyRequired as error:
            assert presented in wrong and error.reason == "unknown"
        # All five, none left out early; and digests of one length, so no length of a key shows either.
        assert [left for left, _ in compared] == [digest_of(secret) for secret in secrets]
        assert {right for _, right in compared} == {digest_of(presented)}


def test_an_expired_key_is_refused(file: Path) -> None:
    secret = create_key(file, "old", "user", expires=PAST)
    with pytest.raises(KeyRequired, match="has expired") as caught:
        KeyRing(file, Metrics()).find(secret)
    assert caught.value.reason == "expired"


def test_a_broken_file_keeps_the_keys_and_is_said_loudly(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = create_key(file, "a", "user")
    metrics = Metrics()
    ring = KeyRing(file, metrics)
    good = file.read_text()
    for broken in ("", good[:-20], None):
        if broken is None:
            file.unlink()
        else:
            file.write_text(broken)
        caplog.clear()
        ring.reload()
        assert ring.find(secret).name == "a"
        [record] = caplog.records
        assert record.levelno == logging.ERROR and "stay in force" in record.message
    file.write_text(good)
    revoke_key(file, "a")
    ring.reload()
    with pytest.raises(KeyRequired):
        ring.find(secret)
    text = metrics.render().decode()
    assert 'hindsight_key_reloads_total{outcome="failed"} 3.0' in text
    assert 'hindsight_key_reloads_total{outcome="done"} 1.0' in text
    assert 'hindsight_keys{role="user"} 0.0' in text


def test_a_file_that_everybody_may_write_is_warned_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    create_key(file, "a", "user")
    ring = KeyRing(file, Metrics())
    ring.warn_of_writers()
    assert caplog.records == []
    file.chmod(0o606)
    ring.warn_of_writers()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_file_that_is_gone_again_does_not_end_the_watch(file: Path) -> None:
    create_key(file, "a", "user")
    ring = KeyRing(file, Metrics())
    file.unlink()
    ring.warn_of_writers()  # it had been read a moment before


def test_a_bucket_lets_the_burst_pass_and_then_its_rate() -> None:
    now = 100.0
    bucket = TokenBucket(rate=2.0, burst=4, clock=lambda: now)
    assert [bucket.take(1) for _ in range(4)] == [0, 0, 0, 0]
    assert bucket.take(1) == pytest.approx(0.5)
    now += 0.5
    assert bucket.take(1) == 0 and bucket.take(1) > 0
    now += 1000
    assert [bucket.take(1) > 0 for _ in range(6)] == [False] * 4 + [True] * 2


def test_images_cost_what_they_are_however_they_are_packed() -> None:
    now = 0.0
    bucket = TokenBucket(rate=1.0, burst=8, clock=lambda: now)
    # A request takes 1 at the door and the rest when its images are counted.
    assert bucket.take(1) == 0 and bucket.take(63, paid=1) == 0  # more than the burst: from a full bucket
    assert bucket.take(1) == pytest.approx(57)  # 56 in debt
    now = 30.0
    assert bucket.take(1) == pytest.approx(27)
    now = 57.0
    assert bucket.take(1) == 0
    assert bucket.take(7, paid=1) == pytest.approx(7)
    passed = sum(64 for now in range(58, 100_000) if bucket.take(1) == 0 and bucket.take(63, paid=1) == 0)
    assert passed <= 100_000 * 1.0 + 8


def test_grpc_calls_go_by_the_same_rules(file: Path) -> None:
    admin, user = create_key(file, "a", "admin"), create_key(file, "u", "user", rate=0.001, burst=4)
    access = Access(Settings(keys_file=file), Metrics())
    authorize = grpc_authorize(access)

    async def call(method: str, images: int = 1, **metadata: str) -> None:
        await authorize(method, metadata)
        count_images("m", images)  # by the code below, in the same task

    async def scenario() -> None:
        await asyncio.create_task(call("ServerLive"))
        with pytest.raises(KeyRequired):
            await asyncio.create_task(call("ModelInfer"))
        with pytest.raises(KeyRequired):
            await asyncio.create_task(call("ModelMetadata", authorization="Bearer wrong"))
        await asyncio.create_task(call("ModelInfer", 64, authorization=f"Bearer {admin}"))
        await asyncio.create_task(call("ModelInfer", 4, authorization=f"Bearer {user}"))
        with pytest.raises(RateLimited):
            await asyncio.create_task(call("ModelInfer", **{"x-api-key": user}))
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            with pytest.raises(NotAllowed, match="role admin"):
                await asyncio.create_task(call(method, **{"x-api-key": user}))
            await asyncio.create_task(call(method, **{"x-api-key": admin}))

    asyncio.run(scenario())
    count_images("m", 5)  # outside of any request: nobody to charge


def test_a_limit_that_changes_starts_anew_and_no_limit_is_none() -> None:
    limits = RateLimits()

    def key(rate: float | None, burst: int | None) -> Key:
        return Key("a", "user", b"", PAST, None, rate, burst)

    for _ in range(1000):
        limits.charge(key(None, None), 64)
    limits.charge(key(1.0, 1), 1)
    with pytest.raises(RateLimited, match="1 images/s, 1 at once") as caught:
        limits.charge(key(1.0, 1), 1)
    assert caught.value.retry_after == pytest.approx(1, abs=0.1)
    limits.charge(key(1.0, 2), 2)
    limits.keep_only(set())
    limits.charge(key(1.0, 2), 2)


def test_the_command_prints_a_key_once_and_nothing_but_the_key_on_stdout(file: Path) -> None:
    code, out, err = run(
        "create", "cam", "--file", str(file), "--rate", "5", "--burst", "9", "--expires", "90d"
    )
    assert code == 0
    secret = out.strip()
    assert digest_of(secret) == read_keys(file)[0].digest and "cannot be shown again" in err
    left = read_keys(file)[0].expires
    assert left is not None and timedelta(days=89) < left - datetime.now(UTC) <= timedelta(days=90)
    code, out, err = run("list", "--file", str(file))
    assert code == 0 and secret not in out and err == ""
    assert out.splitlines()[1].split()[:4] == ["cam", "user", "5", "9"]
    assert run("revoke", "cam", "--file", str(file))[0] == 0
    assert run("list", "--file", str(file))[1].count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "a", "--role", "root"], "--role 'root'"),
        (["create", "a", "--burst", "3"], "--burst needs --rate"),
        (["create", "a", "--rate", "0"], "rate must be"),
        (["create", "a", "--expires", "soon"], "--expires 'soon'"),
        (["create", "a", "--expires", "2020-01-01"], "has passed"),
        (["create", "no good name"], "a name has"),
        (["revoke", "a"], "cannot read the keys file"),
        (["list"], "cannot read the keys file"),
    ],
)
def test_bad_input_to_the_command_is_one_line(file: Path, arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments, "--file", str(file))
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_the_command_makes_no_folder(tmp_path: Path) -> None:
    code, _, err = run("create", "a", "--file", str(tmp_path / "none" / "keys"))
    assert code == 2 and "cannot open the folder" in err


def test_the_command_is_a_group_of_hindsight(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("keys", "service.keys_cli:keys", "hindsight.commands")
    monkeypatch.setattr("hindsight.cli._commands", lambda: [entry])
    for called in ("keys", None):
        shown = CliRunner().invoke(compose(called), ["--help"]).stdout
        assert "keys" in shown and "Make, list and revoke" in shown
    assert "revoke" in CliRunner().invoke(compose("keys"), ["keys", "--help"]).stdout
