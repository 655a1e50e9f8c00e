"""Make Twilio capability tokens: one file, standard library only.

A capability token is a short-lived JWT that a server signs and hands to a browser or a phone. It
says what that device may do with Twilio Client: be called under a name, call out, read events.

>>> capability = Capability("AC123123", "secret")
>>> capability.allow_client_incoming("Alice")
>>> capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
>>> token = capability.generate_token(ttl=600)

A wrong type is a TypeError, a wrong value a ValueError, before anything changes. The message names
the argument and the rule, never what was given: it may be a secret in the wrong place.
"""
# SPDX-License-Identifier: MIT

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Mapping
from urllib.parse import quote_plus

TYPE_CHECKING = False  # typing has this constant too, but takes 4 ms to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Capability", "ScopeURI"]
__version__ = "1.0.0"
DEFAULT_TTL = 3600  # seconds, as in Twilio's own libraries
MAX_TTL = 86400  # seconds: Twilio refuses a longer life (error 31207)


class ScopeURI:
    """One permission in the ``scope`` claim of a capability token.

    `service` and `privilege` are one or more of ``A-Za-z0-9_.-``; `params` map str to str. Equality
    ignores their order, and the repr leaves them out. Raises TypeError and ValueError.

    >>> str(ScopeURI("client", "incoming", {"clientName": "Alice"}))
    'scope:client:incoming?clientName=Alice'
    """

    def __init__(self, service: str, privilege: str, params: Mapping[str, str] | None = None):
        self.service = _check_text("service", service, _WORD)
        self.privilege = _check_text("privilege", privilege, _WORD)
        self.params: dict[str, str] = _check_params("params", params, str)[0]

    def __str__(self) -> str:
        query = "?" + _form_encode(self.params) if self.params else ""
        return "scope:" + self.service + ":" + self.privilege + query

    def __repr__(self) -> str:
        return f"<ScopeURI {self.service}:{self.privilege}, {len(self.params)} params>"

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, ScopeURI) else NotImplemented


class Capability:
    """What one device may do with Twilio Client, to be written as a token.

    `account_sid` is ``AC`` and one or more of ``A-Za-z0-9``; `auth_token`, a non-empty str, signs
    capability tokens. Raises TypeError and ValueError, as do the methods. Threads that only generate
    may share an object, since generating changes nothing.
    """

    def __init__(self, account_sid: str, auth_token: str | None = None) -> None:
        self._account_sid = _check_text("account_sid", account_sid, _ACCOUNT_SID)
        self._key = None if auth_token is None else _signing_key("auth_token", auth_token)
        self._scopes: tuple[tuple[str, str], ...] = ()  # privilege, URI
        self._client_names: tuple[str, ...] = ()

    def allow_client_incoming(self, client_name: str) -> None:
        """Let the device be called as `client_name`: 1 to 256 of ``A-Za-z0-9_`` (error 31105)."""
        client_name = _check_text("client_name", client_name, _CLIENT_NAME)
        self._scopes += (("incoming", "scope:client:incoming?clientName=" + client_name),)
        self._client_names += (client_name,)

    def allow_client_outgoing(
        self, application_sid: str, params: Mapping[str, str | int] | None = None
    ) -> None:
        """Let the device call out through one application, ``AP`` and one or more of ``A-Za-z0-9``.

        Twilio sends `params`, which map str to str or int, to the application with each call.
        """
        application_sid = _check_text("application_sid", application_sid, _APPLICATION_SID)
        _, form = _check_params("params", params, str, int)
        uri = "scope:client:outgoing?appSid=" + application_sid + "&appParams=" + _quote(form)
        self._scopes += (("outgoing", uri),)

    def allow_event_stream(self, filters: Mapping[str, str | int] | None = None) -> None:
        """Let the device read all events, or those that match `filters`: str to str or int."""
        _, form = _check_params("filters", filters, str, int)
        uri = "scope:stream:subscribe?path=%2F2010-04-01%2FEvents&params=" + _quote(form)
        self._scopes += (("subscribe", uri),)

    def generate_token(self, ttl: int = DEFAULT_TTL, *, now: float | None = None) -> str:
        """Return a signed capability token, the same string as twilio-php writes.

        It lives for `ttl` seconds, an int from 1 to 86400. `now` is seconds since the epoch,
        floored; None is the clock. Raises ValueError also when there is no auth token.

        >>> Capability("AC123123", "secret").generate_token(now=0)[:36]
        'eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9'
        """
        _check_seconds("ttl", ttl, 1, MAX_TTL, int)
        if self._key is None:
            raise ValueError("auth_token must be given to Capability to sign this token")
        caller = "&clientName=" + self._client_names[-1] if self._client_names else ""
        uris = [uri + caller if kind == "outgoing" else uri for kind, uri in self._scopes]
        # SIDs and scope URIs have no character that JSON escapes.
        start = '{"scope":"' + " ".join(uris) + '","iss":"' + self._account_sid + '","exp":'
        return _encode(_CAPABILITY_HEADER, start + str(_clock(now) + ttl) + "}", self._key)


# The JWT: header, payload and signature in base64url (RFC 7515, compact serialization).
def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signature(signing_input: bytes, key: bytes) -> bytes:
    return _base64url(hmac.digest(key, signing_input, "sha256"))


def _encode(header: bytes, payload: str, key: bytes) -> str:
    signing_input = header + b"." + _base64url(payload.encode())
    return (signing_input + b"." + _signature(signing_input, key)).decode()


_CAPABILITY_HEADER = _base64url(b'{"typ":"JWT","alg":"HS256"}')

# The scope URI: its query (RFC 3986, section 3.4) is form-encoded as by PHP's http_build_query.
_WORD = re.compile("[A-Za-z0-9_.-]+")
_SPELLING = [quote_plus(bytes([b])).replace("~", "%7E") for b in range(256)]


def _quote(value: str | int) -> str:
    text = value if isinstance(value, str) else int.__repr__(value)
    return "".join([_SPELLING[byte] for byte in text.encode()])


def _form_encode(params: Mapping[str, str | int]) -> str:
    return "&".join([_quote(name) + "=" + _quote(value) for name, value in params.items()])


# The rules on input.
_ACCOUNT_SID = re.compile("AC[A-Za-z0-9]+")
_APPLICATION_SID = re.compile("AP[A-Za-z0-9]+")
_CLIENT_NAME = re.compile("[A-Za-z0-9_]{1,256}")
_MAX_SECONDS = 2**53  # the integers that every JSON reader has (RFC 8259, section 6)


def _check_type(argument: str, value: object, *types: type) -> None:
    if not isinstance(value, types) or isinstance(value, bool):
        names = " or ".join([kind.__name__ for kind in types])
        raise TypeError(f"{argument} must be {names}, not {type(value).__name__}")


def _check_text(argument: str, value: str, pattern: re.Pattern[str]) -> str:
    _check_type(argument, value, str)
    if not pattern.fullmatch(value):
        raise ValueError(f"{argument} must match {pattern.pattern}")
    return str.__str__(value)  # a subclass may add up to something else


def _check_seconds(argument: str, value: float, least: int, most: int, *types: type) -> None:
    _check_type(argument, value, *types)
    if not least <= value <= most:
        raise ValueError(f"{argument} must be {least} to {most} seconds")


def _clock(now: float | None) -> int:
    if now is not None:
        _check_seconds("now", now, 0, _MAX_SECONDS - MAX_TTL, int, float)
    return int(time.time() if now is None else now)


def _signing_key(argument: str, secret: str) -> bytes:
    _check_type(argument, secret, str)
    key = secret.encode("utf-8", "ignore")  # a strict error would hold the secret
    if not key or key.decode() != secret:
        raise ValueError(f"{argument} must be a non-empty str without lone surrogates")
    return key


def _check_params(argument: str, params: Any, *types: type) -> tuple[dict[str, Any], str]:
    """Return a copy of `params`, and the same form-encoded."""
    params = {} if params is None else params
    _check_type(argument, params, Mapping)
    params = dict(params)
    for name, value in params.items():
        _check_type(argument + " name", name, str)
        _check_type(argument + " value", value, *types)
    try:
        return params, _form_encode(params)
    except ValueError:
        pass  # and not raised from here, as a UnicodeEncodeError holds the text
    raise ValueError(f"{argument} must be free of lone surrogates and of unprintable ints")
