"""What twilio_capability promises: a class a topic, a test a sentence.

Run with nothing but Python: python3 -m unittest. InteropTest needs other libraries and
runs in "tox -e interop". The known-good vectors come first, and then the tests; behind
them stand their tools.
"""

from __future__ import annotations

import ast
import base64
import collections
import contextlib
import copy
import doctest
import enum
import hashlib
import hmac
import html
import importlib
import inspect
import io
import itertools
import json
import os
import pickle
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import typing
import unittest
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType, MappingProxyType, ModuleType, SimpleNamespace
from typing import Any, Callable, NamedTuple
from unittest import mock

import twilio_capability
from twilio_capability import (
    Capability,
    ExpiredTokenError,
    InvalidSignatureError,
    InvalidTokenError,
    ScopeURI,
    decode_client_name,
    encode_client_name,
    inspect_token,
    main,
    verify_token,
)

HERE = Path(__file__).resolve().parent
MODULE = HERE / "twilio_capability.py"
README = HERE / "README.md"
NOW = 1767225600  # 2026-01-01T00:00:00Z

# twilio-php 3.12.7 (commit 3a3410468ae1b7fb68c0fe0dd1203d8f511832f0), the class
# Services_Twilio_Capability, under PHP 8.2.36 at NOW: account SID, auth token, calls,
# TTL (None: the default), token. Made again by .ci/make_vectors.py, as are the next.
CAPABILITY_TOKENS: list[tuple[str, str, list[tuple[Any, ...]], int | None, str]] = [
    (
        "AC123123",
        "secret",
        [],
        None,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6IiIsImlzcyI6IkFDMTIzMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ.GTC4YI8isVKafLO0vnuTwY73tzZBa1wsLwKW5wwh1Q0",
    ),
    (
        "AC123123",
        "secret",
        [("allow_client_incoming", "Alice")],
        None,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIiwiaXNzIjoiQUMxMjMxMjMiLCJleHAiOjE3NjcyMjkyMDB9.WqsjC1oeZ4jD4LXdkZycRUBw70-nTTIfFZJ-5otbuf4",
    ),
    (
        "AC123123",
        "secret",
        [("allow_client_outgoing", "AP123123")],
        None,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPSIsImlzcyI6IkFDMTIzMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ.AKDVC2z6wU4noblvAMgkkbUNDyoNnR4gxnpM2Vz2h0E",
    ),
    (
        "AC123123",
        "secret",
        [("allow_client_outgoing", "AP123123", {"Foo": "Bar"})],
        None,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPUZvbyUzREJhciIsImlzcyI6IkFDMTIzMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ.4ISWDLFnTeu9oi5HNFIfP1nbnGbWSrGxespjqpYWMX8",
    ),
    (
        "AC123123",
        "secret",
        [
            ("allow_client_incoming", "Alice"),
            ("allow_client_outgoing", "AP123123", {"Foo": "Bar"}),
        ],
        600,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPUZvbyUzREJhciZjbGllbnROYW1lPUFsaWNlIiwiaXNzIjoiQUMxMjMxMjMiLCJleHAiOjE3NjcyMjYyMDB9.Q7_bi7xA7phTIFfXmqh_sgrBcZv31DbshO6mOfysXgU",
    ),
    (
        "AC123123",
        "secret",
        [
            ("allow_client_outgoing", "AP123123", {"Foo": "Bar"}),
            ("allow_client_incoming", "Alice"),
        ],
        600,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPUZvbyUzREJhciZjbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIiwiaXNzIjoiQUMxMjMxMjMiLCJleHAiOjE3NjcyMjYyMDB9.vgByPZvdbeJ5fqD_VU6iwWzHOJgl8rCHgO18R-fCdv4",
    ),
    (
        "AC123",
        "foo",
        [("allow_event_stream",)],
        None,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGF0aD0lMkYyMDEwLTA0LTAxJTJGRXZlbnRzJnBhcmFtcz0iLCJpc3MiOiJBQzEyMyIsImV4cCI6MTc2NzIyOTIwMH0.3GyxJyAu_1xtBm_X9cynKwXsdrm-btcIKnC2mPEgZek",
    ),
    (
        "AC123",
        "foo",
        [("allow_event_stream", {"foobar": "hey"})],
        None,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGF0aD0lMkYyMDEwLTA0LTAxJTJGRXZlbnRzJnBhcmFtcz1mb29iYXIlM0RoZXkiLCJpc3MiOiJBQzEyMyIsImV4cCI6MTc2NzIyOTIwMH0.X0aW7_Z0smbipYsU8MOKx77k1IsTR1kyzn_KbtUqaQ4",
    ),
    (
        "AC123",
        "foo",
        [
            ("allow_client_outgoing", "AP123", {"foobar": 3}),
            ("allow_client_incoming", "andy"),
            ("allow_event_stream",),
        ],
        None,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMmYXBwUGFyYW1zPWZvb2JhciUzRDMmY2xpZW50TmFtZT1hbmR5IHNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPWFuZHkgc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPSUyRjIwMTAtMDQtMDElMkZFdmVudHMmcGFyYW1zPSIsImlzcyI6IkFDMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ.adNY8vVE0fdGL2_dBrQ04wP-PDhl_wqldP_7P-TH2Jc",
    ),
    (
        "AC123",
        "foo",
        [
            ("allow_client_incoming", "andy"),
            ("allow_client_incoming", "bob_2"),
            ("allow_client_outgoing", "AP123"),
            ("allow_client_outgoing", "AP456", {"a": "1", "b": "2"}),
        ],
        86400,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPWFuZHkgc2NvcGU6Y2xpZW50OmluY29taW5nP2NsaWVudE5hbWU9Ym9iXzIgc2NvcGU6Y2xpZW50Om91dGdvaW5nP2FwcFNpZD1BUDEyMyZhcHBQYXJhbXM9JmNsaWVudE5hbWU9Ym9iXzIgc2NvcGU6Y2xpZW50Om91dGdvaW5nP2FwcFNpZD1BUDQ1NiZhcHBQYXJhbXM9YSUzRDElMjZiJTNEMiZjbGllbnROYW1lPWJvYl8yIiwiaXNzIjoiQUMxMjMiLCJleHAiOjE3NjczMTIwMDB9.HsNJEnVnmeg1cd-QsdBaeLy-R_22tJI7ab_rTVlYkZY",
    ),
    (
        "AC123",
        "k",
        [
            (
                "allow_client_outgoing",
                "AP123",
                {
                    "a b": "c&d=e",
                    "marks": "~!*'()-._",
                    "plus": "1+1",
                    "percent": "100%",
                    "path": "a/b?c#d",
                    "empty": "",
                },
            )
        ],
        1,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMmYXBwUGFyYW1zPWElMkJiJTNEYyUyNTI2ZCUyNTNEZSUyNm1hcmtzJTNEJTI1N0UlMjUyMSUyNTJBJTI1MjclMjUyOCUyNTI5LS5fJTI2cGx1cyUzRDElMjUyQjElMjZwZXJjZW50JTNEMTAwJTI1MjUlMjZwYXRoJTNEYSUyNTJGYiUyNTNGYyUyNTIzZCUyNmVtcHR5JTNEIiwiaXNzIjoiQUMxMjMiLCJleHAiOjE3NjcyMjU2MDF9.PnourrqwxOsZo3m9x98En-xz2nAfWAe6hDIUtATPDqk",
    ),
    (
        "AC123",
        "sécrèt ☃",
        [
            (
                "allow_client_outgoing",
                "AP123",
                {"name": "Zoë ☃ 😀", "ключ": "значение"},
            ),
            ("allow_event_stream", {"a": "x y", "b": "&"}),
        ],
        None,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMmYXBwUGFyYW1zPW5hbWUlM0RabyUyNUMzJTI1QUIlMkIlMjVFMiUyNTk4JTI1ODMlMkIlMjVGMCUyNTlGJTI1OTglMjU4MCUyNiUyNUQwJTI1QkElMjVEMCUyNUJCJTI1RDElMjU4RSUyNUQxJTI1ODclM0QlMjVEMCUyNUI3JTI1RDAlMjVCRCUyNUQwJTI1QjAlMjVEMSUyNTg3JTI1RDAlMjVCNSUyNUQwJTI1QkQlMjVEMCUyNUI4JTI1RDAlMjVCNSBzY29wZTpzdHJlYW06c3Vic2NyaWJlP3BhdGg9JTJGMjAxMC0wNC0wMSUyRkV2ZW50cyZwYXJhbXM9YSUzRHglMkJ5JTI2YiUzRCUyNTI2IiwiaXNzIjoiQUMxMjMiLCJleHAiOjE3NjcyMjkyMDB9.vOhp8DdS3aDNBeM49yUW4ktIfcRLR1z-C1bIkkD4KW4",
    ),
]

# twilio-php 8.12.0 (commit ba0784ba0095eb4cea6f7f1e8e3201f6ff6f3404), the classes
# Twilio\Jwt\AccessToken and VoiceGrant, under PHP 8.2.36 at NOW: account SID, API key
# SID, API key secret, calls, options, token.
ACCESS_TOKENS: list[
    tuple[str, str, str, list[tuple[Any, ...]], dict[str, Any], str]
] = [
    (
        "AC123123",
        "SK123123",
        "secret",
        [
            ("allow_client_incoming", "Alice"),
            ("allow_client_outgoing", "AP123123", {"Foo": "Bar"}),
        ],
        {"ttl": 600},
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyNjIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fX19fQ.NBbrVEn71GC0fC-otWDA4QPCJ0bU5KSs8MLvGIhoT-c",
    ),
    (
        "AC123123",
        "SK123123",
        "secret",
        [("allow_client_incoming", "Alice")],
        {},
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX19fX0.oqb8LJD-3tWL3jlVXyMEKy7LM_KaCVN2ECt9FBQn6SA",
    ),
    (
        "AC123123",
        "SK123123",
        "secret",
        [("allow_client_incoming", "Alice"), ("allow_client_outgoing", "AP123123")],
        {"ttl": 86400},
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzMxMjAwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIn19fX0.ckxlmjuYverCLWpKXzaBi2CnvU9tqt89dB59vvmZXF0",
    ),
    (
        "AC123123",
        "SK123123",
        "secret",
        [
            ("allow_client_incoming", "Alice"),
            ("allow_client_outgoing", "AP123123", {"name": "Zoë ☃ 😀", "n": "3"}),
        ],
        {},
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIiwicGFyYW1zIjp7Im5hbWUiOiJab1x1MDBlYiBcdTI2MDMgXHVkODNkXHVkZTAwIiwibiI6IjMifX19fX0.jzGaxNScchlnL4cBz_medRRBmnOaGhCgoB1eG_uMndQ",
    ),
    (
        "ACb0e7153bf7c3706d85c524e440066559",
        "SKa6656c90bd5482a90a29b9fa5ff5180b",
        "C1uwB5FXZPf7s=tg7NvlE3Lar=",
        [
            (
                "allow_client_incoming",
                "u6JVR7siFTrUTLzFoJusTeKuDFmi7ZCPvmW0QdpaJD_6oCzf",
            ),
            ("allow_client_outgoing", "AP4d35db41d94e5efaf89fc43c5fa52f8b"),
        ],
        {"region": "ie1"},
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTS2E2NjU2YzkwYmQ1NDgyYTkwYTI5YjlmYTVmZjUxODBiLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2E2NjU2YzkwYmQ1NDgyYTkwYTI5YjlmYTVmZjUxODBiIiwic3ViIjoiQUNiMGU3MTUzYmY3YzM3MDZkODVjNTI0ZTQ0MDA2NjU1OSIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidTZKVlI3c2lGVHJVVEx6Rm9KdXNUZUt1REZtaTdaQ1B2bVcwUWRwYUpEXzZvQ3pmIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDRkMzVkYjQxZDk0ZTVlZmFmODlmYzQzYzVmYTUyZjhiIn19fX0.PfzjtxoEmla5sPc-pKFYqkLJcJ_j0khuYwFbg5DPhX8",
    ),
    (
        "AC19b8f89a50f8a8e9bb8bdb5eba456bf9",
        "SK2d5d98065e5751f75143a5f61debc267",
        "Aszj0OvEmMl=rltQ10v7SUw9",
        [("allow_client_incoming", "umF")],
        {"push_credential_sid": "CRa4acdd7f9fcc589f8d0a9f94f03e7914", "region": "au1"},
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiYXUxIn0.eyJqdGkiOiJTSzJkNWQ5ODA2NWU1NzUxZjc1MTQzYTVmNjFkZWJjMjY3LTE3NjcyMjU2MDAiLCJpc3MiOiJTSzJkNWQ5ODA2NWU1NzUxZjc1MTQzYTVmNjFkZWJjMjY3Iiwic3ViIjoiQUMxOWI4Zjg5YTUwZjhhOGU5YmI4YmRiNWViYTQ1NmJmOSIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidW1GIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJwdXNoX2NyZWRlbnRpYWxfc2lkIjoiQ1JhNGFjZGQ3ZjlmY2M1ODlmOGQwYTlmOTRmMDNlNzkxNCJ9fX0.vIoe-xt8WySuDx9ss30WhZxMmDuBoNq9uMDd1Rw_Xx8",
    ),
    (
        "AC60ddfcfc69e290d9f945ffa4d1278220",
        "SKad2cf1337349e455d52613c2813c40d2",
        "__tvHRlT/lchIegkéRev6",
        [
            (
                "allow_client_incoming",
                "uLItBpVFkqCF3HgmdPY4de9UGyhBiuYD2J88bryOvHF_6qf0NIs",
            ),
            (
                "allow_client_outgoing",
                "AP79abcc4b9db165c23115661ffb0df9da",
                {"8E": "Tkl 8", "PCQmk": "l%D7su", "QEAg6N": 558},
            ),
        ],
        {
            "ttl": 86400,
            "push_credential_sid": "CR6452bcf48385971f1bba10ef43a9e751",
            "region": "us1",
        },
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoidXMxIn0.eyJqdGkiOiJTS2FkMmNmMTMzNzM0OWU0NTVkNTI2MTNjMjgxM2M0MGQyLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2FkMmNmMTMzNzM0OWU0NTVkNTI2MTNjMjgxM2M0MGQyIiwic3ViIjoiQUM2MGRkZmNmYzY5ZTI5MGQ5Zjk0NWZmYTRkMTI3ODIyMCIsImV4cCI6MTc2NzMxMjAwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidUxJdEJwVkZrcUNGM0hnbWRQWTRkZTlVR3loQml1WUQySjg4YnJ5T3ZIRl82cWYwTklzIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDc5YWJjYzRiOWRiMTY1YzIzMTE1NjYxZmZiMGRmOWRhIiwicGFyYW1zIjp7IjhFIjoiVGtsIDgiLCJQQ1FtayI6ImwlRDdzdSIsIlFFQWc2TiI6NTU4fX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjY0NTJiY2Y0ODM4NTk3MWYxYmJhMTBlZjQzYTllNzUxIn19fQ.Drz24sOV0vHV80Fks00Cdu3D2ZeubbmHglyvjs7uPGw",
    ),
    (
        "AC72cb95eb92e57561d80e1ed511b327f2",
        "SKf171fc118de91165c672a325260ebfdc",
        "QBn5cORn9LhzoQQK8fK2fjH+fGZkvMJ1ow",
        [("allow_client_incoming", "u5")],
        {
            "ttl": 60,
            "push_credential_sid": "CRe401d83c4a29548fa91200314bd807d4",
            "region": "ie1",
        },
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTS2YxNzFmYzExOGRlOTExNjVjNjcyYTMyNTI2MGViZmRjLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2YxNzFmYzExOGRlOTExNjVjNjcyYTMyNTI2MGViZmRjIiwic3ViIjoiQUM3MmNiOTVlYjkyZTU3NTYxZDgwZTFlZDUxMWIzMjdmMiIsImV4cCI6MTc2NzIyNTY2MCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidTUiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUmU0MDFkODNjNGEyOTU0OGZhOTEyMDAzMTRiZDgwN2Q0In19fQ.qml98Le_3iRVZ2uNd_r4gVTDxFgkglZA67SORMLq3iM",
    ),
    (
        "AC7fbce66869b7bb71fcb447fc135c396a",
        "SKff26c035c0a09cfce14db0699202bd90",
        "eJELmsa9éLPer2yAxw",
        [
            ("allow_client_incoming", "u5N6rn"),
            (
                "allow_client_outgoing",
                "APb736998252d572dd7df79d82a5d04395",
                {"U": "ANQ1GaAE", "VS532": "5d73V4"},
            ),
        ],
        {
            "ttl": 86400,
            "push_credential_sid": "CR3a21f42a6ec7f306532a4b3ea53b3266",
            "region": "ie1",
        },
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTS2ZmMjZjMDM1YzBhMDljZmNlMTRkYjA2OTkyMDJiZDkwLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2ZmMjZjMDM1YzBhMDljZmNlMTRkYjA2OTkyMDJiZDkwIiwic3ViIjoiQUM3ZmJjZTY2ODY5YjdiYjcxZmNiNDQ3ZmMxMzVjMzk2YSIsImV4cCI6MTc2NzMxMjAwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidTVONnJuIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUGI3MzY5OTgyNTJkNTcyZGQ3ZGY3OWQ4MmE1ZDA0Mzk1IiwicGFyYW1zIjp7IlUiOiJBTlExR2FBRSIsIlZTNTMyIjoiNWQ3M1Y0In19LCJwdXNoX2NyZWRlbnRpYWxfc2lkIjoiQ1IzYTIxZjQyYTZlYzdmMzA2NTMyYTRiM2VhNTNiMzI2NiJ9fX0._kulUJiThgDjInKg9MD6JB2y9Sz24v5I8g-Ph7jcLOY",
    ),
    (
        "ACd782483fd5c72eb4204b008ec2166e0f",
        "SK28f015cd160dddc05a496d2b6cd684fb",
        "APV6JJwE0TZC+o6R7eJ",
        [
            (
                "allow_client_outgoing",
                "AP33cb9bfe74800c47f1006d779171cb09",
                {"Kfz7wA": "QA wrJ", "lCO9": 768, "ZrwSl ": "\\O", "0rI": "c"},
            )
        ],
        {
            "identity": "uBALzbFRIwpXVxNJSh5_5",
            "ttl": 86400,
            "push_credential_sid": "CR3b8cc952e16c39bd4eb2f06e1123a4ba",
            "region": "ie1",
        },
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTSzI4ZjAxNWNkMTYwZGRkYzA1YTQ5NmQyYjZjZDY4NGZiLTE3NjcyMjU2MDAiLCJpc3MiOiJTSzI4ZjAxNWNkMTYwZGRkYzA1YTQ5NmQyYjZjZDY4NGZiIiwic3ViIjoiQUNkNzgyNDgzZmQ1YzcyZWI0MjA0YjAwOGVjMjE2NmUwZiIsImV4cCI6MTc2NzMxMjAwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidUJBTHpiRlJJd3BYVnhOSlNoNV81Iiwidm9pY2UiOnsib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAzM2NiOWJmZTc0ODAwYzQ3ZjEwMDZkNzc5MTcxY2IwOSIsInBhcmFtcyI6eyJLZno3d0EiOiJRQSB3ckoiLCJsQ085Ijo3NjgsIlpyd1NsICI6IlxcTyIsIjBySSI6ImMifX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjNiOGNjOTUyZTE2YzM5YmQ0ZWIyZjA2ZTExMjNhNGJhIn19fQ.icWZfRphknJq5aXyrGNGNaJkJB-3IyD1k88fOn2gwDg",
    ),
]
# The same without a client's name; Twilio refuses such a token.
NAMELESS_ACCESS_TOKEN: tuple[
    str, str, str, list[tuple[Any, ...]], dict[str, Any], str
] = (
    "AC123123",
    "SK123123",
    "secret",
    [("allow_client_outgoing", "AP123123")],
    {},
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7InZvaWNlIjp7Im91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIn19fX0.HtHMQsFbQZioorjxhLIoKLddt4r_3XeYSFVpwVxWEWw",
)

# twilio-node 5.13.1 (commit 462c49d74c92b0b9f85eb0cf736f02de435718d7) under Node.js
# 20.20.2, and twilio-python 9.13.0 (whose twilio/jwt is that of commit
# 306691e793f417b6974640d1ef88785e9de03b2a) with PyJWT 2.15.1, at NOW, TTL 600, secret
# "secret": AC123123, SK123123, incoming as Alice, outgoing through AP123123 with
# Foo=Bar (in Node's capability token also "a b"="~!*'()"), and events where foobar=hey.
OTHER_TOKENS = {
    "node capability": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmY2xpZW50TmFtZT1BbGljZSZhcHBQYXJhbXM9Rm9vJTNEQmFyJTI2YSUyNTIwYiUzRH4hKicoKSBzY29wZTpzdHJlYW06c3Vic2NyaWJlP3BhdGg9LzIwMTAtMDQtMDEvRXZlbnRzJmFwcFBhcmFtcz1mb29iYXIlM0RoZXkiLCJpc3MiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyNjIwMCwiaWF0IjoxNzY3MjI1NjAwfQ.lSiTarL4hVTpeWkZUJozKvtytsyjcFKyATn-jzkYMGY",
    "node access": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fX19LCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6MTc2NzIyNjIwMCwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyJ9.axDIsYAllx72VPUGbSTwzc8YroP9HVDOJwMwYz58XyU",
    "python capability": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBQYXJhbXM9Rm9vJTNEQmFyJmFwcFNpZD1BUDEyMzEyMyZjbGllbnROYW1lPUFsaWNlIHNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGFyYW1zPWZvb2JhciUzRGhleSZwYXRoPSUyRjIwMTAtMDQtMDElMkZFdmVudHMiLCJpc3MiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyNjIwMCwibmJmIjoxNzY3MjI1NjAwfQ.SlDrS5LxfFkdS2U0K8-ulBsR0YUq1lr53mYhMZOprLs",
    "python access": "eyJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHlwIjoiSldUIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiZ3JhbnRzIjp7InZvaWNlIjp7ImluY29taW5nIjp7ImFsbG93Ijp0cnVlfSwib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAxMjMxMjMiLCJwYXJhbXMiOnsiRm9vIjoiQmFyIn19fSwiaWRlbnRpdHkiOiJBbGljZSJ9LCJpc3MiOiJTSzEyMzEyMyIsImV4cCI6MTc2NzIyNjIwMCwibmJmIjoxNzY3MjI1NjAwLCJzdWIiOiJBQzEyMzEyMyJ9.Z_RQkl_J8yo9dvHblyzGeUwQNOCgBeg1stAu4eaBAAk",
}
# The same libraries, and the same but for SIDs of real length; the access tokens have a
# push credential and the region ie1, too.
REAL_TOKENS = {
    "node capability": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZjbGllbnROYW1lPUFsaWNlJmFwcFBhcmFtcz1Gb28lM0RCYXIgc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPS8yMDEwLTA0LTAxL0V2ZW50cyZhcHBQYXJhbXM9Zm9vYmFyJTNEaGV5IiwiaXNzIjoiQUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZiIsImV4cCI6MTc2NzIyNjIwMCwiaWF0IjoxNzY3MjI1NjAwfQ.YE_4Luh712llHA4DgWN7YSsCof8GSvx_F1NXI93kPWc",
    "node access": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJncmFudHMiOnsiaWRlbnRpdHkiOiJBbGljZSIsInZvaWNlIjp7ImluY29taW5nIjp7ImFsbG93Ijp0cnVlfSwib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCIsInBhcmFtcyI6eyJGb28iOiJCYXIifX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjg3OTZhNWI0YzNkMmUxZjA4Nzk2YTViNGMzZDJlMWYwIn19LCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6MTc2NzIyNjIwMCwiaXNzIjoiU0tmZWRjYmE5ODc2NTQzMjEwZmVkY2JhOTg3NjU0MzIxMCIsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.ibtMpeRb3z1t94U4fLzJed--rrHQooQhz5Z6gcmuTpc",
    "python capability": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBQYXJhbXM9Rm9vJTNEQmFyJmFwcFNpZD1BUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4JmNsaWVudE5hbWU9QWxpY2Ugc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXJhbXM9Zm9vYmFyJTNEaGV5JnBhdGg9JTJGMjAxMC0wNC0wMSUyRkV2ZW50cyIsImlzcyI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCJleHAiOjE3NjcyMjYyMDAsIm5iZiI6MTc2NzIyNTYwMH0.Yfs0Jk8ul3A0FvzyiZj9dlxcoUI72CcJL2CRAym3QKg",
    "python access": "eyJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIiwidHlwIjoiSldUIn0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJncmFudHMiOnsidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4IiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fSwicHVzaF9jcmVkZW50aWFsX3NpZCI6IkNSODc5NmE1YjRjM2QyZTFmMDg3OTZhNWI0YzNkMmUxZjAifSwiaWRlbnRpdHkiOiJBbGljZSJ9LCJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwiZXhwIjoxNzY3MjI2MjAwLCJuYmYiOjE3NjcyMjU2MDAsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.aVZ9RioEZ5mi9FTiks4MbWzH9Lbq_1HGajNZzJdqJKk",
}


def alice(auth_token: str | None = "secret") -> Capability:
    capability = Capability("AC123123", auth_token)
    capability.allow_client_incoming("Alice")
    capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
    return capability


class CapabilityTokenTest(unittest.TestCase):
    """A capability token is a JWT that says what a device may do, and until when."""

    def test_it_is_a_header_a_payload_and_their_signature(self) -> None:
        header, payload, signature = alice().generate_token(600, now=NOW).split(".")
        self.assertEqual(decoded(header), '{"typ":"JWT","alg":"HS256"}')
        self.assertEqual(
            decoded(payload),
            '{"scope":"scope:client:incoming?clientName=Alice'
            " scope:client:outgoing?appSid=AP123123&appParams=Foo%3DBar&clientName=Alice"
            '","iss":"AC123123","exp":1767226200}',
        )
        self.assertEqual(signature, hs256(f"{header}.{payload}", b"secret"))
        self.assertEqual(len(signature), 43)

    def test_its_scope_is_what_was_allowed_in_the_order_of_the_calls(self) -> None:
        events = "scope:stream:subscribe?path=%2F2010-04-01%2FEvents&params="
        named_a = "scope:client:incoming?clientName=a"
        cases: list[tuple[list[tuple[Any, ...]], list[str]]] = [
            ([], []),
            ([(INCOMING, "a")], [named_a]),
            ([(INCOMING, "a"), (INCOMING, "a")], [named_a, named_a]),
            ([(OUTGOING, "AP1")], ["scope:client:outgoing?appSid=AP1&appParams="]),
            ([(EVENTS,)], [events]),
            ([(EVENTS, {"a b": "é&~", "n": 3})], [
                events + "a%2Bb%3D%25C3%25A9%2526%257E%26n%3D3",
            ]),
            ([(EVENTS,), (INCOMING, "a")], [events, named_a]),
            # An outgoing scope bears the last name, whether given before or after it.
            ([(INCOMING, "b"), (OUTGOING, "AP1", {"x": "y"}), (INCOMING, "a")], [
                "scope:client:incoming?clientName=b",
                "scope:client:outgoing?appSid=AP1&appParams=x%3Dy&clientName=a",
                named_a,
            ]),
            ([(OUTGOING, "AP1", {}), (OUTGOING, "AP2"), (INCOMING, "a")], [
                "scope:client:outgoing?appSid=AP1&appParams=&clientName=a",
                "scope:client:outgoing?appSid=AP2&appParams=&clientName=a",
                named_a,
            ]),
        ]  # fmt: skip
        for calls, uris in cases:
            with self.subTest(calls=calls):
                token = allowed(*calls).generate_token(now=0)
                scope = inspect_token(token)["claims"]["scope"]
                self.assertEqual(scope, " ".join(uris))

    def test_it_is_the_same_string_that_twilio_php_makes(self) -> None:
        for account_sid, auth_token, calls, ttl, token in CAPABILITY_TOKENS:
            with self.subTest(calls=calls):
                capability = allowed(*calls, sid=account_sid, auth_token=auth_token)
                options = {} if ttl is None else {"ttl": ttl}
                self.assertEqual(capability.generate_token(now=NOW, **options), token)

    def test_every_byte_is_spelled_as_by_http_build_query(self) -> None:
        for first in range(0, 0x800, 64):
            params = {chr(code): chr(code) for code in range(first, first + 64)}
            scope = f"scope:client:outgoing?appSid=AP1&appParams={quote(form(params))}"
            token = allowed((OUTGOING, "AP1", params)).generate_token(1, now=0)
            self.assertEqual(token, mint({"scope": scope, "iss": "AC1", "exp": 1}, "k"))

    def test_any_calls_give_what_is_written_by_hand_and_can_be_read(self) -> None:
        rng = random.Random(20260101)
        for _ in range(500):
            calls = [some_call(rng) for _ in range(rng.randrange(5))]
            secret = (some_text(rng) * rng.randrange(1, 9)).replace("\0", "")
            secret = secret.strip() or "k"
            ttl, now = rng.randrange(1, 86401), rng.randrange(2**40)
            token = allowed(*calls, auth_token=secret).generate_token(ttl, now=now)
            scopes = expected_scopes(calls)
            scope = " ".join(by_hand(*scope) for scope in scopes)
            claims = {"scope": scope, "iss": "AC1", "exp": now + ttl}
            self.assertEqual(token, mint(claims, secret))
            self.assertEqual(meaning(token, secret, now), scopes)

    def test_what_writes_by_hand_here_agrees_with_the_standards(self) -> None:
        # RFC 4648, section 10, and the two letters of section 5
        data = [b"", b"f", b"fo", b"foo", b"foob", b"fooba", b"foobar", b"\xfb\xef\xff"]
        texts = ["", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy", "--__"]
        self.assertEqual([base64url(item) for item in data], texts)
        # RFC 7515, appendix A.1
        self.assertEqual(hs256(RFC_7515_INPUT, RFC_7515_KEY), RFC_7515_SIGNATURE)

    def test_now_is_floored(self) -> None:
        capability = Capability("AC1", "k")
        nine = capability.generate_token(now=9)
        self.assertEqual(capability.generate_token(now=9.999), nine)
        self.assertNotEqual(capability.generate_token(now=10), nine)

    def test_now_is_the_clock_unless_given(self) -> None:
        before = int(time.time())
        token = Capability("AC1", "k").generate_token(600)
        exp = verify_token(token, "k")["exp"]
        self.assertTrue(before + 600 <= exp <= time.time() + 600)

    def test_it_lives_for_an_hour_unless_told(self) -> None:
        token = Capability("AC1", "k").generate_token(now=0)
        self.assertEqual(inspect_token(token)["claims"]["exp"], 3600)


class AllowingIsAllOrNothingTest(unittest.TestCase):
    def test_ctrl_c_leaves_it_as_it_was_or_as_it_should_be(self) -> None:
        for name, *arguments in (
            (INCOMING, "bob"),
            (OUTGOING, "AP1", {"a": "b", "c": 1}),
            (EVENTS, {"a": "b"}),
        ):
            before = alice().generate_token(now=NOW)
            complete = alice()
            getattr(complete, name)(*arguments)
            after = complete.generate_token(now=NOW)
            left = set()
            step = 0
            interrupted = True
            while interrupted:
                step += 1
                capability = alice()
                call = partial(getattr(capability, name), *arguments)
                interrupted = interrupt(call, step)
                left.add(capability.generate_token(now=NOW))
            self.assertEqual(left, {before, after})
            self.assertGreater(step, 5)


class GeneratingChangesNothingTest(unittest.TestCase):
    def test_the_same_call_gives_the_same_token(self) -> None:
        capability = alice()
        first = both_tokens(capability)
        self.assertEqual(both_tokens(capability), first)

    def test_the_object_may_go_on_being_used(self) -> None:
        capability = Capability("AC123123", "secret")
        capability.allow_client_incoming("Alice")
        both_tokens(capability)
        capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
        self.assertEqual(both_tokens(capability), both_tokens(alice()))

    def test_a_copy_goes_its_own_way(self) -> None:
        original = alice()
        twin = copy.copy(original)
        self.assertEqual(both_tokens(twin), both_tokens(original))
        twin.allow_client_incoming("bob")
        twin.allow_client_outgoing("AP2")
        twin.allow_event_stream()
        self.assertEqual(both_tokens(original), both_tokens(alice()))
        self.assertEqual(len(meaning(twin.generate_token(now=NOW), "secret")), 5)

    def test_a_pickle_of_1_1_0_raises_when_it_is_used(self) -> None:
        # Capability("AC123", "secret"), called by Alice, calling out through AP123
        # with a=b and reading events, by pickle.dumps() with protocol 0.
        pickled = (
            b"ccopy_reg\n_reconstructor\np0\n(ctwilio_capability\nCapability\np1\n"
            b"c__builtin__\nobject\np2\nNtp3\nRp4\n(dp5\nV_account_sid\np6\nVAC123\n"
            b"p7\nsV_lenient_names\np8\nI00\nsV_key\np9\nc_codecs\nencode\np10\n"
            b"(Vsecret\np11\nVlatin1\np12\ntp13\nRp14\nsV_permissions\np15\n"
            b"((Vclient:incoming\np16\nVclientName=Alice\np17\nVAlice\np18\ntp19\n"
            b"(Vclient:outgoing\np20\nVappSid=AP123&appParams=a%3Db\np21\n(dp22\n"
            b"Vapplication_sid\np23\nVAP123\np24\nsVparams\np25\n(dp26\nVa\np27\n"
            b"Vb\np28\nsstp29\n(Vstream:subscribe\np30\n"
            b"Vpath=%2F2010-04-01%2FEvents&params=\np31\nNtp32\ntp33\nsb."
        )
        old = pickle.loads(pickled)
        self.assertEqual(old._account_sid, "AC123")
        uses: list[tuple[str, list[str]]] = [
            ("generate_token", []),
            ("generate_access_token", ["SK1", "k"]),
            (INCOMING, ["Alice"]),
            (OUTGOING, ["AP1"]),
            (EVENTS, []),
            ("generate_token", []),
        ]
        for name, arguments in uses:
            with self.subTest(name), self.assertRaises(AttributeError):
                getattr(old, name)(*arguments)

    def test_threads_may_share_an_object(self) -> None:
        capability = alice()
        expected = {now: alice().generate_token(now=now) for now in range(50)}
        wrong: list[int] = []

        def generate() -> None:
            for now, token in expected.items():
                if capability.generate_token(now=now) != token:
                    wrong.append(now)

        threads = [threading.Thread(target=generate) for _ in range(4)]
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])


class InputRulesTest(unittest.TestCase):
    """A wrong type is a TypeError, a wrong value a ValueError: see the README's table.

    A rule is tried with every character by itself, so that no neighbour of a range of
    letters slips in and none of its ends is missing.
    """

    def assert_refused(
        self, error: type[Exception], argument: str, call: Call, *given: Any
    ) -> None:
        with self.subTest(argument=argument, given=given):
            with self.assertRaises(error) as caught:
                call(*given)
            self.assertIs(type(caught.exception), error)
            self.assertRegex(str(caught.exception), rf"\b{argument}\b")
            self.assertIn("must", str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))
            self.assertIsNone(caught.exception.__cause__)
            self.assertIsNone(caught.exception.__context__)

    def assert_takes(self, alphabet: str, call: Call, prefix: str = "") -> None:
        taken = []
        for character in CHARACTERS:
            with contextlib.suppress(ValueError):
                call(prefix + character)
                taken.append(character)
        self.assertEqual(taken, sorted(alphabet))

    def test_a_sid_is_its_prefix_and_one_or_more_letters_or_digits(self) -> None:
        capability = Capability("AC123")
        named = allowed((INCOMING, "a"))
        pushed = partial(named.generate_access_token, "SK1", "k")
        calls: list[tuple[str, str, Call]] = [
            ("AC", "account_sid", Capability),
            ("AP", "application_sid", capability.allow_client_outgoing),
            ("SK", "api_key_sid", lambda sid: named.generate_access_token(sid, "k")),
            ("CR", "push_credential_sid", lambda sid: pushed(push_credential_sid=sid)),
        ]
        for prefix, argument, call in calls:
            for bad in BAD_TYPES:
                if not (bad is None and argument == "push_credential_sid"):
                    self.assert_refused(TypeError, argument, call, bad)
            first, second = prefix[0], prefix[1]
            bad_sids = [bad.replace("XX", prefix) for bad in NOT_SIDS]
            bad_sids += [second + "1", first + "1", first + "X1", "X" + second + "1"]
            for bad in [*bad_sids, second + first + "1", prefix.lower() + "1"]:
                self.assert_refused(ValueError, argument, call, bad)
            for length in (1, 32, 118, 297):
                call(prefix + "aZ9"[:length] + "0" * (length - 3))
            self.assert_takes(LETTERS_AND_DIGITS, call, prefix)
            self.assert_takes(LETTERS_AND_DIGITS, call, prefix + "1")

    def test_an_error_about_a_sid_or_a_region_says_what_may_have_happened(self) -> None:
        make = alice().generate_access_token
        calls: list[tuple[str, Call]] = [
            ("swapped with auth_token", lambda: Capability("secret", "AC1")),
            ("TwiML app", lambda: alice().allow_client_outgoing("AC1")),
            ("swapped with its secret", lambda: make("secret", "SK1")),
            ("push credential", lambda: make("SK1", "k", push_credential_sid="SK1")),
            ("such as us1", lambda: make("SK1", "k", region="ireland")),
        ]
        for hint, call in calls:
            with self.assertRaisesRegex(ValueError, hint):
                call()

    def test_a_region_is_two_small_letters_and_a_digit(self) -> None:
        make = partial(allowed((INCOMING, "a")).generate_access_token, "SK1", "k")

        def call(region: str) -> None:
            self.assertEqual(
                inspect_token(make(region=region))["header"]["twr"], region
            )

        for bad in BAD_TYPES:
            if bad is not None:
                self.assert_refused(TypeError, "region", call, bad)
        for bad in NOT_REGIONS:
            self.assert_refused(ValueError, "region", call, bad)
        self.assert_takes(LETTERS_AND_DIGITS[26:52], lambda char: call(char + "e1"))
        self.assert_takes(
            LETTERS_AND_DIGITS[26:52], lambda char: call("i" + char + "1")
        )
        self.assert_takes(LETTERS_AND_DIGITS[52:], call, "ie")

    def test_a_secret_is_text_that_is_not_empty_nor_read_with_its_line_break(
        self,
    ) -> None:
        token = Capability("AC1", "k").generate_token()
        access_token = allowed((INCOMING, "a")).generate_access_token
        calls: list[tuple[str, Call]] = [
            ("auth_token", lambda secret: Capability("AC1", secret)),
            ("api_key_secret", lambda secret: access_token("SK1", secret)),
            ("secret", lambda secret: verify_token(token, secret)),
        ]
        for argument, call in calls:
            for bad in [1, 1.5, True, b"secret", ["secret"]]:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in ["", "\ud800", "secret\udfff", "\ud800😀", "😀\udc00"]:
                self.assert_refused(ValueError, argument, call, bad)
            for bad in ["k\n", "k\r\n", " k", "k ", "\tk", "k\xa0", "\u2003k", " "]:
                self.assert_refused(ValueError, argument, call, bad)
            with self.assertRaisesRegex(ValueError, "line break"):
                call("secret\n")
            for bad in ["\ufeffk", "k\ufeff", "\ufeff"]:
                with self.assertRaisesRegex(ValueError, f"{argument}.*byte order mark"):
                    call(bad)
            for bad in ["\0", "\0\0", "k\0", "\0k", "k\0k"]:
                self.assert_refused(ValueError, argument, call, bad)
        for argument, call in calls[1:]:
            self.assert_refused(TypeError, argument, call, None)
        Capability("AC1", "in the \ufeff middle\nit may be")

    def test_a_capability_token_needs_an_auth_token(self) -> None:
        self.assert_refused(ValueError, "auth_token", Capability("AC1").generate_token)

    def assert_is_name(
        self, argument: str, call: Call, alphabet: str, longest: int
    ) -> None:
        """The call takes a name of this alphabet, and returns it from a token."""
        for bad in BAD_TYPES:
            if not (bad is None and argument == "identity"):
                self.assert_refused(TypeError, argument, call, bad)
        for bad in [*NOT_NAMES, "a" * (longest + 1)]:
            self.assert_refused(ValueError, argument, call, bad)
        self.assert_takes(alphabet, call)
        for good in ("Z", "z", "9", "0", "_", "Alice_2", "a" * longest, alphabet):
            self.assertEqual(call(good), good)

    def test_a_client_name_is_1_to_256_letters_digits_or_underscores(self) -> None:
        alphabet = LETTERS_AND_DIGITS + "_"
        self.assert_is_name("client_name", partial(name_in_scope, False), alphabet, 256)

    def test_the_name_of_an_access_token_has_at_most_121_of_them(self) -> None:
        alphabet = LETTERS_AND_DIGITS + "_"
        self.assert_is_name("identity", partial(name_in_grants, False), alphabet, 121)
        self.assert_refused(
            ValueError, "client_name", both_tokens, allowed((INCOMING, "a" * 122))
        )
        both_tokens(allowed((INCOMING, "a" * 121)))

    def test_lenient_names_have_all_characters_that_twilio_is_known_to_take(
        self,
    ) -> None:
        alphabet = LETTERS_AND_DIGITS + "_" + "!$&'()*+,-./:;=?@~"
        refused = {chr(code) for code in range(0x21, 0x7F)} - set(alphabet)
        self.assertEqual(refused, set('"#%<>[\\]^`{|}'))
        self.assert_is_name("client_name", partial(name_in_scope, True), alphabet, 256)
        self.assert_is_name("identity", partial(name_in_grants, True), alphabet, 121)

    def test_a_lenient_name_is_encoded_as_a_value(self) -> None:
        device = Capability("AC1", "k", lenient_names=True)
        device.allow_client_incoming("+1&a=b~c/d")
        device.allow_client_outgoing("AP1")
        token = device.generate_token(now=NOW)
        name = "clientName=%2B1%26a%3Db%7Ec%2Fd"
        scope = f"scope:client:incoming?{name} scope:client:outgoing?appSid=AP1&appParams=&{name}"
        self.assertEqual(inspect_token(token)["claims"]["scope"], scope)

    def test_lenient_names_is_a_bool_that_must_be_named(self) -> None:
        def call(lenient_names: Any) -> None:
            Capability("AC1", "k", lenient_names=lenient_names)

        not_bools: list[Any] = [None, 0, 1, "", "yes", b"", []]
        for bad in not_bools:
            self.assert_refused(TypeError, "lenient_names", call, bad)
        with self.assertRaises(TypeError):
            Capability("AC1", "k", True)  # type: ignore[call-arg]

    def test_an_error_about_a_name_says_the_ways_out_that_there_are(self) -> None:
        encode, lenient = "encode_client_name", "lenient_names"
        cases = [
            ("agent-7", [encode, lenient]),
            ("+14155550100", [encode, lenient]),
            ("-" * 40 + "a", [encode, lenient]),  # 121 once encoded
            ("-" * 41, [lenient]),  # 123
            ("a b", [encode]),
            ("é", [encode]),
            ("\ud800", []),
            ("", []),
            ("a" * 122, []),
        ]
        for name, ways in cases:
            with self.subTest(name=name), self.assertRaises(ValueError) as caught:
                name_in_grants(False, name)
            message = str(caught.exception)
            self.assertEqual([w for w in (encode, lenient) if w in message], ways)
            self.assertNotIn("--", message)

    def test_params_and_filters_map_str_to_str_or_int(self) -> None:
        capability = alice()
        before = both_tokens(capability)
        calls: list[tuple[str, Call]] = [
            ("params", lambda params: capability.allow_client_outgoing("AP1", params)),
            ("filters", capability.allow_event_stream),
            ("params", lambda params: ScopeURI("client", "incoming", params)),
        ]
        for argument, call in calls:
            for bad in NOT_PARAMS:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in [{"a": "\ud800"}, {"\udfff": "a"}]:
                self.assert_refused(ValueError, argument, call, bad)
        self.assertEqual(both_tokens(capability), before)

    def test_an_error_about_params_says_which_part_of_them(self) -> None:
        cases: list[tuple[type[Exception], str, Any]] = [
            (
                TypeError,
                "params must be a mapping",
                SimpleNamespace(items={1: 2}.items),
            ),
            (ValueError, "params name must be free", {"\ud800": "a"}),
            (ValueError, "params value must be free", {"a": "\ud800"}),
        ]
        for error, reason, params in cases:
            with self.assertRaisesRegex(error, reason):
                ScopeURI("a", "b", params)

    def test_the_params_of_a_scope_uri_map_str_to_str(self) -> None:
        self.assert_refused(TypeError, "params", ScopeURI, "a", "b", {"n": 3})

    def test_ttl_is_an_int_of_1_to_86400_seconds(self) -> None:
        access_token = Capability("AC1").generate_access_token
        calls: list[Call] = [
            Capability("AC1", "k").generate_token,
            lambda ttl: access_token("SK1", "k", ttl, identity="a"),
        ]
        for call in calls:
            for bad in [None, True, False, 1.5, 3600.0, "3600", b"1", [1], NAN]:
                self.assert_refused(TypeError, "ttl", call, bad)
            for bad in [0, -1, 86401, 10**400]:
                self.assert_refused(ValueError, "ttl", call, bad)
            for good in [1, 86400, Number.THREE]:
                self.assertIsInstance(call(good), str)

    def test_now_and_leeway_are_finite_seconds(self) -> None:
        capability = Capability("AC1", "k")
        token = capability.generate_token()
        access_token = capability.generate_access_token
        calls: list[tuple[str, Call]] = [
            ("now", lambda now: capability.generate_token(now=now)),
            ("now", lambda now: access_token("SK1", "k", identity="a", now=now)),
            ("now", lambda now: verify_token(token, "k", now=now)),
            ("leeway", lambda leeway: verify_token(token, "k", leeway=leeway)),
        ]
        infinity = float("inf")
        for argument, call in calls:
            for bad in ["1", b"1", True, False, [1], 1j]:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in [-1, -0.5, NAN, infinity, -infinity, 1e300, 10**400, 2**53 + 1]:
                self.assert_refused(ValueError, argument, call, bad)
            call(0)
        for argument, call in calls[:3]:
            self.assert_refused(ValueError, argument, call, 2**53 - 86399)
        self.assert_refused(TypeError, *calls[3], None)
        with self.assertRaisesRegex(TypeError, "now must be int or float, not str"):
            verify_token(token, "k", now="1")  # type: ignore[arg-type]

    def test_a_word_of_a_scope_uri_is_letters_digits_and_three_marks(self) -> None:
        calls: list[tuple[str, Call]] = [
            ("service", lambda word: ScopeURI(word, "incoming")),
            ("privilege", lambda word: ScopeURI("client", word)),
        ]
        for argument, call in calls:
            for bad in BAD_TYPES:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in NOT_WORDS:
                self.assert_refused(ValueError, argument, call, bad)
            self.assert_takes(LETTERS_AND_DIGITS + "_.-", call)
            for good in ("Z_a.9-", "a" * 300):
                self.assertEqual(ScopeURI.parse(str(call(good))), call(good))

    def test_a_token_and_a_uri_are_str(self) -> None:
        for bad in BAD_TYPES:
            self.assert_refused(TypeError, "token", inspect_token, bad)
            self.assert_refused(TypeError, "token", verify_token, bad, "secret")
            self.assert_refused(TypeError, "uri", ScopeURI.parse, bad)

    def test_what_stands_behind_the_secrets_and_the_ttl_must_be_named(self) -> None:
        capability = alice()
        token = capability.generate_token()
        calls: list[tuple[Call, list[Any]]] = [
            (capability.generate_token, [60, 0]),
            (capability.generate_access_token, ["SK1", "k", 60, "Alice"]),
            (verify_token, [token, "secret", 0]),
            (inspect_token, [token, 0]),
        ]
        for call, given in calls:
            call(*given[:-1])
            with self.assertRaises(TypeError):
                call(*given)

    def test_a_refused_call_changes_nothing(self) -> None:
        capability = alice()
        before = both_tokens(capability)
        calls: list[tuple[Call, list[Any]]] = [
            (capability.allow_client_incoming, ["a b"]),
            (capability.allow_client_outgoing, ["AC1", {"a": "b"}]),
            (capability.allow_client_outgoing, ["AP1", {"a": None}]),
            (capability.allow_client_outgoing, ["AP1", {"a": "\ud800"}]),
            (capability.allow_event_stream, [{"a": 1.5}]),
            (capability.allow_event_stream, [{"a": "\ud800"}]),
            (capability.generate_token, [0]),
            (capability.generate_access_token, ["SK1", ""]),
        ]
        for call, given in calls:
            with self.assertRaises((TypeError, ValueError)):
                call(*given)
            self.assertEqual(both_tokens(capability), before)

    def test_params_are_copied(self) -> None:
        params: dict[str, str | int] = {"Foo": "Bar"}
        capability = allowed((INCOMING, "a"), (OUTGOING, "AP1", params))
        before = both_tokens(capability)
        params["Foo"] = "changed"
        self.assertEqual(both_tokens(capability), before)

    def test_a_mapping_need_not_be_a_dict(self) -> None:
        params = {"Foo": "Bar"}
        proxied = allowed((INCOMING, "a"), (OUTGOING, "AP1", MappingProxyType(params)))
        plain = allowed((INCOMING, "a"), (OUTGOING, "AP1", params))
        self.assertEqual(both_tokens(proxied), both_tokens(plain))

    def test_a_mapping_is_read_in_its_own_words(self) -> None:
        class CombinedMultiDict(typing.Dict[str, Any]):
            """As Flask's request.values: as a dict, it is empty."""

            def items(self) -> Any:
                return iter([("a", "1"), ("b", "2")])

        class MultiDict(typing.Dict[str, Any]):
            """As Flask's request.form: as a dict, it holds lists."""

            def items(self) -> Any:
                return [(name, values[0]) for name, values in super().items()]

        moved = collections.OrderedDict(b="2", a="1")
        moved.move_to_end("b")
        mappings: list[Mapping[str, Any]] = [
            CombinedMultiDict(),
            MultiDict(a=["1", "9"], b=["2"]),
            moved,
            collections.ChainMap({"b": "2"}, {"a": "1"}),
            collections.UserDict(a="1", b="2"),
        ]
        plain = both_tokens(
            allowed((INCOMING, "x"), (OUTGOING, "AP1", {"a": "1", "b": "2"}))
        )
        for params in mappings:
            with self.subTest(type(params).__name__):
                device = allowed((INCOMING, "x"), (OUTGOING, "AP1", params))
                self.assertEqual(both_tokens(device), plain)

    def test_a_mapping_without_pairs_is_refused(self) -> None:
        class Odd(typing.Dict[str, Any]):
            def items(self) -> Any:
                return self["items"]

        for items in (None, [None], ["ab"], [("a",)], [("a", "b", "c")], [["a", "b"]]):
            call = Capability("AC1", "k").allow_event_stream
            self.assert_refused(TypeError, "filters", call, Odd(items=items))

    def test_a_mapping_is_read_once(self) -> None:
        class Live(typing.Mapping[str, Any]):
            def __init__(self, *values: Any) -> None:
                self.values_left = list(values)

            def __iter__(self) -> Iterator[str]:
                return iter(["a"])

            def __len__(self) -> int:
                return 1

            def __getitem__(self, name: str) -> Any:
                return self.values_left.pop(0)

        live = allowed((INCOMING, "a"), (OUTGOING, "AP1", Live("x", ["y"], None)))
        plain = allowed((INCOMING, "a"), (OUTGOING, "AP1", {"a": "x"}))
        self.assertEqual(both_tokens(live), both_tokens(plain))

    def test_an_enum_member_is_its_value(self) -> None:
        plain = tokens_of(3, "AC1", "AP1", "SK1", "Alice", "secret", "Bar")
        self.assertEqual(tokens_of(Number.THREE, *Text), plain)


class OddObjectsTest(unittest.TestCase):
    """What is checked is what is used, of the objects that frameworks hand out."""

    def test_a_str_is_its_text_whatever_adding_to_it_gives(self) -> None:
        class Markup(str):
            """As in markupsafe, which web frameworks hand out."""

            def __add__(self, other: str) -> Markup:
                return Markup(str(self) + html.escape(other))

            def __radd__(self, other: str) -> Markup:
                return Markup(html.escape(other) + str(self))

        texts = ["AC1", "AP1", "SK1", "Alice", "secret", "&"]
        self.assertEqual(tokens_of(3, *map(Markup, texts)), tokens_of(3, *texts))
        params: dict[str, str] = {Markup("b"): Markup("&"), Markup("c"): Markup()}
        scope = ScopeURI(Markup("a"), Markup("x"), params)
        self.assertEqual(str(scope), "scope:a:x?b=%26&c=")
        self.assertEqual(str(ScopeURI.parse(Markup(str(scope)))), str(scope))

    def test_a_lazy_proxy_is_refused_where_a_real_value_belongs(self) -> None:
        capability = alice()
        token = capability.generate_token(now=NOW)
        make = capability.generate_access_token
        text: Any = LazyProxy("AC1")
        number: Any = LazyProxy(60)
        yes: Any = LazyProxy(True)
        self.assertIsInstance(text, str)
        self.assertIsInstance(number, int)
        calls: list[tuple[str, Call]] = [
            ("account_sid", lambda: Capability(text)),
            ("auth_token", lambda: Capability("AC1", text)),
            ("lenient_names", lambda: Capability("AC1", lenient_names=yes)),
            ("client_name", lambda: capability.allow_client_incoming(text)),
            ("application_sid", lambda: capability.allow_client_outgoing(text)),
            ("params", lambda: capability.allow_client_outgoing("AP1", {"a": text})),
            ("params", lambda: capability.allow_client_outgoing("AP1", {text: "a"})),
            ("filters", lambda: capability.allow_event_stream({"a": number})),
            ("ttl", lambda: capability.generate_token(number)),
            ("now", lambda: capability.generate_token(now=number)),
            ("api_key_sid", lambda: make(text, "k")),
            ("api_key_secret", lambda: make("SK1", text)),
            ("identity", lambda: make("SK1", "k", identity=text)),
            ("push_credential_sid", lambda: make("SK1", "k", push_credential_sid=text)),
            ("region", lambda: make("SK1", "k", region=text)),
            ("service", lambda: ScopeURI(text, "a")),
            ("privilege", lambda: ScopeURI("a", text)),
            ("uri", lambda: ScopeURI.parse(text)),
            ("text", lambda: encode_client_name(text)),
            ("name", lambda: decode_client_name(text)),
            ("token", lambda: verify_token(text, "secret")),
            ("token", lambda: inspect_token(text)),
            ("secret", lambda: verify_token(token, text)),
            ("leeway", lambda: verify_token(token, "secret", leeway=number)),
        ]
        for argument, call in calls:
            reason = rf"\b{argument}\b.*LazyProxy"
            with self.subTest(reason), self.assertRaisesRegex(TypeError, reason):
                call()
        self.assertEqual(capability.generate_token(now=NOW), token)

    def test_a_lazy_proxy_of_a_mapping_is_read_as_one(self) -> None:
        params: Any = LazyProxy({"a": "b"})
        self.assertEqual(ScopeURI("a", "b", params).params, {"a": "b"})


class SecretsTest(unittest.TestCase):
    """Errors and reprs end up in logs: none repeats a secret, a SID or a token."""

    SID = "AC0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
    SECRET = "d3adb33fd3adb33fd3adb33fd3adb33f"
    APP = "AP1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e"
    KEY = "SK2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d"

    def assert_clean(self, text: str) -> None:
        for secret in (self.SID, self.SECRET, self.APP, self.KEY):
            self.assertNotIn(secret[2:], text)

    def test_no_error_repeats_what_was_given(self) -> None:
        sid, secret, app, key = self.SID, self.SECRET, self.APP, self.KEY
        capability = allowed((INCOMING, secret), sid=sid, auth_token=secret)
        incoming = capability.allow_client_incoming
        outgoing = capability.allow_client_outgoing
        events = capability.allow_event_stream
        access = capability.generate_access_token
        token, surrogate = capability.generate_token(), secret + "\ud800"
        lenient_incoming = Capability(sid, lenient_names=True).allow_client_incoming
        other_name = partial(access, identity=sid)
        bad_name = partial(access, identity=secret + "-")
        parse, uri = ScopeURI.parse, f"scope:client:outgoing?appSid={app}"
        latin = secret.encode() + b"\xff"
        late = partial(verify_token, now=2**40)
        no_json, no_exp = mint(secret, secret), mint({"exp": sid}, secret)
        cases: list[tuple[type[Exception], str, Call, list[Any]]] = [
            (ValueError, "account_sid", Capability, [secret, sid]),
            (TypeError, "account_sid", Capability, [sid.encode(), secret]),
            (ValueError, "auth_token", Capability, [sid, surrogate]),
            (TypeError, "auth_token", Capability, [sid, secret.encode()]),
            (ValueError, "client_name", incoming, [secret + "-"]),
            (ValueError, "application_sid", outgoing, [sid]),
            (TypeError, "params", outgoing, [app, [(sid, secret)]]),
            (TypeError, "params", outgoing, [app, {secret: b"x"}]),
            (ValueError, "params", outgoing, [app, {secret: surrogate}]),
            (ValueError, "filters", events, [{surrogate: sid}]),
            (TypeError, "ttl", capability.generate_token, [secret]),
            (ValueError, "api_key_sid", access, [secret, key]),
            (ValueError, "api_key_secret", access, [key, surrogate]),
            (ValueError, "identity", other_name, [key, secret]),
            (ValueError, "identity", bad_name, [key, secret]),
            (ValueError, "client_name", lenient_incoming, [secret + "%"]),
            (ValueError, "service", ScopeURI, [sid + " ", secret]),
            (ValueError, "params", ScopeURI, ["client", "outgoing", {surrogate: sid}]),
            (ValueError, "uri", parse, [f"{uri} {secret}"]),
            (ValueError, "uri", parse, [f"{uri}&{secret}"]),
            (ValueError, "uri", parse, [f"{uri}&{sid}=%ff&{secret}=b"]),
            (InvalidTokenError, "token", verify_token, [secret, token]),
            (InvalidSignatureError, "signature", verify_token, [secret + "..", token]),
            (InvalidSignatureError, "signature", verify_token, [token, sid]),
            (InvalidSignatureError, "signature", verify_token, [token[:-1], secret]),
            (ValueError, "secret", verify_token, [token, surrogate]),
            (ExpiredTokenError, "expired", late, [token, secret]),
            (InvalidTokenError, "payload", verify_token, [no_json, secret]),
            (InvalidTokenError, "exp", verify_token, [no_exp, secret]),
            (InvalidTokenError, "payload", inspect_token, [mint(secret)]),
            (InvalidTokenError, "header", inspect_token, [mint("{}", header=secret)]),
            (InvalidTokenError, "header", inspect_token, [mint("", header=latin)]),
        ]
        for expected, word, call, given in cases:
            with self.subTest(word=word), self.assertRaises(expected) as caught:
                call(*given)
            self.assertIs(type(caught.exception), expected)
            self.assertIn(word, str(caught.exception))
            error: BaseException | None = caught.exception
            while error is not None:
                self.assert_clean(f"{error} {error!r} {vars(error)}")
                self.assertNotIn(token, str(error))
                error = error.__cause__ or error.__context__

    def test_no_frame_holds_them_when_a_token_is_at_fault(self) -> None:
        secret = self.SECRET
        good = allowed(sid=self.SID, auth_token=secret).generate_token(now=NOW)
        ended = allowed(sid=self.SID, auth_token=secret).generate_token(now=0)
        faults = ["", "a.b", good[:-1], "x" + good, ended, mint("no JSON", secret)]
        faults += [mint(payload, secret) for payload in NOT_OBJECTS]
        faults += [mint({"exp": NOW + 1}, secret, header) for header in NOT_HS256]
        faults += [mint({"exp": NOW + 1, "nbf": NOW + 1}, secret), mint("{}", secret)]
        frames = 0
        for token in faults:
            # What would make a forged token a good one is not there either.
            right = signed(token.rpartition(".")[0], secret).rpartition(".")[2]
            hidden = [secret] if token.endswith(right) else [secret, right]
            try:
                verify_token(token, secret, now=NOW)
            except InvalidTokenError as error:  # assertRaises would clear the frames
                for frame in frames_of(error):
                    frames += 1
                    shown = {**frame.f_locals, "secret": "its name says so"}
                    for text in hidden:
                        self.assertNotIn(text, repr(shown))
        self.assertGreater(frames, len(faults))

    def test_no_frame_holds_them_when_another_argument_is_at_fault(self) -> None:
        secret, app = self.SECRET, self.APP
        device = allowed((INCOMING, "a"), (OUTGOING, "AP1", {"n": 2**60}))
        make = partial(alice().generate_access_token, "SK1")
        good = allowed(auth_token=secret).generate_token(now=NOW)
        calls: list[Call] = [
            lambda: Capability(app, secret),
            lambda: Capability("AC1", secret, lenient_names=1),  # type: ignore[arg-type]
            lambda: make(secret, 0),
            lambda: make(secret, identity="bob"),
            lambda: make(secret, push_credential_sid="AP1"),
            lambda: make(secret, region="ireland"),
            lambda: make(secret, now=-1),
            lambda: alice().generate_access_token("AC1", secret),
            lambda: device.generate_access_token("SK1", secret),
            lambda: verify_token(good, secret, leeway=-1),
            lambda: verify_token(1, secret),  # type: ignore[arg-type]
        ]
        for end in (" ", "\n", "\0", "\ud800"):
            bad = secret + end
            calls.append(partial(Capability, "AC1", bad))
            calls.append(partial(make, bad))
            calls.append(partial(verify_token, good, bad))
        for number, call in enumerate(calls):
            with self.subTest(number):
                frames = 0
                try:
                    call()
                except (TypeError, ValueError) as error:
                    for frame in frames_of(error):
                        frames += 1
                        shown = {**frame.f_locals, "secret": "its name says so"}
                        self.assertNotIn(secret, repr(shown))
                self.assertGreater(frames, 0)

    def test_no_frame_holds_a_secret_given_as_the_token_but_as_token(self) -> None:
        try:
            verify_token(self.SECRET, alice().generate_token())
        except InvalidTokenError as error:
            for frame in frames_of(error):
                shown = {**frame.f_locals, "token": "trackers know it, too"}
                self.assertNotIn(self.SECRET, repr(shown))

    def test_a_repr_says_in_words_what_is_allowed(self) -> None:
        cases: list[tuple[str, list[tuple[Any, ...]]]] = [
            ("<Capability: nothing>", []),
            ("<Capability: incoming>", [(INCOMING, "a"), (INCOMING, "b")]),
            ("<Capability: incoming, outgoing>", [(INCOMING, "a"), (OUTGOING, "AP1")]),
            ("<Capability: event stream, outgoing>", [(EVENTS,), (OUTGOING, "AP1")]),
        ]
        for words, calls in cases:
            self.assertEqual(repr(allowed(*calls)), words)

    def test_a_repr_may_be_asked_for_before_the_constructor_is_done(self) -> None:
        self.assertEqual(repr(Capability.__new__(Capability)), "<Capability: nothing>")

    def test_no_repr_shows_them(self) -> None:
        calls = [(INCOMING, self.SECRET), (OUTGOING, self.APP, {"a": self.KEY})]
        capability = allowed(*calls, sid=self.SID, auth_token=self.SECRET)
        self.assert_clean(f"{capability!r} {capability}")
        scope = ScopeURI("client", "outgoing", {"appSid": self.APP})
        self.assertEqual(repr(scope), "<ScopeURI client:outgoing, 1 params>")


class ClientNameTest(unittest.TestCase):
    """Any text makes a client name, and comes back from it."""

    def test_a_letter_or_digit_is_itself_and_any_other_byte_is_escaped(self) -> None:
        self.assertEqual(encode_client_name(LETTERS_AND_DIGITS), LETTERS_AND_DIGITS)
        for code in range(0x80):
            if chr(code) not in LETTERS_AND_DIGITS:
                self.assertEqual(encode_client_name(chr(code)), f"_{code:02X}")
        self.assertEqual(encode_client_name("_é☃😀"), "_5F_C3_A9_E2_98_83_F0_9F_98_80")

    def test_it_is_the_spelling_of_twilio_flex(self) -> None:
        # From Twilio's support article on the TaskRouter Worker contact_uri.
        contact_uri = "client:ann_2Eveal_40arresteddevelopment_2Ecom"
        address = "ann.veal@arresteddevelopment.com"
        self.assertEqual("client:" + encode_client_name(address), contact_uri)
        self.assertEqual(decode_client_name(contact_uri), address)

    def test_any_text_comes_back(self) -> None:
        rng = random.Random(42799965656987)
        for _ in range(2000):
            text = some_unicode(rng, 1 + rng.randrange(20))
            name = encode_client_name(text)
            self.assertRegex(name, r"\A[A-Za-z0-9_]+\Z")
            self.assertEqual(decode_client_name(name), text)
            self.assertEqual(decode_client_name("client:" + name), text)

    def test_lower_case_hex_is_read(self) -> None:
        self.assertEqual(decode_client_name("a_5fb_c3_a9_0A"), "a_bé\n")

    def test_a_name_is_read_back_from_a_token(self) -> None:
        for text in ("ann.veal@example.com", "0b6f-77", "+14155550100", "client:a b☃"):
            name = encode_client_name(text)
            calls = [(INCOMING, name), (OUTGOING, "AP1", {"user": text})]
            incoming, outgoing = meaning(allowed(*calls).generate_token(now=NOW), "k")
            self.assertEqual(decode_client_name(incoming[2]["clientName"]), text)
            self.assertEqual(decode_client_name(outgoing[2]["clientName"]), text)
            token = allowed(*calls).generate_access_token("SK1", "k", now=NOW)
            grants = verify_token(token, "k", now=NOW)["grants"]
            self.assertEqual(decode_client_name(grants["identity"]), text)

    def test_a_name_has_up_to_256_characters(self) -> None:
        for text in ("a" * 256, "." * 85 + "a", "☃" * 28 + "aaaa"):
            self.assertEqual(len(encode_client_name(text)), 256)
            self.assertEqual(decode_client_name(encode_client_name(text)), text)

    def test_text_that_makes_no_name_is_refused(self) -> None:
        for bad in BAD_TYPES:
            with self.assertRaisesRegex(TypeError, r"\btext must\b"):
                encode_client_name(bad)
        texts = ["", "\ud800", "a\udfff", "a" * 257, "." * 86, "☃" * 100, "a" * 10**6]
        for text in texts:
            with self.assertRaisesRegex(ValueError, r"\btext must\b") as caught:
                encode_client_name(text)
            self.assertIs(type(caught.exception), ValueError)
            self.assertIsNone(caught.exception.__context__)

    def test_what_is_not_the_name_of_a_text_is_refused(self) -> None:
        for bad in BAD_TYPES:
            with self.assertRaisesRegex(TypeError, r"\bname must\b"):
                decode_client_name(bad)
        for name in NOT_ENCODED_NAMES:
            with self.subTest(name=name):
                with self.assertRaisesRegex(ValueError, r"\bname must\b") as caught:
                    decode_client_name(name)
                self.assertIs(type(caught.exception), ValueError)
                self.assertIsNone(caught.exception.__context__)

    def test_each_name_that_is_read_is_the_only_one_of_its_text(self) -> None:
        rng = random.Random(2396)
        read = 0
        for _ in range(3000):
            name = "".join(rng.choices(["z", "Z", "9", "_", "_5F", "_C3", "_A9"], k=4))
            with contextlib.suppress(ValueError):
                self.assertEqual(encode_client_name(decode_client_name(name)), name)
                read += 1
        self.assertGreater(read, 300)


class ScopeURITest(unittest.TestCase):
    def test_str_is_the_uri(self) -> None:
        self.assertEqual(str(ScopeURI("client", "incoming")), "scope:client:incoming")
        params = {"path": "/2010-04-01/Events", "params": "a=b"}
        self.assertEqual(
            str(ScopeURI("stream", "subscribe", params)),
            "scope:stream:subscribe?path=%2F2010-04-01%2FEvents&params=a%3Db",
        )

    def test_its_parts_can_be_read(self) -> None:
        given = {"b": "1", "a": "2"}
        scope = ScopeURI("client", "incoming", given)
        given["c"] = "3"
        self.assertEqual((scope.service, scope.privilege), ("client", "incoming"))
        self.assertIs(type(scope.params), dict)
        self.assertEqual(list(scope.params.items()), [("b", "1"), ("a", "2")])

    def test_equality_is_of_all_three_parts_in_any_order_of_params(self) -> None:
        scope = ScopeURI("client", "incoming", {"a": "1", "b": "2"})
        self.assertEqual(scope, ScopeURI("client", "incoming", {"b": "2", "a": "1"}))
        for other in (
            ScopeURI("stream", "incoming", {"a": "1", "b": "2"}),
            ScopeURI("client", "outgoing", {"a": "1", "b": "2"}),
            ScopeURI("client", "incoming", {"a": "1", "b": "3"}),
            ScopeURI("client", "incoming"),
            str(scope),
            None,
        ):
            self.assertNotEqual(scope, other)

    def test_something_else_may_equal_it(self) -> None:
        self.assertEqual(ScopeURI("client", "incoming"), mock.ANY)

    def test_it_may_have_a_subclass(self) -> None:
        class Sub(ScopeURI):
            pass

        self.assertIs(type(Sub.parse("scope:a:b")), Sub)
        self.assertEqual(Sub("a", "b"), ScopeURI("a", "b"))

    def test_it_survives_copying_and_pickling(self) -> None:
        scope = ScopeURI("client", "incoming", {"clientName": "Alice"})
        self.assertEqual(copy.deepcopy(scope), scope)
        self.assertEqual(pickle.loads(pickle.dumps(scope)), scope)

    def test_parse_is_the_inverse_of_str(self) -> None:
        rng = random.Random(7515)
        for _ in range(500):
            params = {some_text(rng): some_text(rng) for _ in range(rng.randrange(4))}
            scope = ScopeURI(rng.choice(["client", "a.b-c_9"]), "x", params)
            parsed = ScopeURI.parse(str(scope))
            self.assertEqual(parsed, scope)
            self.assertEqual(str(parsed), str(scope))

    def test_parse_reads_what_other_libraries_write(self) -> None:
        cases: list[tuple[str, dict[str, str]]] = [
            # twilio-python: params in alphabetical order, "~" as it is
            (
                "outgoing?appParams=a%3D~&appSid=AP1&clientName=Alice",
                {"appParams": "a=~", "appSid": "AP1", "clientName": "Alice"},
            ),
            # twilio-node: a bare slash, !'()*~ as they are, space as %20
            (
                "subscribe?path=/2010-04-01/Events&appParams=a%20b%3D~!*'()",
                {"path": "/2010-04-01/Events", "appParams": "a b=~!*'()"},
            ),
            ("incoming?clientName=%c3%ab", {"clientName": "ë"}),
            ("incoming?a=b=c", {"a": "b=c"}),
            ("incoming?=", {"": ""}),
            ("incoming?", {}),
            ("incoming", {}),
        ]
        for uri, params in cases:
            self.assertEqual(ScopeURI.parse("scope:client:" + uri).params, params)

    def test_each_character_that_a_query_may_have(self) -> None:
        bare = LETTERS_AND_DIGITS + "!$'()*,-./:;=?@_~"
        read = {}
        for character in CHARACTERS:
            with contextlib.suppress(ValueError):
                read[character] = ScopeURI.parse("scope:a:b?c=" + character).params["c"]
        self.assertEqual(read, {**{char: char for char in bare}, "+": " "})
        for char in bare.replace("=", ""):
            scope = ScopeURI.parse(f"scope:a:b?{char}=1")
            self.assertEqual(scope.params, {char: "1"})
        digits = "0123456789ABCDEFabcdef"
        for first in CHARACTERS[:0x80]:
            for second in CHARACTERS[:0x80]:
                uri = f"scope:a:b?c=%{first}{second}"
                if first in digits[:8] and second in digits:
                    text = chr(int(first + second, 16))
                    self.assertEqual(ScopeURI.parse(uri).params, {"c": text})
                else:
                    with self.assertRaises(ValueError):
                        ScopeURI.parse(uri)

    def test_what_is_no_scope_uri_is_refused(self) -> None:
        for uri in NOT_SCOPE_URIS:
            with self.subTest(uri=uri), self.assertRaises(ValueError) as caught:
                ScopeURI.parse(uri)
            self.assertIs(type(caught.exception), ValueError)
            self.assertIsNone(caught.exception.__context__)

    def test_parse_reads_at_most_65536_characters(self) -> None:
        longest = "scope:a:b?c=" + "%41" * 21840 + "defg"
        self.assertEqual(len(longest), 65536)
        self.assertEqual(ScopeURI.parse(longest).params, {"c": "A" * 21840 + "defg"})
        for uri in (longest + "h", "\ud800" * 65537):
            with self.assertRaisesRegex(ValueError, "uri must.* 65536 characters"):
                ScopeURI.parse(uri)

    def test_whatever_is_parsed_can_be_written_and_parsed_again(self) -> None:
        rng = random.Random(3986)
        read = 0
        for _ in range(2000):
            uri = "scope:client:incoming?a=1"
            for _ in range(rng.randrange(4)):
                uri = mutated(uri, rng, "scope:client:incoming?a=1&%4a+~é \n")
            with contextlib.suppress(ValueError):
                scope = ScopeURI.parse(uri)
                read += 1
                self.assertEqual(ScopeURI.parse(str(scope)), scope)
        self.assertGreater(read, 500)


class VerifyTokenTest(unittest.TestCase):
    """Nothing of a token is trusted, nor decoded, before its signature is right."""

    def assert_invalid(self, token: str, reason: str, **options: Any) -> None:
        with self.assertRaisesRegex(InvalidTokenError, reason) as caught:
            verify_token(token, "secret", **{"now": NOW, **options})
        self.assertIs(type(caught.exception), InvalidTokenError)

    def test_the_claims_come_back_as_they_are(self) -> None:
        for payload in (
            '{"scope":"","iss":"AC123123","exp":1767226200}',
            '{"exp":1767226200,"nbf":1.5,"x":[1,2.5,null,true,{"y":"\\u00eb☃"}]}',
            '{"exp":1767226200,"exp ":1}',
            ' \t\r\n{ "exp" : 1767226200 } \n',
        ):
            claims = verify_token(mint(payload), "secret", now=NOW)
            self.assertEqual(claims, json.loads(payload))

    def test_tokens_of_other_libraries_are_read(self) -> None:
        tokens = [(token, "secret") for token in OTHER_TOKENS.values()]
        tokens += [(token, secret) for _, _, secret, *_, token in ACCESS_TOKENS]
        tokens += [(token, secret) for _, secret, *_, token in CAPABILITY_TOKENS]
        for token, secret in tokens:
            claims = verify_token(token, secret, now=NOW)
            self.assertEqual(claims, json.loads(decoded(token.split(".")[1])))

    def test_their_scopes_mean_the_same(self) -> None:
        capability = alice()
        capability.allow_event_stream({"foobar": "hey"})
        ours = meaning(capability.generate_token(now=NOW), "secret")
        self.assertEqual(meaning(OTHER_TOKENS["python capability"], "secret"), ours)
        node = meaning(OTHER_TOKENS["node capability"], "secret")
        # twilio-node was given one more param, and says appParams for filters, too.
        self.assertEqual(node[1][2].pop("appParams"), {"Foo": "Bar", "a b": "~!*'()"})
        self.assertEqual(node[2][2].pop("appParams"), ours[2][2].pop("params"))
        self.assertEqual(ours[1][2].pop("appParams"), {"Foo": "Bar"})
        self.assertEqual(node, ours)

    def test_no_token_with_a_character_changed_added_or_dropped_passes(self) -> None:
        token = Capability("AC1", "secret").generate_token(now=NOW)
        verify_token(token, "secret", now=NOW)
        others = {token[:at] + token[at + 1 :] for at in range(len(token))}
        for char in BASE64URL + "=+/. \t\n\0\x7fé\uff21\ud800":
            for at in range(len(token) + 1):
                others.add(token[:at] + char + token[at + 1 :])
                others.add(token[:at] + char + token[at:])
        passed = []
        for other in others - {token}:
            with contextlib.suppress(InvalidTokenError):
                passed.append(verify_token(other, "secret", now=NOW))
        self.assertEqual(passed, [])

    def test_a_signature_has_one_spelling(self) -> None:
        token = alice().generate_token(now=NOW)
        twin = token[:-1] + BASE64URL[BASE64URL.index(token[-1]) ^ 1]
        self.assertEqual(
            base64.urlsafe_b64decode(twin.split(".")[2] + "="),
            base64.urlsafe_b64decode(token.split(".")[2] + "="),
        )
        for other in (twin, token + "=", token + "==", token + "\n", " " + token):
            with self.assertRaises(InvalidSignatureError):
                verify_token(other, "secret", now=NOW)

    def test_another_secret_is_refused(self) -> None:
        token = alice().generate_token(now=NOW)
        for secret in ("Secret", "secrets", "s", "x" * 1000):
            with self.assertRaises(InvalidSignatureError):
                verify_token(token, secret, now=NOW)

    def test_a_secret_longer_than_a_block_of_sha_256_works(self) -> None:
        secret = "é☃" * 99
        token = mint({"exp": 9}, secret)
        self.assertEqual(verify_token(token, secret, now=0), {"exp": 9})

    def test_a_comparison_in_constant_time_alone_decides(self) -> None:
        token = alice().generate_token(now=NOW)
        with mock.patch.object(hmac, "compare_digest", lambda *_: True):
            verify_token(token[:-1], "secret", now=NOW)
        refuse = mock.patch.object(hmac, "compare_digest", lambda *_: False)
        with refuse, self.assertRaises(InvalidSignatureError):
            verify_token(token, "secret", now=NOW)

    def test_it_is_three_segments_of_ascii(self) -> None:
        for token in ("", ".", "a.b", "a.b.c.d", "é.b.c", "\ud800.b.c", "a.b.é"):
            self.assert_invalid(token, "segments")
        for token in ("..", "a.b.", ".b.c", "a b.c.d"):
            with self.assertRaises(InvalidSignatureError):
                verify_token(token, "secret")

    def test_it_is_at_most_65536_characters(self) -> None:
        longest = mint('{"exp":1767226200}' + " " * (49091 - 18))
        self.assertEqual(len(longest), 65536)
        verify_token(longest, "secret", now=NOW)
        inspect_token(longest)
        for token in (
            mint('{"exp":1767226200}' + " " * 49074),
            "." * 65537,
            "é" * 65537,
        ):
            self.assert_invalid(token, "at most 65536 characters")
            with self.assertRaisesRegex(InvalidTokenError, "at most 65536 characters"):
                inspect_token(token)

    def test_nothing_is_decoded_before_the_signature_is_right(self) -> None:
        for token in ("!.!.!", mint("no JSON").replace(".", ".A", 1), mint(DEEP)[:-1]):
            with self.assertRaises(InvalidSignatureError):
                verify_token(token, "secret")

    def test_a_wrong_argument_is_not_taken_for_a_forgery(self) -> None:
        options: list[dict[str, Any]] = [{"leeway": "0"}, {"now": "0"}]
        for wrong in options:
            with self.assertRaises(TypeError):
                verify_token("..", "secret", **wrong)

    def test_only_hs256_and_nothing_critical_is_accepted(self) -> None:
        for header in NOT_HS256:
            self.assert_invalid(mint('{"exp":1767226200}', header=header), "HS256")
        token = mint('{"exp":1767226200}', header='{"alg":"HS256"}')
        self.assertEqual(verify_token(token, "secret", now=NOW), {"exp": 1767226200})

    def test_a_token_really_signed_otherwise_is_refused(self) -> None:
        for bits in (384, 512):
            header = f'{{"typ":"JWT","alg":"HS{bits}"}}'
            start = mint('{"exp":1767226200}', header=header).rpartition(".")[0]
            signature = hmac.new(b"secret", start.encode(), f"sha{bits}").digest()
            with self.assertRaises(InvalidSignatureError):
                verify_token(f"{start}.{base64url(signature)}", "secret", now=NOW)
        unsigned = mint('{"exp":1767226200}', header='{"typ":"JWT","alg":"none"}')
        with self.assertRaises(InvalidSignatureError):
            verify_token(unsigned.rpartition(".")[0] + ".", "secret", now=NOW)

    def test_header_and_payload_are_json_objects(self) -> None:
        good = '{"alg": "HS256", "exp": 1767226200}'
        verify_token(mint(good, header=good), "secret", now=NOW)
        around = [good + "x", good + good, "x" + good, "X" + good, "\x0b" + good]
        around += [
            "\x0c" + good,
            good + "\0",
            good + "\x1c",
            good + "\xa0",
            "\ufeff" + good,
            'X{"exp":9}',
        ]
        encoded = [good.encode("utf-16"), b"\xff" + good.encode()]
        cases: list[Any] = [*NOT_OBJECTS, *around, *encoded, DEEP, '{"":' * 9000]
        for bad in cases:
            with self.subTest(bad=bad[:40]):
                self.assert_invalid(mint(bad), r"payload\b.*JSON object")
                self.assert_invalid(mint(good, header=bad), r"header\b.*JSON object")

    def test_a_name_may_not_come_twice(self) -> None:
        for payload in (
            '{"exp":1767226200,"exp":1767226200}',
            '{"exp":1,"exp":1767226200}',
            '{"exp":1767226200,"\\u0065xp":1767226200}',
            '{"exp":1767226200,"grants":{"identity":"a","identity":"b"}}',
        ):
            self.assert_invalid(mint(payload), r"payload\b.*unique")
        header = '{"typ":"JWT","alg":"none","alg":"HS256"}'
        self.assert_invalid(
            mint('{"exp":1767226200}', header=header), r"header\b.*unique"
        )

    def test_segments_are_plain_base64url(self) -> None:
        good = mint('{"exp":1767226200,"x":"??>~~~"}')
        verify_token(good, "secret", now=NOW)
        head, payload, _ = good.split(".")
        self.assertEqual(len(payload) % 4, 2)
        for bad in (
            *(f"{head}.{payload}{end}" for end in ("=", "==", "AAA")),
            *(f"{head}.{payload[:4]}{mark}{payload[4:]}" for mark in "\n!+/"),
            *(
                f"{head}.{payload}{char}"
                for char in CHARACTERS[:0x80]
                if char not in BASE64URL + "."
            ),
            *(f"{head}." + payload.replace(a, b) for a, b in ("_/", "-+")),
            *(f"{head}{end}.{payload}" for end in ("=", "==", "\t")),
            f"{head[:4]} {head[4:]}.{payload}",
            f"{head}.A",
        ):
            with self.subTest(bad=bad):
                self.assert_invalid(signed(bad), "base64url")

    def test_a_token_for_somebody_else_is_refused(self) -> None:
        for aud in ('"x"', '["x"]', '""', "null", "[]"):
            self.assert_invalid(mint('{"exp":1767226200,"aud":%s}' % aud), "aud")
        self.assert_invalid(mint('{"exp":1,"aud":1}'), "aud")

    def test_exp_is_an_integer(self) -> None:
        for exp in NOT_INTEGERS:
            with self.subTest(exp=exp[:20]):
                self.assert_invalid(mint(f'{{"exp":{exp}}}'), "exp must")
                self.assert_invalid(mint(f'{{"exp":{exp}}}'), "exp must", leeway=0.5)
        for payload in ("{}", '{"Exp":1767226200}', '{"iss":"AC123123"}'):
            self.assert_invalid(mint(payload), "exp must")
        for exp in ("NaN", "Infinity", "1e400"):
            self.assert_invalid(mint(f'{{"exp":{exp}}}'), r"payload\b.*JSON object")
        for milliseconds in (NOW * 1000, 2**53):
            claims = {"exp": milliseconds}
            self.assertEqual(verify_token(mint(claims), "secret", now=NOW), claims)

    def test_it_expires_at_exp(self) -> None:
        token = Capability("AC123123", "secret").generate_token(600, now=NOW)
        end, last = NOW + 600, 2**53 - 86400
        valid = [(0, 0), (end - 1, 0), (end - 0.1, 0), (end, 1), (end, 0.5)]
        for now, leeway in [*valid, (end + 29, 30), (last, 2**53)]:
            verify_token(token, "secret", now=now, leeway=leeway)
        for now, leeway in [(end, 0), (end + 1, 0.5), (end + 30, 30), (last, 0)]:
            with self.assertRaisesRegex(ExpiredTokenError, "2026-01-01T00:10:00Z"):
                verify_token(token, "secret", now=now, leeway=leeway)
        for exp, when in [(0, "1970-01-01T00:00:00Z"), (-(2**53), "-9007199254740992")]:
            with self.assertRaisesRegex(ExpiredTokenError, when):
                verify_token(mint({"exp": exp}), "secret", now=0)

    def test_what_is_made_at_the_end_of_time_can_be_read(self) -> None:
        end = 2**53 - 86400
        token = Capability("AC1", "secret").generate_token(86400, now=end)
        self.assertEqual(verify_token(token, "secret", now=end)["exp"], 2**53)

    def test_the_clock_is_asked_unless_now_is_given(self) -> None:
        capability = Capability("AC1", "secret")
        verify_token(capability.generate_token(60), "secret")
        with self.assertRaises(ExpiredTokenError):
            verify_token(capability.generate_token(60, now=time.time() - 61), "secret")

    def test_nbf_is_honoured(self) -> None:
        payload = '{"exp":1767226200,"nbf":%s}'
        good = [("-5", 0), ("1767225600", 0), ("1767225600.0", 0), ("1767225601", 1)]
        for nbf, leeway in [*good, ("1767225600.5", 0.5), ("1767225630", 30)]:
            verify_token(mint(payload % nbf), "secret", now=NOW, leeway=leeway)
        huge = "1" + "0" * 400
        bad = [("1767225601", 0), ("1767225600.5", 0), (huge, 0), (huge, 0.5)]
        for nbf, leeway in [*bad, ("1767225601", 0.5), ("1767225631", 30)]:
            self.assert_invalid(mint(payload % nbf), "not valid yet", leeway=leeway)
        for nbf in ("null", "true", '"0"', "[]", "{}"):
            self.assert_invalid(mint(payload % nbf), "nbf must be a number")

    def test_the_errors_are_a_small_tree(self) -> None:
        self.assertEqual(InvalidTokenError.__bases__, (ValueError,))
        self.assertEqual(InvalidSignatureError.__bases__, (InvalidTokenError,))
        self.assertEqual(ExpiredTokenError.__bases__, (InvalidTokenError,))


class InspectTokenTest(unittest.TestCase):
    """A report says why Twilio refuses a token; nobody has checked its signature."""

    def test_the_report_of_a_capability_token(self) -> None:
        calls = [
            (INCOMING, "a"),
            (OUTGOING, REAL_APP, {"b": "c d"}),
            (EVENTS, {"e": "f"}),
        ]
        device = allowed(*calls, sid=REAL_ACCOUNT)
        token = device.generate_token(now=NOW)
        incoming = {"clientName": "a"}
        outgoing = {"appSid": REAL_APP, "appParams": {"b": "c d"}, "clientName": "a"}
        stream = {"path": "/2010-04-01/Events", "params": {"e": "f"}}
        report = {
            "kind": "capability",
            "header": {"typ": "JWT", "alg": "HS256"},
            "claims": json.loads(decoded(token.split(".")[1])),
            "scopes": [
                {"service": "client", "privilege": "incoming", "params": incoming},
                {"service": "client", "privilege": "outgoing", "params": outgoing},
                {"service": "stream", "privilege": "subscribe", "params": stream},
            ],
            "expires": "2026-01-01T01:00:00Z",
            "expired": False,
            "signature": "not checked",
            "problems": [],
        }
        inspected = inspect_token(token, now=NOW)
        self.assertEqual(json.dumps(inspected), json.dumps(report))

    def test_the_report_of_an_access_token(self) -> None:
        _, api_key_sid, *_, token = ACCESS_TOKENS[4]
        report = inspect_token(token, now=NOW)
        self.assertEqual(report["kind"], "access")
        self.assertEqual(report["header"]["twr"], "ie1")
        self.assertEqual(report["claims"]["iss"], api_key_sid)
        self.assertEqual(report["scopes"], [])
        self.assertEqual(report["problems"], [])

    def test_good_tokens_have_no_problem(self) -> None:
        tokens = {**REAL_TOKENS, "ours": good_token("capability")}
        tokens["ours, access"] = good_token("access")
        for *_, options, token in ACCESS_TOKENS[4:]:  # with SIDs of real length
            tokens[f"php, {options}"] = token
        for name, token in tokens.items():
            with self.subTest(name):
                self.assertEqual(inspect_token(token, now=NOW)["problems"], [])

    def assert_problems(
        self, kind: str, place: str, value: Any, expected: list[str]
    ) -> None:
        with self.subTest(kind=kind, place=place, value=value):
            token = good_token(kind, {place: value})
            self.assertEqual(inspect_token(token, now=NOW)["problems"], expected)

    def test_each_fault_is_a_problem_with_its_place_and_its_codes(self) -> None:
        for place, values, words, *columns in FAULTS:
            for kind, codes in zip(("capability", "access"), columns):
                if kind == "capability" and place == "claims.grants":
                    continue  # with that it is an access token
                expected = [] if codes is None else [problem(place, words, codes)]
                for value in values:
                    self.assert_problems(kind, place, value, expected)

    def test_the_issuer_is_the_account_or_in_an_access_token_the_api_key(self) -> None:
        for kind, values, words, codes in ISS_FAULTS:
            for value in values:
                expected = [problem("claims.iss", words, codes)]
                self.assert_problems(kind, "claims.iss", value, expected)

    def test_a_sid_has_32_hex_digits(self) -> None:
        cases = [
            ("capability", "claims.iss", "AC"),
            ("access", "claims.iss", "SK"),
            ("access", "claims.sub", "AC"),
            ("access", VOICE + ".outgoing.application_sid", "AP"),
            ("access", VOICE + ".push_credential_sid", "CR"),
        ]
        for kind, place, prefix in cases:
            sids = [prefix + "0" * 31 + character for character in CHARACTERS[:0x80]]
            good = []
            for sid in [*sids, prefix.lower() + "0" * 32, prefix + "0" * 32 + "\n"]:
                token = good_token(kind, {place: sid})
                if not inspect_token(token, now=NOW)["problems"]:
                    good.append(sid[-1])
            self.assertEqual(good, sorted("0123456789ABCDEFabcdef"))

    def test_each_fault_of_a_scope_is_a_problem_with_its_place(self) -> None:
        for uris, place, words, codes in SCOPE_FAULTS:
            expected = [problem("scopes[1]" + place, words, codes)] if words else []
            for uri in uris:
                scope = f"scope:client:incoming?clientName=a {uri}"
                self.assert_problems("capability", "claims.scope", scope, expected)

    def test_a_signature_is_43_characters_of_base64url(self) -> None:
        words = "must be 43 characters of base64url; it is cut off, padded or not made by HS256"
        codes = {"capability": "31202", "access": "20107"}
        codes["unknown"] = "31202, 20107"
        for kind in codes:
            token = good_token(kind) if kind != "unknown" else mint({})
            start, signature = token.rsplit(".", 1)
            known = inspect_token(token, now=NOW)["problems"]
            for bad in ("", signature[:-1], signature + "=", signature + "A", "*" * 43):
                problems = inspect_token(f"{start}.{bad}", now=NOW)["problems"]
                expected = [problem("signature", words, codes[kind]), *known]
                self.assertEqual(problems, expected)

        start = good_token("capability").rpartition(".")[0]
        taken = []
        for character in CHARACTERS:
            with contextlib.suppress(InvalidTokenError):
                report = inspect_token(f"{start}.{'A' * 42}{character}", now=NOW)
                if not report["problems"]:
                    taken.append(character)
        self.assertEqual(taken, sorted(BASE64URL))

    def test_of_a_token_of_unknown_kind_only_three_places_are_judged(self) -> None:
        words = "must have scope or grants; without them it is not a Twilio voice token"
        unknown = problem("claims", words, "31204, 20101")
        alg = problem("header.alg", "must be HS256; make a new token", "31204, 20102")
        cases = [('{"alg":"HS256","twr":1}', [unknown]), ('{"typ":1}', [alg, unknown])]
        for header, problems in cases:
            for claims in ({"iss": 1, "aud": 1, "nbf": ""}, {"iss": "AC1", "exp": 0}):
                report = inspect_token(mint(claims, header=header))
                self.assertEqual(report["kind"], "unknown")
                self.assertEqual(report["problems"], problems)

    def test_what_kind_a_token_is_of(self) -> None:
        for kind, header, claims in (
            ("access", ACCESS_HEADER, {}),
            ("access", ACCESS_HEADER, {"scope": ""}),
            ("access", HEADER, {"grants": None}),
            ("access", HEADER, {"scope": "", "grants": {}}),
            ("capability", HEADER, {"scope": None}),
            ("capability", '{"cty":"JWT"}', {"scope": ""}),
            ("unknown", '{"cty":["twilio-fpa;v=1"]}', {"exp": 1}),
        ):
            token = mint(claims, header=header)
            self.assertEqual(inspect_token(token)["kind"], kind)

    def test_several_faults_are_several_problems_in_the_order_of_the_table(
        self,
    ) -> None:
        ends = ["claims.exp", "claims.nbf", "claims.aud"]
        start = ["header.alg", "signature", "claims.iss"]
        cases: list[tuple[str, Any, list[str]]] = [
            ("capability", "", [*start, *ends, "claims.scope"]),
            ("access", "a-b", [
                "header.alg", "header.typ", "header.cty", "header.twr", "signature",
                "claims.iss", "claims.sub", *ends, IDENTITY,
                VOICE + ".outgoing.application_sid", VOICE + ".push_credential_sid",
            ]),
            ("access", "a-b", [IDENTITY, VOICE]),
            ("access", "a-b", ["claims.exp", "claims.grants"]),
        ]  # fmt: skip
        for kind, bad, places in cases:
            token = good_token(kind, dict.fromkeys(places, bad))
            token = token[:-1] if "signature" in places else token
            problems = inspect_token(token, now=NOW)["problems"]
            self.assertEqual([line.partition(":")[0] for line in problems], places)

        params = "appSid=x&appParams=y&params=y&clientName=a-b"
        faults = {"claims.scope": f"x scope:client:outgoing?{params}", "claims.exp": 0}
        problems = inspect_token(good_token("capability", faults), now=NOW)["problems"]
        names = ["clientName", "appSid", "appParams", "params"]
        places = ["claims.exp", "scopes[0]"]
        places += [f"scopes[1].params.{name}" for name in names]
        self.assertEqual([line.partition(":")[0] for line in problems], places)

        voice = {VOICE: {"push_credential_sid": "x"}}
        problems = inspect_token(good_token("access", voice), now=NOW)["problems"]
        places = [VOICE, VOICE + ".push_credential_sid"]
        self.assertEqual([line.partition(":")[0] for line in problems], places)

    def test_it_says_when_a_token_expires(self) -> None:
        for exp, expires, expired in EXPIRIES:
            for now in (NOW, NOW + 0.999):
                report = inspect_token(mint(f'{{"exp":{exp}}}'), now=now)
                with self.subTest(exp=exp[:20]):
                    self.assertEqual(report["expires"], expires)
                    self.assertIs(report["expired"], expired)
        report = inspect_token(mint("{}"), now=NOW)
        self.assertEqual((report["expires"], report["expired"]), (None, None))

    def test_the_clock_is_asked_unless_now_is_given(self) -> None:
        token = good_token("capability")
        self.assertIs(inspect_token(token, now=0)["expired"], False)
        with clock(NOW + 3600):
            self.assertIs(inspect_token(token)["expired"], True)

    def test_a_report_is_at_most_100_levels_deep(self) -> None:
        payload = '{"exp":1767226200,"x":%s}'  # which is one level
        for opening, closing in (("[", "]"), ('{"a":', "}"), ('[1,{"a":', "}]")):
            step = len(closing)
            for repeats in (98 // step, 100 // step, 2000):
                nested = opening * repeats + "0" + closing * repeats
                status = run("inspect", mint(payload % nested)).status
                self.assertEqual(status, 0 if 1 + step * repeats <= 100 else 1)
        for fine in (
            "[" * 99 + "]" * 99,
            "[" + "[{}]," * 999 + '"' + "[{" * 999 + '"]',
        ):
            inspect_token(mint(payload % fine))
        for deep in ("[" * 100 + "]" * 100, "[1,[]," + "[" * 99 + "]" * 99 + ',"x"]'):
            for token in (mint(payload % deep), mint("{}", header='{"x":%s}' % deep)):
                with self.assertRaisesRegex(InvalidTokenError, "100 levels of JSON"):
                    inspect_token(token)

    def test_a_scope_is_taken_apart_where_it_can_be_read(self) -> None:
        scope = {"service": "a", "privilege": "b"}
        half = {"service": "a", "privilege": "c", "params": {"appParams": "x"}}
        cases: list[tuple[Any, list[Any]]] = [
            ("scope:a:b", [{**scope, "params": {}}]),
            ("scope:a:b?c=d%3De", [{**scope, "params": {"c": "d=e"}}]),
            ("scope:a:b?params=a%3Db", [{**scope, "params": {"params": {"a": "b"}}}]),
            ("x scope:a:c?appParams=x", [{"unreadable": "x"}, half]),
            *((nothing, []) for nothing in ("", " ", 7, ["scope:a:b"], None)),
        ]
        for given, scopes in cases:
            self.assertEqual(inspect_token(mint({"scope": given}))["scopes"], scopes)

    def test_text_with_something_around_the_token_is_refused_with_the_cause(
        self,
    ) -> None:
        for cause, texts in disguises(good_token("capability")):
            for text in texts:
                with self.subTest(text=text):
                    with self.assertRaisesRegex(InvalidTokenError, cause) as caught:
                        inspect_token(text)
                    self.assertIs(type(caught.exception), InvalidTokenError)
                    self.assertIsNone(caught.exception.__context__)

    def test_what_is_not_a_json_object_is_refused(self) -> None:
        cases = [("header", bad) for bad in ("..", mint("{}", header="[]"))]
        cases.append(("header", mint("[]", header="[]")))
        for bad in ("[]", DEEP, '{"":' * 9000, '{"x":' + "9" * 40000 + "e999}"):
            cases.append(("payload", mint(bad)))
        for part, token in [*cases, ("payload", mint("[" * 20000 + "]" * 20000))]:
            reason = rf"\b{part}\b.*JSON object"
            with self.assertRaisesRegex(InvalidTokenError, reason) as caught:
                inspect_token(token)
            self.assertIsNone(caught.exception.__context__)

    @unittest.skipIf(sys.flags.optimize > 1, "python -OO drops docstrings")
    def test_its_docstring_says_that_nothing_is_checked(self) -> None:
        self.assertIn("NOT checked", inspect_token.__doc__ or "")

    def test_nothing_but_an_invalid_token_error_gets_out_for_any_text(self) -> None:
        rng = random.Random(2026)
        token = alice().generate_token()
        pieces = [*'{}[]":,\\-é\0', "\\ud800", "1e999", "NaN"]
        read = 0
        for _ in range(1000):
            payload = '{"a":[1,"b"],"exp":1}'
            for _ in range(rng.randrange(3)):
                payload = mutated(payload, rng, pieces)
            noise = rng.choices(BASE64URL + "..==é\n\ud800", k=rng.randrange(60))
            damaged = mutated(token, rng, BASE64URL + ".=é")
            for text in (mint(payload), damaged, "".join(noise)):
                with contextlib.suppress(InvalidTokenError):
                    self.assertEqual(inspect_token(text)["signature"], "not checked")
                    read += 1
        self.assertGreater(read, 300)

    def test_nothing_at_all_gets_out_for_strange_json(self) -> None:
        rng = random.Random(7519)
        parts = []
        for _ in range(1000):
            places = rng.sample(STRANGE_PLACES, rng.randrange(1, 4))
            changes = {place: rng.choice(STRANGE_VALUES) for place in places}
            parts.append(good_parts(rng.choice(["capability", "access"]), changes))
        headers = [segment(header) for header, _ in parts]
        payloads = [segment(claims) for _, claims in parts]
        lines: set[str] = set()
        for _ in range(10000):
            token = f"{rng.choice(headers)}.{rng.choice(payloads)}.{'A' * 43}"
            lines.update(inspect_token(token, now=NOW)["problems"])
        for line in lines:
            self.assertRegex(line, PROBLEM)


class AccessTokenTest(unittest.TestCase):
    """An access token grants the same, signed with an API key instead."""

    def claims(self, capability: Capability, **options: Any) -> dict[str, Any]:
        token = capability.generate_access_token("SK123123", "s", now=NOW, **options)
        self.assertEqual(decoded(token.split(".")[0]), ACCESS_HEADER)
        return verify_token(token, "s", now=NOW)

    def test_the_claims_in_their_order(self) -> None:
        device = alice(auth_token=None)
        token = device.generate_access_token("SK123123", "secret", 600, now=NOW + 0.9)
        by_hand = (
            '{"jti":"SK123123-1767225600","iss":"SK123123","sub":"AC123123",'
            '"exp":1767226200,"grants":{"identity":"Alice","voice":{"incoming":{"allow":true},'
            '"outgoing":{"application_sid":"AP123123","params":{"Foo":"Bar"}}}}}'
        )
        self.assertEqual(token, mint(by_hand, header=ACCESS_HEADER))

    def test_it_is_the_same_string_that_twilio_php_makes(self) -> None:
        for account_sid, api_key_sid, secret, calls, options, token in ACCESS_TOKENS:
            with self.subTest(calls=calls, options=options):
                device = allowed(*calls, sid=account_sid, auth_token=None)
                make = partial(device.generate_access_token, api_key_sid, secret)
                self.assertEqual(make(now=NOW, **options), token)

    def test_a_region_is_named_in_the_header_alone(self) -> None:
        make = partial(alice().generate_access_token, "SK1", "k", now=NOW)
        header, payload, _ = make(region="ie1").split(".")
        self.assertEqual(decoded(header), ACCESS_HEADER[:-1] + ',"twr":"ie1"}')
        self.assertEqual(payload, make().split(".")[1])

    def test_a_push_credential_is_the_last_part_of_voice(self) -> None:
        credential = {"push_credential_sid": "CR1"}
        cases: list[tuple[list[tuple[Any, ...]], dict[str, Any]]] = [
            ([], credential),
            ([(INCOMING, "a")], {"incoming": {"allow": True}, **credential}),
            ([(OUTGOING, "AP1")], {
                "outgoing": {"application_sid": "AP1"}, **credential,
            }),
        ]  # fmt: skip
        for calls, voice in cases:
            options = {"identity": "a", "push_credential_sid": "CR1"}
            grants = self.claims(allowed(*calls), **options)["grants"]
            self.assertEqual(json.dumps(grants["voice"]), json.dumps(voice))

    def test_without_a_name_twilio_php_makes_one_that_twilio_refuses(self) -> None:
        *_, calls, _, token = NAMELESS_ACCESS_TOKEN
        claims = json.loads(decoded(token.split(".")[1]))
        self.assertNotIn("identity", claims["grants"])
        with self.assertRaisesRegex(ValueError, "identity"):
            self.claims(allowed(*calls))

    def test_it_lives_for_an_hour_unless_told(self) -> None:
        self.assertEqual(self.claims(alice())["exp"], NOW + 3600)
        self.assertEqual(self.claims(alice(), ttl=60)["exp"], NOW + 60)

    def test_the_clock_is_asked_once(self) -> None:
        times = itertools.count(NOW)
        with mock.patch.object(time, "time", lambda: next(times)):
            token = alice().generate_access_token("SK1", "s")
        claims = verify_token(token, "s", now=NOW)
        self.assertEqual((claims["jti"], claims["exp"]), (f"SK1-{NOW}", NOW + 3600))

    def test_only_what_was_allowed_is_granted(self) -> None:
        app, incoming = {"application_sid": "AP1"}, {"incoming": {"allow": True}}
        cases: list[tuple[list[tuple[Any, ...]], dict[str, Any]]] = [
            ([], {}),
            ([(OUTGOING, "AP1", {})], {"outgoing": app}),
            ([(OUTGOING, "AP1", {"a": 1})], {"outgoing": {**app, "params": {"a": 1}}}),
            ([(INCOMING, "bob")], incoming),
            ([(OUTGOING, "AP1"), (INCOMING, "bob")], {**incoming, "outgoing": app}),
        ]
        for calls, voice in cases:
            grants = self.claims(allowed(*calls), identity="bob")["grants"]
            expected = {"identity": "bob", "voice": voice}
            self.assertEqual(json.dumps(grants), json.dumps(expected))

    def test_the_identity_may_repeat_the_client_name(self) -> None:
        self.assertEqual(self.claims(alice(), identity="Alice"), self.claims(alice()))

    def test_the_same_permission_twice_is_one_grant(self) -> None:
        twice = alice()
        twice.allow_client_incoming("Alice")
        twice.allow_client_outgoing("AP123123", {"Foo": "Bar"})
        self.assertEqual(self.claims(twice), self.claims(alice()))

    def test_params_keep_their_type_their_text_and_their_order(self) -> None:
        params = {"n": 3, "s": "3", "slash": "a/b", "zoë": '☃😀"\\\n'}
        device = allowed((OUTGOING, "AP1", params))
        token = device.generate_access_token("SK1", "s", identity="a", now=NOW)
        spelled = r'{"n":3,"s":"3","slash":"a/b","zo\u00eb":"\u2603\ud83d\ude00\"\\\n"}'
        self.assertIn(spelled, decoded(token.split(".")[1]))
        voice = self.claims(device, identity="a")["grants"]["voice"]
        self.assertEqual(
            list(voice["outgoing"]["params"].items()), list(params.items())
        )

    def test_any_params_come_back(self) -> None:
        rng = random.Random(20241006)
        for _ in range(200):
            params = {some_text(rng): some_value(rng), some_text(rng): some_value(rng)}
            claims = self.claims(allowed((OUTGOING, "AP1", params)), identity="a")
            voice = {"outgoing": {"application_sid": "AP1", "params": params}}
            self.assertEqual(claims["grants"]["voice"], voice)

    def test_an_int_that_javascript_would_change_is_refused(self) -> None:
        for value in (2**53, -(2**53)):
            claims = self.claims(allowed((OUTGOING, "AP1", {"a": value})), identity="a")
            params = claims["grants"]["voice"]["outgoing"]["params"]
            self.assertEqual(params, {"a": value})
        for value in (2**53 + 1, -(2**53) - 1, 10**400):
            device = allowed((OUTGOING, "AP1", {"b": "c", "a": value}))
            with self.assertRaisesRegex(ValueError, r"\bparams\b.*must.*as a str"):
                self.claims(device, identity="a")
            ((_, _, params),) = meaning(device.generate_token(now=NOW), "k")
            self.assertEqual(params["appParams"]["a"], str(value))  # it is text there
            as_text = allowed((OUTGOING, "AP1", {"a": str(value)}))
            self.claims(as_text, identity="a")

    def test_the_auth_token_is_not_used(self) -> None:
        self.assertEqual(self.claims(alice("secret")), self.claims(alice(None)))

    def test_what_it_cannot_carry_is_refused(self) -> None:
        is_alice, is_bob, events = (INCOMING, "Alice"), (INCOMING, "bob"), (EVENTS,)
        app, bare = (OUTGOING, "AP1", {"a": "1"}), (OUTGOING, "AP1")
        two, none = "identity must be one name", "identity must be given"
        one_app = "application_sid must be one"
        cases: list[tuple[str, list[tuple[Any, ...]], str | None]] = [
            (two, [is_alice, is_bob], None),
            (two, [is_alice, is_bob], "Alice"),
            (two, [is_alice], "bob"),
            (two, [is_alice], "alice"),
            (none, [], None),
            (none, [bare], None),
            (one_app, [is_alice, app, (OUTGOING, "AP2", {"a": "1"})], None),
            (one_app, [is_alice, app, (OUTGOING, "AP1", {"a": 1})], None),
            (one_app, [is_alice, app, bare], None),
            (one_app, [is_alice, bare, app, app], None),
            (one_app, [is_alice, app, app, bare], None),
            ("identity must", [is_alice], ""),
            ("event stream", [is_alice, events], None),
            ("event stream", [events, is_alice, app], None),
            ("event stream", [is_alice, (EVENTS, {"a": "b"})], None),
        ]
        for reason, calls, identity in cases:
            with self.subTest(calls=calls), self.assertRaisesRegex(ValueError, reason):
                self.claims(allowed(*calls), identity=identity)


class CommandLineTest(unittest.TestCase):
    """Run by main() in this process, with the clock at NOW."""

    def assert_fails(
        self, status: int, reason: str, *given: str, **options: Any
    ) -> None:
        with self.subTest(given=given):
            assert_failed(self, run(*given, **options), status, reason)

    def test_generate_prints_the_token_and_a_newline(self) -> None:
        arguments = "--incoming Alice --outgoing AP123123 --param Foo=Bar --ttl 600"
        token = alice(AUTH_TOKEN).generate_token(600, now=NOW)
        self.assertEqual(run("generate", *arguments.split()), (0, token + "\n", ""))

    def test_generate_takes_every_kind_of_permission(self) -> None:
        arguments = (
            "generate --incoming a --incoming b --outgoing AP1 --outgoing AP2 --events"
            " --param a=b=c --param é= --event-filter x=1 --event-filter y="
        )
        params, filters = {"a": "b=c", "é": ""}, {"x": "1", "y": ""}
        calls = [(INCOMING, "a"), (INCOMING, "b"), (OUTGOING, "AP1", params)]
        calls += [(OUTGOING, "AP2", params), (EVENTS, filters)]
        capability = allowed(*calls, sid="AC123123", auth_token=AUTH_TOKEN)
        token = capability.generate_token(now=NOW)  # for an hour, unless told
        self.assertEqual(run(*arguments.split()), (0, token + "\n", ""))

    def test_generate_takes_lenient_names_if_told(self) -> None:
        device = Capability("AC123123", AUTH_TOKEN, lenient_names=True)
        device.allow_client_incoming("agent-7")
        token = device.generate_token(now=NOW)
        arguments = ["generate", "--incoming", "agent-7"]
        self.assertEqual(run(*arguments, "--lenient-names"), (0, token + "\n", ""))
        self.assert_fails(2, "client_name", *arguments)
        access = ["generate", "--access", "--identity", "agent-7", "--outgoing", "AP1"]
        self.assertEqual(run(*access, "--lenient-names").status, 0)

    def test_generate_access_prints_an_access_token(self) -> None:
        app = (OUTGOING, "AP123123", {"Foo": "Bar"})
        outgoing = "--outgoing AP123123 --param Foo=Bar"
        cases: list[tuple[str, list[Any], dict[str, Any]]] = [
            ("--incoming Alice --ttl 60", [(INCOMING, "Alice"), app], {"ttl": 60}),
            ("--identity Alice", [app], {"identity": "Alice"}),
            ("--incoming a --push-credential CR1 --region ie1", [(INCOMING, "a"), app], {
                "push_credential_sid": "CR1", "region": "ie1",
            }),
        ]  # fmt: skip
        for arguments, calls, options in cases:
            device = allowed(*calls, sid="AC123123", auth_token=None)
            options.update(api_key_sid="SK123123", api_key_secret=API_SECRET, now=NOW)
            token = device.generate_access_token(**options)
            printed = run("generate", "--access", *arguments.split(), *outgoing.split())
            self.assertEqual(printed, (0, token + "\n", ""))

    def test_a_kind_of_token_needs_no_variable_of_the_other(self) -> None:
        plain = without("TWILIO_API_KEY", without("TWILIO_API_SECRET"))
        self.assertEqual(run("generate", "--incoming", "a", env=plain).status, 0)
        access = ["generate", "--access", "--incoming", "a"]
        self.assertEqual(run(*access, env=without("TWILIO_AUTH_TOKEN")).status, 0)

    def test_a_missing_or_empty_variable_is_named(self) -> None:
        plain = ["generate", "--incoming", "a"]
        access = [*plain, "--access"]
        for name, arguments in (
            ("TWILIO_ACCOUNT_SID", plain),
            ("TWILIO_ACCOUNT_SID", access),
            ("TWILIO_AUTH_TOKEN", plain),
            ("TWILIO_API_KEY", access),
            ("TWILIO_API_SECRET", access),
        ):
            reason = f"capability: {name} must be set"
            self.assert_fails(2, reason, *arguments, env=without(name))
            self.assert_fails(2, reason, *arguments, env={**ENVIRONMENT, name: ""})

    def test_wrong_usage_is_one_line_and_status_2(self) -> None:
        for reason, arguments in (
            ("required: COMMAND", ""),
            ("invalid choice", "AC123123 s3cr3t"),
            ("unrecognized arguments", "generate AC123123 s3cr3t"),
            ("unrecognized arguments", "generate --auth-token s3cr3t"),
            ("unrecognized arguments", "generate --auth-token=s3cr3t"),
            ("unrecognized arguments", "generate --i=s3cr3t"),
            ("unrecognized arguments", "verify a.b.c s3cr3t"),
            ("--incoming: expected one argument", "generate --incoming"),
            ("--events: ignored explicit", "generate --events=s3cr3t"),
            ("--events: ignored explicit", "generate --events=sec'ret\"s3cr3t"),
            (r"--ttl: invalid int value \(see", "generate --ttl s3cr3t"),
            ("--ttl: invalid int value", "generate --ttl s3cr3t'"),
            ("--ttl: .*twilio-capability generate --help", "generate --ttl 1.5"),
            ("ttl must be 1 to 86400", "generate --incoming a --ttl 86401"),
            ("client_name must", "generate --incoming AC123123-s3cr3t"),
            ("client_name must", "generate --incoming="),
            ("application_sid must", "generate --outgoing s3cr3t"),
            ("--param: must be KEY=VALUE", "generate --outgoing AP1 --param s3cr3t"),
            ("--param: .*twice", "generate --outgoing AP1 --param a=1 --param a=2"),
            (
                "--event-filter: .*twice",
                "generate --events --event-filter a= --event-filter a=",
            ),
            ("--param needs --outgoing", "generate --incoming a --param a=1"),
            ("-filter needs --events", "generate --incoming a --event-filter a=1"),
            ("--identity needs --access", "generate --incoming a --identity a"),
            ("--identity needs --access", "generate --incoming a --identity="),
            ("-credential needs --access", "generate --events --push-credential CR1"),
            ("-credential needs --access", "generate --events --push-credential="),
            ("--region needs --access", "generate --events --region ie1"),
            ("--region needs --access", "generate --events --region="),
            (
                "push_credential_sid must",
                "generate --access --incoming a --push-credential s3cr3t",
            ),
            ("region must", "generate --access --incoming a --region ireland"),
            ("must allow something", "generate"),
            ("must allow something", "generate --access --identity a"),
            ("identity must", "generate --access --outgoing AP1 --identity a-b"),
            ("identity must be given", "generate --access --outgoing AP1"),
            ("event stream", "generate --access --events --identity a"),
        ):
            self.assert_fails(2, reason, *arguments.split())
        self.assert_fails(2, "ignored", "generate", "--events=sec'ret \"s3cr3t")
        self.assert_fails(2, "client_name", "generate", "--incoming", "AC123123 s3cr3t")

    def test_swapped_credentials_are_refused_and_not_shown(self) -> None:
        swapped = {"TWILIO_ACCOUNT_SID": AUTH_TOKEN, "TWILIO_AUTH_TOKEN": "AC123123"}
        self.assert_fails(2, "account_sid", "generate", "--incoming", "a", env=swapped)

    def test_bytes_that_are_no_text_are_refused(self) -> None:
        byte = "\udcff"  # as Python hands on a byte that is not UTF-8
        generate = ["generate", "--outgoing", "AP1"]
        self.assert_fails(2, "params", *generate, "--param", "a=" + byte)
        variables = {**ENVIRONMENT, "TWILIO_AUTH_TOKEN": byte}
        self.assert_fails(2, "auth_token", *generate, env=variables)
        self.assert_fails(1, "not ASCII", "verify", byte)
        self.assert_fails(1, "not ASCII", "inspect", stdin=f"{byte}.{byte}.{byte}")
        for stdin in (b"\xff", b"\xff.\xff.\xff"):
            self.assert_fails(1, "standard input", "verify", stdin=stdin)

    def test_inspect_prints_the_report_of_inspect_token(self) -> None:
        for token in (good_token("capability"), good_token("access"), mint("{}")):
            report = inspect_token(token, now=NOW)
            printed = json.dumps(report, indent=2) + "\n"
            self.assertEqual(run("inspect", token, env={}), (0, printed, ""))

    def test_verify_prints_the_report_and_that_the_signature_is_valid(self) -> None:
        for token in (
            alice(AUTH_TOKEN).generate_token(now=NOW),
            alice().generate_access_token("SK123123", API_SECRET, now=NOW),
            mint({"exp": NOW + 60}, AUTH_TOKEN),
        ):
            report = {**inspect_token(token, now=NOW), "signature": "valid"}
            printed = json.dumps(report, indent=2) + "\n"
            self.assertEqual(run("verify", token), (0, printed, ""))

    def test_verify_prints_the_report_also_when_a_token_does_not_verify(self) -> None:
        good = alice(AUTH_TOKEN)
        for reason, signature, token in (
            ("signature", "invalid", alice("other").generate_token(now=NOW)),
            ("signature", "invalid", good.generate_token(now=NOW)[:-2]),
            ("signature", "invalid", good.generate_access_token("SK1", "k", now=NOW)),
            ("expired at 1970-01-01T01:00:00Z", "valid", good.generate_token(now=0)),
            ("HS256", "valid", mint({"exp": NOW + 1}, AUTH_TOKEN, '{"alg":"none"}')),
        ):
            status, output, errors = run("verify", token)
            report = {**inspect_token(token, now=NOW), "signature": signature}
            self.assertEqual((status, json.loads(output)), (1, report))
            self.assertRegex(errors, rf"\Atwilio-capability: [^\n]*{reason}[^\n]*\n\Z")

    def test_verify_says_nothing_of_a_token_when_the_secret_is_at_fault(self) -> None:
        token = alice(AUTH_TOKEN).generate_token(now=NOW)
        variables = {**ENVIRONMENT, "TWILIO_AUTH_TOKEN": AUTH_TOKEN + "\n"}
        self.assert_fails(2, "secret must.*line break", "verify", token, env=variables)

    def test_verify_and_its_report_go_by_one_clock(self) -> None:
        token = alice(AUTH_TOKEN).generate_token(60, now=NOW)
        times = itertools.count(NOW + 59)
        stdout = io.StringIO()
        ticking = mock.patch.object(time, "time", lambda: next(times))
        environ = mock.patch.dict(os.environ, ENVIRONMENT)
        with ticking, environ, mock.patch.object(sys, "stdout", stdout):
            self.assertEqual(main(["verify", token]), 0)
        self.assertIs(json.loads(stdout.getvalue())["expired"], False)

    def test_verify_knows_an_access_token_by_its_kind(self) -> None:
        claims = {"exp": NOW + 60, "grants": {}}
        for header in (HEADER, ACCESS_HEADER, '{"alg":"HS256","cty":"JWT"}'):
            self.assertEqual(run("verify", mint(claims, API_SECRET, header)).status, 0)
        only = mint({"exp": NOW + 60}, API_SECRET, ACCESS_HEADER)
        self.assertEqual(run("verify", only).status, 0)
        other = mint({"exp": NOW + 60}, AUTH_TOKEN, '{"alg":"HS256","cty":"JWT"}')
        self.assertEqual(run("verify", other).status, 0)

    def test_verify_names_the_missing_variable_and_the_kind_that_needs_it(self) -> None:
        for token, kind, name in (
            (good_token("capability"), "a capability token", "TWILIO_AUTH_TOKEN"),
            (good_token("access"), "an access token", "TWILIO_API_SECRET"),
            (mint("{}"), "a token of unknown kind", "TWILIO_AUTH_TOKEN"),
        ):
            reason = f"this is {kind}: {name} must be set"
            self.assert_fails(2, reason, "verify", token, env=without(name))

    def test_the_token_may_come_from_standard_input(self) -> None:
        token = alice(AUTH_TOKEN).generate_token(now=NOW)
        expected = run("verify", token)
        self.assertEqual(expected.status, 0)
        for arguments in (["verify"], ["verify", "-"]):
            for stdin in (token, token + "\n", token + "\r\n", "\n " + token):
                self.assertEqual(run(*arguments, stdin=stdin), expected)

    def test_an_empty_argument_is_an_empty_token(self) -> None:
        token = alice(AUTH_TOKEN).generate_token(now=NOW)
        self.assert_fails(1, "token", "verify", "", stdin=token)
        self.assert_fails(1, "token", "inspect", "", stdin=token)

    def test_what_is_not_a_token_is_status_1(self) -> None:
        for bad in ("", "a", "a.b.c", mint("[]", AUTH_TOKEN), mint("{}", header="[]")):
            self.assert_fails(1, "token|header|payload", "verify", bad)
            self.assert_fails(1, "token|header|payload", "inspect", bad)
            self.assert_fails(1, "token|header|payload", "verify", "-", stdin=bad)

    def test_a_report_is_ascii(self) -> None:
        output = run("inspect", mint('{"x":"é\\ud800\\u009b☃"}')).output
        self.assertIn(r'"x": "\u00e9\ud800\u009b\u2603"', output)

    def test_version_and_help(self) -> None:
        self.assertRegex(twilio_capability.__version__, r"\A\d+\.\d+\.\d+\Z")
        version = f"twilio-capability {twilio_capability.__version__}\n"
        self.assertEqual(run("--version", env={}), (0, version, ""))
        for arguments in ("--help", "generate -h", "verify --help", "inspect -h"):
            status, output, errors = run(*arguments.split(), env={})
            self.assertEqual((status, errors), (0, ""))
            for text in ("xample", "generate --incoming Alice", "TWILIO_AUTH_TOKEN"):
                self.assertIn(text, output)

    def test_help_names_each_option_what_it_takes_and_what_it_does(self) -> None:
        output = run("generate", "--help", env={}).output
        for option in (
            "--incoming NAME", "--outgoing APP_SID", "--param KEY=VALUE", "--events",
            "--event-filter KEY=VALUE", "--ttl SECONDS", "--access", "--identity NAME",
            "--push-credential CR_SID", "--region REGION", "--lenient-names",
        ):  # fmt: skip
            self.assertRegex(output, rf"\n  {option}\s+\w+")
        self.assertIn("default: 3600", output)
        self.assertRegex(run("verify", "--help").output, r"\n  TOKEN\s+\w+")
        for command in ("generate", "verify", "inspect"):
            self.assertRegex(run("--help").output, rf"\n    {command}\s+\w+")

    def test_input_that_cannot_be_read_is_status_1(self) -> None:
        closed = io.StringIO()
        closed.close()
        for stdin in (None, closed, Failing(OSError(5, "Input/output error"))):
            self.assert_fails(1, "standard input", "verify", stdin=stdin)
        interrupted = run("verify", stdin=Failing(KeyboardInterrupt()))
        self.assertEqual(interrupted, (130, "", ""))

    def test_standard_input_is_read_no_further_than_a_token_can_be_long(self) -> None:
        longest = mint('{"exp":1}' + " " * (49091 - 9))
        self.assertEqual(len(longest), 65536)
        for end in ("", "\n", "\r\n"):
            self.assertEqual(run("inspect", stdin=longest + end).status, 0)
        endless = io.StringIO("a" * 10**6)
        self.assert_fails(1, "at most 65536", "inspect", stdin=endless)
        self.assertLess(endless.tell(), 65536 + 10)
        self.assert_fails(1, "at most 65536", "inspect", stdin=" " * 99 + longest)

    def test_output_that_cannot_be_written_is_status_1(self) -> None:
        broken, full = BrokenPipeError(32, "Broken pipe"), OSError(28, "Full")
        interrupted = run("--version", stdout=Failing(KeyboardInterrupt()))
        self.assertEqual(interrupted.status, 130)
        for arguments in ("generate --incoming a", "--help", "--version"):
            for error, errors in (
                (broken, ""),
                (full, "twilio-capability: cannot write: [Errno 28] Full\n"),
            ):
                with tempfile.TemporaryFile() as file:
                    stdout = Failing(error, file.fileno())
                    free = os.dup(file.fileno())
                    os.close(free)
                    result = run(*arguments.split(), stdout=stdout)
                    # No descriptor is left open.
                    self.assertEqual(os.dup(file.fileno()), free)
                    os.close(free)
                    self.assertEqual((result.status, result.errors), (1, errors))
                    # What Python writes late, at exit, goes nowhere.
                    late = os.fstat(file.fileno())
                    self.assertTrue(os.path.samestat(late, os.stat(os.devnull)))

    def test_the_status_stays_when_a_stream_is_closed(self) -> None:
        closed = io.StringIO()
        closed.close()
        for stream in (None, closed):
            with mock.patch.object(sys, "stderr", stream):
                self.assertEqual(main(["generate", "--ttl", "0"]), 2)
                self.assertEqual(main(["generate", "--no-such-option"]), 2)
                self.assertEqual(main(["inspect", "x"]), 1)
            with mock.patch.multiple(sys, stdout=stream, stderr=stream):
                self.assertEqual(main(["--help"]), 1)
            lines = io.StringIO()
            with mock.patch.multiple(sys, stdout=stream, stderr=lines):
                self.assertEqual(main(["generate", "-h"]), 1)
            self.assertRegex(lines.getvalue(), r"\A.*cannot write: .*\n\Z")
        with mock.patch.object(sys, "stderr", Failing(KeyboardInterrupt())):
            self.assertEqual(main(["inspect", "x"]), 130)


@unittest.skipIf(os.name == "nt", "POSIX shells, pipes, signals and devices")
class ProcessTest(unittest.TestCase):
    """What only a process of its own shows."""

    def shell(self, redirection: str, *arguments: str) -> Result:
        script = f'"$@" {redirection}'
        return process("/bin/sh", "-c", script, "sh", *COMMAND, *arguments)

    def test_the_module_is_a_command_with_an_exit_status(self) -> None:
        for program in (COMMAND, (sys.executable, "-m", "twilio_capability")):
            before = int(time.time())
            status, output, errors = process(*program, "generate", "--incoming", "a")
            self.assertEqual((status, errors), (0, ""))
            self.assertRegex(output, r"\A[\w-]+\.[\w-]+\.[\w-]+\n\Z")
            exp = verify_token(output.strip(), AUTH_TOKEN)["exp"]
            self.assertTrue(before + 3600 <= exp <= time.time() + 3600)
        self.assertEqual(process(*COMMAND, "verify", "x"), run("verify", "x"))

    def test_a_closed_stream_is_no_traceback(self) -> None:
        self.assertEqual(self.shell("2>&-", "generate", "--ttl", "0"), (2, "", ""))
        for redirection, arguments, reason in (
            (">&-", "generate --incoming a", "cannot write: the stream is closed"),
            ("<&- >&-", "verify", "standard input"),
            ("<&-", "verify", "standard input"),
            ("0>/dev/null", "verify", "standard input"),
        ):
            with self.subTest(redirection):
                result = self.shell(redirection, *arguments.split())
                assert_failed(self, result, 1, reason)

    def test_the_end_of_a_pipe_is_no_traceback(self) -> None:
        for arguments in (["inspect", alice().generate_token()], ["--help"]):
            read, write = os.pipe()
            os.close(read)
            with open(write, "wb") as pipe:
                result = process(*COMMAND, *arguments, stdout=pipe)
                self.assertEqual(result, (1, "", ""))

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_a_full_disk_is_an_error_of_one_line(self) -> None:
        with open("/dev/full", "wb") as full:
            result = process(*COMMAND, "generate", "--incoming", "a", stdout=full)
        assert_failed(self, result, 1, "No space left")
        self.assertEqual(self.shell("2>/dev/full", "generate"), (2, "", ""))

    def test_ctrl_c_is_no_traceback(self) -> None:
        # The child says that it is about to read: the signal must not come before.
        script = (
            "import signal, sys, twilio_capability as t\n"
            "class Input:\n"
            "    def read(self, size):\n"
            "        print('reading', flush=True)\n"
            "        return sys.__stdin__.read()\n"
            "sys.stdin = Input()\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "sys.exit(t.main(['verify']))\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=str(HERE),
            env=environment(ENVIRONMENT),
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            child.send_signal(signal.SIGINT)
            output, errors = child.communicate(timeout=60)
        self.assertEqual((child.returncode, output, errors), (130, b"", b""))


def above_the_line() -> str:
    """The part of the module that makes and verifies tokens."""
    text = MODULE.read_text(encoding="utf-8")
    above, line, _ = text.partition("# ==== What follows only explains")
    assert line
    return above


class ModuleTest(unittest.TestCase):
    """One file that imports the standard library and no more of it than it needs."""

    def test_the_copied_file_works_alone(self) -> None:
        script = (
            "from twilio_capability import Capability\n"
            "print(Capability('AC123123', 'secret').generate_token(now=0))\n"
        )
        token = Capability("AC123123", "secret").generate_token(now=0)
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(MODULE, folder)
            Path(folder, "script.py").write_text(script, encoding="utf-8")
            for flags in (["-S"], ["-S", "-OO"]):
                result = process(sys.executable, *flags, "script.py", cwd=folder)
                self.assertEqual(result, (0, token + "\n", ""))
            command = [sys.executable, "-S", "-OO", "twilio_capability.py"]
            result = process(*command, "inspect", token, cwd=folder)
            self.assertEqual((result.status, result.errors), (0, ""))

    def test_what_stands_above_the_line_works_alone(self) -> None:
        core = ModuleType("core")
        exec(compile(above_the_line(), "core.py", "exec"), vars(core))
        for account_sid, auth_token, calls, ttl, token in CAPABILITY_TOKENS:
            device = core.Capability(account_sid, auth_token)
            for name, *arguments in calls:
                getattr(device, name)(*arguments)
            options = {} if ttl is None else {"ttl": ttl}
            self.assertEqual(device.generate_token(now=NOW, **options), token)
            claims = core.verify_token(token, auth_token, now=NOW)
            self.assertEqual(claims, verify_token(token, auth_token, now=NOW))
        for account_sid, api_key_sid, secret, calls, options, token in ACCESS_TOKENS:
            device = core.Capability(account_sid)
            for name, *arguments in calls:
                getattr(device, name)(*arguments)
            made = device.generate_access_token(api_key_sid, secret, now=NOW, **options)
            self.assertEqual(made, token)
            core.verify_token(token, secret, now=NOW)
        public = [name for name in vars(core) if name in twilio_capability.__all__]
        self.assertEqual(sorted(public), sorted(core.__all__))
        self.assertEqual(
            set(twilio_capability.__all__) - set(core.__all__), {"inspect_token"}
        )

    def test_nothing_above_the_line_names_what_is_below(self) -> None:
        above = above_the_line()
        core = ModuleType("core")
        exec(compile(above, "core.py", "exec"), vars(core))
        below = set(vars(twilio_capability)) - set(vars(core)) - {"__file__"}
        self.assertLess({"inspect_token", "main", "_problems", "os"}, below)
        names: set[str] = set()
        for node in ast.walk(ast.parse(above)):
            names.update(str(value) for _, value in ast.iter_fields(node))
        self.assertEqual(names & below, set())

    def test_importing_it_imports_no_more_than_a_few_modules(self) -> None:
        # With -S, as what a site imports would hide what the module imports.
        script = (
            "import base64, hmac, json, os, re, sys, time, urllib.parse\n"
            "before = set(sys.modules)\n"
            "import twilio_capability\n"
            "print(*set(sys.modules) - before)\n"
        )
        loaded = set(process(sys.executable, "-S", "-c", script).output.split())
        self.assertIn("twilio_capability", loaded)
        own = {"twilio_capability", "__future__", "collections.abc"}
        self.assertEqual(loaded - own, set())

    def test_run_as_a_script_it_exits_with_the_status_of_main(self) -> None:
        arguments = ["twilio_capability.py", "inspect", "x"]
        patched = mock.patch.multiple(sys, argv=arguments, stderr=io.StringIO())
        with patched, self.assertRaises(SystemExit) as caught:
            runpy.run_path(str(MODULE), run_name="__main__")
        self.assertEqual(caught.exception.code, 1)

    def test_all_names_what_is_public_but_main(self) -> None:
        defined = {
            name
            for name, value in vars(twilio_capability).items()
            if getattr(value, "__module__", None) == "twilio_capability"
        }
        public = {name for name in defined if not name.startswith("_")}
        self.assertEqual({*twilio_capability.__all__, "main"}, public)
        self.assertNotIn("main", twilio_capability.__all__)  # a script's own stays

    @unittest.skipIf(sys.flags.optimize > 1, "python -OO drops docstrings")
    def test_what_is_public_has_a_docstring(self) -> None:
        for name in [*twilio_capability.__all__, "main"]:
            self.assertTrue(getattr(twilio_capability, name).__doc__, name)

    @unittest.skipIf(sys.version_info < (3, 10), "str | None cannot be evaluated")
    def test_every_annotation_means_something(self) -> None:
        source = MODULE.read_text(encoding="utf-8")
        typed = source.replace("TYPE_CHECKING = False", "TYPE_CHECKING = True")
        self.assertNotEqual(typed, source)
        namespace: dict[str, Any] = {"__name__": "typed"}
        exec(compile(typed, str(MODULE), "exec"), namespace)
        for name in namespace["__all__"]:
            members = [namespace[name]]
            if isinstance(namespace[name], type):
                members += vars(namespace[name]).values()
            for member in members:
                function = getattr(member, "__func__", member)
                if inspect.isfunction(function):
                    self.assertTrue(typing.get_type_hints(function, namespace))


@unittest.skipUnless(README.exists(), "the module was copied without its README")
class ReadmeTest(unittest.TestCase):
    """Every block is run, and prints what the block behind it shows.

    But for the test command, which would run itself, the web frameworks, see
    InteropTest, and the JavaScript, which a browser runs: tox -e browser.
    """

    def test_every_block_is_of_a_kind_that_is_run(self) -> None:
        text = README.read_text(encoding="utf-8")
        blocks = readme_blocks()
        shown = [block for block in blocks if block.shown]
        self.assertEqual(text.count("\n```"), 2 * (len(blocks) + len(shown)))
        self.assertEqual(
            {block.language for block in blocks}, {"sh", "python", "javascript"}
        )
        self.assertIn(Block("sh", TEST_COMMAND + "\n", ""), blocks)

    def test_ci_starts_with_the_test_command(self) -> None:
        lines = (HERE / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        commands = [line for line in lines if "python3 " in line and line[0] != "#"]
        self.assertEqual(commands[0], TEST_COMMAND)

    def assert_prints(self, block: Block, output: str) -> None:
        """What it shows, but for the time at which a token was made."""
        self.assertEqual(timeless(output), timeless(block.shown), block.text)

    @unittest.skipIf(os.name == "nt", "the README's commands are for a POSIX shell")
    def test_the_shell_commands_print_what_they_show(self) -> None:
        blocks = [block for block in readme_blocks() if block.language == "sh"]
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(MODULE, folder)
            for name, script in (("python3", ""), ("twilio-capability", f'"{MODULE}"')):
                wrapper = Path(folder, name)
                command = f'exec "{sys.executable}" {script} "$@"'
                wrapper.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
                wrapper.chmod(0o755)
            lines = [f"{name}={value}\n" for name, value in ENVIRONMENT.items()]
            Path(folder, "twilio.env").write_text("".join(lines), encoding="utf-8")
            path = {"PATH": folder + os.pathsep + os.environ["PATH"]}
            for block in blocks:
                if block.text.strip() == TEST_COMMAND:
                    continue
                Path(folder, "block.sh").write_text(block.text, encoding="utf-8")
                done = process("/bin/sh", "-eu", "block.sh", env=path, cwd=folder)
                self.assertEqual((done.status, done.errors), (0, ""), block.text)
                self.assert_prints(block, done.output)
        self.assertGreater(len(blocks), 2)

    def test_the_python_blocks_print_what_they_say(self) -> None:
        hour = alice().generate_token(3600, now=NOW)
        ten_minutes = alice().generate_token(600, now=NOW)
        printed = {  # by those that show no output, for some words in them
            "# valid for ten minutes": f"{hour}\n{ten_minutes}\n",
        }
        for block in readme_blocks():
            if block.language != "python" or "from tokens import" in block.text:
                continue
            with contextlib.redirect_stdout(io.StringIO()) as output, clock(NOW):
                exec(compile(block.text, "README.md", "exec"), {"__name__": "readme"})
            words = [words for words in printed if words in block.text]
            if words:
                self.assertEqual(output.getvalue(), printed.pop(words[0]))
            else:
                self.assert_prints(block, output.getvalue())
        self.assertEqual(printed, {})

    def test_the_token_for_a_user_has_no_problem(self) -> None:
        variables = {
            "TWILIO_ACCOUNT_SID": REAL_ACCOUNT,
            "TWILIO_API_KEY": REAL_KEY,
            "TWILIO_API_SECRET": API_SECRET,
            "TWILIO_APP_SID": REAL_APP,
        }
        with mock.patch.dict(os.environ, variables, clear=True):
            answer = readme_tokens().token_for("ann.veal@example.com")
        claims = verify_token(answer["token"], API_SECRET)
        self.assertEqual(claims["grants"]["identity"], answer["identity"])
        self.assertEqual(decode_client_name(answer["identity"]), "ann.veal@example.com")
        self.assertEqual(inspect_token(answer["token"])["problems"], [])

    def test_every_argument_has_its_rule_in_the_table(self) -> None:
        text = README.read_text(encoding="utf-8")
        table = text.partition("## Arguments and their rules")[2].partition("\n## ")[0]
        cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        methods = {
            name: value for name, value in vars(Capability).items() if name[0] != "_"
        }
        functions = [Capability.__init__, *methods.values(), ScopeURI.__init__]
        arguments: set[str] = set()
        functions += [
            encode_client_name,
            decode_client_name,
            verify_token,
            inspect_token,
        ]
        for function in functions:
            arguments.update(inspect.signature(function).parameters)
        self.assertEqual(named - {"ScopeURI"}, arguments - {"self", "token"})


INTEROP = bool(os.environ.get("TWILIO_CAPABILITY_INTEROP"))


@unittest.skipUnless(INTEROP, "run by tox -e interop")
class InteropTest(unittest.TestCase):
    """Tokens exchanged with other libraries, in both directions."""

    SECRET = "a secret of thirty-two bytes or more"

    def setUp(self) -> None:
        self.jwt = importlib.import_module("jwt")
        self.jose = importlib.import_module("joserfc.jwt")
        self.jwk = importlib.import_module("joserfc.jwk")

    def ours(self) -> list[str]:
        capability = alice(self.SECRET)
        access_token = capability.generate_access_token("SK123123", self.SECRET)
        capability.allow_event_stream({"a b": "~ë&"})
        return [capability.generate_token(), access_token]

    def test_pyjwt_verifies_our_tokens(self) -> None:
        for token in self.ours():
            claims = self.jwt.decode(token, self.SECRET, algorithms=["HS256"])
            self.assertEqual(claims, verify_token(token, self.SECRET))
            header = self.jwt.get_unverified_header(token)
            self.assertEqual(header, inspect_token(token)["header"])
            with self.assertRaises(self.jwt.InvalidSignatureError):
                self.jwt.decode(token, self.SECRET + "x", algorithms=["HS256"])

    def test_we_verify_the_tokens_of_pyjwt(self) -> None:
        claims = {"iss": "AC1", "exp": int(time.time()) + 60, "nbf": 1, "é": ["☃"]}
        token = self.jwt.encode(claims, self.SECRET, algorithm="HS256")
        self.assertEqual(verify_token(token, self.SECRET), claims)
        with self.assertRaises(InvalidSignatureError):
            verify_token(token, self.SECRET + "x")
        keys = {"HS384": self.SECRET, "HS512": self.SECRET, "none": ""}
        for algorithm, key in keys.items():
            other = self.jwt.encode(claims, key, algorithm=algorithm)
            with self.assertRaises(InvalidTokenError):
                verify_token(other, self.SECRET)

    def test_joserfc_verifies_our_tokens(self) -> None:
        key = self.jwk.OctKey.import_key(self.SECRET)
        for token in self.ours():
            read = self.jose.decode(token, key, algorithms=["HS256"])
            self.assertEqual(read.claims, verify_token(token, self.SECRET))
            self.assertEqual(read.header, inspect_token(token)["header"])

    def test_we_verify_the_tokens_of_joserfc(self) -> None:
        claims = {"scope": "", "iss": "AC1", "exp": int(time.time()) + 60}
        key = self.jwk.OctKey.import_key(self.SECRET)
        token = self.jose.encode({"alg": "HS256"}, claims, key)
        self.assertEqual(verify_token(token, self.SECRET), claims)

    def test_twilio_python_writes_the_same_capability(self) -> None:
        client = importlib.import_module("twilio.jwt.client")
        theirs = client.ClientCapabilityToken("AC123123", self.SECRET, ttl=600)
        theirs.allow_client_incoming("Alice")
        theirs.allow_client_outgoing("AP123123", **{"Foo": "Bar", "a b": "~ë&"})
        theirs.allow_event_stream(x="1 2")
        params = {"Foo": "Bar", "a b": "~ë&"}
        calls = [(INCOMING, "Alice"), (OUTGOING, "AP123123", params)]
        ours = allowed(*calls, sid="AC123123", auth_token=self.SECRET)
        ours.allow_event_stream({"x": "1 2"})
        token = ours.generate_token(600)
        now = time.time()
        theirs_mean = meaning(theirs.to_jwt(), self.SECRET, now)
        self.assertEqual(theirs_mean, meaning(token, self.SECRET, now))
        read = client.ClientCapabilityToken.from_jwt(token, self.SECRET)
        self.assertEqual(read.payload["iss"], "AC123123")

    def test_twilio_python_writes_the_same_access_token(self) -> None:
        access_token = importlib.import_module("twilio.jwt.access_token")
        grants = importlib.import_module("twilio.jwt.access_token.grants")
        cases: list[tuple[dict[str, Any] | None, str | None, str | None]] = [
            ({"Foo": "Bar"}, None, None),
            ({"n": 3, "zoë": "☃"}, None, "ie1"),
            (None, "CR1", "au1"),
        ]
        for params, credential, region in cases:
            theirs = access_token.AccessToken(
                "AC123123", "SK123123", self.SECRET, identity="Alice", region=region,
                ttl=600,
            )  # fmt: skip
            voice = grants.VoiceGrant(True, "AP123123", params, credential)
            theirs.add_grant(voice)
            token = theirs.to_jwt()
            claims = verify_token(token, self.SECRET)
            calls = [(INCOMING, "Alice"), (OUTGOING, "AP123123", params)]
            ours = allowed(*calls, sid="AC123123")
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
        with readme_endpoint("flask", FLASK_SECRET_KEY="k") as endpoint:
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
        importlib.import_module("django.conf").settings.configure()
        requests = importlib.import_module("django.test").RequestFactory()
        with readme_endpoint("django") as endpoint:
            request = requests.post("/token")
            request.user = SimpleNamespace(is_authenticated=False)
            self.assertEqual(endpoint["token"](request).status_code, 401)
            request.user = SimpleNamespace(is_authenticated=True, pk=7)
            answer = endpoint["token"](request)
            self.assertEqual(endpoint["token"](requests.get("/")).status_code, 405)
        self.assertEqual(answer.status_code, 200)
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assert_is_token_for(7, json.loads(answer.content))

    def test_the_fastapi_endpoint_of_the_readme_answers_its_user_alone(self) -> None:
        sessions = importlib.import_module("starlette.middleware.sessions")
        plain_text = importlib.import_module("starlette.responses").PlainTextResponse
        test_client = importlib.import_module("starlette.testclient").TestClient

        def log_in(request: Any) -> Any:
            request.session["user_id"] = "ann@example.com"
            return plain_text("logged in")

        with readme_endpoint("fastapi") as endpoint:
            endpoint["app"].add_middleware(sessions.SessionMiddleware, secret_key="k")
            endpoint["app"].add_route("/login", log_in)
            client = test_client(endpoint["app"])
            self.assertEqual(client.post("/token").status_code, 401)
            client.get("/login")
            answer = client.post("/token")
            self.assertEqual(client.get("/token").status_code, 405)
        self.assertEqual(answer.status_code, 200)
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assert_is_token_for("ann@example.com", answer.json())


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None
) -> unittest.TestSuite:
    """Run the examples of the docstrings, too."""
    if sys.flags.optimize < 2:
        tests.addTests(doctest.DocTestSuite(twilio_capability))
    return tests


# The calls that allow something, and what a test does with them.

Call = Callable[..., object]
INCOMING = "allow_client_incoming"
OUTGOING = "allow_client_outgoing"
EVENTS = "allow_event_stream"


def allowed(
    *calls: tuple[Any, ...], sid: str = "AC1", auth_token: str | None = "k"
) -> Capability:
    """A Capability after these calls, each a method's name and its arguments."""
    capability = Capability(sid, auth_token)
    for name, *arguments in calls:
        getattr(capability, name)(*arguments)
    return capability


def name_in_scope(lenient: bool, name: str) -> str:
    """The client name in the scope of a token that was made with it."""
    device = Capability("AC1", "k", lenient_names=lenient)
    device.allow_client_incoming(name)
    ((_, _, params),) = meaning(device.generate_token(now=NOW), "k")
    return str(params["clientName"])


def name_in_grants(lenient: bool, name: str) -> str:
    device = Capability("AC1", lenient_names=lenient)
    token = device.generate_access_token("SK1", "k", identity=name, now=NOW)
    return str(verify_token(token, "k", now=NOW)["grants"]["identity"])


def interrupt(call: Call, step: int) -> bool:
    """Press Ctrl-C before a certain step of the call; tell whether it came to that."""
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        # PyPy goes by lines all the same, and older Pythons fail between opcodes.
        frame.f_trace_opcodes = sys.version_info >= (3, 10)
        if event in ("line", "opcode"):
            steps += 1
            if steps == step:
                raise KeyboardInterrupt
        return trace

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(tracing)
    return False


def frames_of(error: BaseException | None) -> Iterator[FrameType]:
    """The module's frames in the traceback of an error, and of those behind it."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals is vars(twilio_capability):
                yield frame
        error = error.__cause__ or error.__context__


def both_tokens(capability: Capability) -> tuple[str, str]:
    access_token = capability.generate_access_token("SK1", "k", now=NOW)
    return capability.generate_token(now=NOW), access_token


def tokens_of(number: int, *texts: str) -> tuple[str, ...]:
    """Tokens and a URI in which each kind of argument stands."""
    sid, app, key, name, secret, text = texts
    calls = [(INCOMING, name), (OUTGOING, app, {text: text, "n": number})]
    capability = allowed(*calls, sid=sid, auth_token=secret)
    access_token = capability.generate_access_token(
        key, secret, number, identity=name, now=0
    )
    scope = ScopeURI("client", "incoming", {"clientName": name, text: text})
    return capability.generate_token(number, now=0), access_token, str(scope)


class Text(str, enum.Enum):
    SID = "AC1"
    APP = "AP1"
    KEY = "SK1"
    NAME = "Alice"
    SECRET = "secret"
    BAR = "Bar"


class Number(enum.IntEnum):
    THREE = 3


class LazyProxy:
    """As Django's SimpleLazyObject and werkzeug's LocalProxy: it only pretends."""

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "value", value)

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, "value")
        return type(value) if name == "__class__" else getattr(value, name)


def meaning(token: str, secret: str, now: float = NOW) -> list[Any]:
    """Service, privilege and params of each scope, the params in params read, too."""
    scopes = []
    for uri in verify_token(token, secret, now=now)["scope"].split():
        scope = ScopeURI.parse(uri)
        params: dict[str, Any] = dict(scope.params)
        for name in params.keys() & {"appParams", "params"}:
            params[name] = ScopeURI.parse("scope:x:x?" + params[name]).params
        scopes.append((scope.service, scope.privilege, params))
    return scopes


def some_text(rng: random.Random) -> str:
    alphabet = "aZ09 ~+%&=?#/;:.-_*'()[]\"\\\n\0\x7fëß☃😀ключ"
    return "".join(rng.choices(alphabet, k=rng.randrange(8)))


def some_unicode(rng: random.Random, length: int) -> str:
    """Text of all of Unicode, the half of it ASCII."""
    planes = [range(0x80), range(0x80), range(0x80, 0xD800), range(0xE000, 0x110000)]
    return "".join(chr(rng.choice(rng.choice(planes))) for _ in range(length))


def some_value(rng: random.Random) -> str | int:
    return rng.randrange(-9, 99) if rng.randrange(2) else some_text(rng)


def some_call(rng: random.Random) -> tuple[Any, ...]:
    params = {some_text(rng): some_value(rng) for _ in range(rng.randrange(3))}
    name = rng.choice(["Alice", "bob_2", "_", "x" * 256])
    sid = f"AP{rng.randrange(1, 10**9)}"
    return rng.choice([(INCOMING, name), (OUTGOING, sid, params), (EVENTS, params)])


def expected_scopes(calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Service, privilege and params of the scopes that the calls give, see meaning."""
    scopes: list[Any] = []
    caller: dict[str, str] = {}
    for call, *given in calls:
        if call == INCOMING:
            caller = {"clientName": given[0]}
            scopes.append(("client", "incoming", caller))
            continue
        params = {name: str(value) for name, value in given[-1].items()}
        if call == OUTGOING:
            told = {"appSid": given[0], "appParams": params}
            scopes.append(("client", "outgoing", told))
        else:
            told = {"path": "/2010-04-01/Events", "params": params}
            scopes.append(("stream", "subscribe", told))
    for _, privilege, told in scopes:
        if privilege == "outgoing":
            told.update(caller)
    return scopes


def mutated(text: str, rng: random.Random, pieces: Sequence[str]) -> str:
    """The text with a piece put in, maybe in place of a character or two."""
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(pieces) + text[at + rng.randrange(3) :]


# The wire format by hand, from its definitions: a second witness beside the vectors.

HEADER = '{"typ":"JWT","alg":"HS256"}'
ACCESS_HEADER = '{"typ":"JWT","alg":"HS256","cty":"twilio-fpa;v=1"}'
LETTERS_AND_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
BASE64URL = LETTERS_AND_DIGITS + "-_"


def base64url(data: bytes) -> str:
    """RFC 4648, section 5: three bytes are four letters; without padding."""
    letters = []
    for start in range(0, len(data), 3):
        group = data[start : start + 3]
        bits = int.from_bytes(group.ljust(3, b"\0"), "big")
        four = [BASE64URL[bits >> shift & 63] for shift in (18, 12, 6, 0)]
        letters += four[: len(group) + 1]
    return "".join(letters)


def decoded(segment: str) -> str:
    return base64.urlsafe_b64decode(segment + "==").decode()


def hs256(signing_input: str, key: bytes) -> str:
    """HMAC (RFC 2104) with SHA-256, in base64url."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner_pad, outer_pad = (bytes(byte ^ pad for byte in block) for pad in (0x36, 0x5C))
    inner = hashlib.sha256(inner_pad + signing_input.encode()).digest()
    return base64url(hashlib.sha256(outer_pad + inner).digest())


def signed(signing_input: str, secret: str = "secret") -> str:
    return f"{signing_input}.{hs256(signing_input, secret.encode())}"


def mint(
    payload: str | bytes | Mapping[str, Any],
    secret: str = "secret",
    header: str | bytes = HEADER,
) -> str:
    """A token of any payload, also of what is none."""
    if isinstance(payload, Mapping):
        payload = json.dumps(payload, separators=(",", ":"))
    segments = []
    for part in (header, payload):
        segments.append(base64url(part.encode() if isinstance(part, str) else part))
    return signed(".".join(segments), secret)


def quote(text: str) -> str:
    """As PHP's http_build_query spells a name or a value."""
    spelled = ""
    for byte in text.encode():
        if chr(byte) in LETTERS_AND_DIGITS + "-_.":
            spelled += chr(byte)
        else:
            spelled += "+" if byte == 0x20 else f"%{byte:02X}"
    return spelled


def by_hand(service: str, privilege: str, params: Mapping[str, Any]) -> str:
    """A scope URI."""
    flat = {}
    for name, value in params.items():
        flat[name] = form(value) if isinstance(value, dict) else value
    return f"scope:{service}:{privilege}?{form(flat)}"


def form(params: Mapping[str, str | int]) -> str:
    return "&".join(f"{quote(name)}={quote(str(params[name]))}" for name in params)


# Tokens with SIDs of real length, and with faults put in.

REAL_ACCOUNT = "AC" + "0123456789abcdef" * 2
REAL_KEY = "SK" + "fedcba9876543210" * 2
REAL_APP = "AP" + "0f1e2d3c4b5a6978" * 2
REAL_CREDENTIAL = "CR" + "8796a5b4c3d2e1f0" * 2
MISSING = object()
PROBLEM = (
    r"\A(header|signature|claims|scopes\[\d+\])(\.\w+)*: [ -~]+?"
    r"( \(Twilio error \d{5}\)| \(Twilio errors \d{5}, \d{5}\))?\Z"
)


def good_parts(
    kind: str, changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims without a fault, and then with values put in at places."""
    header = {"typ": "JWT", "alg": "HS256"}
    uri = f"scope:client:outgoing?appSid={REAL_APP}&appParams=a%3Db&clientName=a"
    claims: dict[str, Any] = {"scope": uri, "iss": REAL_ACCOUNT, "exp": NOW + 600}
    if kind == "access":
        outgoing = {"application_sid": REAL_APP, "params": {"a": "b"}}
        voice = {"incoming": {"allow": True}, "outgoing": outgoing}
        voice["push_credential_sid"] = REAL_CREDENTIAL
        header["cty"] = "twilio-fpa;v=1"
        claims = {"iss": REAL_KEY, "sub": REAL_ACCOUNT, "exp": NOW + 600}
        claims["grants"] = {"identity": "a", "voice": voice}

    for place, value in changes.items():
        holder: Any = {"header": header, "claims": claims}
        *path, name = place.split(".")
        for step in path:
            holder = holder.get(step) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder.pop(name, None)
            if value is not MISSING:
                holder[name] = copy.deepcopy(value)
    return header, claims


def good_token(kind: str, changes: Mapping[str, Any] = MappingProxyType({})) -> str:
    header, claims = good_parts(kind, changes)
    return mint(claims, header=json.dumps(header))


def segment(part: Mapping[str, Any]) -> str:
    """Like mint, but fast enough for thousands of tokens."""
    encoded = base64.urlsafe_b64encode(json.dumps(part).encode())
    return encoded.rstrip(b"=").decode()


def problem(place: str, words: str, codes: str) -> str:
    if not codes:
        return f"{place}: {words}"
    errors = "errors" if "," in codes else "error"
    return f"{place}: {words} (Twilio {errors} {codes})"


# The command line, in this process and in its own.

COMMAND = (sys.executable, str(MODULE))
AUTH_TOKEN = "auth-s3cr3t"
API_SECRET = "key-s3cr3t"
ENVIRONMENT = {
    "TWILIO_ACCOUNT_SID": "AC123123",
    "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
    "TWILIO_API_KEY": "SK123123",
    "TWILIO_API_SECRET": API_SECRET,
}


def without(name: str, env: Mapping[str, str] = ENVIRONMENT) -> dict[str, str]:
    return {key: value for key, value in env.items() if key != name}


class Result(NamedTuple):
    """What a command did. `output` is empty if it went elsewhere."""

    status: int
    output: str
    errors: str


class Failing(io.StringIO):
    """A stream that fails when it is read, or written to the end."""

    def __init__(self, error: BaseException, number: int = -1) -> None:
        super().__init__()
        self.error = error
        self.number = number

    def read(self, size: int | None = -1) -> str:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def fileno(self) -> int:
        return self.number


def clock(now: float) -> contextlib.AbstractContextManager[Any]:
    """Let the time be `now`."""
    return mock.patch.object(time, "time", lambda: now)


def run(
    *arguments: str,
    env: Mapping[str, str] = ENVIRONMENT,
    stdin: str | bytes | io.StringIO | None = "",
    stdout: io.StringIO | None = None,
    now: float = NOW,
) -> Result:
    """Run main() with an environment, standard streams and a clock of its own."""
    streams: dict[str, Any] = {"stdin": stdin, "stderr": io.StringIO()}
    streams["stdout"] = io.StringIO() if stdout is None else stdout
    if isinstance(stdin, str):
        streams["stdin"] = io.StringIO(stdin)
    elif isinstance(stdin, bytes):
        streams["stdin"] = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    variables = mock.patch.dict(os.environ, {"COLUMNS": "80", **env}, clear=True)
    with variables, mock.patch.multiple(sys, **streams), clock(now):
        status = main(arguments)
    return Result(status, streams["stdout"].getvalue(), streams["stderr"].getvalue())


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python and the system speak as on any machine."""
    ours = ("TWILIO_", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**kept, "LC_ALL": "C", **variables}


def process(
    *command: str,
    env: Mapping[str, str] = ENVIRONMENT,
    stdout: Any = subprocess.PIPE,
    cwd: str = str(HERE),
) -> Result:
    """Run a command in a process, with nothing to read."""
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    return Result(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())


def assert_failed(
    test: unittest.TestCase, result: Result, status: int, reason: str
) -> None:
    """One line of errors, with no secret or SID in it, and no output."""
    test.assertEqual((result.status, result.output), (status, ""), result.errors)
    test.assertRegex(result.errors, r"\Atwilio-capability: [^\n]*\n\Z")
    test.assertRegex(result.errors, reason)
    for secret in ("s3cr3t", "AC123123", "SK123123", "AP123123"):
        test.assertNotIn(secret, result.errors)


# The README.

TEST_COMMAND = "python3 -m unittest"


class Block(NamedTuple):
    """A fenced block, and the text or JSON behind it that shows what it prints."""

    language: str
    text: str
    shown: str


def readme_blocks() -> list[Block]:
    text = README.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for language, body in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", text):
        if language in ("text", "json"):
            blocks[-1] = blocks[-1]._replace(shown=body)
        else:
            blocks.append(Block(language, body, ""))
    return blocks


def readme_tokens() -> Any:
    """The README's module tokens."""
    (text,) = [
        block.text for block in readme_blocks() if "def token_for(" in block.text
    ]
    tokens = ModuleType("tokens")
    exec(compile(text, "README.md", "exec"), vars(tokens))
    return tokens


@contextlib.contextmanager
def readme_endpoint(framework: str, **variables: str) -> Iterator[dict[str, Any]]:
    """What the README's block for a web framework defines, and credentials for it."""
    mark = f"from {framework}"
    (text,) = [block.text for block in readme_blocks() if mark in block.text]
    namespace = {"__name__": "readme"}
    environ = {**ENVIRONMENT, "TWILIO_APP_SID": "AP1", **variables}
    modules = mock.patch.dict(sys.modules, tokens=readme_tokens())
    with mock.patch.dict(os.environ, environ), modules:
        exec(compile(text, "README.md", "exec"), namespace)
        yield namespace


def timeless(text: str) -> str:
    """The text with each token in it as its claims, once verified, but for the time."""

    def claims(match: re.Match[str]) -> str:
        return json.dumps({**verify_token(match[0], "secret", now=0), "exp": "..."})

    return re.sub(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", claims, text)


# Input that is refused. The SIDs have XX for their prefix.
# fmt: off

CHARACTERS = [*map(chr, range(0x180)), *"\u0661\u2160\ud800\uff21\U0001d7d8"]
NAN = float("nan")
BAD_TYPES: list[Any] = [None, 1, 1.5, True, b"AC123", ["AC123"], {"AC": 1}]
NOT_SIDS = [
    "", "XX", "1", "123", " XX123", "XX123 ", "XX123\n", "\nXX123", "XX12-3", "XX_1",
    "XXé1", "XX\u0661", "XX\ud800", "xXX1", "1XX1", "x" * 99,
]
NOT_NAMES = [
    "", "a b", "a\n", "\na", " a", "a%20b", 'a"b', "a{", "a\x7f", "é", "\uff21", "\u0661",
    "\ud800", "a\0",
]
NOT_ENCODED_NAMES = [
    "", "client:", "client:client:a", "_", "a_", "a_4", "a__41", "_4G", "_+4", "_ 4", "a-b",
    "a b", "+", "%41", "%5F", "é", "\uff21", "\ud800", "a\n", "_\n\n", "CLIENT:a",
    "_41", "_61", "_39", "_30",  # a second spelling of A, a, 9 and 0
    "_FF", "_C3", "_A9", "_C0_80", "_ED_A0_80", "_F5_80_80_80",  # no UTF-8
    "a" * 257, "_5F" * 86,
]
NOT_REGIONS = ["", "IE1", "ireland", "ie", "ie1\n", " ie1", "i1", "iee1", "ie11", "us-1"]
NOT_WORDS = [
    "", "a b", "a~", "a:b", "a?b", "a\n", "\na", "é", "a%20b", "a&b", "a\u0661", "\ud800",
]
NOT_PARAMS: list[Any] = [
    [("a", "b")], [], (), "", "a=b", 0, 1, False, True, b"", {1: "a"}, {None: "a"},
    {b"a": "a"}, {"a": True}, {"a": None}, {"a": 1.5}, {"a": b"b"}, {"a": ["b"]},
    {"a": {"b": "c"}},
]
NOT_SCOPE_URIS = [
    "", "scope", "scope:a", "scope::b", "scope:a:", "scope:a:b:c", "scope:a:b:c=d",
    "Scope:a:b", "SCOPE:a:b", "xscope:a:b", " scope:a:b", "scope:a:b&c=d", "scope:a:b\n",
    "scope:a:b?c=d\n", "scope:a c:b", "scope:%61:b", "scope:a:b?c", "scope:a:b?c=1&",
    "scope:a:b?&c=1", "scope:a:b?%FF=c", "scope:a:b?c=1&&d=2", "scope:a:b?c=1&c=2", "scope:a:b?c=1&%63=2",
    *("scope:a:b?c=" + value for value in (
        "%", "%4", "%4G", "%zz", "%ff", "%ED%A0%80", "b c", "é", "b#c", '"b"', "\ud800",
        *"[\\]^`{|}<>",
    )),
]
NOT_HS256 = [
    '{"typ":"JWT"}',
    *('{"typ":"JWT","alg":%s}' % alg for alg in (
        '"none"', '"HS384"', '"HS512"', '"RS256"', '"hs256"', '"HS256 "', '["HS256"]',
        "null",
    )),
    *('{"alg":"HS256","crit":%s}' % crit for crit in ('["exp"]', "[]", "null")),
]
NOT_OBJECTS: list[str | bytes] = [
    "", "{", "[]", '"x"', "1", "null", "{'a':1}",
    *('{"alg":"HS256","exp":1767226200,"x":%s}' % value for value in (
        "NaN", "-Infinity", "1e400", "-1e400", '"\n"',
    )),
    b'{"alg":"HS256","exp":1767226200,"x":"\xed\xa0\x80"}',
]
EXPIRIES: list[tuple[str, str | None, bool | None]] = [
    *((exp, None, None) for exp in ('"soon"', "1.5", "true", "null")),
    ("1767225599", "2025-12-31T23:59:59Z", True),
    ("1767225600", "2026-01-01T00:00:00Z", True),
    ("1767225601", "2026-01-01T00:00:01Z", False),
    ("253402300799", "9999-12-31T23:59:59Z", False),
    ("253402300800", None, False),
    ("1767226200000", None, False),
    ("1" + "0" * 400, None, False),
    ("-1" + "0" * 400, None, True),
    ("-1", "1969-12-31T23:59:59Z", True),
]
NOT_INTEGERS = [
    '"1767226200"', "1767226200.0", "1767226200.5", "1.7672262e9", "true", "false",
    "null", "[1767226200]", "{}", "1" + "0" * 400, "-1" + "0" * 400, "9007199254740993",
    "-9007199254740993",
]
DEEP = "[" * 40000


def disguises(token: str) -> list[tuple[str, list[str]]]:
    """Texts that look like tokens, by the cause for which they are refused."""
    return [
        ("empty", ["", " ", "\n"]),
        ("quotes", [mark + token for mark in ('"', "'", "`", ' "', "\n'", " `")]),
        ("quotes", [token + mark for mark in ('"', "'", "`", "' ", '"\n', "`\r\n")]),
        ("quotes", [f'"{token}"', f"b'{token}'", '"é.b.c"']),
        ("JSON", [f'{{"token": "{token}"}}', json.dumps({"a": {"b": token}}, indent=1)]),
        ("JSON", [" {x", "\n{"]),
        ("Bearer", ["Bearer " + token, "bearer " + token, " Bearer " + token]),
        ("Bearer", ["Authorization: Bearer " + token, "Bearer%20" + token]),
        ("Bearer", ["Authorization:bearer " + token, "authorization:  bearer " + token]),
        ("line break", [token + "\n", token[:50] + "\r\n" + token[50:], " " + token]),
        ("percent-encoded", [token.replace(".", "%2E"), token + "%3D", "%2e"]),
        ("percent-encoded", [f"{token}%{byte:02x}" for byte in range(256)]),
        ("percent-encoded", [f"{token}%{byte:02X}" for byte in range(256)]),
        ("cut off", [token[:50], token.rpartition(".")[0], "eyJ", "a.b"]),
        ("encrypted", ["a.b.c.d.e"]),
        ("too many segments", [token + ".a", "a.b.c.d.e.f", "." * 9999]),
        ("not ASCII", ["é.b.c", "\ud800.b.c", "a.b.é"]),
    ]


# What Twilio refuses: place, values, words, and the codes for a capability and an access
# token: "" where Twilio names none, None where it is no problem.

SID_WORDS = "must be the account's SID, AC and 32 hex digits"
APP_WORDS = "must be the TwiML app's SID, AP and 32 hex digits"
MAY_WORK = (
    "may work in a browser, but Twilio promises A-Za-z0-9_; use encode_client_name"
)
FORM_WORDS = "must be form-encoded NAME=VALUE pairs; make a new token"
PAST = "is past{}; make a new token, and check your server's clock"
IDENTITY, VOICE = "claims.grants.identity", "claims.grants.voice"

FAULTS: list[tuple[str, list[Any], str, str | None, str | None]] = [
    ("header.alg", [MISSING, "none", "HS512", "hs256", ["HS256"], None],
     "must be HS256; make a new token", "31204", "20102"),
    ("header.typ", [MISSING, "jwt", None],
     "must be JWT; make a new token", None, "20102"),
    ("header.cty", [MISSING, "JWT", "twilio-fpa;v=2"],
     "must be twilio-fpa;v=1; make a new token", None, "20102"),
    ("header.twr", ["", "IE1", "ireland", "ie1\n", None, 1],
     "must be a region, such as ie1; make a new token", None, "20101"),
    ("header.twr", ["jp1"], "", None, None),
    ("claims.sub", [MISSING, "AC123", "AC" + "g" * 32, REAL_ACCOUNT + "0", REAL_KEY, 1],
     SID_WORDS, None, "20103"),
    ("claims.exp", [MISSING, NOW + 600.0, NOW + 0.5, str(NOW + 600), True, None],
     "must be there, an integer of seconds since the epoch", "31204", "20104"),
    ("claims.exp", [10**10, (NOW - 600) * 1000, 10**400],
     "must be in seconds, not milliseconds; divide it by 1000", "31207", "20157"),
    ("claims.exp", [NOW], PAST.format(", since 2026-01-01T00:00:00Z"), "31205", "20104"),
    ("claims.exp", [0], PAST.format(", since 1970-01-01T00:00:00Z"), "31205", "20104"),
    ("claims.exp", [-(10**400)], PAST.format(""), "31205", "20104"),
    ("claims.exp", [NOW + 86401, 10**10 - 1],
     "is more than 24 hours from now; use a shorter ttl", "31207", "20157"),
    ("claims.exp", [NOW + 1, NOW + 86400], "", None, None),
    ("claims.nbf", [None, True, str(NOW), []],
     "must be a number of seconds since the epoch, or be left out", "", "20105"),
    ("claims.nbf", [NOW + 1, NOW + 0.5, 10**400],
     "is in the future; check your server's clock, or leave it out", "", "20105"),
    ("claims.nbf", [NOW, NOW - 0.5, -1], "", None, None),
    ("claims.aud", ["x", "", None, []],
     "must not be there; verify_token refuses it", "", ""),
    ("claims.scope", [None, 1, [], {}],
     "must be a str of scope URIs, with spaces between them", "", None),
    ("claims.scope", ["", " "],
     "is empty, so the token allows nothing; allow a call", "", None),
    ("claims.grants", [MISSING, None, "x", []],
     "must be there, an object with identity and voice", None, "20106"),
    (IDENTITY, [MISSING, "", None, 1],
     "must be there, the name of the device", None, "20106"),
    (IDENTITY, ["a" * 122, "-" * 122, "é" * 122],
     "must be at most 121 characters; use a shorter name", None, "31105"),
    (IDENTITY, ["a b", "é", 'a"', "a\n", '"' * 121],
     "must be of A-Za-z0-9_; use encode_client_name", None, "31105"),
    (IDENTITY, ["agent-7", "+1", "-" * 121], MAY_WORK, None, ""),
    (IDENTITY, ["a" * 121], "", None, None),
    (VOICE, [MISSING, None, "x", []],
     "must be there, an object with incoming or outgoing", None, "20106"),
    (VOICE, [{}, *({"incoming": x} for x in ({}, True, {"allow": False}, {"allow": 1}))],
     "allows neither incoming nor outgoing calls; allow one", None, "20106"),
    (VOICE, [{"incoming": {"allow": True}}, {"outgoing": {"application_sid": REAL_APP}}],
     "", None, None),
    (VOICE + ".outgoing", [None, "x", []],
     "must be an object with application_sid", None, "20106"),
    (VOICE + ".outgoing.application_sid",
     [MISSING, "", "AP123", REAL_ACCOUNT, "AP" + "g" * 32, None, 1],
     APP_WORDS, None, "20106"),
    (VOICE + ".push_credential_sid", ["", "CR123", REAL_APP, None, 1],
     "must be the push credential's SID, CR and 32 hex digits", None, "52002"),
    (VOICE + ".push_credential_sid", [MISSING], "", None, None),
]
ISS_FAULTS: list[tuple[str, list[Any], str, str]] = [
    ("capability", [MISSING, "AC123", "AC" + "g" * 32, REAL_ACCOUNT + "0", REAL_KEY, 1],
     SID_WORDS, "31203"),
    ("access", [MISSING, "SK123", "SK" + "g" * 32, REAL_KEY + "0", REAL_APP, 1],
     "must be the API key's SID, SK and 32 hex digits", "20103"),
    ("access", ["AC123", REAL_ACCOUNT],
     "must be the API key's SID, not the account's, which belongs in sub", "20103"),
]
NAMED, APP = "scope:client:incoming?clientName=", "scope:client:outgoing?appSid="
APP_PARAMS = f"{APP}{REAL_APP}&appParams="
SCOPE_FAULTS: list[tuple[list[str], str, str, str]] = [
    (["x", "scope:client", NAMED + "%", "scope:client:incoming?clientName"], "",
     "must be a scope URI, such as scope:client:incoming?clientName=Alice", ""),
    (["scope:client:x", "scope:stream:incoming", "scope:Client:incoming"], "",
     "must be client:incoming, client:outgoing or stream:subscribe", ""),
    (["scope:client:incoming", NAMED, "scope:client:incoming?a=b"], "",
     "must have clientName, the name of the device", ""),
    (["scope:client:outgoing", "scope:client:outgoing?clientName=a"], "",
     "must have appSid, the SID of a TwiML app", ""),
    ([NAMED + "a" * 257, NAMED + "-" * 257, NAMED + "%22" * 257], ".params.clientName",
     "must be at most 256 characters; use a shorter name", "31105"),
    ([NAMED + name for name in ("a+b", "%C3%A9", "%22", "%0A", "%22" * 256)]
     + [f"{APP}{REAL_APP}&clientName=%22"], ".params.clientName",
     "must be of A-Za-z0-9_; use encode_client_name", "31105"),
    ([NAMED + "agent-7", NAMED + "%2B1"], ".params.clientName", MAY_WORK, ""),
    ([NAMED + "a" * 256, f"{APP}{REAL_APP}&clientName="], "", "", ""),
    ([APP, APP + "AP1", APP + REAL_ACCOUNT], ".params.appSid", APP_WORDS, ""),
    ([APP_PARAMS + form for form in ("x", "a%3Db%26c", "a%3D1%26a%3D2", "a%3D%25")],
     ".params.appParams", FORM_WORDS, ""),
    (["scope:stream:subscribe?params=x"], ".params.params", FORM_WORDS, ""),
    ([APP_PARAMS, "scope:stream:subscribe"], "", "", ""),
]
STRANGE_PLACES = [
    "claims", "claims.iss", "claims.grants.voice.incoming", "header.kid",
    *{place: 0 for place, *_ in FAULTS},
]
STRANGE_VALUES: list[Any] = [
    MISSING, None, True, 0, -1, 1.5, 10**400, -(10**400), "", "x", "{since}", "\ud800",
    "scope:a:b?c=%C3%28 scope:client:incoming?clientName={0} \u2028",
    [], [[]], {}, {"": {}}, {"allow": 1}, ["scope"], {"voice": []}, {"outgoing": []},
]

# RFC 7515, appendix A.1

RFC_7515_KEY = base64.urlsafe_b64decode(
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
)
RFC_7515_INPUT = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
    "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
)
RFC_7515_SIGNATURE = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

# fmt: on


if __name__ == "__main__":
    unittest.main()
