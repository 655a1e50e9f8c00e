"""Make and read Twilio capability tokens: one file, standard library only.

A capability token is a short-lived JWT that a server signs and hands to a browser or a
phone. It says what that device may do with Twilio Client: be called under a name, call
out, read events. The same permissions can be written as a voice access token.

>>> capability = Capability("AC123123", "secret")
>>> capability.allow_client_incoming("Alice")
>>> capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
>>> verify_token(capability.generate_token(ttl=600), "secret")["iss"]
'AC123123'

A wrong type is a TypeError, a wrong value a ValueError, before anything changes. The
message names the argument and the rule, never what was given: it may be a secret in the
wrong place.
"""
# SPDX-License-Identifier: MIT

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, unquote_plus

TYPE_CHECKING = False  # typing has this constant too, but takes 4 ms to import
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any, Callable, NoReturn, TextIO, TypeVar

    _T = TypeVar("_T")

__all__ = [
    "Capability",
    "ExpiredTokenError",
    "InvalidSignatureError",
    "InvalidTokenError",
    "ScopeURI",
    "decode_client_name",
    "encode_client_name",
    "inspect_token",
    "verify_token",
]
__version__ = "1.0.0"


# The rules, each with its source.

DEFAULT_TTL = 3600  # seconds, as in Twilio's own libraries
MAX_TTL = 86400  # seconds: Twilio refuses a longer life (errors 31207, 20157)

# Twilio's SIDs have 32 hex digits, but documentation and tests use shorter ones.
_ACCOUNT_SID = re.compile("AC[A-Za-z0-9]+")
_APPLICATION_SID = re.compile("AP[A-Za-z0-9]+")
_API_KEY_SID = re.compile("SK[A-Za-z0-9]+")
_PUSH_CREDENTIAL_SID = re.compile("CR[A-Za-z0-9]+")

# Such as us1, ie1, au1: Twilio's page "Manage Regional API Credentials".
_REGION = re.compile("[a-z]{2}[0-9]")

# Client names: Twilio's pages "Capability Tokens for Twilio Client" and "Access Tokens"
# promise the first alphabet. Its servers refuse what is not of the second, which is
# printable ASCII without the space, delims and unwise characters of RFC 2396, section
# 2.4.3 (error 31105).
_CLIENT_NAME = re.compile("[A-Za-z0-9_]+")
_LENIENT_NAME = re.compile(r"[A-Za-z0-9_!$&'()*+,\-./:;=?@~]+")
_MAX_CLIENT_NAME = 256  # error 31105
_MAX_IDENTITY = 121  # in access tokens: Twilio's pages on the Voice SDKs

# The service and the privilege of a scope URI, and those that there are.
_SCOPE_WORD = re.compile("[A-Za-z0-9_.-]+")
_INCOMING = "client:incoming"
_OUTGOING = "client:outgoing"
_SUBSCRIBE = "stream:subscribe"
_IN_WORDS = {_INCOMING: "incoming", _OUTGOING: "outgoing", _SUBSCRIBE: "event stream"}
_EVENTS_PATH = "path=%2F2010-04-01%2FEvents"

# Every JSON reader has the integers up to here (RFC 8259, section 6).
_MAX_JSON_INT = 2**53


class InvalidTokenError(ValueError):
    """Raised when a token cannot be read or must not be trusted."""


class InvalidSignatureError(InvalidTokenError):
    """Raised when a token was altered, or signed with another secret."""


class ExpiredTokenError(InvalidTokenError):
    """Raised when a token is signed with the secret but past its ``exp``."""


class ScopeURI:
    """One permission in the ``scope`` claim of a capability token.

    `service` and `privilege` are one or more of ``A-Za-z0-9_.-``; `params` map str to
    str. Equality ignores their order, and the repr leaves them out.

    Raises TypeError and ValueError.

    >>> str(ScopeURI("client", "incoming", {"clientName": "Alice"}))
    'scope:client:incoming?clientName=Alice'
    """

    def __init__(
        self, service: str, privilege: str, params: Mapping[str, str] | None = None
    ) -> None:
        self.service = _matching("service", service, _SCOPE_WORD)
        self.privilege = _matching("privilege", privilege, _SCOPE_WORD)
        self.params: dict[str, str] = _plain_params("params", params, str)

    @classmethod
    def parse(cls, uri: str) -> ScopeURI:
        """Return the scope in `uri`, as written by this module or any Twilio library.

        Raises TypeError for a non-str and ValueError for what is not a scope URI.

        >>> ScopeURI.parse("scope:client:incoming?clientName=Alice").params
        {'clientName': 'Alice'}
        """
        head, _, query = _plain("uri", uri, str).partition("?")
        words = head.split(":", 3)

        if len(words) != 3 or words[0] != "scope":
            raise ValueError("uri must be scope:SERVICE:PRIVILEGE?NAME=VALUE&...")

        params = _form_decoded(query)
        if params is None:
            raise ValueError(
                "uri must have a query of NAME=VALUE&..., percent-encoded UTF-8, each "
                "name once"
            )
        return cls(words[1], words[2], params)

    def __str__(self) -> str:
        uri = "scope:" + self.service + ":" + self.privilege
        if self.params:
            uri += "?" + _form_encoded(self.params)
        return uri

    def __repr__(self) -> str:
        return f"<ScopeURI {self.service}:{self.privilege}, {len(self.params)} params>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScopeURI):
            return NotImplemented
        return (self.service, self.privilege, self.params) == (
            other.service,
            other.privilege,
            other.params,
        )


class Capability:
    r"""What one device may do with Twilio Client, to be written as a token.

    `account_sid` is ``AC`` and one or more of ``A-Za-z0-9``; `auth_token`, a non-empty
    str, signs capability tokens. It opens the whole account: access tokens, which need
    only an API key that can be revoked by itself, are safer.

    A client name is 1 to 256 of ``A-Za-z0-9_``, in an access token at most 121, as
    Twilio's pages have it; encode_client_name makes one of any text. With
    `lenient_names`, a bool, it may have all that Twilio's servers are known to take,
    such as ``agent-7``: printable ASCII but space and ``"#%<>[\]^`{|}``.

    Raises TypeError and ValueError, as do the methods. Threads that only generate may
    share an object, since generating changes nothing.
    """

    def __init__(
        self,
        account_sid: str,
        auth_token: str | None = None,
        *,
        lenient_names: bool = False,
    ) -> None:
        self._account_sid = _matching("account_sid", account_sid, _ACCOUNT_SID)
        self._lenient_names: bool = _plain("lenient_names", lenient_names, bool)

        self._key: bytes | None = None
        if auth_token is not None:
            self._key = _signing_key("auth_token", auth_token)

        # What was allowed, call by call: its scope and query, as in a scope URI, and
        # what an access token grants for it. A call makes a new tuple, so that a copy
        # of the object goes its own way.
        self._permissions: tuple[tuple[str, str, Any], ...] = ()

    def allow_client_incoming(self, client_name: str) -> None:
        """Let the device be called as `client_name`, for which see Capability."""
        client_name = _checked_name(
            "client_name", client_name, _MAX_CLIENT_NAME, self._lenient_names
        )

        # Only a lenient name can have anything to encode, and looking takes time.
        encoded = client_name
        if self._lenient_names:
            encoded = _percent_encoded(client_name)
        query = "clientName=" + encoded
        self._permissions += ((_INCOMING, query, client_name),)

    def allow_client_outgoing(
        self,
        application_sid: str,
        params: Mapping[str, str | int] | None = None,
    ) -> None:
        """Let the device call out through one application.

        `application_sid` is ``AP`` and one or more of ``A-Za-z0-9``. Twilio sends
        `params`, which map str to str or int, to the application with each call.
        """
        application_sid = _matching(
            "application_sid", application_sid, _APPLICATION_SID
        )
        params = _plain_params("params", params, str, int)

        application: dict[str, Any] = {"application_sid": application_sid}
        if params:
            application["params"] = params
        app_params = _percent_encoded(_form_encoded(params))
        query = "appSid=" + application_sid + "&appParams=" + app_params
        self._permissions += ((_OUTGOING, query, application),)

    def allow_event_stream(
        self, filters: Mapping[str, str | int] | None = None
    ) -> None:
        """Let the device read all events, or those that match `filters`.

        `filters` map str to str or int.
        """
        filters = _plain_params("filters", filters, str, int)

        query = _EVENTS_PATH + "&params=" + _percent_encoded(_form_encoded(filters))
        self._permissions += ((_SUBSCRIBE, query, None),)

    def __repr__(self) -> str:
        allowed = dict.fromkeys(_IN_WORDS[scope] for scope, _, _ in self._permissions)
        return f"<Capability: {', '.join(allowed) or 'nothing'}>"

    def generate_token(
        self, ttl: int = DEFAULT_TTL, *, now: float | None = None
    ) -> str:
        """Return a signed capability token, the same string as twilio-php writes.

        It lives for `ttl` seconds, an int from 1 to 86400. `now` is seconds since the
        epoch, floored; None is the clock. Raises ValueError also when there is no auth
        token.

        >>> Capability("AC123123", "secret").generate_token(now=0)[:36]
        'eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9'
        """
        ttl = _seconds("ttl", ttl, 1, MAX_TTL, int)
        if self._key is None:
            raise ValueError("auth_token must be given to Capability to sign a token")

        # The last client name, wherever it was given, is the caller's.
        caller = ""
        for scope, query, _ in self._permissions:
            if scope == _INCOMING:
                caller = "&" + query

        uris = []
        for scope, query, _ in self._permissions:
            uri = "scope:" + scope + "?" + query
            uris.append(uri + caller if scope == _OUTGOING else uri)

        # JSON escapes nothing in a SID or a scope URI, and a JSON encoder makes this
        # 1.4 times as slow.
        payload = (
            '{"scope":"'
            + " ".join(uris)
            + '","iss":"'
            + self._account_sid
            + '","exp":'
            + str(_clock(now) + ttl)
            + "}"
        )
        return _signed(_CAPABILITY_HEADER, payload, self._key)

    def generate_access_token(
        self,
        api_key_sid: str,
        api_key_secret: str,
        ttl: int = DEFAULT_TTL,
        *,
        identity: str | None = None,
        push_credential_sid: str | None = None,
        region: str | None = None,
        now: float | None = None,
    ) -> str:
        """Return a signed voice access token that grants the same.

        `api_key_sid` is ``SK`` and one or more of ``A-Za-z0-9``; `api_key_secret`, a
        non-empty str, signs; `identity` names a device that only calls out; `ttl` and
        `now`: see generate_token. Raises ValueError also for no name or two, two
        applications or sets of params, or events.

        `push_credential_sid` is ``CR`` and one or more of ``A-Za-z0-9``: an iPhone or
        an Android phone needs it to be called. `region`, two lower-case letters and a
        digit, such as ``ie1``, is where Twilio processes the calls, and where the API
        key was made; None is ``us1``.

        >>> device = Capability("AC123123")
        >>> token = device.generate_access_token("SK1", "secret", identity="Alice")
        >>> verify_token(token, "secret")["grants"]
        {'identity': 'Alice', 'voice': {}}
        """
        api_key_sid = _matching("api_key_sid", api_key_sid, _API_KEY_SID)
        ttl = _seconds("ttl", ttl, 1, MAX_TTL, int)
        issued = _clock(now)
        if push_credential_sid is not None:
            push_credential_sid = _matching(
                "push_credential_sid", push_credential_sid, _PUSH_CREDENTIAL_SID
            )
        if region is not None:
            region = _matching("region", region, _REGION)

        name = self._only_name(identity)
        application = self._only_application()
        if self._granted(_SUBSCRIBE):
            raise ValueError(
                "an access token must carry no event stream: make a capability token, "
                "or do not call allow_event_stream"
            )

        # Twilio's guide "Migrate from Capability Tokens to Access Tokens" maps the
        # terms.
        voice: dict[str, Any] = {}
        if self._granted(_INCOMING):
            voice["incoming"] = {"allow": True}
        if application is not None:
            voice["outgoing"] = application
        if push_credential_sid is not None:
            voice["push_credential_sid"] = push_credential_sid

        header = {"typ": "JWT", "alg": "HS256", "cty": _ACCESS_TYPE}
        if region is not None:
            header["twr"] = region
        payload = {
            "jti": api_key_sid + "-" + str(issued),
            "iss": api_key_sid,
            "sub": self._account_sid,
            "exp": issued + ttl,
            "grants": {"identity": name, "voice": voice},
        }
        key = _signing_key("api_key_secret", api_key_secret)
        encoded_header = _base64url(_to_json(header).encode())
        return _signed(encoded_header, _to_json(payload), key)

    def _granted(self, scope: str) -> list[Any]:
        """Return what an access token grants for each call that allowed `scope`."""
        return [grant for allowed, _, grant in self._permissions if allowed == scope]

    def _only_name(self, identity: str | None) -> str:
        """Return the client name, or the identity, which must be the same."""
        names = set(self._granted(_INCOMING))
        if any(len(name) > _MAX_IDENTITY for name in names):
            raise ValueError(
                f"client_name must be 1 to {_MAX_IDENTITY} characters long in an "
                "access token"
            )
        if identity is not None:
            names.add(
                _checked_name("identity", identity, _MAX_IDENTITY, self._lenient_names)
            )

        if not names:
            raise ValueError(
                "identity must be given, since no client name is allowed: every access "
                "token names its device"
            )
        if len(names) > 1:
            raise ValueError(
                "identity must be one name, the same as client_name, in an access "
                "token: make one Capability for each device"
            )
        return str(names.pop())

    def _only_application(self) -> dict[str, Any] | None:
        """Return what an access token grants for outgoing calls, if any."""
        applications = self._granted(_OUTGOING)
        if not applications:
            return None

        if any(application != applications[0] for application in applications):
            raise ValueError(
                "application_sid must be one, with one set of params, in an access "
                "token: make one Capability for each application"
            )
        for value in applications[0].get("params", {}).values():
            if type(value) is int and abs(value) > _MAX_JSON_INT:
                raise ValueError(
                    "params value must be an int of at most 2**53 either way in an "
                    "access token, as JavaScript changes larger ones: give it as a str"
                )
        return dict(applications[0])


# Client names from anything.


def encode_client_name(text: str) -> str:
    """Return any text, such as an e-mail address or a UUID, as a client name.

    Each byte of its UTF-8 that is not ``A-Za-z0-9`` becomes ``_`` and two upper-case
    hex digits. Twilio Flex writes e-mail addresses so (Twilio's support article on the
    TaskRouter Worker contact_uri). As ``_`` itself becomes ``_5F``, decode_client_name
    can undo it.

    Raises TypeError for a non-str, and ValueError for an empty str, for lone surrogates
    and for text that would be longer than 256 characters as a name.

    >>> encode_client_name("ann.veal@example.com")
    'ann_2Eveal_40example_2Ecom'
    """
    text = _text("text", text)
    if not text:
        raise ValueError("text must not be empty")
    name = _encoded_name(text)
    if len(name) > _MAX_CLIENT_NAME:
        raise ValueError(
            f"text must make a name of 1 to {_MAX_CLIENT_NAME} characters, and makes "
            f"one of {len(name)}: take a shorter id"
        )
    return name


def decode_client_name(name: str) -> str:
    """Return the text of which encode_client_name made `name`.

    `name` may begin with ``client:``, as Twilio sends it to the application's voice
    URL, and may have lower-case hex digits, as others write them.

    Raises TypeError for a non-str, and ValueError for what encode_client_name cannot
    have written.

    >>> decode_client_name("client:ann_2Eveal_40example_2Ecom")
    'ann.veal@example.com'
    """
    name = _plain("name", name, str)
    if name.startswith("client:"):
        name = name[len("client:") :]

    text: str | None = None
    if name.isascii() and 1 <= len(name) <= _MAX_CLIENT_NAME:
        # It is percent-encoding, with another sign in front.
        name = re.sub("_..", lambda escape: escape[0].upper(), name)
        text = _or_none(unquote, name.replace("_", "%"), errors="strict")

    # Each text has one name: "_41", say, would be a second spelling of "A".
    if text is None or _encoded_name(text) != name:
        raise ValueError(
            "name must be as encode_client_name writes it: letters, digits, and _XX "
            "for each other byte of UTF-8"
        )
    return text


def _encoded_name(text: str) -> str:
    return re.sub(
        "[^A-Za-z0-9]",
        lambda other: "".join([f"_{byte:02X}" for byte in other[0].encode()]),
        text,
    )


# Reading a token.


def verify_token(
    token: str, secret: str, *, leeway: float = 0, now: float | None = None
) -> dict[str, Any]:
    """Return the claims of a capability or access token that `secret` has signed.

    `secret`, a non-empty str, is the auth token for a capability token, the API key's
    secret for an access token. `leeway` is seconds by which clocks may differ; `now` is
    seconds since the epoch, floored; None is the clock.

    Nothing is decoded before the signature is found right. HS256 alone is accepted
    (RFC 7515, RFC 7519). Raises InvalidSignatureError, ExpiredTokenError or their base
    InvalidTokenError for the token, TypeError or ValueError for the other arguments.

    >>> token = Capability("AC123123", "secret").generate_token(now=0)
    >>> verify_token(token, "secret", now=3599)
    {'scope': '', 'iss': 'AC123123', 'exp': 3600}
    """
    header, payload, signature = _segments(token)
    key = _signing_key("secret", secret)
    leeway = _seconds("leeway", leeway, 0, _MAX_JSON_INT, int, float)
    now = _clock(now)

    expected = _signature(header + b"." + payload, key)
    if not hmac.compare_digest(expected, signature):
        raise InvalidSignatureError(
            "signature mismatch: the token was altered or cut off, or signed with "
            "another secret. A capability token is signed with the auth token, an "
            "access token with its API key's secret"
        )

    if header != _CAPABILITY_HEADER:
        _check_header(_json_object("header", header))
    claims = _json_object("payload", payload)
    _check_times(claims, leeway, now)
    return claims


def inspect_token(token: str) -> dict[str, Any]:
    """Return ``{"header": {...}, "claims": {...}}``, with the signature NOT checked.

    Anyone may have written those: never act on them. Raises InvalidTokenError and
    TypeError.

    >>> token = Capability("AC123123", "secret").generate_token(now=0)
    >>> inspect_token(token)["claims"]
    {'scope': '', 'iss': 'AC123123', 'exp': 3600}
    """
    header, payload, _ = _segments(token)
    return {
        "header": _json_object("header", header),
        "claims": _json_object("payload", payload),
    }


def _check_header(header: dict[str, Any]) -> None:
    if header.get("alg") != "HS256" or "crit" in header:
        raise InvalidTokenError(
            "the header must have alg HS256 and no crit, as every Twilio token has: "
            "make a new token"
        )


def _check_times(claims: dict[str, Any], leeway: float, now: int) -> None:
    """Check that the token has begun and not ended at `now`, give or take `leeway`."""
    exp = claims.get("exp")
    if type(exp) is not int or abs(exp) > _MAX_JSON_INT:
        raise InvalidTokenError(
            "exp must be an int of seconds since the epoch, up to 2**53: make a new "
            "token"
        )

    nbf = claims.get("nbf", 0)
    if type(nbf) not in (int, float):
        raise InvalidTokenError(
            "nbf must be a number of seconds since the epoch: make a new token, best "
            "without it"
        )

    if exp + leeway <= now:
        expired = _iso8601(exp) or exp
        raise ExpiredTokenError(f"the token expired at {expired}: make a new one")

    if now + leeway < nbf:
        raise InvalidTokenError(
            "the token is not valid yet (nbf): compare the clocks of the two machines, "
            "or allow some leeway"
        )


def _iso8601(seconds: int) -> str | None:
    """Return seconds since the epoch as a date, or None outside of the years 1-9999."""
    from datetime import datetime, timedelta

    try:
        return (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat() + "Z"
    except OverflowError:
        return None


# The JWT: header, payload and signature in base64url (RFC 7515, compact serialization).


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signature(signing_input: bytes, key: bytes) -> bytes:
    return _base64url(hmac.digest(key, signing_input, "sha256"))


def _signed(header: bytes, payload: str, key: bytes) -> str:
    """Return the token made of an encoded header and a payload in JSON."""
    signing_input = header + b"." + _base64url(payload.encode())
    return (signing_input + b"." + _signature(signing_input, key)).decode()


def _segments(token: str) -> list[bytes]:
    token = _plain("token", token, str)
    segments = token.encode().split(b".", 3) if token.isascii() else []
    if len(segments) != 3:
        raise InvalidTokenError("token must be three segments of ASCII, joined by dots")
    return segments


def _json_object(part: str, segment: bytes) -> dict[str, Any]:
    """Return the JSON object in the encoded header or payload."""
    value = _or_none(_json_value, segment)
    if not isinstance(value, dict):
        raise InvalidTokenError(
            f"the {part} must be a JSON object, names unique, in base64url"
        )
    return value


def _json_value(segment: bytes) -> Any:
    """Return the JSON value in an encoded segment; raise ValueError for any other."""
    if segment.translate(None, delete=_BASE64URL):
        raise ValueError("not base64url: the decoder would skip these characters")
    text = base64.urlsafe_b64decode(segment + b"==").decode().strip(_JSON_SPACE)

    value, end = _JSON.raw_decode(text)  # decode() makes verify_token 1.15 x as slow
    if end != len(text):
        raise ValueError("there is more than one JSON value")
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object as a dict; each name may come once."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name comes twice")
    return members


def _finite(number: str) -> float:
    value = float(number)
    if value in (float("inf"), float("-inf")):
        raise ValueError("the number is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError("JSON has no NaN and no Infinity")


_BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_JSON_SPACE = " \t\r\n"
_JSON = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant
)
_to_json = json.JSONEncoder(separators=(",", ":")).encode

_ACCESS_TYPE = "twilio-fpa;v=1"
_CAPABILITY_HEADER = _base64url(b'{"typ":"JWT","alg":"HS256"}')


# Form encoding (application/x-www-form-urlencoded), as by PHP's http_build_query.


_UNESCAPED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

# How each byte is written. Without this table, building a Capability takes 1.4 times
# as long.
_SPELLING = [chr(byte) if byte in _UNESCAPED else f"%{byte:02X}" for byte in range(256)]
_SPELLING[ord(" ")] = "+"

# What a query may hold (RFC 3986, section 3.4), and a "%" that begins no "%XX".
_QUERY = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*")
_BAD_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


def _percent_encoded(text: str) -> str:
    return "".join([_SPELLING[byte] for byte in text.encode()])


def _form_encoded(params: Mapping[str, str | int]) -> str:
    return "&".join(
        [
            _percent_encoded(name) + "=" + _percent_encoded(str(value))
            for name, value in params.items()
        ]
    )


def _form_decoded(query: str) -> dict[str, str] | None:
    """Return the params in `query`, or None where it cannot be read."""
    if not _QUERY.fullmatch(query) or _BAD_PERCENT.search(query):
        return None

    params: dict[str, str] = {}
    for field in query.split("&") if query else []:
        name, equals, value = field.partition("=")
        read_name = _or_none(unquote_plus, name, errors="strict")
        read_value = _or_none(unquote_plus, value, errors="strict")
        if not equals or read_name is None or read_value is None:
            return None
        if read_name in params:
            return None
        params[read_name] = read_value
    return params


# The checks. Those named for a thing return it, as it is to be used.


def _or_none(function: Callable[..., _T], *arguments: Any, **options: Any) -> _T | None:
    """Call `function`, and return None where the text that it is given is at fault.

    An error raised in an except block has the first error as its context, and that
    error holds the text: a token, a param, a secret. So callers raise after this.
    """
    try:
        return function(*arguments, **options)
    except (RecursionError, ValueError):
        return None


def _plain(argument: str, value: object, *types: type) -> Any:
    """Return `value`, which must be of one of `types`, without its subclass.

    A subclass may override how it is joined, encoded or compared: markupsafe.Markup,
    for one, would escape the rest of a token for HTML.
    """
    if type(value) in types:
        return value
    for plain in types:
        if isinstance(value, plain) and not isinstance(value, bool):
            return _TO_PLAIN[plain](value)
    names = " or ".join([plain.__name__ for plain in types])
    raise TypeError(f"{argument} must be {names}, not {type(value).__name__}")


_TO_PLAIN: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__index__,
    float: float.__float__,
}


def _text(argument: str, value: str) -> str:
    """Return `value`, a str that can be encoded."""
    text: str = _plain(argument, value, str)
    if not text.isascii() and _or_none(text.encode) is None:
        raise ValueError(f"{argument} must be free of lone surrogates")
    return text


def _matching(argument: str, value: str, pattern: re.Pattern[str]) -> str:
    text: str = _plain(argument, value, str)
    if not pattern.fullmatch(text):
        raise ValueError(f"{argument} must match {pattern.pattern}")
    return text


def _checked_name(argument: str, value: str, most: int, lenient: bool) -> str:
    """Return `value`, a client name of at most `most` characters."""
    name: str = _plain(argument, value, str)
    if not 1 <= len(name) <= most:
        raise ValueError(f"{argument} must be 1 to {most} characters long")

    allowed = _LENIENT_NAME if lenient else _CLIENT_NAME
    if allowed.fullmatch(name):
        return name

    message = f"{argument} must match {allowed.pattern}"
    encoded = _or_none(encode_client_name, name)
    if encoded is not None and len(encoded) <= most:
        message += "; encode_client_name makes such a name of any text"
    if _LENIENT_NAME.fullmatch(name):
        message += "; Capability(..., lenient_names=True) takes this one as it is"
    raise ValueError(message)


def _signing_key(argument: str, secret: str) -> bytes:
    """Return the key for HMAC that is made from `secret`, a non-empty str."""
    secret = _text(argument, secret)
    if not secret:
        # An empty key signs, and verifies, anything.
        raise ValueError(f"{argument} must not be empty")
    if secret != secret.strip():
        raise ValueError(
            f"{argument} must not begin or end with white space: was it read with its "
            "line break?"
        )
    return secret.encode()


def _plain_params(
    argument: str, params: Mapping[str, Any] | None, *types: type
) -> dict[str, Any]:
    """Return a copy of the mapping `params`, which is read once."""
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise TypeError(f"{argument} must be a mapping, not {type(params).__name__}")

    copy = {}
    for name, value in dict(params).items():
        name = _text(argument + " name", name)
        value = _plain(argument + " value", value, *types)
        if type(value) is str:
            value = _text(argument + " value", value)
        elif _or_none(str, value) is None:
            raise ValueError(f"{argument} value must not be an int too long to print")
        copy[name] = value
    return copy


def _seconds(argument: str, value: float, least: int, most: int, *types: type) -> Any:
    seconds = _plain(argument, value, *types)
    if not least <= seconds <= most:
        raise ValueError(f"{argument} must be {least} to {most} seconds")
    return seconds


def _clock(now: float | None) -> int:
    """Return the time in whole seconds since the epoch: `now`, or else the clock."""
    if now is None:
        return int(time.time())
    return int(_seconds("now", now, 0, _MAX_JSON_INT - MAX_TTL, int, float))


# The command line. Nothing above calls it, and nothing else reads the environment,
# prints or exits.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    `argv` are the arguments, without the program; None takes those of the process.
    Returns 0; 1 for a token that does not verify or cannot be read, or output that
    cannot be written; 2 for wrong usage or a missing variable; 130 for Ctrl-C.
    """
    try:
        _write(sys.stdout, _run(argv))
        return 0
    except BrokenPipeError:  # whoever read the output has enough
        _silence(sys.stdout)
        return 1
    except OSError as error:
        _silence(sys.stdout)
        return _fail(1, f"cannot write: {error}")
    except RecursionError:
        return _fail(1, "the token is nested too deeply to be shown")
    except InvalidTokenError as error:
        return _fail(1, str(error))
    except ValueError as error:
        return _fail(2, str(error))
    except KeyboardInterrupt:
        return 130  # as a shell reports it


def _fail(status: int, message: str) -> int:
    """Print an error of one line, and return the exit status."""
    if sys.stderr:
        print(f"twilio-capability: {message}", file=sys.stderr)
    return status


def _write(stream: TextIO | None, text: str) -> None:
    """Write all of `text` now, so that an error shows here and not at exit."""
    if stream is None:  # as Python has it when the stream was closed from the start
        raise OSError("standard output is closed")
    stream.write(text)
    stream.flush()


def _silence(stream: TextIO) -> None:
    """Let what could not be written go nowhere: Python tries again at exit."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(argv: Sequence[str] | None) -> str:
    """Return what the command prints."""
    try:
        given = _parser().parse_args(argv)
    except SystemExit:  # argparse has printed the help or the version
        return ""
    if given.command == "generate":
        return _generate(given) + "\n"

    token = given.token
    if token in (None, "-"):
        token = _standard_input()
    if given.command == "verify":
        _verify(token)
    report = inspect_token(token)
    scope, exp = report["claims"].get("scope"), report["claims"].get("exp")
    uris = scope.split() if isinstance(scope, str) else []
    report["scopes"] = [_scope(uri) for uri in uris]
    report["expires"] = _iso8601(exp) if type(exp) is int else None
    report["expired"] = exp <= time.time() if type(exp) is int else None
    report["signature"] = "valid" if given.command == "verify" else "not checked"
    return json.dumps(report, indent=2) + "\n"


def _parser() -> ArgumentParser:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            # argparse quotes the argument at fault, which may be a secret.
            fault = re.split(r":? ['\"]|(?<=unrecognized arguments):", message)[0]
            raise ValueError(f"{fault} (see {self.prog} --help)")

    def pair(text: str) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError("must be KEY=VALUE")
        return key, value

    common: Any = {
        "allow_abbrev": False,
        "epilog": """Example: twilio-capability generate --incoming Alice. Set
        TWILIO_ACCOUNT_SID, and TWILIO_AUTH_TOKEN or (--access) TWILIO_API_KEY and
        TWILIO_API_SECRET, in the environment.""",
    }
    parser = Parser(prog="twilio-capability", **common)
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    generate = commands.add_parser("generate", help="print a new token", **common)
    many: Any = {"action": "append", "default": []}
    generate.add_argument(
        "--incoming",
        metavar="NAME",
        help="let the device be called NAME; repeatable",
        **many,
    )
    generate.add_argument(
        "--outgoing",
        metavar="APP_SID",
        help="let it call through this app; repeatable",
        **many,
    )
    generate.add_argument(
        "--param",
        metavar="KEY=VALUE",
        type=pair,
        help="passed to the app; repeatable",
        **many,
    )
    generate.add_argument(
        "--events", action="store_true", help="let it read the account's events"
    )
    generate.add_argument(
        "--event-filter",
        metavar="KEY=VALUE",
        type=pair,
        help="which ones; repeatable",
        **many,
    )
    generate.add_argument(
        "--lenient-names",
        action="store_true",
        help="take names that Twilio does not promise to take, such as agent-7",
    )
    generate.add_argument(
        "--ttl",
        metavar="SECONDS",
        type=int,
        default=DEFAULT_TTL,
        help="default: %(default)s",
    )
    generate.add_argument(
        "--access",
        action="store_true",
        help="make an access token, not a capability token",
    )
    generate.add_argument(
        "--identity", metavar="NAME", help="the device's name; with --access only"
    )
    generate.add_argument(
        "--push-credential",
        metavar="CR_SID",
        help="lets a phone be called; with --access only",
    )
    generate.add_argument(
        "--region", metavar="REGION", help="such as ie1 or au1; with --access only"
    )

    verify = commands.add_parser("verify", help="check a token and show it", **common)
    inspect = commands.add_parser("inspect", help="show one, unchecked", **common)
    for reader in (verify, inspect):
        reader.add_argument(
            "token", metavar="TOKEN", nargs="?", help="default: standard input"
        )
    return parser


def _generate(given: Namespace) -> str:
    """Return the token that the options describe."""
    if given.param and not given.outgoing:
        raise ValueError("--param needs --outgoing")
    if given.event_filter and not given.events:
        raise ValueError("--event-filter needs --events")
    if given.identity is not None and not given.access:
        raise ValueError("--identity needs --access")
    if given.push_credential is not None and not given.access:
        raise ValueError("--push-credential needs --access")
    if given.region is not None and not given.access:
        raise ValueError("--region needs --access")
    params = _each_once("--param", given.param)
    filters = _each_once("--event-filter", given.event_filter)

    auth_token = None if given.access else _variable("TWILIO_AUTH_TOKEN")
    capability = Capability(
        _variable("TWILIO_ACCOUNT_SID"), auth_token, lenient_names=given.lenient_names
    )
    for client_name in given.incoming:
        capability.allow_client_incoming(client_name)
    for application_sid in given.outgoing:
        capability.allow_client_outgoing(application_sid, params)
    if given.events:
        capability.allow_event_stream(filters)

    if not given.access:
        return capability.generate_token(given.ttl)
    return capability.generate_access_token(
        _variable("TWILIO_API_KEY"),
        _variable("TWILIO_API_SECRET"),
        given.ttl,
        identity=given.identity,
        push_credential_sid=given.push_credential,
        region=given.region,
    )


def _each_once(option: str, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError(f"{option}: no KEY may be given twice")
    return fields


def _variable(name: str) -> str:
    if not os.environ.get(name):
        raise ValueError(f"{name} must be set in the environment")
    return os.environ[name]


def _standard_input() -> str:
    try:
        return sys.stdin.read().strip()
    except (AttributeError, OSError, ValueError):  # closed, or not text
        raise InvalidTokenError("no token can be read from standard input") from None


def _verify(token: str) -> None:
    """Verify the token with the secret that its kind is signed with."""
    header = _json_object("header", _segments(token)[0])
    is_access = header.get("cty") == _ACCESS_TYPE
    verify_token(
        token, _variable("TWILIO_API_SECRET" if is_access else "TWILIO_AUTH_TOKEN")
    )


def _scope(uri: str) -> dict[str, Any]:
    """Return a scope as a report shows it."""
    try:
        scope = ScopeURI.parse(uri)
    except ValueError:
        return {"unreadable": uri}
    params: dict[str, Any] = dict(scope.params)
    for name in ("appParams", "params"):
        if name in params:
            params[name] = _form_decoded(params[name])
            if params[name] is None:
                return {"unreadable": uri}
    return {"service": scope.service, "privilege": scope.privilege, "params": params}


if __name__ == "__main__":
    sys.exit(main())
