"""Exchange tokens with other libraries, and try the README's endpoints in frameworks.

Run with "tox -e interop". The tests of what needs nothing but Python are in
test_twilio_capability.py, whose helpers these share.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
import time
import unittest
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable
from unittest import mock
from urllib.parse import urlencode

import django.conf
import django.test
import django.urls
import jwt
from joserfc import jwk
from joserfc import jwt as jose
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from twilio.jwt.access_token import AccessToken
from twilio.jwt.access_token.grants import VoiceGrant
from twilio.jwt.client import ClientCapabilityToken
from twilio.request_validator import RequestValidator
from werkzeug.datastructures import MultiDict

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from test_twilio_capability import (
    API_SECRET,
    CALLER_ID,
    ENVIRONMENT,
    FRAMEWORKS,
    INCOMING,
    OUTGOING,
    SIGNED_FORM,
    capability_of_alice,
    capability_with,
    readme_block,
    readme_module,
    scopes_of,
)
from twilio_capability import (
    InvalidSignatureError,
    InvalidTokenError,
    decode_client_name,
    inspect_token,
    verify_token,
)


@contextlib.contextmanager
def readme_endpoints(framework: str, **variables: str) -> Iterator[dict[str, Any]]:
    """What the README's block for a web framework defines, and credentials for it."""
    text = readme_block("python", f"from {framework}").text
    namespace = {"__name__": "readme"}
    environ = {**ENVIRONMENT, "TWILIO_APP_SID": "AP1", **variables}
    files = {name: readme_module(name) for name in ("tokens", "calls")}
    sys.modules.update(files)  # by no patch, which would also forget the framework
    try:
        with mock.patch.dict(os.environ, environ):
            exec(compile(text, "README.md", "exec"), namespace)
            yield namespace
    finally:
        for name in files:
            del sys.modules[name]


# Posts this body to /voice with that signature, and returns status, type and body.
Post = Callable[[str, str], "tuple[int, str, str]"]


def configure_django() -> None:
    if not django.conf.settings.configured:
        csrf = "django.middleware.csrf.CsrfViewMiddleware"
        django.conf.settings.configure(MIDDLEWARE=[csrf], LOGGING_CONFIG=None)


def flask_post(endpoints: Mapping[str, Any]) -> Post:
    client = endpoints["app"].test_client()

    def post(body: str, signature: str) -> tuple[int, str, str]:
        headers = {"X-Twilio-Signature": signature} if signature else {}
        answer = client.post("/voice", data=body, content_type=FORM, headers=headers)
        return answer.status_code, answer.mimetype, answer.get_data(as_text=True)

    return post


def django_post(endpoints: Mapping[str, Any]) -> Post:
    configure_django()
    urls: Any = ModuleType("urls")
    urls.urlpatterns = [django.urls.path("voice", endpoints["voice"])]
    client = django.test.Client(enforce_csrf_checks=True, raise_request_exception=False)

    def post(body: str, signature: str) -> tuple[int, str, str]:
        headers = {"X-Twilio-Signature": signature} if signature else {}
        with django.test.override_settings(ROOT_URLCONF=urls):
            answer = client.post("/voice", body, content_type=FORM, headers=headers)
        return answer.status_code, answer["Content-Type"], answer.content.decode()

    return post


def fastapi_post(endpoints: Mapping[str, Any]) -> Post:
    client = TestClient(endpoints["app"], raise_server_exceptions=False)

    def post(body: str, signature: str) -> tuple[int, str, str]:
        headers = {"Content-Type": FORM}
        if signature:
            headers["X-Twilio-Signature"] = signature
        answer = client.post("/voice", content=body, headers=headers)
        return answer.status_code, answer.headers["Content-Type"], answer.text

    return post


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is logged of what a request is refused for."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


FORM = "application/x-www-form-urlencoded"
POSTS: dict[str, Callable[[Mapping[str, Any]], Post]] = {
    "flask": flask_post,
    "django": django_post,
    "fastapi": fastapi_post,
}


class InteropTest(unittest.TestCase):
    """Tokens exchanged with other libraries, in both directions."""

    SECRET = "a secret of thirty-two bytes or more"

    def ours(self) -> list[str]:
        capability = capability_of_alice(auth_token=self.SECRET)
        access_token = capability.generate_access_token("SK123123", self.SECRET)
        capability.allow_event_stream({"a b": "~ë&"})
        return [capability.generate_token(), access_token]

    def test_pyjwt_and_joserfc_verify_our_tokens(self) -> None:
        key = jwk.OctKey.import_key(self.SECRET)
        for token in self.ours():
            with self.subTest(token=token):
                claims, header = (
                    verify_token(token, self.SECRET),
                    inspect_token(token)["header"],
                )
                read = jwt.decode(token, self.SECRET, algorithms=["HS256"])
                self.assertEqual(read, claims)
                self.assertEqual(jwt.get_unverified_header(token), header)
                with self.assertRaises(jwt.InvalidSignatureError):
                    jwt.decode(token, self.SECRET + "x", algorithms=["HS256"])
                decoded = jose.decode(token, key, algorithms=["HS256"])
                self.assertEqual((decoded.claims, decoded.header), (claims, header))

    def test_we_verify_the_tokens_of_pyjwt_and_joserfc(self) -> None:
        claims = {"iss": "AC1", "exp": int(time.time()) + 60, "nbf": 1, "é": ["☃"]}
        key = jwk.OctKey.import_key(self.SECRET)
        for token in (
            jwt.encode(claims, self.SECRET, algorithm="HS256"),
            jose.encode({"alg": "HS256"}, claims, key),
        ):
            with self.subTest(token=token):
                self.assertEqual(verify_token(token, self.SECRET), claims)
                with self.assertRaises(InvalidSignatureError):
                    verify_token(token, self.SECRET + "x")
        for algorithm, secret in {
            "HS384": self.SECRET,
            "HS512": self.SECRET,
            "none": "",
        }.items():
            with self.subTest(algorithm):
                other = jwt.encode(claims, secret, algorithm=algorithm)
                with self.assertRaises(InvalidTokenError):
                    verify_token(other, self.SECRET)

    def test_twilio_python_writes_the_same_capability(self) -> None:
        theirs = ClientCapabilityToken("AC123123", self.SECRET, ttl=600)
        theirs.allow_client_incoming("Alice")
        theirs.allow_client_outgoing("AP123123", **{"Foo": "Bar", "a b": "~ë&"})
        theirs.allow_event_stream(x="1 2")
        params = {"Foo": "Bar", "a b": "~ë&"}
        calls = [(INCOMING, "Alice"), (OUTGOING, "AP123123", params)]
        ours = capability_with(*calls, sid="AC123123", auth_token=self.SECRET)
        ours.allow_event_stream({"x": "1 2"})
        token = ours.generate_token(600)
        now = time.time()
        theirs_mean = scopes_of(theirs.to_jwt(), self.SECRET, now)
        self.assertEqual(theirs_mean, scopes_of(token, self.SECRET, now))
        read = ClientCapabilityToken.from_jwt(token, self.SECRET)
        self.assertEqual(read.payload["iss"], "AC123123")

    def test_twilio_python_writes_the_same_access_token(self) -> None:
        cases: list[tuple[dict[str, Any] | None, str | None, str | None]] = [
            ({"Foo": "Bar"}, None, None),
            ({"n": 3, "zoë": "☃"}, None, "ie1"),
            (None, "CR1", "au1"),
        ]
        for params, credential, region in cases:
            with self.subTest(region=region):
                theirs = AccessToken(
                    "AC123123",
                    "SK123123",
                    self.SECRET,
                    identity="Alice",
                    region=region,
                    ttl=600,
                )
                voice = VoiceGrant(True, "AP123123", params, credential)
                theirs.add_grant(voice)
                token = theirs.to_jwt()
                claims = verify_token(token, self.SECRET)
                calls = [(INCOMING, "Alice"), (OUTGOING, "AP123123", params)]
                ours = capability_with(*calls, sid="AC123123")
                sign = partial(ours.generate_access_token, "SK123123", self.SECRET, 600)
                options = {"push_credential_sid": credential, "region": region}
                made = sign(now=claims.pop("nbf"), **options)
                self.assertEqual(verify_token(made, self.SECRET), claims)
                header = inspect_token(token)["header"]
                self.assertEqual(inspect_token(made)["header"], header)

    def assert_is_token_for(self, user_id: object, answer: Mapping[str, str]) -> None:
        claims = verify_token(answer["token"], API_SECRET)
        self.assertEqual(claims["grants"]["identity"], answer["identity"])
        self.assertEqual(decode_client_name(answer["identity"]), str(user_id))

    def test_the_flask_endpoint_of_the_readme_answers_its_user_alone(self) -> None:
        with readme_endpoints("flask", FLASK_SECRET_KEY="k") as endpoint:
            client = endpoint["app"].test_client()
            self.assertEqual(client.post("/token").status_code, 401)
            with client.session_transaction(base_url="https://localhost") as session:
                session["user_id"] = 7
            answer = client.post("/token", base_url="https://localhost")
            self.assertEqual(client.get("/token").status_code, 405)
        self.assertEqual(answer.status_code, 200)
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assert_is_token_for(7, answer.get_json())

    def test_the_django_endpoint_of_the_readme_answers_its_user_alone(self) -> None:
        configure_django()
        requests = django.test.RequestFactory()
        with readme_endpoints("django") as endpoint:
            request = requests.post("/token")
            request.user = SimpleNamespace(is_authenticated=False, pk=None)
            self.assertEqual(endpoint["token"](request).status_code, 401)
            request.user = SimpleNamespace(is_authenticated=True, pk=7)
            answer = endpoint["token"](request)
            self.assertEqual(endpoint["token"](requests.get("/")).status_code, 405)
        self.assertEqual(answer.status_code, 200)
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assert_is_token_for(7, json.loads(answer.content))

    def test_the_fastapi_endpoint_of_the_readme_answers_its_user_alone(self) -> None:

        def log_in(request: Any) -> Any:
            request.session["user_id"] = "ann@example.com"
            return PlainTextResponse("logged in")

        with readme_endpoints("fastapi", SESSION_SECRET_KEY="k") as endpoint:
            endpoint["app"].add_route("/login", log_in)
            client = TestClient(endpoint["app"], base_url="https://localhost")
            self.assertEqual(client.post("/token").status_code, 401)
            cookie = client.get("/login").headers["Set-Cookie"]
            answer = client.post("/token")
            self.assertEqual(client.get("/token").status_code, 405)
        self.assertIn("secure", cookie)
        self.assertEqual(answer.status_code, 200)
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assert_is_token_for("ann@example.com", answer.json())

    @contextlib.contextmanager
    def voice_url(self, framework: str, **variables: str) -> Iterator[Post]:
        """The README's voice URL, where the users 1 and 2 can be called, and +1555."""
        variables = {
            "FLASK_SECRET_KEY": "k",
            "SESSION_SECRET_KEY": "k",
            "VOICE_URL": "https://example.com/voice?v=1",
            "TWILIO_AUTH_TOKEN": self.SECRET,
            "TWILIO_CALLER_ID": CALLER_ID,
            **variables,
        }
        with readme_endpoints(framework, **variables) as endpoints:
            calls = sys.modules["calls"]
            with mock.patch.object(
                calls, "may_call", lambda user, number: number.startswith("+1555")
            ):
                yield POSTS[framework](endpoints)

    def test_the_voice_urls_of_the_readme_answer_twilio(self) -> None:
        sign = RequestValidator(self.SECRET).compute_signature
        ann = [("From", "client:ann_40example_2Ecom"), ("CallSid", "CA1")]
        number = (
            f'<Response><Dial callerId="{CALLER_ID}">'
            "<Number>+15551234567</Number></Dial></Response>"
        )
        desk = "<Response><Dial><Client>1</Client></Dial></Response>"
        user = "<Response><Dial><Client>2</Client></Dial></Response>"
        refused = readme_module("calls").REFUSE
        forms: list[tuple[list[tuple[str, str]], str]] = [
            ([*ann, ("To", "+15551234567"), ("é", "☃ &"), ("empty", "")], number),
            ([*ann, ("To", "+1 (555) 123-4567")], refused),
            ([*ann, ("To", "911")], refused),
            ([*ann, ("To", "+19001234567")], refused),
            ([*ann, ("To", "2")], user),
            (ann, refused),
            ([("From", "+15551234567")], desk),
            ([("a", "2"), *ann, ("a", "1"), ("a", "2"), ("To", "2"), ("b", "")], user),
        ]
        for framework in FRAMEWORKS:
            with self.voice_url(framework) as post:
                for form, twiml in forms:
                    with self.subTest(framework=framework, form=form):
                        signature = sign(os.environ["VOICE_URL"], MultiDict(form))
                        status, content_type, body = post(urlencode(form), signature)
                        self.assertEqual((status, body), (200, twiml))
                        # FastAPI puts the charset behind it.
                        self.assertEqual(content_type.partition(";")[0], "text/xml")

    def test_the_voice_urls_of_the_readme_answer_nobody_else(self) -> None:
        url, form = "https://example.com/voice?v=1", {"From": "client:42", "To": "2"}
        caller = {**form, "From": "x"}
        sign = RequestValidator(self.SECRET).compute_signature
        other = RequestValidator("x").compute_signature
        local = "http://localhost/voice"
        cases: list[tuple[str, int, dict[str, str], str, str]] = [
            ("by Twilio", 200, form, sign(url, form), self.SECRET),
            ("unsigned", 403, form, "", self.SECRET),
            ("not in base64", 403, form, "not a signature", self.SECRET),
            ("by another", 403, form, other(url, form), self.SECRET),
            ("for another URL", 403, form, sign(local, form), self.SECRET),
            ("another caller", 403, caller, sign(url, form), self.SECRET),
            ("one more", 403, {**form, "a": ""}, sign(url, form), self.SECRET),
        ]
        for wrong in ("", " "):
            signature = RequestValidator(wrong).compute_signature(url, form)
            cases.append(("no auth token", 500, form, signature, wrong))
        for framework, (name, expected, posted, signature, secret) in itertools.product(
            FRAMEWORKS, cases
        ):
            variables = {"VOICE_URL": url, "TWILIO_AUTH_TOKEN": secret}
            case = self.subTest(framework=framework, case=name)
            with case, self.voice_url(framework, **variables) as post, silence():
                status, _, _ = post(urlencode(posted), signature)
                self.assertEqual(status, expected)

    def test_the_readme_signs_as_twilio_python_does(self) -> None:
        is_from_twilio = readme_module("calls").is_from_twilio
        url = "https://example.com/voice"
        forms: list[list[tuple[str, str]]] = [
            list(SIGNED_FORM.items()),
            [],
            [("From", "client:42"), ("To", "")],
            [("b", "2"), ("a", "1"), ("B", "3"), ("_", "4")],
            [("é", "☃"), ("\U0001f600", "\uffff")],
            [("a", "2"), ("a", "1"), ("a", "2"), ("b", "0")],
        ]
        for form in forms:
            with self.subTest(form=form):
                theirs = RequestValidator("12345").compute_signature(
                    url, MultiDict(form)
                )
                self.assertTrue(is_from_twilio(url, form, theirs, "12345"))
                self.assertFalse(is_from_twilio(url, form, theirs, "123456"))
                self.assertTrue(
                    RequestValidator("12345").validate(url, MultiDict(form), theirs)
                )


if __name__ == "__main__":
    unittest.main(verbosity=2)
