"""Time the module beside bare standard-library calls, PyJWT and twilio-python.

All rivals of a row take turns in one process, so that a noisy machine is noisy for all
of them; what counts is the ratio to the floor. Imports are of compiled modules. The
last rows have no floor: reports on the longest texts, made to take time.

Run with "tox -e bench".
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import statistics
import subprocess
import sys
import tempfile
import timeit
from functools import partial
from pathlib import Path
from typing import Any, Callable

import jwt
from twilio.jwt.access_token import AccessToken
from twilio.jwt.access_token.grants import VoiceGrant
from twilio.jwt.client import ClientCapabilityToken

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from twilio_capability import (
    Capability,
    InvalidTokenError,
    inspect_token,
    verify_token,
)

SECRET = "0123456789abcdef0123456789abcdef"
KEY_SECRET = "Zx0123456789abcdef0123456789abcd"
ROUNDS = 40

capability = Capability("AC123123", SECRET)
capability.allow_client_incoming("Alice")
capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
to_json = json.JSONEncoder(separators=(",", ":")).encode
TOKEN = capability.generate_token()
ACCESS_TOKEN = capability.generate_access_token("SK123123", KEY_SECRET)


def base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def floor_generate(token: str, secret: str) -> Callable[[], str]:
    """Return what makes a token by bare calls, from its finished claims."""
    key, header = secret.encode(), token.split(".")[0].encode()
    claims = verify_token(token, secret)

    def generate() -> str:
        signing_input = header + b"." + base64url(to_json(claims).encode())
        signature = base64url(hmac.digest(key, signing_input, "sha256"))
        return (signing_input + b"." + signature).decode()

    return generate


def floor_verify(token: str, secret: str) -> Callable[[], Any]:
    """Return what verifies a token by bare calls."""
    key = secret.encode()

    def verify() -> Any:
        signing_input, _, signature = token.encode().rpartition(b".")
        right = base64url(hmac.digest(key, signing_input, "sha256"))
        if not hmac.compare_digest(right, signature):
            raise ValueError
        payload = signing_input.partition(b".")[2]
        return json.loads(base64.urlsafe_b64decode(payload + b"=="))

    return verify


def build() -> str:
    built = Capability("AC123123", SECRET)
    built.allow_client_incoming("Alice")
    built.allow_client_outgoing("AP123123", {"Foo": "Bar"})
    return built.generate_token()


def twilio_python() -> ClientCapabilityToken:
    token = ClientCapabilityToken("AC123123", SECRET, nbf=None)
    token.allow_client_incoming("Alice")
    token.allow_client_outgoing("AP123123", Foo="Bar")
    return token


def twilio_python_access() -> str:
    token = AccessToken("AC123123", "SK123123", KEY_SECRET, identity="Alice")
    token.add_grant(VoiceGrant(True, "AP123123", {"Foo": "Bar"}))
    return str(token.to_jwt())


prepared = twilio_python()
CLAIMS = verify_token(TOKEN, SECRET)
ACCESS_CLAIMS = verify_token(ACCESS_TOKEN, KEY_SECRET)
ACCESS_HEADER = {"cty": "twilio-fpa;v=1"}
OPERATIONS: dict[str, dict[str, Callable[[], Any]]] = {
    "generate_token": {
        "bare calls": floor_generate(TOKEN, SECRET),
        "twilio_capability": capability.generate_token,
        "PyJWT": lambda: jwt.encode(CLAIMS, SECRET, algorithm="HS256"),
        "twilio-python": prepared.to_jwt,
    },
    "build, allow twice, generate": {
        "bare calls": floor_generate(TOKEN, SECRET),
        "twilio_capability": build,
        "twilio-python": lambda: twilio_python().to_jwt(),
    },
    "verify_token": {
        "bare calls": floor_verify(TOKEN, SECRET),
        "twilio_capability": lambda: verify_token(TOKEN, SECRET),
        "PyJWT": lambda: jwt.decode(TOKEN, SECRET, algorithms=["HS256"]),
        "twilio-python": lambda: ClientCapabilityToken.from_jwt(TOKEN, SECRET),
    },
    "generate_access_token": {
        "bare calls": floor_generate(ACCESS_TOKEN, KEY_SECRET),
        "twilio_capability": lambda: capability.generate_access_token(
            "SK123123", KEY_SECRET
        ),
        "PyJWT": lambda: jwt.encode(
            ACCESS_CLAIMS, KEY_SECRET, algorithm="HS256", headers=ACCESS_HEADER
        ),
        "twilio-python": twilio_python_access,
    },
    "verify_token of that": {
        "bare calls": floor_verify(ACCESS_TOKEN, KEY_SECRET),
        "twilio_capability": lambda: verify_token(ACCESS_TOKEN, KEY_SECRET),
        "PyJWT": lambda: jwt.decode(ACCESS_TOKEN, KEY_SECRET, algorithms=["HS256"]),
        "twilio-python": lambda: AccessToken.from_jwt(ACCESS_TOKEN, KEY_SECRET),
    },
}
IMPORTS = {
    "bare calls": "hmac, hashlib, base64, json, urllib.parse",
    "twilio_capability": "twilio_capability",
    "PyJWT": "jwt",
    "twilio-python": "twilio.jwt.client",
}


def segment(text: str) -> str:
    return base64url(text.encode()).decode()


def hostile_texts() -> dict[str, str]:
    """Return texts of about 65,536 characters on which a report takes its longest."""
    access = segment('{"typ":"JWT","alg":"HS256","cty":"twilio-fpa;v=1"}')
    capability = segment('{"typ":"JWT","alg":"HS256"}')
    fields = "%26".join(f"a{i}%3D1" for i in range(4000))
    names = [f"gnioguot_applicationsid{'abcdefghij'[i % 10]}" for i in range(50)]
    members = {name + "x" * (i // 10): 1 for i, name in enumerate(names)}
    voice = {"incoming": members, "outgoing": members, **members}
    params = {str(i): "{{" for i in range(3400)}
    outgoing = {"outgoing": {"params": params}}
    scope = f"scope:client:outgoing?appSid=AP1&appParams={fields}"
    tokens = {
        "a scope with many params": (capability, {"iss": "AC1", "scope": scope}),
        "a scope of appSid=": (capability, {"iss": "AC1", "scope": "appSid=" * 6900}),
        "many params": (access, {"iss": "SK1", "grants": {"voice": outgoing}}),
        "many names": (access, {"grants": {"voice": voice, **members}, **members}),
    }
    texts = {
        name: f"{header}.{segment(to_json(claims))}.{'A' * 43}"
        for name, (header, claims) in tokens.items()
    }
    return {**texts, "eyJ 21,845 times": "eyJ" * 21845, "quotes": '"' * 65536}


def inspect(text: str) -> None:
    try:
        inspect_token(text)
    except InvalidTokenError:
        pass


def take_turns(
    rivals: dict[str, Callable[[], Any]], number: int
) -> dict[str, list[float]]:
    """Return the seconds a call of each rival took, round by round."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(ROUNDS):
        for name, call in rivals.items():
            times[name].append(timeit.timeit(call, number=number) / number)
    return times


def importer(names: str, cache: str) -> Callable[[], Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", f"import {names}" if names else ""]
    return lambda: subprocess.run(command, check=True, env=environment)


def print_rows(
    operation: str, times: dict[str, list[float]], unit: float, name: str
) -> None:
    floor = times["bare calls"]
    for rival, seconds in times.items():
        ratio = statistics.median(own / bare for own, bare in zip(seconds, floor))
        least = f"{min(seconds) / unit:.1f} {name}"
        print(f"| {operation} | {rival} | {least} | {ratio:.2f} |")


def run() -> None:
    print(
        f"Python {sys.version.split()[0]}: least time, median ratio to the bare calls"
    )
    print("| operation | by | time | ratio |\n| --- | --- | --- | --- |")
    for operation, rivals in OPERATIONS.items():
        print_rows(operation, take_turns(rivals, 2000), 1e-6, "us")
    with tempfile.TemporaryDirectory() as cache:
        imports = {**IMPORTS, "": ""}
        calls = {name: importer(names, cache) for name, names in imports.items()}
        times = take_turns(calls, 1)
    start = min(times.pop(""))
    above = {rival: [t - start for t in seconds] for rival, seconds in times.items()}
    print_rows("import, above a bare start", above, 1e-3, "ms")

    for name, text in hostile_texts().items():
        least = min(timeit.repeat(partial(inspect, text), number=1, repeat=9))
        print(f"| inspect_token | {name} | {least * 1e3:.1f} ms | |")


if __name__ == "__main__":
    run()
