"""Make and read Twilio capability tokens: one file, standard library only.

A capability token is a short-lived JWT that a server signs and hands to a browser or a phone. It
says what that device may do with Twilio Client: be called under a name, call out, read events.

>>> capability = Capability("AC123123", "secret")
>>> capability.allow_client_incoming("Alice")
>>> capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
>>> verify_token(capability.generate_token(ttl=600), "secret")["iss"]
'AC123123'

A wrong type is a TypeError, a wrong value a ValueError, before anything changes. The message names
the argument and the rule, never what was given: it may be a secret in the wrong place.
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
from urllib.parse import parse_qsl, quote_plus

TYPE_CHECKING = False  # typing has this constant too, but takes 4 ms to import
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["Capability", "ScopeURI", "inspect_token", "main", "verify_token"]
__all__ += ["ExpiredTokenError", "InvalidSignatureError", "InvalidTokenError"]
__version__ = "1.0.0"
DEFAULT_TTL = 3600  # seconds, as in Twilio's own libraries
MAX_TTL = 86400  # seconds: Twilio refuses a longer life (error 31207)


class InvalidTokenError(ValueError):
    """Raised when a token cannot be read or must not be trusted."""


class InvalidSignatureError(InvalidTokenError):
    """Raised when a token was altered, or signed with another secret."""


class ExpiredTokenError(InvalidTokenError):
    """Raised when a token is signed with the secret but past its ``exp``."""


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

    @classmethod
    def parse(cls, uri: str) -> ScopeURI:
        """Return the scope in `uri`, as written by this module or any Twilio library.

        Raises TypeError for a non-str and ValueError for what is no scope URI.

        >>> ScopeURI.parse("scope:client:incoming?clientName=Alice").params
        {'clientName': 'Alice'}
        """
        _check_type("uri", uri, str)
        match = _SCOPE_URI.fullmatch(uri)
        if not match:
            raise ValueError("uri must be scope:SERVICE:PRIVILEGE?NAME=VALUE&..., percent-encoded")
        return cls(match[1], match[2], _form_decode(match[3] or ""))

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
    capability tokens. It opens the whole account: access tokens, which need only an API key that
    can be revoked by itself, are safer. Raises TypeError and ValueError, as do the methods. Threads
    that only generate may share an object, since generating changes nothing.
    """

    def __init__(self, account_sid: str, auth_token: str | None = None) -> None:
        self._account_sid = _check_text("account_sid", account_sid, _ACCOUNT_SID)
        self._key = None if auth_token is None else _signing_key("auth_token", auth_token)
        self._scopes: tuple[tuple[str, str], ...] = ()  # privilege, URI
        self._client_names: tuple[str, ...] = ()
        self._applications: tuple[dict[str, Any], ...] = ()  # as access tokens grant them

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
        values, form = _check_params("params", params, str, int)
        uri = "scope:client:outgoing?appSid=" + application_sid + "&appParams=" + _quote(form)
        self._scopes += (("outgoing", uri),)
        granted = {"params": values} if values else {}
        self._applications += ({"application_sid": application_sid, **granted},)

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
        uris = [uri + caller if privilege == "outgoing" else uri for privilege, uri in self._scopes]
        # Names and SIDs need no encoding in a URI, and JSON escapes nothing in a SID or a URI.
        start = '{"scope":"' + " ".join(uris) + '","iss":"' + self._account_sid + '","exp":'
        return _encode(_CAPABILITY_HEADER, start + str(_clock(now) + ttl) + "}", self._key)

    def generate_access_token(
        self,
        api_key_sid: str,
        api_key_secret: str,
        ttl: int = DEFAULT_TTL,
        *,
        identity: str | None = None,
        now: float | None = None,
    ) -> str:
        """Return a signed voice access token that grants the same.

        `api_key_sid` is ``SK`` and one or more of ``A-Za-z0-9``; `api_key_secret`, a non-empty str,
        signs; `identity` names a device that only calls out; `ttl` and `now`: see generate_token.
        Raises ValueError also for no name or two, two applications or sets of params, or events.

        >>> device = Capability("AC123123")
        >>> token = device.generate_access_token("SK123123", "secret", identity="Alice")
        >>> verify_token(token, "secret")["grants"]
        {'identity': 'Alice', 'voice': {}}
        """
        api_key_sid = _check_text("api_key_sid", api_key_sid, _API_KEY_SID)
        _check_seconds("ttl", ttl, 1, MAX_TTL, int)
        issued = _clock(now)
        if identity is not None:
            identity = _check_text("identity", identity, _CLIENT_NAME)
        names = {*self._client_names, identity} - {None}
        if len(names) != 1:
            raise ValueError(f"identity must be one name, equal to client_name: got {len(names)}")
        if any(privilege == "subscribe" for privilege, _ in self._scopes):
            raise ValueError("an access token carries no event stream: do not allow one")
        # Twilio's guide "Migrate from Capability Tokens to Access Tokens" maps the terms.
        voice: dict[str, Any] = {"incoming": {"allow": True}} if self._client_names else {}
        for application in self._applications:
            if voice.setdefault("outgoing", application) != application:
                raise ValueError("application_sid must be one, with its params, in an access token")
        grants = {"identity": names.pop(), "voice": voice}
        ids = {"jti": api_key_sid + "-" + str(issued), "iss": api_key_sid, "sub": self._account_sid}
        payload = _to_json({**ids, "exp": issued + ttl, "grants": grants})
        return _encode(_ACCESS_HEADER, payload, _signing_key("api_key_secret", api_key_secret))


def verify_token(
    token: str, secret: str, *, leeway: float = 0, now: float | None = None
) -> dict[str, Any]:
    """Return the claims of a capability or access token that `secret` has signed.

    `secret`, a non-empty str, is the auth token for a capability token, the API key's secret for an
    access token. `leeway` is seconds by which clocks may differ; `now` is seconds since the epoch,
    floored; None is the clock. Nothing is decoded before the signature is found right. HS256 alone
    is accepted (RFC 7515, RFC 7519). Raises InvalidSignatureError, ExpiredTokenError or their base
    InvalidTokenError for the token, TypeError or ValueError for the other arguments.

    >>> token = Capability("AC123123", "secret").generate_token(now=0)
    >>> verify_token(token, "secret", now=3599)
    {'scope': '', 'iss': 'AC123123', 'exp': 3600}
    """
    header, payload, signature = _segments(token)
    key = _signing_key("secret", secret)
    _check_seconds("leeway", leeway, 0, _MAX_SECONDS, int, float)
    now = _clock(now)
    if not hmac.compare_digest(_signature(header + b"." + payload, key), signature):
        raise InvalidSignatureError("signature mismatch: altered, or signed with another secret")
    if header != _CAPABILITY_HEADER:
        fields = _decode("header", header)
        if fields.get("alg") != "HS256" or "crit" in fields:
            raise InvalidTokenError("the header must have alg HS256 and no crit")
    claims = _decode("payload", payload)
    exp, nbf = claims.get("exp"), claims.get("nbf", 0)
    if type(exp) is not int or abs(exp) > _MAX_SECONDS or type(nbf) not in (int, float):
        raise InvalidTokenError("exp must be an int up to 2**53, and nbf a number, of seconds")
    if exp + leeway <= now:
        raise ExpiredTokenError(f"the token expired at {_iso8601(exp) or exp}: get a new one")
    if now + leeway < nbf:
        raise InvalidTokenError("the token is not valid yet (nbf): compare the clocks")
    return claims


def inspect_token(token: str) -> dict[str, Any]:
    """Return ``{"header": {...}, "claims": {...}}``, with the signature NOT checked.

    Anyone may have written those: never act on them. Raises InvalidTokenError and TypeError.

    >>> inspect_token(Capability("AC123123", "secret").generate_token(now=0))["claims"]
    {'scope': '', 'iss': 'AC123123', 'exp': 3600}
    """
    header, payload, _ = _segments(token)
    return {"header": _decode("header", header), "claims": _decode("payload", payload)}


# The JWT: header, payload and signature in base64url (RFC 7515, compact serialization).
def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signature(signing_input: bytes, key: bytes) -> bytes:
    return _base64url(hmac.digest(key, signing_input, "sha256"))


def _encode(header: bytes, payload: str, key: bytes) -> str:
    signing_input = header + b"." + _base64url(payload.encode())
    return (signing_input + b"." + _signature(signing_input, key)).decode()


def _segments(token: str) -> list[bytes]:
    _check_type("token", token, str)
    segments = token.encode().split(b".") if token.isascii() else []
    if len(segments) != 3:
        raise InvalidTokenError("token must be three segments of ASCII, joined by dots")
    return segments


def _decode(part: str, segment: bytes) -> dict[str, Any]:
    value = None
    try:
        text = base64.urlsafe_b64decode(segment + b"==").decode().strip(" \t\r\n")
        value, end = _JSON.raw_decode(text)
    except (ArithmeticError, RecursionError, ValueError):
        pass  # and not raised from here, as those errors hold the text
    # The decoder skips what is not base64url.
    if not isinstance(value, dict) or end != len(text) or segment.translate(None, _BASE64URL):
        raise InvalidTokenError(f"the {part} must be a JSON object, names unique, in base64url")
    return value


def _unique(pairs: Sequence[Any]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("no KEY may be given twice")
    return members


def _finite(text: str) -> float:
    int(float(text))  # refuses infinity and NaN
    return float(text)


_BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_to_json = json.JSONEncoder(separators=(",", ":")).encode
_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
_ACCESS_TYPE = b"twilio-fpa;v=1"
_CAPABILITY_HEADER = _base64url(b'{"typ":"JWT","alg":"HS256"}')
_ACCESS_HEADER = _base64url(b'{"typ":"JWT","alg":"HS256","cty":"%s"}' % _ACCESS_TYPE)

# The scope URI: its query (RFC 3986, section 3.4) is form-encoded as by PHP's http_build_query.
_WORD = re.compile("[A-Za-z0-9_.-]+")
_SCOPE_URI = re.compile(r"scope:([^:?]+):([^:?]+)(?:\?((?:[!$&-;=?-Z_a-z~]|%[0-9A-Fa-f]{2})*))?")
_SPELLING = [quote_plus(bytes([b])).replace("~", "%7E") for b in range(256)]


def _quote(value: str | int) -> str:
    text = value if isinstance(value, str) else int.__repr__(value)
    return "".join([_SPELLING[byte] for byte in text.encode()])


def _form_encode(params: Mapping[str, str | int]) -> str:
    return "&".join([_quote(name) + "=" + _quote(value) for name, value in params.items()])


def _form_decode(query: str) -> dict[str, str]:
    try:
        return _unique(parse_qsl(query, True, True, errors="strict")) if query else {}
    except ValueError:
        pass  # and not raised from here, as that error holds the text
    raise ValueError("uri must have a query of name=value, form-encoded in UTF-8, each name once")


# The rules on input.
_ACCOUNT_SID = re.compile("AC[A-Za-z0-9]+")
_APPLICATION_SID = re.compile("AP[A-Za-z0-9]+")
_API_KEY_SID = re.compile("SK[A-Za-z0-9]+")
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
    return str.__str__(value)  # plain: a subclass may override how it is joined


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
    raise ValueError(f"{argument} must be free of lone surrogates and of ints too long to print")


# The command line.
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 (bad token or output), 2 (wrong usage) or 130 (Ctrl-C)."""
    try:
        try:
            print(_run(_parser().parse_args(argv)))
        except SystemExit:  # argparse's, after --help and --version
            pass
        print(end="", flush=True)
        status, message = (0, "") if sys.stdout else (1, "cannot write: standard output is closed")
    except KeyboardInterrupt:
        return 130  # as a shell reports it
    except OSError as error:
        # Python would try again at exit to write what did not get out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status, message = 1, "" if isinstance(error, BrokenPipeError) else f"cannot write: {error}"
    except (RecursionError, ValueError) as error:
        status, message = 2 if type(error) is ValueError else 1, str(error)
    if sys.stderr and message:  # with file=None, print would write to stdout
        print(f"twilio-capability: {message}", file=sys.stderr)
    return status


def _parser() -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            # argparse quotes the argument at fault, which may be a secret.
            fault = re.split(r":? ['\"]|(?<=unrecognized arguments):", message)[0]
            raise ValueError(f"{fault} (see {self.prog} --help)")

    def pair(text: str) -> list[str]:
        if "=" in text:
            return text.split("=", 1)
        raise argparse.ArgumentTypeError("must be KEY=VALUE")

    epilog = """Example: twilio-capability generate --incoming Alice. Set TWILIO_ACCOUNT_SID, and
    TWILIO_AUTH_TOKEN or (--access) TWILIO_API_KEY and TWILIO_API_SECRET, in the environment."""
    common: Any = {"allow_abbrev": False, "epilog": epilog}
    parser = Parser(prog="twilio-capability", **common)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    option = commands.add_parser("generate", help="print a new token", **common).add_argument
    many: Any = {"action": "append", "default": []}
    option("--incoming", metavar="NAME", help="let the device be called NAME; repeatable", **many)
    option("--outgoing", metavar="APP_SID", help="let it call through this app; repeatable", **many)
    option("--param", metavar="KEY=VALUE", type=pair, help="passed to the app; repeatable", **many)
    option("--events", action="store_true", help="let it read the account's events")
    option("--event-filter", metavar="KEY=VALUE", type=pair, help="which ones; repeatable", **many)
    option("--ttl", metavar="SECONDS", type=int, default=DEFAULT_TTL, help="default: %(default)s")
    option("--access", action="store_true", help="make an access token, not a capability token")
    option("--identity", metavar="NAME", help="the device's name; with --access only")
    for name, help in ("verify", "check a token and show it"), ("inspect", "show one, unchecked"):
        reader = commands.add_parser(name, help=help, **common)
        reader.add_argument("token", metavar="TOKEN", nargs="?", default="-", help="default: stdin")
    return parser


def _run(arguments: Any) -> str:
    if arguments.command == "generate":
        return _generate(arguments)
    token = arguments.token
    if token == "-":
        try:
            token = sys.stdin.read().strip()
        except (AttributeError, OSError, ValueError):  # closed, or not text
            raise InvalidTokenError("no token can be read from standard input") from None
    if arguments.command == "verify":
        access = _decode("header", _segments(token)[0]).get("cty") == _ACCESS_TYPE.decode()
        verify_token(token, _variable("TWILIO_API_SECRET" if access else "TWILIO_AUTH_TOKEN"))
    report = inspect_token(token)
    scope, exp = report["claims"].get("scope"), report["claims"].get("exp")
    report["scopes"] = [_scope(uri) for uri in scope.split()] if isinstance(scope, str) else []
    report["expires"] = _iso8601(exp) if type(exp) is int else None
    report["expired"] = exp <= time.time() if type(exp) is int else None
    report["signature"] = "valid" if arguments.command == "verify" else "not checked"
    return json.dumps(report, indent=2)


def _generate(given: Any) -> str:
    for option, needed in ("param", "outgoing"), ("event_filter", "events"), ("identity", "access"):
        if getattr(given, option) not in (None, []) and not getattr(given, needed):
            raise ValueError(f"--{option} needs --{needed}".replace("_", "-"))
    auth_token = None if given.access else _variable("TWILIO_AUTH_TOKEN")
    capability = Capability(_variable("TWILIO_ACCOUNT_SID"), auth_token)
    for name in given.incoming:
        capability.allow_client_incoming(name)
    for sid in given.outgoing:
        capability.allow_client_outgoing(sid, _unique(given.param))
    if given.events:
        capability.allow_event_stream(_unique(given.event_filter))
    if not given.access:
        return capability.generate_token(given.ttl)
    api_key = _variable("TWILIO_API_KEY"), _variable("TWILIO_API_SECRET")
    return capability.generate_access_token(*api_key, given.ttl, identity=given.identity)


def _variable(name: str) -> str:
    if not os.environ.get(name):
        raise ValueError(f"{name} must be set in the environment")
    return os.environ[name]


def _scope(uri: str) -> dict[str, Any]:
    try:
        scope = vars(ScopeURI.parse(uri))
        for name in scope["params"].keys() & {"appParams", "params"}:
            scope["params"][name] = _form_decode(scope["params"][name])
    except ValueError:
        return {"unreadable": uri}
    return scope


def _iso8601(seconds: int) -> str | None:
    from datetime import datetime, timedelta

    try:
        return (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat() + "Z"
    except OverflowError:
        return None  # no year of four digits


if __name__ == "__main__":
    sys.exit(main())
