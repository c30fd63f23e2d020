"""JSON Web Tokens, made by another library: which are good, which are not and why, and how keys are rotated."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from joserfc import jwk
from joserfc import jwt as foreign

from accounts.jwks import KeysAwayError, KeySet, read_keys
from accounts.tokens import Rules, TokenRefusedError, is_token, verify
from app.callers import _fetch, _rules
from core.settings import Settings

# Of tokens that are made when the tests are collected, and checked when their turn comes.
TOMORROW = int(time.time()) + 86_400
SECRET = "a shared secret of more than 32 bytes"
RSA = jwk.RSAKey.generate_key(2048, {"kid": "r1"})
NEWER = jwk.RSAKey.generate_key(2048, {"kid": "r2"})
CURVE = jwk.ECKey.generate_key("P-256", {"kid": "e1"})


def key_set(*keys: Any) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


SHARED = Rules(secret=SECRET)
LISTED = Rules(keys=KeySet(lambda: key_set(RSA, CURVE)), audiences=("darkroom",), issuer="https://issuer.example")


def signed(key: Any, algorithm: str = "HS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
    claims = {"sub": "user-7", "exp": TOMORROW, **claims}
    said = {name: value for name, value in claims.items() if value is not None}
    return foreign.encode({"alg": algorithm, **(header or {})}, said, key)


def shared(**claims: Any) -> str:
    return signed(jwk.OctKey.import_key(SECRET), **claims)


def listed(key: Any = RSA, algorithm: str = "RS256", **claims: Any) -> str:
    mine = {"aud": "darkroom", "iss": "https://issuer.example", **claims}
    return signed(key, algorithm, {"kid": key.kid}, **mine)


def refused(token: str, rules: Rules) -> str:
    with pytest.raises(TokenRefusedError) as caught:
        verify(token, rules)
    assert token not in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize(
    ("token", "rules"),
    [
        (shared(), SHARED),
        (listed(), LISTED),
        (listed(CURVE, "ES256"), LISTED),
        (listed(aud=["other", "darkroom"]), LISTED),
        (signed(RSA, "RS256", aud="darkroom", iss="https://issuer.example"), LISTED),  # no kid, and one RSA key
        (shared(), replace(LISTED, secret=SECRET, audiences=(), issuer=None)),  # both kinds side by side
    ],
)
def test_a_good_token_names_its_account(token: str, rules: Rules) -> None:
    claims = verify(token, rules)
    assert claims.external_id == "user-7"
    assert claims.scopes == {"jobs:read", "jobs:write"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"aud": "another"}, "the token is for another audience"),
        ({"aud": None}, "the token has no claim aud"),
        ({"iss": "https://issuer.example.evil"}, "the token is from another issuer"),
        ({"iss": None}, "the token has no claim iss"),
        ({"exp": int(time.time()) - 60}, "the token has expired"),
        ({"exp": None}, "the token has no claim exp"),
        ({"exp": "soon"}, "the token is not well formed"),
        ({"exp": 10**400}, "the token is not well formed"),
        ({"nbf": TOMORROW - 3600}, "the token is not valid yet"),
        ({"iat": TOMORROW - 3600}, "the token is not valid yet"),
        ({"sub": None}, "the token has no claim sub or customer_id that names an account"),
        ({"sub": "\x00"}, "the token has no claim sub or customer_id that names an account"),
        ({"sub": "  "}, "the token has no claim sub or customer_id that names an account"),
        ({"sub": "x" * 256}, "the token has no claim sub or customer_id that names an account"),
        ({"sub": None, "customer_id": 0}, "the token has no claim sub or customer_id that names an account"),
        ({"sub": None, "customer_id": True}, "the token has no claim sub or customer_id that names an account"),
    ],
)
def test_a_claim_that_is_not_right_is_told(change: dict[str, Any], words: str) -> None:
    assert refused(listed(**change), LISTED) == words


def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    assert verify(shared(exp=int(time.time()) - 20), replace(SHARED, leeway_s=30)).external_id == "user-7"
    assert refused(shared(exp=int(time.time()) - 20), replace(SHARED, leeway_s=5)) == "the token has expired"


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], key: bytes, **claims: Any) -> str:
    """A token that no library makes."""
    text = f"{_part(header)}.{_part({'sub': 'user-7', 'exp': TOMORROW, **claims})}"
    mac = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


ASKED = {"aud": "darkroom", "iss": "https://issuer.example"}


@pytest.mark.parametrize(
    "token",
    [
        by_hand({"alg": "none"}, b"", **ASKED),
        by_hand({"alg": "None", "kid": "r1"}, b"", **ASKED),
        # The public key, which everyone has, as the secret of HS256.
        by_hand({"alg": "HS256", "kid": "r1"}, RSA.as_pem(private=False), **ASKED),
        by_hand({"alg": "HS256", "kid": "r1"}, json.dumps(RSA.as_dict(private=False)).encode(), **ASKED),
        by_hand({"alg": "RS256", "kid": "r1"}, RSA.as_pem(private=False), **ASKED),
        by_hand({"alg": "ES256", "kid": "r1"}, b"x", **ASKED),  # a key of another type
        by_hand({"alg": ["RS256"], "kid": "r1"}, b"x", **ASKED),
        by_hand({"alg": "RS256", "kid": {"a": 1}}, b"x", **ASKED),
        by_hand({"alg": "RS256", "kid": "k" * 256}, b"x", **ASKED),
        listed(jwk.RSAKey.generate_key(2048, {"kid": "r1"})),  # the right name, another key
        listed().rsplit(".", 1)[0] + ".",
        "..",
        "a.b.c",
        _part([1]) + ".e30.x",
    ],
)
def test_forged_tokens_are_refused(token: str) -> None:
    refused(token, LISTED)


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS512"}, {"alg": "RS256", "jwk": {"kty": "oct"}}])
def test_only_the_configured_algorithm_signs(header: dict[str, Any]) -> None:
    assert refused(by_hand(header, SECRET.encode()), SHARED) == "the token must be signed by HS256"


@pytest.mark.parametrize("extension", [{"vendor": 1}, {"b64": True}])
def test_no_critical_extension_is_understood(extension: dict[str, Any]) -> None:
    refused(by_hand({"alg": "HS256", "crit": list(extension), **extension}, SECRET.encode()), SHARED)


def test_a_token_that_names_no_key_of_several_is_refused() -> None:
    rules = Rules(keys=KeySet(lambda: key_set(RSA, NEWER)))
    assert refused(signed(RSA, "RS256"), rules) == "the token is signed by a key that the issuer does not list"
    assert verify(signed(RSA, "RS256", {"kid": "r1"}), rules).external_id == "user-7"


def test_keys_that_a_token_brings_along_are_not_used() -> None:
    mine = jwk.RSAKey.generate_key(2048, {"kid": "mine"})
    header = {"kid": "mine", "jku": "https://evil.example/keys", "jwk": mine.as_dict(private=False)}
    refused(signed(mine, "RS256", header, **ASKED), LISTED)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"scope": "jobs:read openid"}, {"jobs:read"}),
        ({"scopes": ["jobs:write", 3]}, {"jobs:write"}),
        ({"scopes": "jobs:read jobs:write"}, {"jobs:read", "jobs:write"}),
        ({"scope": "openid profile"}, set()),
        ({"scope": "jobs:read admin"}, {"jobs:read"}),
    ],
)
def test_scopes_are_narrowed_to_ours(claims: dict[str, Any], expected: set[str]) -> None:
    assert verify(shared(**claims), SHARED).scopes == expected


def test_the_settings_let_no_admin_in_unless_they_say_so() -> None:
    given: dict[str, Any] = {"_env_file": None, "DARKROOM_JWT_SECRET": SECRET}
    token = shared(scope="admin jobs:read")
    assert verify(token, _rules(Settings(**given))).scopes == {"jobs:read"}
    assert "admin" in verify(token, _rules(Settings(**given, DARKROOM_JWT_ALLOW_ADMIN=True))).scopes


def test_an_admin_needs_a_setting() -> None:
    assert "admin" in verify(shared(scope="admin"), replace(SHARED, allow_admin=True)).scopes


@pytest.mark.parametrize(
    ("claim", "claims", "expected"),
    [
        (None, {"sub": 7}, ("7",)),
        (None, {"sub": None, "customer_id": 42}, ("42",)),
        (None, {"sub": "a", "customer_id": 42}, ("a", "42")),
        ("customer_id", {"sub": "a", "customer_id": 42}, ("42",)),
    ],
)
def test_the_account_is_the_subject_or_the_customer(
    claim: str | None, claims: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert verify(shared(**claims), replace(SHARED, claim=claim)).external_ids == expected


def test_a_token_has_two_dots_and_a_key_has_none() -> None:
    assert is_token(shared())
    assert not is_token("dk_0123456789ab_" + "x" * 43)


class Issuer:
    """An address of keys that counts how often it is asked."""

    def __init__(self, *keys: Any) -> None:
        self.document, self.asked = key_set(*keys), 0

    def __call__(self) -> bytes:
        self.asked += 1
        if not self.document:
            raise OSError("down")
        return self.document


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_rotated_key_is_found_by_one_more_fetch() -> None:
    issuer, clock = Issuer(RSA), Clock()
    rules = replace(LISTED, keys=KeySet(issuer, clock=clock))
    verify(listed(), rules)
    verify(listed(), rules)
    assert issuer.asked == 1
    clock.now += 20
    assert "does not list" in refused(listed(NEWER), rules)
    issuer.document = key_set(NEWER)
    assert "does not list" in refused(listed(NEWER), rules)  # asked a moment ago
    assert issuer.asked == 2
    clock.now += 20
    assert verify(listed(NEWER), rules).external_id == "user-7"
    assert issuer.asked == 3
    assert "does not list" in refused(listed(RSA), rules)  # the old key has gone


def test_unknown_keys_from_many_requests_are_one_fetch() -> None:
    entered, leave = threading.Event(), threading.Event()
    asked: list[int] = []

    def slow() -> bytes:
        asked.append(1)
        entered.set()
        assert leave.wait(10)
        return key_set(RSA)

    keys = KeySet(slow)
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(keys.find, "r1", "RS256") for _ in range(8)]
        assert entered.wait(10)
        leave.set()
        assert all(each.result(10) is not None for each in found)
    assert len(asked) == 1


def test_keys_stay_while_their_address_is_down() -> None:
    issuer, clock = Issuer(RSA), Clock()
    keys = KeySet(issuer, clock=clock)
    rules = replace(LISTED, keys=keys)
    verify(listed(), rules)
    issuer.document = b""
    clock.now += 20
    assert "does not list" in refused(listed(NEWER), rules)
    assert issuer.asked == 2
    assert verify(listed(), rules).external_id == "user-7"


def test_old_keys_are_renewed_next_to_the_request() -> None:
    issuer, clock = Issuer(RSA), Clock()
    keys = KeySet(issuer, clock=clock)
    assert keys.find("r1", "RS256")
    issuer.document = key_set(NEWER)
    clock.now += 3600
    assert keys.find("r1", "RS256")  # still good: the new set is fetched aside
    for thread in threading.enumerate():
        if thread.name == "jwks":
            thread.join(10)
    assert keys.find("r1", "RS256") is None


def test_young_keys_are_not_fetched_again() -> None:
    issuer, clock = Issuer(RSA), Clock()
    keys = KeySet(issuer, clock=clock)
    for _ in range(3):
        clock.now += 60
        assert keys.find("r1", "RS256")
        for thread in threading.enumerate():
            if thread.name == "jwks":
                thread.join(10)
    assert issuer.asked == 1


def test_no_keys_at_all_is_an_outage_and_no_refusal() -> None:
    issuer = Issuer()
    issuer.document = b""
    with pytest.raises(KeysAwayError):
        verify(listed(), replace(LISTED, keys=KeySet(issuer)))


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        (RSA.as_dict(private=False), True),
        (RSA.as_dict(private=True), True),  # an issuer's slip; only its public part is read
        ({**RSA.as_dict(private=False), "use": "enc"}, False),
        ({**RSA.as_dict(private=False), "alg": "RS512"}, False),
        (jwk.OctKey.import_key(SECRET).as_dict(private=True), False),
        (jwk.RSAKey.generate_key(1024).as_dict(private=False), False),
        (jwk.ECKey.generate_key("P-384").as_dict(private=False), False),
        ({"kty": "RSA", "n": 5}, False),
        ("RSA", False),
    ],
)
def test_which_keys_of_a_set_are_used(key: Any, taken: bool) -> None:
    found = read_keys(json.dumps({"keys": [key]}).encode())
    assert bool(found) is taken


@pytest.mark.parametrize("document", [b"", b"[]", b'{"keys": {}}', b"<html>", b"[" * 100_000])
def test_what_is_no_key_set(document: bytes) -> None:
    with pytest.raises(ValueError):
        read_keys(document)


@pytest.fixture
def served() -> Iterator[Callable[[int, bytes, str], str]]:
    """An HTTP server that gives one answer; the function returns its address."""
    answers: list[tuple[int, bytes, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, location = answers[-1]
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def answer(status: int, body: bytes, location: str = "") -> str:
        answers.append((status, body, location))
        return f"http://127.0.0.1:{server.server_port}/keys"

    yield answer
    server.shutdown()
    server.server_close()


def test_keys_come_from_the_configured_address(served: Callable[..., str]) -> None:
    keys = KeySet(_fetch(served(200, key_set(RSA))))
    assert keys.find("r1", "RS256") is not None


def test_no_redirect_no_error_page_and_no_flood_is_taken_for_keys(served: Callable[..., str]) -> None:
    url = served(200, key_set(RSA))
    served(302, b"", url)
    with pytest.raises(KeysAwayError):
        KeySet(_fetch(url)).find("r1", "RS256")
    served(200, key_set(RSA)[:-1] + b" " * 300_000 + b"}")
    with pytest.raises(KeysAwayError):
        KeySet(_fetch(url)).find("r1", "RS256")
