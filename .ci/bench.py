"""Time the module beside bare standard-library calls, PyJWT and twilio-python.

All rivals of a row take turns in one process, so that a noisy machine is noisy for all
of them; what counts is the ratio to the floor. Run with "tox -e bench".
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import statistics
import subprocess
import sys
import timeit
from pathlib import Path
from typing import Any, Callable

import jwt
from twilio.jwt.client import ClientCapabilityToken

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from twilio_capability import Capability, verify_token

SECRET = "0123456789abcdef0123456789abcdef"
KEY = SECRET.encode()
ROUNDS = 40

capability = Capability("AC123123", SECRET)
capability.allow_client_incoming("Alice")
capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
TOKEN = capability.generate_token()
CLAIMS = verify_token(TOKEN, SECRET)
HEADER = TOKEN.split(".")[0].encode()
to_json = json.JSONEncoder(separators=(",", ":")).encode


def base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def floor_generate() -> str:
    signing_input = HEADER + b"." + base64url(to_json(CLAIMS).encode())
    return (
        signing_input + b"." + base64url(hmac.digest(KEY, signing_input, "sha256"))
    ).decode()


def floor_verify() -> Any:
    signing_input, _, signature = TOKEN.encode().rpartition(b".")
    if not hmac.compare_digest(
        base64url(hmac.digest(KEY, signing_input, "sha256")), signature
    ):
        raise ValueError
    return json.loads(
        base64.urlsafe_b64decode(signing_input.partition(b".")[2] + b"==")
    )


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


prepared = twilio_python()
OPERATIONS: dict[str, dict[str, Callable[[], Any]]] = {
    "generate_token": {
        "bare calls": floor_generate,
        "twilio_capability": capability.generate_token,
        "PyJWT": lambda: jwt.encode(CLAIMS, SECRET, algorithm="HS256"),
        "twilio-python": prepared.to_jwt,
    },
    "build, allow twice, generate": {
        "bare calls": floor_generate,
        "twilio_capability": build,
        "twilio-python": lambda: twilio_python().to_jwt(),
    },
    "verify_token": {
        "bare calls": floor_verify,
        "twilio_capability": lambda: verify_token(TOKEN, SECRET),
        "PyJWT": lambda: jwt.decode(TOKEN, SECRET, algorithms=["HS256"]),
        "twilio-python": lambda: ClientCapabilityToken.from_jwt(TOKEN, SECRET),
    },
}
IMPORTS = {
    "bare calls": "hmac, hashlib, base64, json, urllib.parse",
    "twilio_capability": "twilio_capability",
    "PyJWT": "jwt",
    "twilio-python": "twilio.jwt.client",
}


def take_turns(
    rivals: dict[str, Callable[[], Any]], number: int
) -> dict[str, list[float]]:
    """Return the seconds a call of each rival took, round by round."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(ROUNDS):
        for name, call in rivals.items():
            times[name].append(timeit.timeit(call, number=number) / number)
    return times


def importer(names: str) -> Callable[[], Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
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
    times = take_turns(
        {name: importer(names) for name, names in {**IMPORTS, "": ""}.items()}, 1
    )
    start = min(times.pop(""))
    above = {rival: [t - start for t in seconds] for rival, seconds in times.items()}
    print_rows("import, above a bare start", above, 1e-3, "ms")


if __name__ == "__main__":
    run()
