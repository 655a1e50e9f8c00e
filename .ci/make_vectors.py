"""Make the tests' twilio-php vectors again, print them, and say what differs.

Needs git, tar, Debian's packages php-cli and faketime, and a whole clone of
https://github.com/twilio/twilio-php, not a shallow one:

    python .ci/make_vectors.py path/to/twilio-php

The inputs are those in test_twilio_capability.py; the comment above each list names
the commit that its tokens are made with. The lists are printed in the form in which
they stand there. Where they differ, a diff follows, and the exit status is 1. For a
new vector, write it with "eyJ" as its token, and copy the token that is printed.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "test_twilio_capability.py"
NOW = "2026-01-01 00:00:00"
COMMENT = re.compile(r"# twilio-php (\d+)\.\S+ \(commit (\w{40})\)")
NAME = re.compile(r"^([A-Z_]+): ", re.MULTILINE)
TOKEN = re.compile(r'"eyJ[^"]*"')

# By the major version of twilio-php: what is taken of it, and the program that reads
# inputs as JSON and prints tokens as JSON. PHP calls methods in any letter case.
PROGRAMS = {
    "3": (
        ["Services/Twilio/Capability.php"],
        r"""
        error_reporting(E_ALL & ~E_DEPRECATED);
        require './Services/Twilio/Capability.php';
        $tokens = [];
        foreach (json_decode(stream_get_contents(STDIN), true) as $inputs) {
            [$accountSid, $authToken, $calls, $ttl] = $inputs;
            $capability = new Services_Twilio_Capability($accountSid, $authToken);
            foreach ($calls as $call) {
                $method = str_replace('_', '', array_shift($call));
                $capability->$method(...$call);
            }
            $tokens[] = $capability->generateToken(...($ttl === null ? [] : [$ttl]));
        }
        echo json_encode($tokens);
        """,
    ),
    "8": (
        ["src/Twilio/Jwt", "src/Twilio/autoload.php"],
        r"""
        require './src/Twilio/autoload.php';
        $tokens = [];
        foreach (json_decode(stream_get_contents(STDIN), true) as $inputs) {
            [$accountSid, $apiKeySid, $apiKeySecret, $calls, $options] = $inputs;
            $grant = new Twilio\Jwt\Grants\VoiceGrant();
            foreach ($calls as $call) {
                if ($call[0] === 'allow_client_incoming') {
                    $grant->setIncomingAllow(true);
                    $options['identity'] = $call[1];
                } else {
                    $grant->setOutgoingApplication($call[1], $call[2] ?? []);
                }
            }
            $grant->setPushCredentialSid($options['push_credential_sid'] ?? '');
            unset($options['push_credential_sid']);
            $token = new Twilio\Jwt\AccessToken(
                $accountSid, $apiKeySid, $apiKeySecret, ...$options
            );
            $tokens[] = $token->addGrant($grant)->toJWT();
        }
        echo json_encode($tokens);
        """,
    ),
}


def run(*command: str, cwd: str, stdin: bytes = b"") -> bytes:
    """Run a command and return what it prints; stop when it fails."""
    return subprocess.run(
        command,
        check=True,
        cwd=cwd,
        env={**os.environ, "TZ": "UTC"},
        input=stdin,
        stdout=subprocess.PIPE,
    ).stdout


def mint(checkout: str, major: str, commit: str, inputs: list[Any]) -> list[str]:
    """Return the tokens that twilio-php makes of the inputs."""
    paths, program = PROGRAMS[major]
    with tempfile.TemporaryDirectory() as folder:
        archive = run("git", "archive", commit, *paths, cwd=checkout)
        run("tar", "x", cwd=folder, stdin=archive)
        # A time() of our own would not do: 8.x calls \time().
        php = ["faketime", "-f", NOW, "php", "-r", program]
        tokens: list[str] = json.loads(
            run(*php, cwd=folder, stdin=json.dumps(inputs).encode())
        )
    return tokens


def make_again(checkout: str, source: str, tests: dict[str, Any]) -> str:
    """Return the source of some vectors of the tests with the tokens made anew."""
    ((major, commit),) = COMMENT.findall(source)
    vectors: list[Any] = []
    for name in NAME.findall(source):
        value = tests[name]
        vectors += value if isinstance(value, list) else [value]
    tokens = mint(checkout, major, commit, [vector[:-1] for vector in vectors])
    if not len(tokens) == len(vectors) == len(TOKEN.findall(source)):
        raise SystemExit('not every vector has a token that begins with "eyJ"')
    rest = iter(tokens)
    return TOKEN.sub(lambda _: f'"{next(rest)}"', source)


def main(checkout: str) -> None:
    paragraphs = re.split(r"\n\n+", TESTS.read_text("utf-8"))
    old = "\n\n".join(part for part in paragraphs if COMMENT.match(part))
    if not old:
        raise SystemExit("there are no vectors of twilio-php")
    sys.path.insert(0, str(TESTS.parent))  # the tests import the module beside them
    tests = runpy.run_path(str(TESTS))
    new = "\n\n".join(make_again(checkout, part, tests) for part in old.split("\n\n"))
    print(new)
    differences = difflib.unified_diff(
        old.split("\n"), new.split("\n"), TESTS.name, "twilio-php", lineterm=""
    )
    raise SystemExit("\n".join(differences) or 0)


if __name__ == "__main__":
    main(sys.argv[1])
