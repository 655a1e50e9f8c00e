"""Make, read and explain Twilio capability and access tokens, in one file.

A capability token is a short-lived JWT that a server signs and hands to a browser. It
says what that device may do with Twilio Client (Voice): be called under a name, call
out, read events. A voice access token says the same to browsers and phones. Nothing is
needed but the standard library.

>>> capability = Capability("AC123123", "secret")
>>> capability.allow_client_incoming("Alice")
>>> capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
>>> verify_token(capability.generate_token(ttl=600), "secret")["iss"]
'AC123123'

A wrong type is a TypeError, a wrong value a ValueError, before anything changes. The
message names the argument and the rule, never what was given: it may be a secret in the
wrong place.
"""
# Copyright (c) 2026 The twilio_capability authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, unquote

__all__ = [
    "Capability",
    "ExpiredTokenError",
    "InvalidSignatureError",
    "InvalidTokenError",
    "ScopeURI",
    "decode_client_name",
    "encode_client_name",
    "verify_token",
]
__version__ = "1.3.0"

TYPE_CHECKING = False  # typing has it, too, but makes the import 1.2 x as long
if TYPE_CHECKING:
    from typing import Any


# ---- Twilio's rules, each with its source --------------------------------------------

_DEFAULT_TTL = 3600  # seconds, as in Twilio's own libraries
_MAX_TTL = 86400  # seconds: Twilio refuses a longer life (errors 31207, 20157)

# The SIDs that a token has, by their first two letters, and whose they are. Twilio's
# have 32 hex digits behind those; documentation and tests use shorter ones.
_SID_OWNERS = {
    "AC": "an account's",
    "AP": "a TwiML app's",
    "CR": "a push credential's",
    "SK": "an API key's",
}
_HEX = "[0-9A-Fa-f]{32}"
_AUTH_TOKEN = "[0-9a-f]{32}"

# The header's cty, in an access token alone: Twilio's page "Access Tokens".
_ACCESS_TYPE = "twilio-fpa;v=1"

# Such as us1, ie1, au1: Twilio's page "Manage Regional API Credentials".
_REGION = "[a-z]{2}[0-9]"

# Client names: Twilio's page "Access Tokens" and twilio-php promise the first alphabet.
# Its servers refuse anything outside the second, which is printable ASCII without the
# space, delims and unwise characters of RFC 2396, section 2.4.3 (error 31105).
_NAME_ALPHABET = "A-Za-z0-9_"
_LENIENT_ALPHABET = "A-Za-z0-9_!$&'()*+,./:;=?@~-"
_CLIENT_NAME = re.compile(f"[{_NAME_ALPHABET}]+")
_LENIENT_NAME = re.compile(f"[{_LENIENT_ALPHABET}]+")
_MAX_CLIENT_NAME = 256  # error 31105
_MAX_IDENTITY = 121  # in access tokens: "Voice JavaScript SDK: Twilio.Device"

# The words of a scope URI, and the three scopes that Twilio has (twilio-php).
_SCOPE_WORD = "[A-Za-z0-9_.-]+"
_INCOMING = "client:incoming"
_OUTGOING = "client:outgoing"
_SUBSCRIBE = "stream:subscribe"
_SCOPE_NAMES = {
    _INCOMING: "incoming",
    _OUTGOING: "outgoing",
    _SUBSCRIBE: "event stream",
}
_EVENTS = "path=%2F2010-04-01%2FEvents"

# Far more characters than Twilio's tokens have, and few enough to be read at once.
_MAX_TEXT = 65536

# Integers up to here are exact in a float, and so in every JSON reader (RFC 8259,
# section 6).
_MAX_EXACT_INT = 2**53

_SURROGATE = re.compile("[\ud800-\udfff]")  # one that stands alone is no UTF-8


# ---- Errors --------------------------------------------------------------------------


class InvalidTokenError(ValueError):
    """Raised when a token cannot be read or must not be trusted."""


class InvalidSignatureError(InvalidTokenError):
    """Raised when a token was altered, or signed with another secret or algorithm."""


class ExpiredTokenError(InvalidTokenError):
    """Raised when a token is signed with the secret but past its ``exp``."""


# ---- Capability ----------------------------------------------------------------------


class Capability:
    r"""What one device may do with Twilio Client, to be written as a token.

    `account_sid` is ``AC`` and one or more of ``A-Za-z0-9``; `auth_token`, a non-empty
    str, signs capability tokens. It opens the whole account: access tokens, which need
    only an API key that can be revoked by itself, are safer.

    A client name is 1 to 256 of ``A-Za-z0-9_``, in an access token at most 121;
    encode_client_name makes one from any text. With `lenient_names`, a bool, it may be
    what Twilio's servers are known to take, such as ``agent-7``, but phones do not take
    (Twilio's page "TwiML Voice: <Client>"): printable ASCII except space and
    ``"#%<>[\]^`{|}``. Nothing that begins with ``client:`` is a name, nor is a SID of
    an application, API key or push credential.

    The constructor and the methods raise TypeError or ValueError; a call that raises
    changes nothing.

    Threads may share an object that is complete, since generating changes nothing;
    calls that allow something need a lock around them. A copy goes its own way. A
    pickle holds the auth token, so it is as secret as that.
    """

    def __init__(
        self,
        account_sid: str,
        auth_token: str | None = None,
        *,
        lenient_names: bool = False,
    ) -> None:
        # If they were swapped, either is the secret: for its name see _check_secret.
        secret = (account_sid, auth_token)
        del account_sid, auth_token
        self._account_sid = _check_sid("account_sid", secret[0], "AC")
        self._lenient_names: bool = _check_type("lenient_names", lenient_names, bool)

        self._key: bytes | None = None
        if secret[1] is not None:
            self._key = _check_secret("auth_token", secret[1])

        # What was allowed, call by call: scope, scope URI, and what an access token
        # grants for it. Each call makes a new tuple, so that a copy of this object does
        # not change with it. If other things are to stand in it, rename the attribute:
        # then a pickle of an older version raises, and does not sign something else.
        self._allowed: tuple[tuple[str, str, Any], ...] = ()

    def __repr__(self) -> str:
        # A debugger may ask before the constructor is done.
        allowed = getattr(self, "_allowed", ())
        names = dict.fromkeys(_SCOPE_NAMES[scope] for scope, _, _ in allowed)
        return f"<Capability: {', '.join(names) or 'nothing'}>"

    def allow_client_incoming(self, client_name: str) -> None:
        """Let the device be called as `client_name`. For the rule, see Capability."""
        client_name = _check_name(
            "client_name", client_name, _MAX_CLIENT_NAME, self._lenient_names
        )

        # Only a lenient name can have anything to encode, and looking takes time.
        encoded = _percent_encoded(client_name) if self._lenient_names else client_name
        uri = _scope_uri(_INCOMING, "clientName=" + encoded)
        self._allowed += ((_INCOMING, uri, client_name),)

    def allow_client_outgoing(
        self,
        application_sid: str,
        params: Mapping[str, str | int] | None = None,
    ) -> None:
        """Let the device call out through one application.

        `application_sid` is ``AP`` and one or more of ``A-Za-z0-9``. Twilio sends
        `params`, which map str to str or int, to the application with each call. An
        access token can have one application with one set of params.
        """
        secret = application_sid  # which it may be: see _check_secret
        del application_sid
        application_sid = _check_sid("application_sid", secret, "AP")
        params = _check_params("params", params, str, int)

        application: dict[str, Any] = {"application_sid": application_sid}
        if params:
            application["params"] = params
        app_params = _percent_encoded(_form_encoded(params))
        query = "appSid=" + application_sid + "&appParams=" + app_params
        uri = _scope_uri(_OUTGOING, query)
        self._allowed += ((_OUTGOING, uri, application),)

    def allow_event_stream(
        self, filters: Mapping[str, str | int] | None = None
    ) -> None:
        """Let the device read all events, or those that match `filters`.

        `filters` map str to str or int. An access token cannot carry this.
        """
        filters = _check_params("filters", filters, str, int)

        query = _EVENTS + "&params=" + _percent_encoded(_form_encoded(filters))
        uri = _scope_uri(_SUBSCRIBE, query)
        self._allowed += ((_SUBSCRIBE, uri, None),)

    def generate_token(
        self, ttl: int = _DEFAULT_TTL, *, now: float | None = None
    ) -> str:
        """Return a signed capability token, the string that twilio-php writes.

        The exception: PHP leaves a client named ``0`` out of outgoing scopes.
        It lives for `ttl` seconds, an int from 1 to 86400. `now` is seconds since the
        epoch, floored; None is the clock. Raises ValueError also when there is no auth
        token, and for more than 65,536 characters, which verify_token does not read.

        >>> Capability("AC123123", "secret").generate_token(now=0)[:36]
        'eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9'
        """
        ttl = _check_ttl(ttl)
        if self._key is None:
            raise ValueError("auth_token must be given to Capability to sign a token")

        # The last client name, wherever it was given, is the caller's.
        caller = ""
        for allowed, uri, _ in self._allowed:
            if allowed == _INCOMING:
                caller = "&" + uri.partition("?")[2]

        uris = []
        for allowed, uri, _ in self._allowed:
            uris.append(uri + caller if allowed == _OUTGOING else uri)

        # JSON escapes nothing in a SID or a scope URI, and a JSON encoder makes this
        # 1.4 times as slow.
        scope, exp = " ".join(uris), _check_now(now) + ttl
        payload = f'{{"scope":"{scope}","iss":"{self._account_sid}","exp":{exp}}}'
        return _make_token(_CAPABILITY_HEADER, payload, self._key)

    def generate_access_token(
        self,
        api_key_sid: str,
        api_key_secret: str,
        ttl: int = _DEFAULT_TTL,
        *,
        identity: str | None = None,
        push_credential_sid: str | None = None,
        region: str | None = None,
        now: float | None = None,
    ) -> str:
        """Return a signed voice access token that grants the same.

        `api_key_sid` is ``SK`` and one or more of ``A-Za-z0-9``. `api_key_secret`, a
        non-empty str that is not the auth token, signs. `ttl` and `now`: see
        generate_token. `identity` names a device that only calls out.

        `push_credential_sid` is ``CR`` and one or more of ``A-Za-z0-9``: an iPhone or
        an Android phone needs it to be called. `region`, two lower-case letters and a
        digit, such as ``ie1``, is where Twilio processes the calls, and where the API
        key was made; None is ``us1``.

        Raises TypeError and ValueError; ValueError also for no name, for two names, for
        one of more than 121 characters, for two applications or sets of params, for an
        int in params beyond 2**53, for an event stream, and for more than 65,536
        characters.

        >>> device = Capability("AC123123")
        >>> token = device.generate_access_token("SK1", "secret", identity="Alice")
        >>> verify_token(token, "secret")["grants"]
        {'identity': 'Alice', 'voice': {}}
        """
        # Any of them may be the secret: see _check_secret.
        secret = (api_key_sid, api_key_secret, push_credential_sid)
        del api_key_sid, api_key_secret, push_credential_sid
        api_key_sid = _check_sid("api_key_sid", secret[0], "SK")
        ttl = _check_ttl(ttl)
        issued = _check_now(now)

        header = _ACCESS_HEADER
        if region is not None:
            region = _check_match("region", region, _REGION, "such as us1, ie1 or au1")
            header = _base64url(_to_json({**_ACCESS_FIELDS, "twr": region}).encode())

        # Twilio's guide "Migrate Capability Tokens to Access Tokens" maps the terms.
        if self._granted(_SUBSCRIBE):
            raise ValueError(
                "an access token must carry no event stream: make a capability token, "
                "or do not call allow_event_stream"
            )
        voice: dict[str, Any] = {}
        if self._granted(_INCOMING):
            voice["incoming"] = {"allow": True}
        if self._granted(_OUTGOING):
            voice["outgoing"] = self._only_application()
        if secret[2] is not None:
            voice["push_credential_sid"] = _check_sid(
                "push_credential_sid", secret[2], "CR"
            )

        payload = {
            "jti": api_key_sid + "-" + str(issued),
            "iss": api_key_sid,
            "sub": self._account_sid,
            "exp": issued + ttl,
            "grants": {"identity": self._only_name(identity), "voice": voice},
        }
        return _make_token(
            header,
            _to_json(payload),
            self._check_api_key_secret(secret[1]),
        )

    def _check_api_key_secret(self, secret: Any) -> bytes:
        """Return the key for HMAC that is made from an API key's secret."""
        secret = _check_secret("api_key_secret", secret)
        # People's tests use one short text for both.
        if secret == self._key and re.fullmatch(_AUTH_TOKEN, secret.decode()):
            raise ValueError(
                "api_key_secret must not be the auth_token: make an API key, and give "
                "its secret"
            )
        return bytes(secret)

    def _granted(self, scope: str) -> list[Any]:
        """Return what an access token grants for each call that allowed `scope`."""
        return [grant for allowed, _, grant in self._allowed if allowed == scope]

    def _only_name(self, identity: str | None) -> str:
        """Return the client name, or the identity, which must be the same."""
        names = set(self._granted(_INCOMING))
        if any(len(name) > _MAX_IDENTITY for name in names):
            raise ValueError(
                f"client_name must be 1 to {_MAX_IDENTITY} characters in an access "
                "token: take a shorter one"
            )
        if identity is not None:
            names.add(
                _check_name("identity", identity, _MAX_IDENTITY, self._lenient_names)
            )

        if not names:
            raise ValueError(
                "identity must be given, since no client name is allowed: every access "
                "token names its device"
            )
        if len(names) > 1:
            raise ValueError(
                "client_name and identity must be one and the same name in an access "
                "token: make one Capability for each device"
            )
        name: str = names.pop()
        return name

    def _only_application(self) -> dict[str, Any]:
        """Return what an access token grants for outgoing calls."""
        applications = self._granted(_OUTGOING)
        first: dict[str, Any] = applications[0]
        if any(application != first for application in applications):
            raise ValueError(
                "application_sid must be one, with one set of params, in an access "
                "token: make one Capability for each application"
            )
        for value in first.get("params", {}).values():
            if type(value) is int and abs(value) > _MAX_EXACT_INT:
                raise ValueError(
                    "params value must be an int of at most 2**53 either way in an "
                    "access token, as JavaScript changes larger ones: give it as a str"
                )
        return first


# ---- Client names --------------------------------------------------------------------


def encode_client_name(text: str) -> str:
    """Return any text, such as an e-mail address or a UUID, as a client name.

    Each byte of its UTF-8 that is not ``A-Za-z0-9`` becomes ``_`` and two upper-case
    hex digits. Twilio Flex writes e-mail addresses this way (Twilio's support article
    on the TaskRouter Worker contact_uri). As ``_`` itself becomes ``_5F``,
    decode_client_name can undo it.

    Raises TypeError for a non-str, and ValueError for an empty str, for lone surrogates
    and for text that would be longer than 256 characters as a name.

    >>> encode_client_name("ann.veal@example.com")
    'ann_2Eveal_40example_2Ecom'
    """
    text = _check_text("text", text, str)
    if not text:
        raise ValueError("text must not be empty")
    name = _encoded_name(text[: _MAX_CLIENT_NAME + 1])  # enough to be too long
    if len(name) > _MAX_CLIENT_NAME:
        raise ValueError(
            f"text must be at most {_MAX_CLIENT_NAME} characters long as a name, where "
            "a letter or digit is one and another byte three: take a shorter id"
        )
    return name


def decode_client_name(name: str) -> str:
    """Return the text from which encode_client_name made `name`.

    `name` may begin with ``client:``, as Twilio sends it to the application's voice
    URL, and may have lower-case hex digits, as others write them.

    Raises TypeError for a non-str, and ValueError for what encode_client_name cannot
    have written.

    >>> decode_client_name("client:ann_2Eveal_40example_2Ecom")
    'ann.veal@example.com'
    """
    name = re.sub("^client:", "", _check_type("name", name, str))
    name = name[: _MAX_CLIENT_NAME + 1]  # which is too long, but soon read
    name = re.sub("_[0-9A-Fa-f]{2}", lambda escape: escape[0].upper(), name)

    # It is percent-encoding, with another sign in front.
    text = unquote(name.replace("_", "%")) if name.isascii() else ""

    # Each text has one name: "_41", say, would be a second spelling of "A". And what is
    # no UTF-8 is read as U+FFFD, whose name is another.
    if not 1 <= len(name) <= _MAX_CLIENT_NAME or _encoded_name(text) != name:
        raise ValueError(
            "name must be as encode_client_name writes it: letters, digits, and _XX "
            "for each other byte of UTF-8"
        )
    return text


def _check_name(argument: str, value: str, most: int, lenient: bool) -> str:
    """Return `value`, a client name of at most `most` characters."""
    name: str = _check_type(argument, value, str)
    fault = _name_fault(name, most, lenient)
    if fault:
        raise ValueError(f"{argument} {fault}")
    return name


def _name_fault(name: str, most: int, lenient: bool) -> str:
    """Return what is wrong with a client name, or an empty str.

    What it means is not asked: somebody may be called None.
    """
    what = ""
    if len(name) == 34 or name.startswith("client:"):
        what = _look(name, "name")
    alphabet = _LENIENT_NAME if lenient else _CLIENT_NAME
    if not what and 1 <= len(name) <= most and alphabet.fullmatch(name):
        return ""

    characters = _LENIENT_ALPHABET if lenient else _NAME_ALPHABET
    return f"must be 1 to {most} of {characters}: " + (what or _name_hint(name, most))


def _name_hint(name: str, most: int) -> str:
    """Return the ways out for a name that is too long or has other characters."""
    if len(name) > most:
        return "it is too long, take a shorter one"
    is_plus_lost = " " in name.rstrip()
    what = "" if is_plus_lost else _look(name, "spelling")
    if what:
        return what

    hints = []
    if not _SURROGATE.search(name) and len(_encoded_name(name)) <= most:
        hints.append("encode_client_name makes such a name of any text")
    if _LENIENT_NAME.fullmatch(name):
        hints.append("lenient_names takes this one as it is")
    question = "was a + in it not encoded? " if is_plus_lost else ""
    return question + ("; ".join(hints) or "take another one")


def _encoded_name(text: str) -> str:
    return re.sub(
        "[^A-Za-z0-9]",
        lambda other: "".join([f"_{byte:02X}" for byte in other[0].encode()]),
        text,
    )


# ---- Verifying -----------------------------------------------------------------------


def verify_token(
    token: str, secret: str, *, leeway: float = 0, now: float | None = None
) -> dict[str, Any]:
    """Return the claims of a capability or access token that `secret` has signed.

    `secret`, a non-empty str, is the auth token for a capability token, the API key's
    secret for an access token. `leeway`, 0 to 2**53, is the seconds by which clocks may
    differ; `now` is seconds since the epoch, floored; None is the clock.

    Nothing is decoded before the signature is found right. HS256 alone is accepted
    (RFC 7515, RFC 7519). Raises InvalidSignatureError, ExpiredTokenError or their base
    InvalidTokenError for the token; TypeError for a wrong type, and ValueError for a
    wrong value of the other arguments.

    >>> token = Capability("AC123123", "secret").generate_token(now=0)
    >>> verify_token(token, "secret", now=3599)
    {'scope': '', 'iss': 'AC123123', 'exp': 3600}
    """
    # The other arguments are checked before the signature is judged, so that a caller's
    # own mistake is not taken for a forgery.
    token = _check_segments(token)
    signing_input = token[: token.rindex(".")].encode()
    is_signed = _is_authentic(token, signing_input, _check_secret("secret", secret))
    leeway = _check_seconds("leeway", leeway, _MAX_EXACT_INT)
    now = _check_now(now)

    if not is_signed:
        raise InvalidSignatureError(
            "signature mismatch: the token was altered or cut off, or signed with "
            "another secret or algorithm. A capability token is signed with the auth "
            "token, an access token with its API key's secret"
        )

    # A header that is ours to the byte need not be decoded.
    header, _, payload = signing_input.partition(b".")
    if header not in _OUR_HEADERS:
        _check_header(_json_object("header", header))
    claims = _json_object("payload", payload)
    _check_claims(claims, leeway, now)
    return claims


def _is_authentic(token: str, signing_input: bytes, secret: bytes) -> bool:
    """Compare the base64url text, not its bytes, so that it has only one spelling.

    This is a function of its own so that the right signature is gone before an error is
    raised: error trackers send the local variables of each frame along.
    """
    right = _signature(signing_input, secret)
    return hmac.compare_digest(right, token[len(signing_input) + 1 :].encode())


def _check_header(header: dict[str, Any]) -> None:
    if header.get("alg") != "HS256" or "crit" in header:
        raise InvalidTokenError(
            "the header must have alg HS256 and no crit, as every Twilio token has: "
            "make a new token"
        )


def _check_claims(claims: dict[str, Any], leeway: float, now: int) -> None:
    """Check that the token is for us, and valid at `now`, give or take `leeway`."""
    if "aud" in claims:  # RFC 7519, section 4.1.3
        raise InvalidTokenError(
            "the token must have no aud: it is for somebody else, and no Twilio token "
            "has one"
        )

    exp = claims.get("exp")
    if type(exp) is not int or abs(exp) > _MAX_EXACT_INT:
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

    if exp <= now - leeway:
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


# ---- The JWT (RFC 7515, compact serialization) ---------------------------------------

_NOT_BASE64URL = "it has characters that base64url does not have"
_BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signature(signing_input: bytes, secret: bytes) -> bytes:
    return _base64url(hmac.digest(secret, signing_input, hashlib.sha256))


def _make_token(header: bytes, payload: str, secret: bytes) -> str:
    """Return the token made of an encoded header and a payload in JSON."""
    signing_input = header + b"." + _base64url(payload.encode())
    token = signing_input + b"." + _signature(signing_input, secret)
    if len(token) > _MAX_TEXT:
        raise ValueError(
            f"a token must be at most {_MAX_TEXT} characters: give fewer params, "
            "filters or permissions, which make this one longer"
        )
    return token.decode()


def _check_token(token: str) -> str:
    """Return `token`, a str that is short enough to be read at once."""
    token = _check_type("token", token, str)
    if len(token) > _MAX_TEXT:
        raise InvalidTokenError(
            f"token must be at most {_MAX_TEXT} characters, and Twilio's are shorter"
        )
    return token


def _check_segments(token: str) -> str:
    """Return `token`, which must have a header, a payload and a signature.

    Only the caller takes it apart, and keeps no signature: error trackers hide a local
    variable `token`, but no other.
    """
    token = _check_token(token)
    if not token.isascii() or token.count(".") != 2:
        raise InvalidTokenError("token must be three segments of ASCII, joined by dots")
    return token


def _json_object(part: str, segment: bytes) -> dict[str, Any]:
    """Return the JSON object in the encoded header or payload."""
    # The words of the decoder's own errors are left out, as they can hold some of it.
    if segment.translate(None, delete=_BASE64URL):  # the decoder would skip others
        fault = _NOT_BASE64URL
    elif len(segment) % 4 == 1:
        fault = "it has a character too few or too many"
    else:
        try:
            value = _JSON.decode(base64.urlsafe_b64decode(segment + b"==").decode())
        except UnicodeDecodeError:
            fault = "its bytes are no UTF-8"
        except json.JSONDecodeError as error:
            fault = f"it is no JSON from character {error.pos + 1} on"
        except RecursionError:
            fault = "it is nested too deep"
        except KeyError:
            fault = "a name in it comes twice"
        except ValueError:
            fault = "a number in it is not finite, or has too many digits"
        else:
            if isinstance(value, dict):
                return value
            fault = f"it is {_json_type(value)}"
            if isinstance(value, str):
                fault += "; was it encoded twice?"
    raise InvalidTokenError(
        f"the {part} must be a JSON object, names unique, in base64url: {fault}"
    )


def _json_type(value: Any) -> str:
    """Return the type of a value as JSON calls it."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a string", dict: "an object", list: "a list"}
    return names.get(type(value), "a number")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object as a dict; each name may come once."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise KeyError
    return members


def _finite(number: str) -> float:
    value = float(number)
    if not abs(value) < float("inf"):  # as NaN is not, either
        raise ValueError
    return value


_JSON = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite
)
_to_json = json.JSONEncoder(separators=(",", ":")).encode

_HEADER_FIELDS = {"typ": "JWT", "alg": "HS256"}
_ACCESS_FIELDS = {**_HEADER_FIELDS, "cty": _ACCESS_TYPE}
_CAPABILITY_HEADER = _base64url(_to_json(_HEADER_FIELDS).encode())
_ACCESS_HEADER = _base64url(_to_json(_ACCESS_FIELDS).encode())
_OUR_HEADERS = (_CAPABILITY_HEADER, _ACCESS_HEADER)


# ---- Scope URIs (form-encoded, as by PHP's http_build_query) -------------------------

_UNESCAPED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

# How each byte is written: a table for str.translate.
_SPELLING = {
    byte: chr(byte) if byte in _UNESCAPED else f"%{byte:02X}" for byte in range(256)
}
_SPELLING[ord(" ")] = "+"

# What a query may hold: the characters of RFC 3986, section 3.4, and escapes.
_QUERY = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*")


class ScopeURI:
    """One permission in the ``scope`` claim of a capability token.

    Its attributes are its arguments: `service` and `privilege`, one or more of
    ``A-Za-z0-9_.-``, and `params`, a copy that maps str to str. Equality ignores the
    order of params, so a ScopeURI cannot be hashed; the repr leaves them out.

    Raises TypeError for a wrong type and ValueError for a wrong value.

    >>> str(ScopeURI("client", "incoming", {"clientName": "Alice"}))
    'scope:client:incoming?clientName=Alice'
    """

    def __init__(
        self, service: str, privilege: str, params: Mapping[str, str] | None = None
    ) -> None:
        self.service = _check_match("service", service, _SCOPE_WORD, "such as client")
        hint = "such as incoming"
        self.privilege = _check_match("privilege", privilege, _SCOPE_WORD, hint)
        self.params: dict[str, str] = _check_params("params", params, str)

    @classmethod
    def parse(cls, uri: str) -> ScopeURI:
        """Return the scope in `uri`, as written by this module or any Twilio library.

        The exceptions are ambiguous: by twilio-ruby an event stream with two filters,
        and up to 5.6 an outgoing scope with two params. Raises TypeError for a non-str
        and ValueError for what is not a scope URI or has more than 65,536 characters.

        >>> ScopeURI.parse("scope:client:incoming?clientName=Alice").params
        {'clientName': 'Alice'}
        """
        uri = _check_type("uri", uri, str)
        if len(uri) > _MAX_TEXT:
            raise ValueError(f"uri must be at most {_MAX_TEXT} characters")

        head, _, query = uri.partition("?")
        words = head.split(":")
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
        scope = self.service + ":" + self.privilege
        return _scope_uri(scope, _form_encoded(self.params))

    def __repr__(self) -> str:
        return f"<ScopeURI {self.service}:{self.privilege}, {len(self.params)} params>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScopeURI):
            return NotImplemented
        return vars(self) == vars(other)


def _scope_uri(scope: str, query: str) -> str:
    return "scope:" + scope + "?" + query if query else "scope:" + scope


def _percent_encoded(text: str) -> str:
    if not text.isascii():
        text = text.encode().decode("latin-1")  # which makes a character of each byte
    return text.translate(_SPELLING)


def _form_encoded(params: Mapping[str, str | int]) -> str:
    return "&".join(
        [
            _percent_encoded(name) + "=" + _percent_encoded(str(value))
            for name, value in params.items()
        ]
    )


def _form_decoded(query: str) -> dict[str, str] | None:
    """Return the params in `query`, each name once, or None where it cannot be read."""
    if not query:  # up to Python 3.10 an error for parse_qsl
        return {}
    if not _QUERY.fullmatch(query):
        return None
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict"
        )
    except ValueError:
        return None
    params = dict(pairs)
    return params if len(params) == len(pairs) else None


# ---- Arguments: each check returns the value to use ----------------------------------


def _check_type(argument: str, value: object, *types: type) -> Any:
    """Return `value`, which must be of one of `types`, without what a subclass adds.

    A str Enum or the Markup of markupsafe is a str whose str() or whose own ``+`` gives
    another text. What is checked and used is its content, which str.__add__ gives. A
    lazy proxy, such as Django's SimpleLazyObject, deceives isinstance() but not type().
    """
    own = type(value)
    if own in types:
        return value
    plain: Any
    for plain in types:
        if issubclass(own, plain) and own is not bool:
            return plain.__add__(value, plain())
    names = " or ".join([plain.__name__ for plain in types])
    raise TypeError(f"{argument} must be {names}, not {own.__name__}")


def _check_text(argument: str, value: object, *types: type) -> Any:
    """Return `value`, which must be of one of `types` and have a text in UTF-8."""
    plain = _check_type(argument, value, *types)
    if type(plain) is str and _SURROGATE.search(plain):
        raise ValueError(f"{argument} must be free of lone surrogates")
    if type(plain) is int and not _is_printable(plain):
        raise ValueError(
            f"{argument} must be an int with fewer digits: give it as a str"
        )
    return plain


def _is_printable(number: int) -> bool:
    try:
        str(number)
    except ValueError:  # as sys.set_int_max_str_digits() has it
        return False
    return True


def _check_match(argument: str, value: str, pattern: str, hint: str) -> str:
    """Return `value`, a str of that pattern; `hint` ends the error's message."""
    text: str = _check_type(argument, value, str)
    if not re.fullmatch(pattern, text):
        raise ValueError(f"{argument} must match {pattern}: {hint}")
    return text


def _check_sid(argument: str, secret: str, prefix: str) -> str:
    """Return a SID of that prefix, called `secret` as people swap the two."""
    secret = _check_type(argument, secret, str)
    fault = _sid_fault(secret, prefix)
    if fault:
        raise ValueError(f"{argument} {fault}")
    return secret


def _sid_fault(sid: str, prefix: str, is_real: bool = False) -> str:
    """Return what is wrong with a SID, or an empty str.

    With `is_real` it must have 32 hex digits, as Twilio's have.
    """
    rule = "one or more of A-Za-z0-9"
    if is_real:
        rule = "32 hex digits"
        if re.fullmatch(prefix + _HEX, sid):
            return ""
    elif sid[:2] == prefix and sid.isascii() and sid.isalnum() and sid != prefix:
        return ""

    fault = f"must be {_SID_OWNERS[prefix]} SID, {prefix} and {rule}"
    what = _look(sid, "SID")
    if sid[:2].upper() == prefix and what in ("", _is_sid_of(prefix)):
        what = "it is cut off, or has other characters"
    return f"{fault}: {what}" if what else fault


def _check_secret(argument: str, secret: str) -> bytes:
    """Return the key for HMAC that is made from `secret`, a non-empty str.

    Whatever is or may be a secret, and the key, has this name in every function whose
    frame leaves this module with an error: error trackers send local variables along,
    and hide those of that name.
    """
    secret = _check_type(argument, secret, str)
    fault = _secret_fault(secret)
    if fault:
        raise ValueError(f"{argument} {fault}")
    return secret.encode()


def _secret_fault(secret: str) -> str:
    """Return what is wrong with an auth token or API secret, or an empty str."""
    if (
        not secret  # An empty key signs, and verifies, anything.
        or secret != secret.strip().strip("\ufeff")
        or secret[0] == secret[-1] in "\"'"
        or (len(secret) == 34 and _look(secret, "secret"))
    ):
        return f"must be a secret as Twilio shows it: {_look(secret, 'secret')}"
    if "\0" in secret:
        # HMAC pads keys with NULs, so that a NUL alone would be the empty key.
        return "must not contain a NUL"
    if not secret.isascii() and _SURROGATE.search(secret):
        return "must be free of lone surrogates"
    return ""


def _check_params(argument: str, params: Any, *types: type) -> dict[str, Any]:
    """Return a copy of the mapping `params`, which is read once, by its items()."""
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise TypeError(f"{argument} must be a mapping, not {type(params).__name__}")

    copy: dict[str, Any] = {}
    pairs: Any = params.items()
    if not hasattr(pairs, "__iter__"):
        pairs = [pairs]  # no pair, as a Mock gives: refused below
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"{argument} must be a mapping whose items() are pairs")
        name = _check_text(argument + " name", pair[0], str)
        if name in copy:
            raise ValueError(f"{argument} name must not come twice")
        copy[name] = _check_text(argument + " value", pair[1], *types)
    return copy


def _check_seconds(argument: str, value: float, most: int) -> float:
    """Return `value`, a number of seconds from 0 to `most`."""
    seconds: float = _check_type(argument, value, int, float)
    if not 0 <= seconds <= most:  # as NaN is not, either
        raise ValueError(f"{argument} must be 0 to {most} seconds")
    return seconds


def _check_now(now: float | None) -> int:
    """Return `now`, or else the clock, in whole seconds since the epoch."""
    if now is None:
        return int(time.time())
    return int(_check_seconds("now", now, _MAX_EXACT_INT - _MAX_TTL))


def _check_ttl(ttl: int) -> int:
    """Return `ttl`, an int of seconds from 1 to 24 hours."""
    seconds: int = _check_type("ttl", ttl, int)
    if not 1 <= seconds <= _MAX_TTL:
        raise ValueError(f"ttl must be 1 to {_MAX_TTL} seconds")
    return seconds


# ---- What a text is that stands in the place of another ------------------------------


def _look(text: str, place: str) -> str:
    """Return what a text is, or what to do about it, or an empty str.

    Making and verifying ask it only of what is wrong or has 34 characters, so its speed
    does not matter. `place` is what the text was taken for: "SID", "token", "secret" or
    "param". For a client name there are three: "name", what is refused as one;
    "spelling", what is wrong with its characters; "identity", what it means.
    """
    for places, pattern, words in _LOOKS:
        if place in places.split() and re.fullmatch(pattern, text):
            return words
    return ""


def _is_sid_of(prefix: str) -> str:
    return f"it is {_SID_OWNERS[prefix]} SID"


_IS_EMPTY = "it is empty"
_IS_URL = "it is a URL"
_IS_AUTH_TOKEN = "it looks like an auth token"
_IS_API_SECRET = "it looks like an API key's secret"
_IS_ENCODED = "it is percent-encoded; decode it first"
_IS_NO_VALUE = "it is what a program writes for no value"
_IS_TEMPLATE = "it is a placeholder that was not filled in; put your own in"
_IS_PLACEHOLDER = "it is a placeholder; put your own in"

# What programs write for no value in JavaScript, Go, Swift, Java and Objective-C, and
# what some would also send on purpose.
_NO_VALUE = (
    r"undefined|NaN|(\[object \w+\],?)+|[<(](nil|null|undefined)[>)]|%!\w\(<nil>\)|"
    r"Optional\(nil\)|Optional\[null\]|Optional\.empty"
)
_NO_NAME = "null|NULL|None|nil"
_NO_SID = "(?i:null|nil|none|nan|undef|nullptr|nothing|dbnull|true|false|void 0)"

# {{key}}, ${KEY}, #{key} and <%= key %>, and what should have been run. Instead of a
# SID also {key}, %(key)s, $(KEY), {% key %}, __KEY__, and any environment or settings.
_TEMPLATE = (
    r"(?s:\{\{.*\}\}|\$\{.*\}|#\{[A-Za-z_].*\}|<%.*%>)|process\.env\b.{0,99}|"
    r"os\.environ\b.{0,99}"
)
_SID_TEMPLATE = (
    r"\{[A-Za-z_][\w.]*\}|%\(\w+\)s|\$\(\w+\)|\$env:\w+|\{[%!].{0,99}[%!]\}|__\w+__|"
    r"[\w.:$]{0,60}(?i:env|environ|environment|config|configuration|credentials|"
    r"settings|_server)(?i:get|var)?!?[.\[(:].{0,99}|"
    r"[\w.]{0,60}(?i:get_?env)\w*\(.{0,99}"
)
# your_api_key, <YOUR_KEY>, [api key], changeme, SKXXXX, SK..., $KEY, %KEY%, API_KEY
_PLACEHOLDER = (
    r"(?i:your([_ -].{0,60}|\w{0,40})|(insert|replace|enter|paste|put)[_ -].{0,60}|"
    r"change[_ -]?(me|this)|replaceme|todo|fixme|dummy|placeholder|"
    r"(account|api|app|auth|access|my|twilio)[_ -]?(key|sid|token|secret)|"
    r"(?!.{0,99}0x|.class)[<\[(][\w .-]{0,60}"
    r"(your|token|key|sid|secret|redacted|filtered)[\w .-]{0,60}[>\])])|"
    r"[A-Za-z]{2}([Xx]+|\*+|\.\.+)|\*+|\$\w+|%\w+%|[A-Z]+(_[A-Z]+)+"
)

# Each row: the places that ask it, a pattern, and what a text is that matches it as a
# whole. The first match counts. Each takes linear time, as texts may be long.
_LOOKS = [
    ("SID secret spelling token", "", _IS_EMPTY),
    (
        "SID secret spelling",
        r"(?s:[\s\ufeff].*|.*[\s\ufeff])",
        "remove the white space (its line break?) or byte order mark at its ends",
    ),
    (
        "SID secret spelling",
        r"""(?s:"(.*")?|'(.*')?)""",
        "remove the quotes around it",
    ),
    ("SID token identity param", _NO_VALUE, _IS_NO_VALUE),
    ("SID token identity", _NO_NAME, _IS_NO_VALUE),
    ("SID token", _NO_SID, _IS_NO_VALUE),
    ("SID token identity param", _TEMPLATE, _IS_TEMPLATE),
    ("SID token", _SID_TEMPLATE, _IS_TEMPLATE),
    ("SID token", _PLACEHOLDER, _IS_PLACEHOLDER),
    ("SID", "[A-Z]{4,}", _IS_PLACEHOLDER),
    ("name", "(?s:client:.*)", "leave out client:, which Twilio puts there itself"),
    ("name", f"(AP|CR|SK){_HEX}", "it is a SID, meant for another place"),
    # What has 32 characters is a secret, with whatever letters it begins; and a short
    # SID has a digit, or it is a word.
    *[
        ("SID", rf"(?!.{{32}}\Z){prefix}[A-Za-z]*[0-9][A-Za-z0-9]*", _is_sid_of(prefix))
        for prefix in _SID_OWNERS
    ],
    *[("token secret", prefix + _HEX, _is_sid_of(prefix)) for prefix in _SID_OWNERS],
    ("SID token", f"[A-Z]{{2}}{_HEX}", "it is a SID of another kind"),
    ("SID token", _AUTH_TOKEN, _IS_AUTH_TOKEN),
    ("SID token", "[A-Za-z0-9]{32}", _IS_API_SECRET),
    ("SID", "(?s:eyJ.*)", "it is a token"),
    ("SID token", "(?s:https?://.*)", _IS_URL),
    ("SID", r"(?s:(Optional|Some|Just)\(.*\)|b['\"].*)", "unwrap what is in it"),
    ("spelling", "(?s:.*%[0-9A-Fa-f]{2}.*)", _IS_ENCODED),
]


# ==== What follows only explains, and is the command line =============================
#
# Nothing above names anything below. To keep only what makes and verifies tokens, cut
# the file here: sed '/What follows only explains/,$d' twilio_capability.py

import os
import sys
from urllib.parse import quote

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator
    from typing import NoReturn, TextIO, TypeAlias

    _Fault: TypeAlias = "tuple[str, str, str]"  # see "Why Twilio refuses a token"

__all__ += ["inspect_token"]


# ---- Inspecting ----------------------------------------------------------------------

# Levels of JSON in a report; Twilio's tokens have five. Indented, a short token that is
# nested without a limit (RFC 8259, section 9) could fill a disk.
_MAX_DEPTH = 100

# Scopes in a report; without a limit, 24,000 of one letter each made 3 MB of it.
_MAX_SCOPES = 100

# A token with nothing around it, in any base64; JSON's "{" becomes ey or ew in it.
_BARE_TOKEN = r"e[wy][A-Za-z0-9+/=_-]*\.[A-Za-z0-9+/=_-]+\.[A-Za-z0-9+/=_-]*"

_OTHER_BASE64 = "a JWT has - for +, _ for / and no ="

# Where a token begins in a text: at its header, or else at its payload. Without the
# look behind, a long text of ey would take quadratic time.
_TOKEN_START = r"eyJ|(?<![A-Za-z0-9_-])e[wy][A-Za-z0-9_-]{15,}\."

# A signature of HS256: the 32 bytes of SHA-256 in base64url. And a whole token.
_SIGNATURE = "[A-Za-z0-9_-]{43}"
_WHOLE_TOKEN = rf"e[wy][A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.{_SIGNATURE}"

# How programs print an object, a task or a function: Python, Swift and PHP; Ruby,
# Elixir and Perl; C#, Java, Dart and Go; JavaScript, which prints a function's text.
_PRINTED = (
    r"<.{0,200}\b(at )?0x[0-9A-Fa-f]|<(coroutine|Task|Future|function|bound method|"
    r"built-in|class|module|generator|Mock|MagicMock)\b|<[A-Z]\w* (\[|eyJ)|"
    r"object\(|[\w\\]+ Object\b|#<\w|#Function|%\w+\{|[A-Z]+\(0x|"
    r"(Twilio|System|Microsoft|Newtonsoft|com\.twilio)\.\w|[\w.$/]+@[0-9a-f]{4,8}\b|"
    r"\[[BL][\w.;]*@|Instance of '|Closure: |&\{|map\[|0xc0|%!\w\(|\(Function\)|"
    r"\[(Async|Generator)*Function\b|\[(class|Getter)\b|(Promise|Future) ?[{<]|"
    r"(async |get |\u0192 )?(function\b|\w+ ?\([^()]{0,99}\) ?\{)|class \w+ ?\{|"
    r"(async )?(\w+|\w*\([^()]{0,99}\)) ?[=-]>"
)

# The secret among the fields of an AccessToken, as programs print them.
_SECRET_FIELD = r"""(?i)["'[{(, @]secret(_?key)?[\w\\:"'\]]{0,60} ?[:=]"""


def inspect_token(token: str, *, now: float | None = None) -> dict[str, Any]:
    """Return a report on a token, for a person to read: the signature is NOT checked.

    Anyone may have written what is in it, so never act on it. `now` is seconds since
    the epoch, floored; None is the clock.

    The report has ``kind``: ``"capability"``, ``"access"`` or ``"unknown"``; ``header``
    and ``claims`` as they are; ``scopes``, the first 100 of a capability token, taken
    apart; ``expires``, in ISO 8601 and UTC, and ``expired``, or None where ``exp``
    cannot be read; ``signature``, always ``"not checked"``; and ``problems``, a line of
    English for each reason why Twilio is known to refuse the token, or may. A good
    token has none.

    Raises InvalidTokenError for text that is not a token, and says what it is instead;
    TypeError for a wrong type, and ValueError for a wrong `now`.

    >>> token = Capability("AC123123", "secret").generate_token(now=0)
    >>> report = inspect_token(token, now=0)
    >>> report["kind"], report["expires"]
    ('capability', '1970-01-01T01:00:00Z')
    >>> report["problems"][-1]
    'claims.scope: is empty, so the token allows nothing; allow a call'
    """
    now = _check_now(now)
    token = _check_token(token)
    disguise = _disguise(token)
    if disguise:
        raise InvalidTokenError(f"token must be a bare JWT: {disguise}")
    token = _check_segments(token)
    header = _json_object("header", token.split(".")[0].encode())
    claims = _json_object("payload", token.split(".")[1].encode())
    if _is_deep(header) or _is_deep(claims):
        raise InvalidTokenError(
            f"token must have at most {_MAX_DEPTH} levels of JSON; Twilio's have five"
        )

    kind = _kind(header, claims)
    scopes = []
    if kind == "capability" and isinstance(claims["scope"], str):
        uris = claims["scope"].split()[:_MAX_SCOPES]
        scopes = [_scope_report(uri) for uri in uris]

    exp: Any = claims.get("exp")
    is_time = type(exp) is int
    report: dict[str, Any] = {
        "kind": kind,
        "header": header,
        "claims": claims,
        "scopes": scopes,
        "expires": _iso8601(exp) if is_time else None,
        "expired": exp <= now if is_time else None,
        "signature": "not checked",
    }
    report["problems"] = _problems(report, token.split(".")[2], now)
    return report


def _disguise(token: str) -> str:
    """Return what a text is if it is no bare token, or else an empty str.

    What it is comes before what is wrong with its characters. Each step takes linear
    time, as anybody may have written the text.
    """
    words = token.replace("\ufeff", " ").split()
    text = " ".join(words)
    start = re.search(_TOKEN_START, text)
    if not start:
        text = _bare(text)
    what = _look(re.sub("(?i)^bearer ", "", text), "token")
    look_there = "look at what your token URL answers"

    if what in (_IS_EMPTY, _IS_NO_VALUE, _IS_TEMPLATE, _IS_PLACEHOLDER):
        return what
    is_twilios = re.search("(?i)account_?sid|key_?sid|AccessToken", text)
    if is_twilios and not start and re.search(_SECRET_FIELD, text):
        return (
            "it is an AccessToken's own fields, with the secret in them; call toJwt(), "
            "and delete the key, as its secret has been sent away"
        )
    if re.match(r"<\w*Token eyJ", text):
        return "it is how Python prints an AccessToken; call to_jwt()"
    if re.match(_PRINTED, text) and (text[0] == "<" or not start):
        return (
            "it is how a program prints an object or a function; call it, or await it"
        )
    if text[0] == "<":
        return f"it is a web page or XML; {look_there}"
    if text[0] in "{[" and not start:
        return f"it is JSON without a token in it; {look_there}"

    # The payload of each has .eyJ, and the next header stands behind a signature.
    pieces = text.split(".eyJ")
    if len(pieces) > 3 or any("eyJ" in p.partition(".")[2] for p in pieces[1:-1]):
        return "it is two tokens, run together; take one of them"
    if re.fullmatch(r"[\w-]+\.[\w-]*(\.[\w-]+){3}", text, re.ASCII):
        return (
            "it has five segments: an encrypted token, as Twilio Flex has, and none "
            "for Voice"
        )
    if _is_more_than_a_token(token, text, "".join(words)):
        begins = "eyJ" if start and start[0] == "eyJ" else "ey or ew"
        return (
            f"take what begins with {begins} alone, without quotes, Bearer, JSON, "
            "other text, white space or line breaks"
        )
    if re.fullmatch(_BARE_TOKEN, text) and set("+/=") & set(text[: text.rfind(".")]):
        return f"it is in standard base64; {_OTHER_BASE64}"
    if re.search("%[0-9A-Fa-f]{2}", text):
        return _IS_ENCODED
    if text.startswith("eyJ") and ("..." in text or "\u2026" in text):
        return "it is shortened; take the whole token"

    if what == _IS_URL:
        return f"{what}; take the token that it answers"
    if what:
        return f"{what}; your server makes the token from it"
    if not text.isascii():
        return "it has characters that are not ASCII"
    if re.search("[^A-Za-z0-9+/=_.-]", text) and not re.match("e[wy]", text):
        return f"it is no token; {look_there}"
    if text.count(".") < 2:
        return "it is cut off, or is no token: a JWT has three segments, joined by dots"
    if text.count(".") > 2:
        return "it has more than three segments"

    header, payload, _ = text.split(".")
    if re.match("e[wy]", text) or _is_json(header):
        return ""
    if payload.startswith("ey"):
        return "it is cut off at its beginning"
    return f"it is no token; {look_there}" if header and not _is_json(payload) else ""


def _is_more_than_a_token(token: str, text: str, squeezed: str) -> bool:
    """Tell whether something stands around a token in a text, or breaks it.

    `text` and `squeezed` are the token with its white space made one space, or none.
    """
    if squeezed != token and re.fullmatch(_BARE_TOKEN, squeezed):
        return True
    start = re.search(_TOKEN_START, text)
    if not start:
        return False
    before = text[: start.start()]
    if before and not re.fullmatch(r"[A-Za-z0-9+/=_-]*\.", before):
        return True
    whole = re.compile(_WHOLE_TOKEN).match(text, start.start())
    if whole:
        # Behind it may stand more base64, of which the report speaks, or more segments,
        # which are refused later.
        rest = r"[\w+/=-]*(\.[\w+/=-]+)*"
        return not re.fullmatch(rest, text[whole.end() :], re.ASCII)
    strange = r"[^A-Za-z0-9+/=_.%\u2026-]|%(?![0-9A-Fa-f]{2})"
    head, _, signature = text.rpartition(".")
    is_cut_off = "." not in head or not re.search("[A-Za-z0-9_-]", signature)
    return bool(re.search(strange, head if is_cut_off else text))


def _is_json(segment: str) -> bool:
    try:
        json.loads(base64.urlsafe_b64decode(segment + "=="))
    except (RecursionError, ValueError):
        return False
    return True


def _is_deep(value: Any, levels: int = _MAX_DEPTH) -> bool:
    """Tell whether a value has more levels of JSON."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deep(item, levels - 1) for item in inner)


def _kind(header: dict[str, Any], claims: dict[str, Any]) -> str:
    """Return which kind of token this is, judged by its content."""
    sids = [claims.get("iss"), claims.get("sub")]
    is_twilios = any(isinstance(sid, str) and sid[:2] in ("AC", "SK") for sid in sids)

    if header.get("cty") == _ACCESS_TYPE:
        return "access"
    if "grants" in claims:
        # Other systems have grants, too: Keycloak a list, Plivo with a cty of its own.
        cty = header.get("cty")
        is_others = isinstance(cty, str) and "twilio" not in cty.lower()
        if is_twilios or (isinstance(claims["grants"], dict) and not is_others):
            return "access"
    if "scope" in claims:
        # Other systems have a scope, too: OAuth, for one (RFC 8693, section 4.2).
        issuer, scope = claims.get("iss"), claims["scope"]
        if isinstance(issuer, str) and issuer.startswith("AC"):
            return "capability"
        words = scope.split() if isinstance(scope, str) else []
        if any(word.startswith("scope:") for word in words):
            return "capability"
    return "unknown"


def _scope_report(uri: str) -> dict[str, Any]:
    """Return a scope as a report shows it."""
    try:
        scope = ScopeURI.parse(uri)
    except ValueError:
        return {"unreadable": uri}

    params: dict[str, Any] = dict(scope.params)
    for name in ("appParams", "params"):
        if name in params:
            # twilio-ruby encodes them once, where every other library does so twice:
            # then a % need not begin an escape.
            query = re.sub("%(?![0-9A-Fa-f]{2})", "%25", params[name])
            query = quote(query, safe="!$&'()*+,;=:@/?%")
            decoded = _form_decoded(query)
            if decoded is not None:
                params[name] = decoded
    return {"service": scope.service, "privilege": scope.privilege, "params": params}


# ---- Why Twilio refuses a token ------------------------------------------------------
#
# A fault is a place in the report, words that say what is wrong and what to do, and a
# key of the codes. Without words it is none. What judges one place returns the words,
# and the key where that differs; what judges several yields faults.
#
# null is as good as missing where Twilio's own libraries write it: for the region in
# twilio-ruby, and for the parts of voice in twilio-java 7.

# The codes of Twilio's "Error and Warning Dictionary" for a capability token and for an
# access token. Of two a phone shows the first, a browser the second.
_CODES = {
    "": ("", ""),  # Twilio names none
    "kind": ("31204, 20101", "31204, 20101"),
    "region": ("", "20101"),
    "header": ("31204", "20102, 20101"),
    "issuer": ("31203", "20103, 20101"),
    "exp": ("31204", "20104"),
    "past": ("31205", "20104"),
    "nbf": ("", "20105"),
    "grants": ("", "20106, 20101"),
    "signature": ("31202", "20107, 31202"),
    "ttl": ("31207", "20157, 31207"),
    "application": ("31100", "21218, 31100"),
    "name": ("31105", "31105"),
    "push": ("", "52002"),
}

_Y2001 = 10**9  # seconds: before it, a time is a duration, or was never set
_Y2286 = 10**10  # seconds: from it on, a time is in milliseconds or microseconds
_NO_SCOPE = "must be a scope URI, such as scope:client:incoming?clientName=Alice"
_ONE_SPACE = "must be one scope URI; a space belongs between two, and nothing else"
_NOW_PLUS_TTL = "it must be the time now plus the TTL, in seconds"
_IN_SECONDS = "must be in seconds, not in milliseconds or microseconds"
_MUST_GO = "must not be there; verify_token refuses it"
_SET_IT = "set it where the token is made"
_COMPARE_CLOCKS = "compare the clock of your server with that of this machine"

# What to do about a secret that stands where a SID belongs.
_GIVEN_AWAY = {
    _IS_AUTH_TOKEN: "change it",
    _IS_API_SECRET: "delete that key",
}

# What a scope may have; twilio-node, -java and -csharp write filters as appParams.
_SCOPE_PARAMS = {
    _INCOMING: {"clientName"},
    _OUTGOING: {"appSid", "appParams", "clientName"},
    _SUBSCRIBE: {"path", "params", "appParams"},
}

_VOICE = "claims.grants.voice"
_PARAMS = f"{_VOICE}.outgoing.params"

# Where Twilio reads an access token, and what people call that who write it elsewhere,
# in small letters and without _ and -.
_NAMES_OF_PLACES = {
    "header.alg": "alg algorithm",
    "header.typ": "typ",
    "header.cty": "cty contenttype",
    "header.twr": "twr region",
    "claims.iss": "iss issuer apikey apikeysid keysid signingkeysid",
    "claims.sub": "sub subject accountsid",
    "claims.exp": "exp expires expiresat expiration expirationtime expiry validuntil",
    "claims.grants": "grants grant",
    "claims.grants.identity": "identity clientname username userid",
    _VOICE: "voice voicegrant programmablevoice",
    f"{_VOICE}.incoming": "incoming",
    f"{_VOICE}.incoming.allow": (
        "allow allowed incomingallow allowincoming allowincomingcalls"
    ),
    f"{_VOICE}.outgoing": "outgoing",
    f"{_VOICE}.outgoing.application_sid": (
        "applicationsid appsid twimlappsid twimlapplicationsid outgoingappsid "
        "outgoingapplicationsid"
    ),
    _PARAMS: (
        "params parameters appparams applicationparams outgoingparams "
        "outgoingapplicationparams customparameters"
    ),
    f"{_VOICE}.push_credential_sid": "pushcredentialsid pushcredential",
}
_PLACES = {
    name: place for place, names in _NAMES_OF_PLACES.items() for name in names.split()
}
# Outside of voice, other systems have claims with these names.
_ONLY_IN_VOICE = "allow|allowed|app(lication)?sid|(app)?params|.*parameters"


def _problems(report: dict[str, Any], signature: str, now: int) -> list[str]:
    """Return a line for each fault of the token in a report."""
    kind, header, claims = report["kind"], report["header"], report["claims"]
    if kind == "unknown":
        words = "must have Twilio's scope or grants; this is no Twilio voice token"
        faults = [("claims", words, "kind")]
    else:
        faults = [
            *_header_faults(header, kind),
            ("signature", _signature_fault(signature), "signature"),
            *_issuer_faults(claims, kind),
            *_time_faults(claims, now),
        ]
    if kind == "capability":
        faults += _scope_faults(claims["scope"], report["scopes"])
    elif kind == "access":
        faults += _grants_faults(claims)
        faults = _add_misplaced(faults, {"header": header, "claims": claims})

    column = 0 if kind == "capability" else 1
    return [
        _line(place, words, _CODES[key][column])
        for place, words, key in faults
        if words
    ]


def _line(place: str, words: str, codes: str) -> str:
    if not codes:
        return f"{place}: {words}"
    errors = "errors" if "," in codes else "error"
    return f"{place}: {words} (Twilio {errors} {codes})"


def _header_faults(header: dict[str, Any], kind: str) -> Iterator[_Fault]:
    right = {"alg": "HS256"}
    if kind == "access":
        right.update(typ="JWT", cty=_ACCESS_TYPE)
    for name, value in right.items():
        if header.get(name) != value:
            missing = "" if name in header else "is missing; it "
            yield f"header.{name}", f"{missing}must be {value}; {_SET_IT}", "header"

    region = header.get("twr")
    is_region = isinstance(region, str) and re.fullmatch(_REGION, region)
    if kind == "access" and region is not None and not is_region:
        words = f"must be a region, such as ie1; {_SET_IT}, or leave it out"
        yield "header.twr", words, "region"

    if "crit" in header:
        yield "header.crit", _MUST_GO, ""


def _signature_fault(signature: str) -> str:
    if re.fullmatch(_SIGNATURE, signature):
        return ""
    text = signature
    if re.fullmatch("[A-Za-z0-9_-]{86}", signature):
        text = base64.urlsafe_b64decode(signature + "==").decode("latin-1")
    if re.fullmatch("[0-9A-Fa-f]{64}", text):
        what = "it is in hex; encode the bytes themselves"
    elif set("+/=") & set(signature):
        what = f"it is in standard base64, or padded; {_OTHER_BASE64}"
    elif not re.fullmatch("[A-Za-z0-9_-]*", signature):
        what = _NOT_BASE64URL
    elif len(signature) < 43:
        what = "it is cut off"
    else:
        names = {64: ", SHA-384", 86: ", SHA-512"}
        what = "it is too long, or of another algorithm than HS256"
        what += names.get(len(signature), "")
    return f"must be 43 characters of base64url: {what}"


def _issuer_faults(claims: dict[str, Any], kind: str) -> Iterator[_Fault]:
    """Judge iss, and sub of an access token."""
    words = _sid_words(claims, "iss", "AC" if kind == "capability" else "SK")
    if kind == "access" and words.endswith(_is_sid_of("AC")):
        words += ", which belongs in sub"
    yield "claims.iss", words, "issuer"

    words = _sid_words(claims, "sub", "AC") if kind == "access" else ""
    if words.endswith(_is_sid_of("SK")):
        words += ", which belongs in iss"
    yield "claims.sub", words, "issuer"


def _sid_words(holder: dict[str, Any], name: str, prefix: str) -> str:
    """Return what is wrong with a SID in a token, or an empty str."""
    words = _type_fault(holder, name, str, f"{_SID_OWNERS[prefix]} SID")
    if words:
        return words

    words = _sid_fault(holder[name], prefix, is_real=True)
    what = _look(_bare(holder[name]), "SID") if words else ""
    if what in _GIVEN_AWAY:
        if not words.endswith(what):
            words += f"; {what}"
        words += f"; {_GIVEN_AWAY[what]}, as whoever has the token can read it"
    return words


def _type_fault(holder: dict[str, Any], name: str, kind: type, what: str) -> str:
    """Return that something is missing or of another type, or an empty str."""
    if name not in holder:
        return f"is missing; it must be {what}"
    if not isinstance(holder[name], kind):
        return f"must be {what}, not {_json_type(holder[name])}"
    return ""


def _bare(text: str) -> str:
    """Return a text without quotes and white space at its ends."""
    return text.strip().strip("\ufeff\"'").strip()


def _time_faults(claims: dict[str, Any], now: int) -> Iterator[_Fault]:
    """Judge exp, iat and nbf against each other and against now, and aud."""
    words, key = _expiry_fault(claims, now)
    yield "claims.exp", words, key

    iat: Any = claims.get("iat")
    nbf: Any = claims.get("nbf")
    iat_words = _start_fault(iat, now) if "iat" in claims else ""
    nbf_words = _start_fault(nbf, now) if "nbf" in claims else ""
    if iat_words == nbf_words != "" and _is_number(iat):  # one fault of both
        nbf_words += "; the same is true of iat"
        iat_words = ""
    yield "claims.iat", iat_words, ""
    yield "claims.nbf", nbf_words, "nbf"

    if "aud" in claims:
        yield "claims.aud", _MUST_GO, ""


def _expiry_fault(claims: dict[str, Any], now: int) -> tuple[str, str]:
    """Return what is wrong with exp, and the key of its codes."""
    exp = claims.get("exp")
    iat = _start(claims.get("iat"), now)
    start = _start(claims.get("nbf"), now) if iat is None else iat

    if "exp" not in claims:
        return f"is missing; {_NOW_PLUS_TTL}", "exp"
    if isinstance(exp, str) and exp.isascii() and exp.isdigit():
        # Old twilio-java and twilio-salesforce write it so, and Twilio may read it.
        return "must be an integer; leave the quotes out", ""
    if type(exp) is not int:
        what = "a fraction" if type(exp) is float else _json_type(exp)
        return f"must be an integer of seconds since the epoch, not {what}", "exp"

    if exp < _Y2001 and exp <= now:
        return f"is a duration, or was never set; {_NOW_PLUS_TTL}", "past"
    if exp >= _Y2286:
        return _IN_SECONDS, "ttl"
    if start is not None and exp <= start:
        words = (
            "was past when the token was made, by its iat or nbf; was local time taken "
            "for UTC?"
        )
        return words, "past"
    if exp <= now:
        return _past(exp, start, now), "past"
    if exp > (now if iat is None else iat) + _MAX_TTL:
        since = "from now" if iat is None else "after iat"
        return f"is more than 24 hours {since}; use a shorter ttl", "ttl"
    return "", ""


def _past(exp: int, start: float | None, now: int) -> str:
    """Return since when a token is past, and what may have gone wrong."""
    words = f"is past, since {_iso8601(exp)}"
    life = None if start is None else int(exp - start)
    if life is not None:
        words += f", {life} seconds after it was made"
    words += "; make a new token"
    if life is not None and life < 60:
        words += ", with a longer ttl"

    words += "; if you have just fetched it, your server may answer with a stored token"
    if now - exp <= _MAX_TTL:
        words += ", or its clock and that of this machine differ"
    return words


def _start(value: Any, now: int) -> float | None:
    """Return an iat or nbf that can be when the token was made, or None."""
    return value if _is_number(value) and _Y2001 <= value <= now else None


def _start_fault(value: Any, now: int) -> str:
    """Return what is wrong with iat or nbf, or an empty str."""
    if not _is_number(value):
        what = _json_type(value)
        return f"must be a number of seconds since the epoch, not {what}"
    if value >= _Y2286:
        return _IN_SECONDS
    return f"is in the future; {_COMPARE_CLOCKS}" if value > now else ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _scope_faults(scope: object, reports: list[dict[str, Any]]) -> Iterator[_Fault]:
    """Judge the scope claim, and then each of the scopes in it."""
    uris = scope.split() if isinstance(scope, str) else []
    words = ""
    if not isinstance(scope, str):
        words = f"must be a string of scope URIs, not {_json_type(scope)}"
    elif not uris:
        words = "is empty, so the token allows nothing; allow a call"
    elif len(uris) > _MAX_SCOPES:
        words = (
            f"has {len(uris)} scopes, of which the first {_MAX_SCOPES} are judged; "
            "allow each call once"
        )
    yield "claims.scope", words, ""

    for i, (uri, report) in enumerate(zip(uris, reports)):
        words = _scope_fault(uri, is_readable="unreadable" not in report)
        if uri[-1] in ",;" and i + 1 < len(uris):
            words = _ONE_SPACE
        if words == _NO_SCOPE and i:
            words += "; was a space before it not encoded?"
        if words:
            yield f"scopes[{i}]", words, ""
        else:
            yield from _readable_scope_faults(f"scopes[{i}]", report)


def _scope_fault(uri: str, is_readable: bool) -> str:
    """Return why a scope cannot be read, or is read as another, or an empty str."""
    names = "(appSid|appParams|clientName|path|params)"
    encoded_too_much = "has its =, & or ? encoded, too; encode the values alone"
    # In a value the colons are encoded.
    if len(re.findall("scope:(?:client|stream):", uri)) > 1:
        return _ONE_SPACE
    if re.search(r"&(amp|quot|#38|#x26|#34);|\\u0026", uri):
        return (
            "is escaped for HTML or JSON, as in &amp; for &; take it as it was before"
        )
    app_sids = [field.partition("appSid=")[2] for field in uri.split("&")]
    if re.search(f"%26{names}=", uri) or any("%26" in sid for sid in app_sids):
        return encoded_too_much
    if is_readable:
        return ""

    what = _look(_bare(uri), "param")
    if what:
        return f"must be a scope URI: {what}"
    head, _, query = uri.partition("?")
    if re.search(f"(?i)^scope%(25)?3A|^[^?]*%3F|[?&]{names}%(25)?3D", uri):
        return encoded_too_much
    if not re.fullmatch(f"scope:{_SCOPE_WORD}:{_SCOPE_WORD}", head):
        return _NO_SCOPE

    fields = query.split("&")
    names_given = [field.partition("=")[0] for field in fields]
    if len(set(names_given)) < len(fields) or not all("=" in field for field in fields):
        return (
            "has broken params; was an = or & in them not encoded? appParams and "
            "params must be encoded as a whole"
        )
    return "has params that are not percent-encoded UTF-8; encode each value"


def _readable_scope_faults(place: str, report: dict[str, Any]) -> Iterator[_Fault]:
    name = report["service"] + ":" + report["privilege"]
    params = report["params"]
    if name not in _SCOPE_PARAMS:
        words = "must be client:incoming, client:outgoing or stream:subscribe"
        yield place, words, ""
    elif name == _INCOMING and not params.get("clientName"):
        yield place, "must have clientName, the name of the device", ""
    elif name == _OUTGOING and "appSid" not in params:
        yield place, "must have appSid, the SID of a TwiML app", ""
    elif not _SCOPE_PARAMS[name].issuperset(params):
        words = f"has a name that {name} does not have; was an = or & not encoded?"
        yield place + ".params", words, ""

    if params.get("clientName"):
        words, key = _name_words(params["clientName"], _MAX_CLIENT_NAME)
        yield place + ".params.clientName", words, key
    if "appSid" in params:
        words = _sid_words(params, "appSid", "AP")
        yield place + ".params.appSid", words, "application"
    for inner in ("appParams", "params"):
        words = _value_fault(params.get(inner))
        if isinstance(params.get(inner), str) and not words:
            words = "must be form-encoded NAME=VALUE pairs; encode each name and value"
        yield f"{place}.params.{inner}", words, ""


def _value_fault(params: Any) -> str:
    """Return what is wrong with the values of params, or an empty str."""
    values = params.values() if isinstance(params, dict) else [params]
    for value in values:
        what = _look(value, "param") if isinstance(value, str) else ""
        if what:
            return f"has a wrong value: {what}"
    return ""


def _name_words(name: str, most: int) -> tuple[str, str]:
    """Return what is wrong with a client name in a token, and the key of its codes."""
    if _look(name, "identity"):
        return f"must be the name of the device: {_look(name, 'identity')}", ""

    words = _name_fault(name, most, lenient=False)
    if len(name) > most or not _LENIENT_NAME.fullmatch(name):
        return words, "name"
    if words and not _look(name, "name") and not _look(name, "spelling"):
        words = (
            "may work in a browser, but Twilio promises A-Za-z0-9_: use "
            "encode_client_name"
        )
    return words, ""


def _grants_faults(claims: dict[str, Any]) -> Iterator[_Fault]:
    what = "an object with identity and voice"
    words = _type_fault(claims, "grants", dict, what)
    yield "claims.grants", words, "grants"
    if words:
        return

    grants = claims["grants"]
    words = _type_fault(grants, "identity", str, "the name of the device")
    key = "grants"
    if grants.get("identity") == "":
        words = "is empty; it must be the name of the device"
    elif not words:
        words, key = _name_words(grants["identity"], _MAX_IDENTITY)
    yield "claims.grants.identity", words, key

    words = _type_fault(grants, "voice", dict, "an object that allows calls")
    if "voice" not in grants and grants.keys() - {"identity"}:
        words = "is missing; with other grants alone, this is no token for Voice"
    yield _VOICE, words, "grants"
    if not words:
        yield from _voice_faults(grants["voice"])


def _voice_faults(voice: dict[str, Any]) -> Iterator[_Fault]:
    voice = {name: part for name, part in voice.items() if part is not None}
    incoming = voice.get("incoming")
    allow = incoming.get("allow") if isinstance(incoming, dict) else None
    if "incoming" in voice and not isinstance(allow, bool):
        words = 'must be {"allow": true}'
        if isinstance(allow, str):
            words += ", without quotes around true"
        yield f"{_VOICE}.incoming", words, ""
    elif not (allow or "outgoing" in voice or "push_credential_sid" in voice):
        # A push credential is a permission to be called: Twilio's servers for its
        # phone examples mint such tokens.
        words = "allows neither incoming nor outgoing calls; allow one"
        yield _VOICE, words, "grants"

    if "outgoing" in voice:
        words = _type_fault(voice, "outgoing", dict, "an object with application_sid")
        yield f"{_VOICE}.outgoing", words, "application"
        if not words:
            words = _sid_words(voice["outgoing"], "application_sid", "AP")
            yield f"{_VOICE}.outgoing.application_sid", words, "application"
            yield _PARAMS, _params_fault(voice["outgoing"].get("params")), ""

    if "push_credential_sid" in voice:
        words = _sid_words(voice, "push_credential_sid", "CR")
        yield f"{_VOICE}.push_credential_sid", words, "push"


def _params_fault(params: Any) -> str:
    """Return what is wrong with the params of outgoing calls, or an empty str."""
    if params is not None and not isinstance(params, (dict, str)):
        return f"must be an object of strings and numbers, not {_json_type(params)}"
    values = params.values() if isinstance(params, dict) else []
    if {type(value) for value in values} <= {str, int, float, bool}:
        return _value_fault(params)
    return "must hold strings, numbers, true and false, and nothing else"


def _add_misplaced(faults: list[_Fault], token: dict[str, Any]) -> list[_Fault]:
    """Add a fault for each name in a wrong place, and leave out what it explains."""
    left, misplaced = faults, []
    for place, target in _misplaced(token):
        keys = [key for at, words, key in faults if words and _explains(target, at)]
        words = f"is not read here; it belongs in {target}"
        misplaced.append((place, words, keys[0] if keys else ""))
        left = [fault for fault in left if not _explains(target, fault[0])]
    return left + misplaced


def _explains(target: str, place: str) -> bool:
    """Tell whether what belongs in `target` is what a fault at `place` misses."""
    # A name or params alone allow nothing.
    allows = target not in ("claims.grants.identity", _PARAMS)
    return place == target or (allows and target.startswith(place + "."))


def _misplaced(token: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield where a name stands that Twilio reads elsewhere, and that place."""
    from difflib import get_close_matches

    holders = ["header", "claims", "claims.grants", _VOICE]
    for holder in (*holders, f"{_VOICE}.incoming", f"{_VOICE}.outgoing"):
        members = _at(token, holder)
        # Of a hostile token no more names than these, as looking takes time.
        names = list(members)[:50] if isinstance(members, dict) else []
        for name in names:
            if not re.fullmatch("[A-Za-z_-]{1,40}", name) or name == "allow":
                continue
            key = re.sub("[_-]", "", name).lower()
            if key not in _PLACES and len(key) > 5:
                key = "".join(get_close_matches(key, _PLACES, 1, 0.86))
            place, target = f"{holder}.{name}", _PLACES.get(key, "")
            if target in ("", place) or _at(token, target) not in (None, ""):
                continue
            is_in_voice = holder.startswith(_VOICE)
            if _may_stand_at(target, members[name]) and (
                is_in_voice or not re.fullmatch(_ONLY_IN_VOICE, key)
            ):
                yield place, target


def _may_stand_at(place: str, value: Any) -> bool:
    """Tell whether a value may be meant for a place, and is no other system's."""
    patterns = {
        "header.twr": _REGION,
        "claims.iss": "SK.*",
        "claims.sub": "AC.*",
        "claims.grants.identity": ".+",
    }
    if place in patterns:
        return isinstance(value, str) and bool(re.fullmatch(patterns[place], value))
    if place == "claims.exp":
        return _is_number(value) and value >= _Y2001
    return value is not None


def _at(token: dict[str, Any], place: str) -> Any:
    """Return what stands at a place, or in the way to it, or else None."""
    value: Any = token
    for name in place.split("."):
        if not isinstance(value, dict):
            break
        value = value.get(name)
    return value


# ---- The command line ----------------------------------------------------------------
#
# Nothing above calls it, and nothing else reads the environment, prints or exits.

_CHOOSE = "choose generate, verify or inspect"
_GENERATE_EPILOG = (
    "Example: twilio-capability generate --incoming Alice. Set TWILIO_ACCOUNT_SID, and "
    "TWILIO_AUTH_TOKEN or (--access) TWILIO_API_KEY and TWILIO_API_SECRET, in the "
    "environment."
)
_VERIFY_EPILOG = (
    "Example: twilio-capability verify < token.txt. Set TWILIO_AUTH_TOKEN for a "
    "capability token, TWILIO_API_SECRET for an access token, in the environment. "
    "TWILIO_ACCOUNT_SID and TWILIO_API_KEY, if set, are compared with the token's."
)
_INSPECT_EPILOG = (
    "Example: twilio-capability inspect < token.txt. It checks no signature, and reads "
    "no environment variable: neither TWILIO_AUTH_TOKEN nor TWILIO_API_SECRET."
)

_SID_VARIABLES = {"TWILIO_ACCOUNT_SID": "AC", "TWILIO_API_KEY": "SK"}

# What an env file or $(cat FILE) may leave around a secret.
_AROUND = {
    "": "{}",
    " in double quotes": '"{}"',
    " in single quotes": "'{}'",
    " with a line break at its end": "{}\n",
    " with a carriage return and a line break at its end": "{}\r\n",
    " with a carriage return at its end": "{}\r",
    " with a space at its end": "{} ",
}

# Of each kind of token: its name, and the variable with the secret that should sign it.
_KINDS = {
    "capability": ("a capability token", "TWILIO_AUTH_TOKEN"),
    "access": ("an access token", "TWILIO_API_SECRET"),
    "unknown": ("a token of unknown kind", "TWILIO_AUTH_TOKEN"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    `argv` are the arguments, without the program; None takes those of the process.
    Returns 0; 1 for a token that does not verify or cannot be read, or output that
    cannot be written; 2 for wrong usage or a missing variable; 130 for Ctrl-C.
    """
    try:
        status, output, error = _run(argv)
        try:
            if output:
                _write(sys.stdout, output)
        except BrokenPipeError:  # whoever read the output has enough
            status, error = 1, ""
        except (OSError, ValueError) as failure:
            status, error = 1, f"cannot write: {failure}"

        try:
            if error:
                _write(sys.stderr, f"twilio-capability: {error}\n")
        except (OSError, ValueError):
            pass  # then the status alone has to tell
        return status
    except KeyboardInterrupt:
        return 130  # as a shell reports it


def _write(stream: TextIO | None, text: str) -> None:
    """Write `text` at once, so that an error shows now: OSError or ValueError."""
    if stream is None:  # as Python has it when the stream was closed from the start
        raise OSError("the stream is closed")
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # Python tries again at exit, and would complain: let that go nowhere.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        raise


def _run(argv: Sequence[str] | None) -> tuple[int, str, str]:
    """Return the exit status, and what to print on standard output and error."""
    from contextlib import redirect_stdout
    from io import StringIO

    parser = _parser()
    printed = StringIO()  # the help or the version, after which argparse exits
    try:
        with redirect_stdout(printed):
            given, unknown = parser.parse_known_args(argv)
    except SystemExit:
        return 0, printed.getvalue(), ""
    except ValueError as error:
        return 2, "", str(error)
    if unknown:
        # Of what is not known, nothing but the name of an option can be shown safely.
        names = [word.partition("=")[0] for word in unknown]
        shown = "".join([f" {n}" for n in names if re.fullmatch("--[A-Za-z-]+", n)])
        command = " ".join([parser.prog, *filter(None, [given.command])])
        return 2, "", f"unrecognized arguments{shown} (see {command} --help)"
    if given.command is None:
        return 2, "", f"required: COMMAND; {_CHOOSE} (see {parser.prog} --help)"

    try:
        if given.command == "generate":
            return 0, _generate(given) + "\n", ""
        token = given.token
        if token in (None, "-"):
            token = _standard_input()
        elif os.path.isdir(token):
            return 1, "", "TOKEN is the name of a folder: give the token itself"
        elif os.path.exists(token):
            return 1, "", "TOKEN is the name of a file: to read it, use < FILE"
        return _report_on(token, is_verifying=given.command == "verify")
    except InvalidTokenError as error:
        return 1, "", str(error)
    except ValueError as error:
        return 2, "", str(error)


def _report_on(token: str, is_verifying: bool) -> tuple[int, str, str]:
    """Return what _run does: the report on a token, and maybe why it is refused."""
    now = time.time()
    report = inspect_token(token, now=now)
    failure = ""
    if is_verifying:
        report["signature"], failure = _verify(token, report["kind"], now)
        report["problems"] += _sid_problems(report["kind"], report["claims"])
    return 1 if failure else 0, json.dumps(report, indent=2) + "\n", failure


def _parser() -> ArgumentParser:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            # argparse quotes what is at fault, which may be a secret. So keep what is
            # before a quote.
            fault = re.split(r":? ['\"]", message)[0]
            if "invalid choice" in fault:
                fault += f"; {_CHOOSE}, and give options behind it"
            raise ValueError(f"{fault} (see {self.prog} --help)")

    parser = Parser(
        prog="twilio-capability", allow_abbrev=False, epilog=_GENERATE_EPILOG
    )
    version = f"%(prog)s {__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, words: str, epilog: str) -> ArgumentParser:
        return commands.add_parser(name, help=words, epilog=epilog, allow_abbrev=False)

    generate = command("generate", "print a new token", _GENERATE_EPILOG)
    verify = command("verify", "check a token and show it", _VERIFY_EPILOG)
    inspect = command("inspect", "show one, unchecked", _INSPECT_EPILOG)
    for reader in (verify, inspect):
        reader.add_argument(
            "token", metavar="TOKEN", nargs="?", help="default: standard input"
        )

    def option(name: str, metavar: str, words: str, **more: Any) -> None:
        generate.add_argument(name, metavar=metavar, help=words, **more)

    def flag(name: str, words: str) -> None:
        generate.add_argument(name, action="store_true", help=words)

    many: dict[str, Any] = {"action": "append", "default": []}
    pairs = {**many, "type": _pair}
    option("--incoming", "NAME", "let the device be called NAME; repeatable", **many)
    option("--outgoing", "APP_SID", "let it call through this app; repeatable", **many)
    option("--param", "KEY=VALUE", "passed to the app; repeatable", **pairs)
    flag("--events", "let it read the account's events")
    option("--event-filter", "KEY=VALUE", "which ones; repeatable", **pairs)
    flag("--lenient-names", "take names such as agent-7, which phones do not take")
    option("--ttl", "SECONDS", "default: %(default)s", type=int, default=_DEFAULT_TTL)
    flag("--access", "make an access token, not a capability token")
    option("--identity", "NAME", "the device's name; with --access only")
    option("--push-credential", "CR_SID", "lets a phone be called; with --access only")
    option("--region", "REGION", "such as ie1 or au1; with --access only")
    return parser


def _pair(text: str) -> tuple[str, str]:
    """Return the key and the value in an option's argument."""
    from argparse import ArgumentTypeError

    key, equals, value = text.partition("=")
    if not equals:
        raise ArgumentTypeError("must be KEY=VALUE")
    return key, value


def _generate(given: Namespace) -> str:
    """Return the token that the options describe."""
    needs = {"param": "outgoing", "event_filter": "events"}
    needs.update(dict.fromkeys(("identity", "push_credential", "region"), "access"))
    for name, other in needs.items():
        if getattr(given, name) not in (None, []) and not getattr(given, other):
            raise ValueError(f"--{name.replace('_', '-')} needs --{other}")
    # A push credential is a permission to be called, too.
    allowed = given.incoming or given.outgoing or given.events or given.push_credential
    if not allowed:
        last = "--push-credential" if given.access else "--events"
        raise ValueError(
            f"generate must allow something: give --incoming, --outgoing or {last}"
        )

    api_key_sid, auth_token, hint = "", None, ""
    if given.access:
        account_sid, api_key_sid, secret = _variables(
            "TWILIO_ACCOUNT_SID", "TWILIO_API_KEY", "TWILIO_API_SECRET"
        )
        if secret == os.environ.get("TWILIO_AUTH_TOKEN"):
            auth_token = secret  # which Capability refuses as the key's secret
    else:
        if os.environ.get("TWILIO_API_KEY") and not os.environ.get("TWILIO_AUTH_TOKEN"):
            hint = "; or make an access token: give --access"
        names = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN")
        account_sid, secret = _variables(*names, hint=hint)
        auth_token = secret

    capability = Capability(account_sid, auth_token, lenient_names=given.lenient_names)
    for client_name in given.incoming:
        capability.allow_client_incoming(client_name)
    params = _each_once("--param", given.param)
    for application_sid in given.outgoing:
        capability.allow_client_outgoing(application_sid, params)
    if given.events:
        capability.allow_event_stream(_each_once("--event-filter", given.event_filter))

    if not given.access:
        return capability.generate_token(given.ttl)
    return capability.generate_access_token(
        api_key_sid,
        secret,
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


def _variables(*names: str, reason: str = "", hint: str = "") -> list[str]:
    """Return environment variables, of which each must be set and well-formed."""
    values = {name: os.environ.get(name, "") for name in names}
    missing = ", ".join([name for name, value in values.items() if not value])
    if missing:
        raise ValueError(f"{reason}{missing} must be set in the environment{hint}")
    for name, value in values.items():
        prefix = _SID_VARIABLES.get(name)
        fault = _sid_fault(value, prefix) if prefix else _secret_fault(value)
        if fault:
            raise ValueError(f"{name} {fault}")
    return [*values.values()]


def _standard_input() -> str:
    """Return the token there, read no further than a token can be long."""
    most = _MAX_TEXT + len("\r\n")
    try:
        text = sys.stdin.read(most + 1) if sys.stdin else None
    except (OSError, ValueError):  # closed, a folder, or not text
        text = None
    if text is None:
        raise InvalidTokenError("no token can be read from standard input")
    return text.strip() if len(text) <= most else text


def _verify(token: str, kind: str, now: float) -> tuple[str, str]:
    """Return what the signature is, and why the token is refused, if it is."""
    words, variable = _KINDS[kind]
    (secret,) = _variables(variable, reason=f"this is {words}: ")
    try:
        verify_token(token, secret, now=now)
    except InvalidSignatureError as error:
        signer = _signer(token)
        if not signer:
            return "invalid", str(error)
        way_out = f"{words} needs {variable}"
        if signer.startswith(variable):
            way_out = "remove that where the token is made"
        return "invalid", f"the token is signed with {signer}; {way_out}"
    except InvalidTokenError as error:
        return "valid", str(error)
    return "valid", ""


def _signer(token: str) -> str:
    """Return the variable whose secret has signed a token, and how it was spelled."""
    signing_input = token.rpartition(".")[0].encode()
    for name in ("TWILIO_AUTH_TOKEN", "TWILIO_API_SECRET"):
        secret = os.environ.get(name, "")
        spellings = {} if _secret_fault(secret) else _AROUND
        for words, spelling in spellings.items():
            if _is_authentic(token, signing_input, spelling.format(secret).encode()):
                return name + words
    return ""


def _sid_problems(kind: str, claims: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each SID in a token that is not the one that is set."""
    variables = {
        "capability": {"iss": "TWILIO_ACCOUNT_SID"},
        "access": {"iss": "TWILIO_API_KEY", "sub": "TWILIO_ACCOUNT_SID"},
        "unknown": {},
    }
    for name, variable in variables[kind].items():
        given = os.environ.get(variable, "")
        if not given or _sid_words(claims, name, _SID_VARIABLES[variable]):
            continue
        if given != _bare(given):
            words = f"{variable} has quotes or white space around it; remove that"
            yield f"claims.{name}: {words}"
        if claims[name] != _bare(given):
            yield f"claims.{name}: is not the {variable} that is set in the environment"


if __name__ == "__main__":
    sys.exit(main())
