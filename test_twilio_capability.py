"""What twilio_capability promises: a class a topic, a test a sentence.

Run with nothing but Python: python3 -m unittest. InteropTest needs other libraries and runs in
"tox -e interop".
"""

from __future__ import annotations

import ast
import base64
import contextlib
import copy
import doctest
import enum
import hashlib
import hmac
import importlib
import inspect
import io
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
import unittest.mock
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import twilio_capability
from twilio_capability import (
    Capability,
    ExpiredTokenError,
    InvalidSignatureError,
    InvalidTokenError,
    ScopeURI,
    inspect_token,
    main,
    verify_token,
)

HERE = Path(__file__).resolve().parent
MODULE = HERE / "twilio_capability.py"

# twilio-php 3.12.7, Services_Twilio_Capability, run under PHP 8.2.36 with its clock fixed at
# 2026-01-01T00:00:00Z: account SID, auth token, calls, TTL (None: the default), token.
NOW = 1767225600
CAPABILITY_TOKENS: list[tuple[str, str, list[tuple[Any, ...]], int | None, str]] = [
    (
        "AC123123",
        "secret",
        [],
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6IiIsImlzcyI6IkFDMTIzMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ."
            "GTC4YI8isVKafLO0vnuTwY73tzZBa1wsLwKW5wwh1Q0"
        ),
    ),
    (
        "AC123123",
        "secret",
        [("allow_client_incoming", "Alice")],
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIiwiaXNzIjoiQUMxMjMxMjMiLCJleHAiOjE3NjcyMjkyMDB9."
            "WqsjC1oeZ4jD4LXdkZycRUBw70-nTTIfFZJ-5otbuf4"
        ),
    ),
    (
        "AC123123",
        "secret",
        [("allow_client_outgoing", "AP123123")],
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPSIsImlzcyI6IkFDMTIzMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ."
            "AKDVC2z6wU4noblvAMgkkbUNDyoNnR4gxnpM2Vz2h0E"
        ),
    ),
    (
        "AC123123",
        "secret",
        [("allow_client_outgoing", "AP123123", {"Foo": "Bar"})],
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPUZvbyUzREJhciIsImlzcyI6IkFDMTIzMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ."
            "4ISWDLFnTeu9oi5HNFIfP1nbnGbWSrGxespjqpYWMX8"
        ),
    ),
    (
        "AC123123",
        "secret",
        [("allow_client_incoming", "Alice"), ("allow_client_outgoing", "AP123123", {"Foo": "Bar"})],
        600,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPUZvbyUzREJhciZjbGllbnROYW1lPUFsaWNlIiwiaXNzIjoiQUMxMjMxMjMiLCJleHAiOjE3NjcyMjYyMDB9."
            "Q7_bi7xA7phTIFfXmqh_sgrBcZv31DbshO6mOfysXgU"
        ),
    ),
    (
        "AC123123",
        "secret",
        [("allow_client_outgoing", "AP123123", {"Foo": "Bar"}), ("allow_client_incoming", "Alice")],
        600,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPUZvbyUzREJhciZjbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIiwiaXNzIjoiQUMxMjMxMjMiLCJleHAiOjE3NjcyMjYyMDB9."
            "vgByPZvdbeJ5fqD_VU6iwWzHOJgl8rCHgO18R-fCdv4"
        ),
    ),
    (
        "AC123",
        "foo",
        [("allow_event_stream",)],
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGF0aD0lMkYyMDEwLTA0LTAxJTJGRXZlbnRzJnBhcmFtcz0iLCJpc3MiOiJBQzEyMyIsImV4cCI6MTc2NzIyOTIwMH0."
            "3GyxJyAu_1xtBm_X9cynKwXsdrm-btcIKnC2mPEgZek"
        ),
    ),
    (
        "AC123",
        "foo",
        [("allow_event_stream", {"foobar": "hey"})],
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGF0aD0lMkYyMDEwLTA0LTAxJTJGRXZlbnRzJnBhcmFtcz1mb29iYXIlM0RoZXkiLCJpc3MiOiJBQzEyMyIsImV4cCI6MTc2NzIyOTIwMH0."
            "X0aW7_Z0smbipYsU8MOKx77k1IsTR1kyzn_KbtUqaQ4"
        ),
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
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMmYXBwUGFyYW1zPWZvb2JhciUzRDMmY2xpZW50TmFtZT1hbmR5IHNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPWFuZHkgc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPSUyRjIwMTAtMDQtMDElMkZFdmVudHMmcGFyYW1zPSIsImlzcyI6IkFDMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ."
            "adNY8vVE0fdGL2_dBrQ04wP-PDhl_wqldP_7P-TH2Jc"
        ),
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
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPWFuZHkgc2NvcGU6Y2xpZW50OmluY29taW5nP2NsaWVudE5hbWU9Ym9iXzIgc2NvcGU6Y2xpZW50Om91dGdvaW5nP2FwcFNpZD1BUDEyMyZhcHBQYXJhbXM9JmNsaWVudE5hbWU9Ym9iXzIgc2NvcGU6Y2xpZW50Om91dGdvaW5nP2FwcFNpZD1BUDQ1NiZhcHBQYXJhbXM9YSUzRDElMjZiJTNEMiZjbGllbnROYW1lPWJvYl8yIiwiaXNzIjoiQUMxMjMiLCJleHAiOjE3NjczMTIwMDB9."
            "HsNJEnVnmeg1cd-QsdBaeLy-R_22tJI7ab_rTVlYkZY"
        ),
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
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMmYXBwUGFyYW1zPWElMkJiJTNEYyUyNTI2ZCUyNTNEZSUyNm1hcmtzJTNEJTI1N0UlMjUyMSUyNTJBJTI1MjclMjUyOCUyNTI5LS5fJTI2cGx1cyUzRDElMjUyQjElMjZwZXJjZW50JTNEMTAwJTI1MjUlMjZwYXRoJTNEYSUyNTJGYiUyNTNGYyUyNTIzZCUyNmVtcHR5JTNEIiwiaXNzIjoiQUMxMjMiLCJleHAiOjE3NjcyMjU2MDF9."
            "PnourrqwxOsZo3m9x98En-xz2nAfWAe6hDIUtATPDqk"
        ),
    ),
    (
        "AC123",
        "sécrèt ☃",
        [
            ("allow_client_outgoing", "AP123", {"name": "Zoë ☃ 😀", "ключ": "значение"}),
            ("allow_event_stream", {"a": "x y", "b": "&"}),
        ],
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."
            "eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMmYXBwUGFyYW1zPW5hbWUlM0RabyUyNUMzJTI1QUIlMkIlMjVFMiUyNTk4JTI1ODMlMkIlMjVGMCUyNTlGJTI1OTglMjU4MCUyNiUyNUQwJTI1QkElMjVEMCUyNUJCJTI1RDElMjU4RSUyNUQxJTI1ODclM0QlMjVEMCUyNUI3JTI1RDAlMjVCRCUyNUQwJTI1QjAlMjVEMSUyNTg3JTI1RDAlMjVCNSUyNUQwJTI1QkQlMjVEMCUyNUI4JTI1RDAlMjVCNSBzY29wZTpzdHJlYW06c3Vic2NyaWJlP3BhdGg9JTJGMjAxMC0wNC0wMSUyRkV2ZW50cyZwYXJhbXM9YSUzRHglMkJ5JTI2YiUzRCUyNTI2IiwiaXNzIjoiQUMxMjMiLCJleHAiOjE3NjcyMjkyMDB9."
            "vOhp8DdS3aDNBeM49yUW4ktIfcRLR1z-C1bIkkD4KW4"
        ),
    ),
]
# twilio-php 8.12.0, Twilio\\Jwt\\AccessToken with a VoiceGrant, run under PHP 8.2.36 at the same time:
# identity, whether it may be called, application SID, params, TTL, token.
ACCESS_TOKENS: list[tuple[str | None, bool, str | None, dict[str, str] | None, int | None, str]] = [
    (
        "Alice",
        True,
        "AP123123",
        {"Foo": "Bar"},
        600,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0."
            "eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyNjIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fX19fQ."
            "NBbrVEn71GC0fC-otWDA4QPCJ0bU5KSs8MLvGIhoT-c"
        ),
    ),
    (
        "Alice",
        True,
        None,
        None,
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0."
            "eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX19fX0."
            "oqb8LJD-3tWL3jlVXyMEKy7LM_KaCVN2ECt9FBQn6SA"
        ),
    ),
    (
        None,
        False,
        "AP123123",
        None,
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0."
            "eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7InZvaWNlIjp7Im91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIn19fX0."
            "HtHMQsFbQZioorjxhLIoKLddt4r_3XeYSFVpwVxWEWw"
        ),
    ),
    (
        "Alice",
        True,
        "AP123123",
        None,
        86400,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0."
            "eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzMxMjAwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIn19fX0."
            "ckxlmjuYverCLWpKXzaBi2CnvU9tqt89dB59vvmZXF0"
        ),
    ),
    (
        "Alice",
        True,
        "AP123123",
        {"name": "Zoë ☃ 😀", "n": "3"},
        None,
        (
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0."
            "eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIiwicGFyYW1zIjp7Im5hbWUiOiJab1x1MDBlYiBcdTI2MDMgXHVkODNkXHVkZTAwIiwibiI6IjMifX19fX0."
            "jzGaxNScchlnL4cBz_medRRBmnOaGhCgoB1eG_uMndQ"
        ),
    ),
]

# twilio-node 5.13.1 under Node.js 20.20.2 and twilio-python 9.13.0 with PyJWT 2.15.1, their clocks
# fixed at the same time, TTL 600: "Alice" incoming, AP123123 outgoing with Foo=Bar (twilio-node also
# with "a b"="~!*'()"), events where foobar=hey.
NODE_CAPABILITY_TOKEN = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    "eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmY2xpZW50TmFtZT1BbGljZSZhcHBQYXJhbXM9Rm9vJTNEQmFyJTI2YSUyNTIwYiUzRH4hKicoKSBzY29wZTpzdHJlYW06c3Vic2NyaWJlP3BhdGg9LzIwMTAtMDQtMDEvRXZlbnRzJmFwcFBhcmFtcz1mb29iYXIlM0RoZXkiLCJpc3MiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyNjIwMCwiaWF0IjoxNzY3MjI1NjAwfQ."
    "lSiTarL4hVTpeWkZUJozKvtytsyjcFKyATn-jzkYMGY"
)
NODE_ACCESS_TOKEN = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0."
    "eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fX19LCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6MTc2NzIyNjIwMCwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyJ9."
    "axDIsYAllx72VPUGbSTwzc8YroP9HVDOJwMwYz58XyU"
)
PYTHON_CAPABILITY_TOKEN = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    "eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBQYXJhbXM9Rm9vJTNEQmFyJmFwcFNpZD1BUDEyMzEyMyZjbGllbnROYW1lPUFsaWNlIHNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGFyYW1zPWZvb2JhciUzRGhleSZwYXRoPSUyRjIwMTAtMDQtMDElMkZFdmVudHMiLCJpc3MiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyNjIwMCwibmJmIjoxNzY3MjI1NjAwfQ."
    "SlDrS5LxfFkdS2U0K8-ulBsR0YUq1lr53mYhMZOprLs"
)
PYTHON_ACCESS_TOKEN = (
    "eyJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHlwIjoiSldUIn0."
    "eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiZ3JhbnRzIjp7InZvaWNlIjp7ImluY29taW5nIjp7ImFsbG93Ijp0cnVlfSwib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAxMjMxMjMiLCJwYXJhbXMiOnsiRm9vIjoiQmFyIn19fSwiaWRlbnRpdHkiOiJBbGljZSJ9LCJpc3MiOiJTSzEyMzEyMyIsImV4cCI6MTc2NzIyNjIwMCwibmJmIjoxNzY3MjI1NjAwLCJzdWIiOiJBQzEyMzEyMyJ9."
    "Z_RQkl_J8yo9dvHblyzGeUwQNOCgBeg1stAu4eaBAAk"
)

HEADER = '{"typ":"JWT","alg":"HS256"}'
ACCESS_HEADER = '{"typ":"JWT","alg":"HS256","cty":"twilio-fpa;v=1"}'
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."


# A second witness beside the vectors: the wire format by hand, from its definitions.


def base64url(data: bytes) -> str:
    """RFC 4648, section 5, bit by bit and without padding."""
    bits = "".join(f"{byte:08b}" for byte in data)
    groups = (bits[i : i + 6].ljust(6, "0") for i in range(0, len(bits), 6))
    return "".join(BASE64URL[int(group, 2)] for group in groups)


def mint(payload: str | bytes, secret: str = "secret", header: str | bytes = HEADER) -> str:
    """A JWT with HMAC-SHA-256 as RFC 2104 defines it."""
    parts = [part.encode() if isinstance(part, str) else part for part in (header, payload)]
    signing_input = ".".join(base64url(part) for part in parts)
    key = secret.encode()
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + signing_input.encode()).digest()
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()
    return signing_input + "." + base64url(outer)


def quote(text: str) -> str:
    """http_build_query's spelling, byte by byte."""
    spelled = ""
    for byte in text.encode():
        if chr(byte) in UNRESERVED:
            spelled += chr(byte)
        else:
            spelled += (
                "+" if byte == 0x20 else "%" + "0123456789ABCDEF"[byte >> 4] + f"{byte & 15:X}"
            )
    return spelled


def form(params: Mapping[str, Any]) -> str:
    return "&".join(f"{quote(name)}={quote(str(value))}" for name, value in params.items())


def alice(auth_token: str | None = "secret") -> Capability:
    capability = Capability("AC123123", auth_token)
    capability.allow_client_incoming("Alice")
    capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
    return capability


def decoded(segment: str) -> str:
    return base64.urlsafe_b64decode(segment + "==").decode()


def some_text(rng: random.Random) -> str:
    alphabet = "aZ09 ~+%&=?#/;:.-_*'()[]\"\\\n\0\x7fëß☃😀ключ"
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(8)))


def some_value(rng: random.Random) -> str | int:
    return rng.randrange(-9, 99) if rng.randrange(2) else some_text(rng)


class TokensOfTwilioPhpTest(unittest.TestCase):
    """The same calls at the same time give the same string as twilio-php."""

    def test_capability_tokens_are_the_same_bytes(self) -> None:
        for account_sid, auth_token, calls, ttl, token in CAPABILITY_TOKENS:
            with self.subTest(calls=calls):
                capability = Capability(account_sid, auth_token)
                for name, *arguments in calls:
                    getattr(capability, name)(*arguments)
                options = {} if ttl is None else {"ttl": ttl}
                self.assertEqual(capability.generate_token(now=NOW, **options), token)

    def test_access_tokens_are_the_same_bytes(self) -> None:
        for identity, incoming, outgoing, params, ttl, token in ACCESS_TOKENS:
            with self.subTest(identity=identity, outgoing=outgoing, params=params):
                capability = Capability("AC123123")
                if incoming and identity:
                    capability.allow_client_incoming(identity)
                if outgoing:
                    capability.allow_client_outgoing(outgoing, params)
                options: dict[str, Any] = {} if ttl is None else {"ttl": ttl}
                if identity is None:  # twilio-php writes it; Twilio refuses it
                    with self.assertRaisesRegex(ValueError, "identity"):
                        capability.generate_access_token("SK123123", "secret", now=NOW)
                else:
                    made = capability.generate_access_token(
                        "SK123123", "secret", now=NOW, **options
                    )
                    self.assertEqual(made, token)


class SigningTest(unittest.TestCase):
    def test_rfc_4648_section_10(self) -> None:
        for data, text in (
            (b"", b""),
            (b"f", b"Zg"),
            (b"fo", b"Zm8"),
            (b"foo", b"Zm9v"),
            (b"foob", b"Zm9vYg"),
            (b"fooba", b"Zm9vYmE"),
            (b"foobar", b"Zm9vYmFy"),
        ):
            self.assertEqual(twilio_capability._base64url(data), text)

    def test_rfc_4648_section_5_alphabet(self) -> None:
        self.assertEqual(twilio_capability._base64url(b"\xfb\xef\xff"), b"--__")

    def test_rfc_7515_appendix_a_1(self) -> None:
        key = base64.urlsafe_b64decode(
            "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
        )
        signing_input = (
            b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
            b"eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
            b"cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        )
        self.assertEqual(
            twilio_capability._signature(signing_input, key),
            b"dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        )


class WireFormatTest(unittest.TestCase):
    """Written down again by hand, so that the vectors are not the only witness."""

    def test_a_token_is_header_payload_and_signature(self) -> None:
        header, payload, signature = alice().generate_token(600, now=NOW).split(".")
        self.assertEqual(decoded(header), '{"typ":"JWT","alg":"HS256"}')
        self.assertEqual(
            decoded(payload),
            '{"scope":"scope:client:incoming?clientName=Alice'
            " scope:client:outgoing?appSid=AP123123&appParams=Foo%3DBar&clientName=Alice"
            '","iss":"AC123123","exp":1767226200}',
        )
        self.assertEqual(len(signature), 43)

    def test_every_byte_is_spelled_as_by_http_build_query(self) -> None:
        for text in map(chr, range(0x800)):
            capability = Capability("AC1", "k")
            capability.allow_client_outgoing("AP1", {text: text})
            scope = "scope:client:outgoing?appSid=AP1&appParams=" + quote(form({text: text}))
            payload = json.dumps({"scope": scope, "iss": "AC1", "exp": 1}, separators=(",", ":"))
            self.assertEqual(capability.generate_token(1, now=0), mint(payload, "k"))

    def test_random_capabilities_are_minted_as_by_hand(self) -> None:
        rng = random.Random(20260101)
        for _ in range(2000):
            secret = some_text(rng) * rng.randrange(1, 9) or "k"
            capability = Capability("AC1", secret)
            scopes: list[str] = []
            client = ""
            for _ in range(rng.randrange(5)):
                params = {some_text(rng): some_value(rng)}
                kind = rng.randrange(3)
                if kind == 0:
                    client = rng.choice(["Alice", "bob_2", "_"])
                    capability.allow_client_incoming(client)
                    scopes.append(f"scope:client:incoming?clientName={client}")
                elif kind == 1:
                    capability.allow_client_outgoing("AP9z", params)
                    encoded = quote(form(params))
                    scopes.append(f"scope:client:outgoing?appSid=AP9z&appParams={encoded}{{}}")
                else:
                    capability.allow_event_stream(params)
                    path = "path=%2F2010-04-01%2FEvents"
                    scopes.append(f"scope:stream:subscribe?{path}&params={quote(form(params))}")
            scope = " ".join(scopes).format(*[f"&clientName={client}" if client else ""] * 4)
            ttl, now = rng.randrange(1, 86401), rng.randrange(2**40)
            claims = {"scope": scope, "iss": "AC1", "exp": now + ttl}
            by_hand = mint(json.dumps(claims, separators=(",", ":")), secret)
            self.assertEqual(capability.generate_token(ttl, now=now), by_hand)

    def test_params_of_the_caller_are_copied(self) -> None:
        params = {"Foo": "Bar"}
        capability = Capability("AC1", "k")
        capability.allow_client_outgoing("AP1", params)
        before = (
            capability.generate_token(now=0),
            capability.generate_access_token("SK1", "k", identity="a", now=0),
        )
        params["Foo"] = "changed"
        after = (
            capability.generate_token(now=0),
            capability.generate_access_token("SK1", "k", identity="a", now=0),
        )
        self.assertEqual(before, after)

    def test_a_mapping_need_not_be_a_dict(self) -> None:
        capability = Capability("AC123123", "secret")
        capability.allow_client_incoming("Alice")
        capability.allow_client_outgoing("AP123123", MappingProxyType({"Foo": "Bar"}))
        self.assertEqual(capability.generate_token(now=0), alice().generate_token(now=0))

    def test_enum_members_are_spelled_by_their_value(self) -> None:
        class Text(str, enum.Enum):
            SID, APP, NAME, SECRET, FOO, KEY = "AC1", "AP1", "Alice", "secret", "Bar", "SK1"

        class Number(enum.IntEnum):
            THREE = 3

        def tokens(n: int, *texts: str) -> Any:
            sid, app, name, secret, foo, key = texts
            capability = Capability(sid, secret)
            capability.allow_client_incoming(name)
            capability.allow_client_outgoing(app, {foo: foo, "n": n})
            scope = ScopeURI("client", "incoming", {"clientName": name})
            access = capability.generate_access_token(key, secret, n, identity=name, now=0)
            return str(scope), capability.generate_token(n, now=0), access

        plain = tokens(3, "AC1", "AP1", "Alice", "secret", "Bar", "SK1")
        self.assertEqual(tokens(Number.THREE, *Text), plain)

    def test_a_str_that_adds_up_to_something_else_is_taken_as_it_is(self) -> None:
        class Markup(str):
            """As in markupsafe, which web frameworks hand out."""

            def __add__(self, other: str) -> Markup:
                return Markup(str(self) + other.replace("&", "&amp;").replace('"', "&#34;"))

            def __radd__(self, other: str) -> Markup:
                return Markup(other.replace("&", "&amp;").replace('"', "&#34;") + str(self))

        def tokens(text: type[str]) -> Any:
            capability = Capability(text("AC1"), text("secret"))
            capability.allow_client_incoming(text("Alice"))
            capability.allow_client_outgoing(text("AP1"), {text("a"): text("&"), text("b"): 1})
            access_token = capability.generate_access_token(
                text("SK1"), text("s"), identity=text("Alice"), now=0
            )
            scope = ScopeURI(text("client"), text("x"), {text("a"): text("&"), text("b"): text("")})
            parsed = ScopeURI.parse(text(str(scope)))
            return str(scope), str(parsed), capability.generate_token(now=0), access_token

        self.assertEqual(tokens(Markup), tokens(str))

    def test_a_mapping_is_read_once(self) -> None:
        class Live(Mapping):  # type: ignore[type-arg]
            def __init__(self, *values: Any) -> None:
                self.values_left = list(values)

            def __iter__(self) -> Iterator[str]:
                return iter(["a"])

            def __len__(self) -> int:
                return 1

            def __getitem__(self, name: str) -> Any:
                return self.values_left.pop(0)

        capability = Capability("AC1", "k")
        capability.allow_client_outgoing("AP1", Live("x", ["y"], None))
        scope = verify_token(capability.generate_token(now=0), "k", now=0)["scope"]
        self.assertEqual(scope, "scope:client:outgoing?appSid=AP1&appParams=a%3Dx")
        token = capability.generate_access_token("SK1", "k", identity="a", now=0)
        granted = verify_token(token, "k", now=0)["grants"]["voice"]["outgoing"]["params"]
        self.assertEqual(granted, {"a": "x"})

    def test_now_is_floored(self) -> None:
        capability = Capability("AC1", "k")
        self.assertEqual(capability.generate_token(now=9.999), capability.generate_token(now=9))

    def test_now_is_the_clock_unless_given(self) -> None:
        before = int(time.time())
        exp = verify_token(Capability("AC1", "k").generate_token(600), "k")["exp"]
        self.assertTrue(before + 600 <= exp <= time.time() + 600)

    def test_the_default_ttl_is_an_hour(self) -> None:
        token = Capability("AC1", "k").generate_token(now=0)
        self.assertEqual(inspect_token(token)["claims"]["exp"], 3600)


class GeneratingChangesNothingTest(unittest.TestCase):
    def test_the_same_call_gives_the_same_token(self) -> None:
        capability = alice()
        first = capability.generate_token(now=NOW)
        capability.generate_access_token("SK1", "k", now=NOW)
        self.assertEqual(capability.generate_token(now=NOW), first)

    def test_the_object_may_go_on_being_used(self) -> None:
        capability = Capability("AC123123", "secret")
        capability.allow_client_incoming("Alice")
        capability.generate_token()
        capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
        self.assertEqual(capability.generate_token(now=NOW), alice().generate_token(now=NOW))

    def test_a_copy_goes_its_own_way(self) -> None:
        capability = Capability("AC123123", "secret")
        copied = copy.copy(capability)
        copied.allow_client_incoming("Alice")
        plain = Capability("AC123123", "secret").generate_token(now=NOW)
        self.assertEqual(capability.generate_token(now=NOW), plain)
        self.assertNotEqual(copied.generate_token(now=NOW), plain)

    def test_threads_may_share_an_object(self) -> None:
        capability = alice()
        expected = {now: alice().generate_token(now=now) for now in range(200)}
        wrong: list[int] = []

        def generate() -> None:
            wrong.extend(n for n, t in expected.items() if capability.generate_token(now=n) != t)

        threads = [threading.Thread(target=generate) for _ in range(8)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        self.addCleanup(sys.setswitchinterval, interval)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])


class Number(int):
    """An int, but not one of Python's own type."""


BAD_TYPES: list[Any] = [None, 1, 1.5, True, b"AC123", ["AC123"], {"AC": 1}]
NOT_SIDS = [
    "",
    "XX",
    "ac123",
    " XX123",
    "XX123 ",
    "XX123\n",
    "XX12-3",
    "XX_1",
    "XXé1",
    "XX\u0661",
    "XX\ud800",
    "x" * 99,
]
NOT_NAMES = [
    "",
    "a b",
    "a\n",
    "\na",
    "a-b",
    "a.b",
    "é",
    "\uff21",
    "\u0661",
    "a" * 257,
    "\ud800",
    "a\0",
]
BAD_PARAM_TYPES: list[Any] = [
    [("a", "b")],
    [],
    (),
    "",
    "a=b",
    0,
    1,
    False,
    True,
    b"",
    {1: "a"},
    {None: "a"},
    {b"a": "a"},
    {"a": True},
    {"a": None},
    {"a": 1.5},
    {"a": b"b"},
    {"a": ["b"]},
    {"a": {"b": "c"}},
]
BAD_PARAM_VALUES: list[Any] = [{"a": "\ud800"}, {"\udfff": "a"}]


class InputRulesTest(unittest.TestCase):
    """A wrong type is a TypeError, a wrong value a ValueError: see the table in the README."""

    def assert_refused(self, error: type[Exception], argument: str, call: Any, *given: Any) -> None:
        with self.subTest(argument=argument, given=[type(value).__name__ for value in given]):
            with self.assertRaises(error) as caught:
                call(*given)
            self.assertIs(type(caught.exception), error)
            self.assertIn(argument, str(caught.exception))
            self.assertIn("must", str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))
            self.assertIsNone(caught.exception.__cause__)
            self.assertIsNone(caught.exception.__context__)

    def test_sids(self) -> None:
        capability = Capability("AC123")
        for prefix, argument, call in (
            ("AC", "account_sid", Capability),
            ("AP", "application_sid", capability.allow_client_outgoing),
            ("SK", "api_key_sid", lambda sid: capability.generate_access_token(sid, "secret")),
        ):
            for bad in BAD_TYPES:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in NOT_SIDS:
                self.assert_refused(ValueError, argument, call, bad.replace("XX", prefix))
        for sid in ("AC1", "ACz", "AC" + "0" * 32, "AC" + "aZ9" * 99):
            self.assertIsInstance(Capability(sid), Capability)

    def test_secrets(self) -> None:
        token = Capability("AC1", "k").generate_token()
        calls: list[tuple[str, Any]] = [
            ("auth_token", lambda secret: Capability("AC1", secret)),
            (
                "api_key_secret",
                lambda secret: Capability("AC1").generate_access_token("SK1", secret, identity="a"),
            ),
            ("secret", lambda secret: verify_token(token, secret)),
        ]
        for argument, call in calls:
            for bad in [1, 1.5, True, b"secret", ["secret"]]:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in ["", "\ud800", "secret\udfff"]:
                self.assert_refused(ValueError, argument, call, bad)
        for argument, call in calls[1:]:
            self.assert_refused(TypeError, argument, call, None)

    def test_a_capability_token_needs_an_auth_token(self) -> None:
        self.assert_refused(ValueError, "auth_token", Capability("AC1").generate_token)

    def test_client_names(self) -> None:
        capability = Capability("AC1")
        for argument, call in (
            ("client_name", capability.allow_client_incoming),
            ("identity", lambda x: capability.generate_access_token("SK1", "k", identity=x)),
        ):
            for bad in BAD_TYPES:
                if not (argument == "identity" and bad is None):
                    self.assert_refused(TypeError, argument, call, bad)
            for bad in NOT_NAMES:
                self.assert_refused(ValueError, argument, call, bad)
        for name in ("a", "_", "0", "Alice_2", "a" * 256):
            capability = Capability("AC1", "k")
            capability.allow_client_incoming(name)
            scope = inspect_token(capability.generate_token())["claims"]["scope"]
            self.assertEqual(scope, "scope:client:incoming?clientName=" + name)

    def test_params_and_filters(self) -> None:
        capability = Capability("AC1", "k")
        before = capability.generate_token(now=0)
        for argument, call in (
            ("params", lambda params: capability.allow_client_outgoing("AP1", params)),
            ("filters", capability.allow_event_stream),
            ("params", lambda params: ScopeURI("client", "incoming", params)),
        ):
            for bad in BAD_PARAM_TYPES:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in BAD_PARAM_VALUES:
                self.assert_refused(ValueError, argument, call, bad)
        self.assertEqual(capability.generate_token(now=0), before)

    def test_an_int_too_long_to_print_is_refused(self) -> None:
        if not hasattr(sys, "get_int_max_str_digits"):
            self.skipTest("this Python prints ints of any length")
        capability = Capability("AC1", "k")
        call = capability.allow_event_stream
        self.assert_refused(ValueError, "filters", call, {"a": 10 ** sys.get_int_max_str_digits()})

    def test_the_scope_uri_takes_only_str_params(self) -> None:
        self.assert_refused(TypeError, "params", ScopeURI, "client", "incoming", {"n": 3})

    def test_ttl(self) -> None:
        for argument, call in (
            ("ttl", Capability("AC1", "k").generate_token),
            (
                "ttl",
                lambda ttl: Capability("AC1").generate_access_token("SK1", "k", ttl, identity="a"),
            ),
        ):
            for bad in [None, True, False, 1.5, 3600.0, "3600", b"1", [1], float("nan")]:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in [0, -1, 86401, 10**400]:
                self.assert_refused(ValueError, argument, call, bad)
            for good in [1, 86400, Number(5)]:
                self.assertIsInstance(call(good), str)

    def test_now_and_leeway(self) -> None:
        capability = Capability("AC1", "k")
        token = capability.generate_token()
        calls: list[tuple[str, Any]] = [
            ("now", lambda now: capability.generate_token(now=now)),
            (
                "now",
                lambda now: capability.generate_access_token("SK1", "k", identity="a", now=now),
            ),
            ("now", lambda now: verify_token(token, "k", now=now)),
            ("leeway", lambda leeway: verify_token(token, "k", leeway=leeway)),
        ]
        for argument, call in calls:
            for bad in ["1", b"1", True, False, [1], 1j]:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in [-1, -0.5, float("nan"), float("inf"), float("-inf"), 1e300, 10**400]:
                self.assert_refused(ValueError, argument, call, bad)
        for argument, call in calls[:3]:
            self.assert_refused(ValueError, argument, call, 2**53 - 86399)
        self.assert_refused(TypeError, "leeway", lambda: verify_token(token, "k", leeway=None))  # type: ignore[arg-type]

    def test_the_scope_uri(self) -> None:
        for argument, call in (
            ("service", lambda word: ScopeURI(word, "incoming")),
            ("privilege", lambda word: ScopeURI("client", word)),
        ):
            for bad in BAD_TYPES:
                self.assert_refused(TypeError, argument, call, bad)
            for bad in ["", "a b", "a~", "a:b", "a?b", "a\n", "é", "a%20b", "a&b", "\ud800"]:
                self.assert_refused(ValueError, argument, call, bad)

    def test_a_token_must_be_a_str(self) -> None:
        for bad in BAD_TYPES:
            self.assert_refused(TypeError, "token", inspect_token, bad)
            self.assert_refused(TypeError, "token", verify_token, bad, "secret")

    def test_a_refused_call_changes_nothing(self) -> None:
        capability = alice()
        before = capability.generate_token(now=NOW)
        calls: list[tuple[Any, ...]] = [
            (capability.allow_client_incoming, "a b"),
            (capability.allow_client_outgoing, "AP1", {"a": None}),
            (capability.allow_client_outgoing, "AP1", {"a": "\ud800"}),
            (capability.allow_client_outgoing, "AC1", {"a": "b"}),
            (capability.allow_event_stream, {"a": 1.5}),
            (capability.generate_token, 0),
        ]
        for call, *given in calls:
            with self.assertRaises((TypeError, ValueError)):
                call(*given)
        self.assertEqual(capability.generate_token(now=NOW), before)


class SecretsTest(unittest.TestCase):
    """Error messages and reprs end up in logs, so none repeats a secret, a SID or a token."""

    ACCOUNT_SID = "AC0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
    AUTH_TOKEN = "d3adb33fd3adb33fd3adb33fd3adb33f"
    APP_SID = "AP1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e"
    KEY_SID = "SK2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d"

    def assert_clean(self, text: str) -> None:
        for secret in (self.ACCOUNT_SID, self.AUTH_TOKEN, self.APP_SID, self.KEY_SID):
            self.assertNotIn(secret[2:], text)

    def test_no_error_repeats_what_was_given(self) -> None:
        sid, auth_token, app, key = self.ACCOUNT_SID, self.AUTH_TOKEN, self.APP_SID, self.KEY_SID
        token = Capability(sid, auth_token).generate_token()
        forged = token[:-1] + ("A" if token[-1] != "A" else "B")
        capability = Capability(sid, auth_token)
        named = Capability(sid, auth_token)
        named.allow_client_incoming(auth_token)
        calls: list[Callable[[], object]] = [
            lambda: Capability(auth_token, sid),
            lambda: Capability(sid, auth_token + "\ud800"),
            lambda: Capability(sid.encode(), auth_token),  # type: ignore[arg-type]
            lambda: Capability(sid, auth_token.encode()),  # type: ignore[arg-type]
            lambda: capability.allow_client_incoming(auth_token + "-"),
            lambda: capability.allow_client_outgoing(sid),
            lambda: capability.allow_client_outgoing(app, [(sid, auth_token)]),  # type: ignore[arg-type]
            lambda: capability.allow_client_outgoing(app, {auth_token: b"x"}),  # type: ignore[dict-item]
            lambda: capability.allow_client_outgoing(app, {auth_token: sid + "\ud800"}),
            lambda: capability.allow_event_stream({auth_token + "\ud800": sid}),
            lambda: capability.generate_token(auth_token),  # type: ignore[arg-type]
            lambda: capability.generate_access_token(auth_token, key),
            lambda: capability.generate_access_token(key, auth_token + "\ud800", identity="a"),
            lambda: capability.generate_access_token(key, auth_token, identity=sid + "-"),
            lambda: named.generate_access_token(key, auth_token, identity=sid),
            lambda: ScopeURI(sid + " ", auth_token),
            lambda: ScopeURI("client", "outgoing", {app + "\ud800": auth_token}),
            lambda: ScopeURI.parse(f"scope:client:outgoing?appSid={app} {auth_token}"),
            lambda: ScopeURI.parse(f"scope:client:outgoing?{app}&{auth_token}"),
            lambda: ScopeURI.parse(f"scope:client:outgoing?{app}=%ff&{auth_token}=b"),
            lambda: verify_token(auth_token, token),
            lambda: verify_token(auth_token + ".a.b", token),
            lambda: verify_token(token, sid),
            lambda: verify_token(forged, auth_token),
            lambda: verify_token(token, auth_token + "\ud800"),
            lambda: verify_token(token, auth_token, now=2**40),
            lambda: verify_token(mint(auth_token, auth_token), auth_token),
            lambda: verify_token(mint(f'{{"exp":"{sid}"}}', auth_token), auth_token),
            lambda: inspect_token(mint(auth_token)),
            lambda: inspect_token(mint("{}", header=auth_token.encode() + b"\xff")),
        ]
        for i, call in enumerate(calls):
            with self.subTest(i), self.assertRaises((TypeError, ValueError)) as caught:
                call()
            error: BaseException | None = caught.exception
            while error is not None:
                self.assert_clean(str(error))
                self.assert_clean(repr(error))
                self.assert_clean(repr(vars(error)))
                self.assertNotIn(token, str(error))
                error = error.__cause__ or error.__context__
            last = "".join(
                traceback.format_exception_only(type(caught.exception), caught.exception)
            )
            self.assert_clean(last)

    def test_no_repr_shows_them(self) -> None:
        capability = Capability(self.ACCOUNT_SID, self.AUTH_TOKEN)
        capability.allow_client_incoming(self.AUTH_TOKEN)
        capability.allow_client_outgoing(self.APP_SID, {"a": self.KEY_SID})
        self.assert_clean(repr(capability) + str(capability) + f"{capability}")
        scope = ScopeURI("client", "outgoing", {"appSid": self.APP_SID})
        self.assert_clean(repr(scope))
        self.assertEqual(repr(scope), "<ScopeURI client:outgoing, 1 params>")


class ScopeURITest(unittest.TestCase):
    def test_str_is_the_uri(self) -> None:
        self.assertEqual(str(ScopeURI("client", "incoming")), "scope:client:incoming")
        scope = ScopeURI("stream", "subscribe", {"path": "/2010-04-01/Events", "params": "a=b"})
        self.assertEqual(
            str(scope), "scope:stream:subscribe?path=%2F2010-04-01%2FEvents&params=a%3Db"
        )

    def test_its_parts_can_be_read(self) -> None:
        given = {"b": "1", "a": "2"}
        scope = ScopeURI("client", "incoming", given)
        self.assertEqual((scope.service, scope.privilege), ("client", "incoming"))
        self.assertIs(type(scope.params), dict)
        self.assertEqual(list(scope.params.items()), [("b", "1"), ("a", "2")])
        given["c"] = "3"
        self.assertNotIn("c", scope.params)

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
        self.assertEqual(ScopeURI("client", "incoming"), unittest.mock.ANY)

    def test_it_survives_copying_and_pickling(self) -> None:
        scope = ScopeURI("client", "incoming", {"clientName": "Alice"})
        self.assertEqual(copy.deepcopy(scope), scope)
        self.assertEqual(pickle.loads(pickle.dumps(scope)), scope)

    def test_parse_is_the_inverse_of_str(self) -> None:
        rng = random.Random(7515)
        for _ in range(3000):
            params = {some_text(rng): some_text(rng) for _ in range(rng.randrange(4))}
            scope = ScopeURI(rng.choice(["client", "a.b-c_9"]), "x", params)
            parsed = ScopeURI.parse(str(scope))
            self.assertEqual(parsed, scope)
            self.assertEqual(str(parsed), str(scope))

    def test_parse_reads_what_other_libraries_write(self) -> None:
        for uri, params in (
            # twilio-python: params in alphabetical order, "~" as it is
            (
                "scope:client:outgoing?appParams=a%3D~&appSid=AP1&clientName=Alice",
                {"appParams": "a=~", "appSid": "AP1", "clientName": "Alice"},
            ),
            # twilio-node: a bare slash, !'()*~ as they are, space as %20
            (
                "scope:stream:subscribe?path=/2010-04-01/Events&appParams=a%20b%3D~!*'()",
                {"path": "/2010-04-01/Events", "appParams": "a b=~!*'()"},
            ),
            ("scope:client:incoming?clientName=%c3%ab", {"clientName": "ë"}),
            ("scope:client:incoming?a=b=c", {"a": "b=c"}),
            ("scope:client:incoming?=", {"": ""}),
            ("scope:client:incoming?", {}),
            ("scope:client:incoming", {}),
        ):
            with self.subTest(uri=uri):
                self.assertEqual(ScopeURI.parse(uri).params, params)

    def test_what_is_no_scope_uri_is_refused(self) -> None:
        for uri in (
            "",
            "scope",
            "scope:client",
            "scope::incoming",
            "scope:client:",
            "scope:client:incoming:x",
            "SCOPE:client:incoming",
            " scope:client:incoming",
            "scope:client:incoming\n",
            "scope:client:incoming?a=b\n",
            "scope:cl ient:incoming",
            "scope:cl%69ent:incoming",
            "scope:client:incoming?clientName",
            "scope:client:incoming?a=1&",
            "scope:client:incoming?&a=1",
            "scope:client:incoming?a=1&&b=2",
            "scope:client:incoming?a=1&a=2",
            "scope:client:incoming?a=1&%61=2",
            "scope:client:incoming?a=%",
            "scope:client:incoming?a=%4",
            "scope:client:incoming?a=%zz",
            "scope:client:incoming?a=%ff",
            "scope:client:incoming?a=%ED%A0%80",
            "scope:client:incoming?a=b c",
            "scope:client:incoming?a=é",
            "scope:client:incoming?a=b#c",
            'scope:client:incoming?a="b"',
            *(f"scope:client:incoming?a={char}" for char in "[\\]^`{|}<>"),
            "scope:client:incoming?a=\ud800",
        ):
            with self.subTest(uri=uri), self.assertRaises(ValueError) as caught:
                ScopeURI.parse(uri)
            self.assertIs(type(caught.exception), ValueError)
            self.assertIsNone(caught.exception.__context__)

    def test_parse_takes_only_a_str(self) -> None:
        for bad in BAD_TYPES:
            with self.assertRaisesRegex(TypeError, "uri"):
                ScopeURI.parse(bad)

    def test_whatever_is_parsed_is_written_or_refused(self) -> None:
        rng = random.Random(3986)
        alphabet = "scope:client:incoming?a=1&%4a+~é \n"
        read = 0
        for _ in range(10000):
            uri = "scope:client:incoming?a=1"
            for _ in range(rng.randrange(4)):
                at = rng.randrange(len(uri) + 1)
                uri = uri[:at] + rng.choice(alphabet) + uri[at + rng.randrange(2) :]
            with contextlib.suppress(ValueError):
                scope = ScopeURI.parse(uri)
                self.assertEqual(ScopeURI.parse(str(scope)), scope)
                read += 1
        self.assertGreater(read, 1000)


class VerifyTokenTest(unittest.TestCase):
    CLAIMS: ClassVar[dict[str, Any]] = {"scope": "", "iss": "AC123123", "exp": NOW + 600}

    def assert_invalid(self, token: str, reason: str, **options: Any) -> None:
        with self.assertRaisesRegex(InvalidTokenError, reason) as caught:
            verify_token(token, "secret", **{"now": NOW, **options})
        self.assertIs(type(caught.exception), InvalidTokenError)

    def test_the_claims_come_back_as_they_are(self) -> None:
        for payload in (
            '{"scope":"","iss":"AC123123","exp":%d}',
            '{"exp":%d,"nbf":1.5,"iat":"x","x":[1,2.5,null,true,{"y":"\\u00eb☃"}]}',
            '{"exp":%d,"exp ":1}',
            ' \t\r\n{ "exp" : %d } \n',
        ):
            payload %= NOW + 600
            self.assertEqual(verify_token(mint(payload), "secret", now=NOW), json.loads(payload))

    def test_tokens_of_other_libraries_are_read(self) -> None:
        for token in (
            NODE_CAPABILITY_TOKEN,
            NODE_ACCESS_TOKEN,
            PYTHON_CAPABILITY_TOKEN,
            PYTHON_ACCESS_TOKEN,
            *(token for *_, token in ACCESS_TOKENS),
        ):
            claims = verify_token(token, "secret", now=NOW)
            self.assertEqual(claims, json.loads(decoded(token.split(".")[1])))
        for _, secret, _, _, token in CAPABILITY_TOKENS:
            self.assertEqual(verify_token(token, secret, now=NOW)["iss"][:5], "AC123")

    def test_their_scopes_mean_the_same(self) -> None:
        def scopes(token: str) -> list[tuple[str, str, dict[str, Any]]]:
            parsed = map(ScopeURI.parse, verify_token(token, "secret", now=NOW)["scope"].split(" "))
            return [
                (
                    scope.service,
                    scope.privilege,
                    {
                        name: dict(urllib.parse.parse_qsl(text)) if "arams" in name else text
                        for name, text in scope.params.items()
                    },
                )
                for scope in parsed
            ]

        capability = alice()
        capability.allow_event_stream({"foobar": "hey"})
        ours = scopes(capability.generate_token(now=NOW))
        self.assertEqual(scopes(PYTHON_CAPABILITY_TOKEN), ours)
        node = scopes(NODE_CAPABILITY_TOKEN)
        self.assertEqual(node[1][2].pop("appParams"), {"Foo": "Bar", "a b": "~!*'()"})
        self.assertEqual(node[2][2].pop("appParams"), ours[2][2].pop("params"))
        del ours[1][2]["appParams"]
        self.assertEqual(node, ours)

    def test_no_token_with_a_character_changed_added_or_dropped_passes(self) -> None:
        token = alice().generate_token(now=NOW)
        verify_token(token, "secret", now=NOW)
        passed = []
        strange = BASE64URL + "=+/. \t\n\0\x7fé\uff21\ud800"
        for at in range(len(token) + 1):
            changed = [token[:at] + char + token[at + 1 :] for char in strange]
            added = [token[:at] + char + token[at:] for char in strange]
            for other in (*changed, *added, token[:at] + token[at + 1 :]):
                if other != token:
                    try:
                        verify_token(other, "secret", now=NOW)
                    except InvalidTokenError:
                        continue
                    passed.append(other)
        self.assertEqual(passed, [])

    def test_a_padded_signature_or_one_with_other_unused_bits_is_refused(self) -> None:
        token = alice().generate_token(now=NOW)
        twin = token[:-1] + BASE64URL[BASE64URL.index(token[-1]) ^ 1]
        signature = base64.urlsafe_b64decode(token.split(".")[2] + "=")
        self.assertEqual(base64.urlsafe_b64decode(twin.split(".")[2] + "="), signature)
        for other in (twin, token + "=", token + "==", token + "\n", " " + token):
            with self.assertRaises(InvalidSignatureError):
                verify_token(other, "secret", now=NOW)

    def test_another_secret_is_refused(self) -> None:
        token = alice().generate_token(now=NOW)
        for secret in ("Secret", "secret ", "s", "x" * 1000):
            with self.assertRaises(InvalidSignatureError):
                verify_token(token, secret, now=NOW)

    def test_a_key_longer_than_a_block_of_sha_256_works(self) -> None:
        secret = "é☃" * 99
        token = mint('{"exp":9}', secret)
        self.assertEqual(verify_token(token, secret, now=0), {"exp": 9})

    def test_it_must_be_three_segments_of_ascii(self) -> None:
        for token in ("", ".", "a.b", "a.b.c.d", "....", "é.b.c", "\ud800.b.c", "a.b.\uff43"):
            self.assert_invalid(token, "three segments of ASCII")
        for token in ("..", "a.b.", ".b.c", "a b.c.d"):
            with self.assertRaises(InvalidSignatureError):
                verify_token(token, "secret")

    def test_nothing_is_decoded_before_the_signature_is_right(self) -> None:
        for token in ("!.!.!", mint("no JSON").replace(".", ".A", 1), mint("[" * 200000)[:-1]):
            with self.assertRaises(InvalidSignatureError):
                verify_token(token, "secret")

    def test_only_hs256_and_nothing_critical_is_accepted(self) -> None:
        payload = json.dumps(self.CLAIMS)
        for header in (
            '{"typ":"JWT","alg":"none"}',
            '{"typ":"JWT","alg":"HS384"}',
            '{"typ":"JWT","alg":"HS512"}',
            '{"typ":"JWT","alg":"RS256"}',
            '{"typ":"JWT","alg":"hs256"}',
            '{"typ":"JWT","alg":"HS256 "}',
            '{"typ":"JWT","alg":["HS256"]}',
            '{"typ":"JWT","alg":null}',
            '{"typ":"JWT"}',
            '{"typ":"JWT","alg":"HS256","crit":["exp"]}',
            '{"typ":"JWT","alg":"HS256","crit":[]}',
            '{"typ":"JWT","alg":"HS256","crit":null}',
        ):
            self.assert_invalid(mint(payload, header=header), "alg HS256 and no crit")
        verify_token(mint(payload, header='{"alg":"HS256"}'), "secret", now=NOW)

    def test_a_token_really_signed_otherwise_is_refused(self) -> None:
        for algorithm, digest in (("HS384", "sha384"), ("HS512", "sha512")):
            head = base64url(f'{{"typ":"JWT","alg":"{algorithm}"}}'.encode())
            signing_input = head + "." + base64url(json.dumps(self.CLAIMS).encode())
            signed = base64url(hmac.new(b"secret", signing_input.encode(), digest).digest())
            with self.assertRaises(InvalidSignatureError):
                verify_token(f"{signing_input}.{signed}", "secret", now=NOW)
        unsigned = base64url(b'{"typ":"JWT","alg":"none"}') + "." + base64url(b'{"exp":9}') + "."
        with self.assertRaises(InvalidSignatureError):
            verify_token(unsigned, "secret", now=0)

    def test_header_and_payload_are_json_objects(self) -> None:
        good = json.dumps(self.CLAIMS)
        for bad in (
            "",
            "{",
            "[]",
            '"x"',
            "1",
            "null",
            "{'a':1}",
            good + "x",
            good + good,
            "x" + good,
            "\x0b" + good,
            good + "\x1c",
            good + "\xa0",
            "\ufeff" + good,
            '{"exp":1767226200,"x":NaN}',
            '{"exp":1767226200,"x":-Infinity}',
            '{"exp":1767226200,"x":1e400}',
            '{"exp":1767226200,"x":"\n"}',
            '{"a":' * 200000,
            "[" * 200000,
            good.encode("utf-16"),
            b"\xff" + good.encode(),
            b'{"exp":1767226200,"x":"\xed\xa0\x80"}',
        ):
            with self.subTest(bad=bad[:40]):
                self.assert_invalid(mint(bad), "payload must be a JSON object")
                self.assert_invalid(mint(good, header=bad), "header must be a JSON object")

    def test_a_claim_may_not_come_twice(self) -> None:
        for payload in (
            '{"exp":1767226200,"exp":1767226200}',
            '{"exp":1,"exp":1767226200}',
            '{"exp":1767226200,"\\u0065xp":1767226200}',
            '{"exp":1767226200,"grants":{"identity":"a","identity":"b"}}',
        ):
            self.assert_invalid(mint(payload), "names unique")
        header = '{"typ":"JWT","alg":"none","alg":"HS256"}'
        self.assert_invalid(mint(json.dumps(self.CLAIMS), header=header), "names unique")

    def test_segments_are_plain_base64url(self) -> None:
        head, payload = base64url(HEADER.encode()), base64url(json.dumps(self.CLAIMS).encode())
        for h, p in (
            (head, payload + "="),
            (head, payload + "=="),
            (head, payload[:4] + "\n" + payload[4:]),
            (head, payload[:4] + "!" + payload[4:]),
            (head, base64url(b'{"exp":1767226200,"x":"??>"}').replace("_", "/").replace("-", "+")),
            (head + "=", payload),
            (head[:4] + " " + head[4:], payload),
            (head, "A"),
            (head, payload + "A" * (5 - len(payload) % 4)),
        ):
            signing_input = f"{h}.{p}"
            digest = hmac.new(b"secret", signing_input.encode(), "sha256").digest()
            self.assert_invalid(f"{signing_input}.{base64url(digest)}", "in base64url")

    def test_exp_is_an_integer(self) -> None:
        for exp in (
            '"1767226200"',
            "1767226200.0",
            "1767226200.5",
            "1.7672262e9",
            "true",
            "false",
            "null",
            "[1767226200]",
            "{}",
            "1" + "0" * 400,
            "-1" + "0" * 400,
            "9007199254740993",
        ):
            with self.subTest(exp=exp[:20]):
                self.assert_invalid(mint('{"exp":%s}' % exp), "exp must be an int")
                self.assert_invalid(mint('{"exp":%s}' % exp), "exp must be an int", leeway=0.5)
        for payload in ("{}", '{"Exp":1767226200}', '{"iss":"AC123123"}'):
            self.assert_invalid(mint(payload), "exp must be an int")
        for exp in ("NaN", "Infinity", "1e400"):
            self.assert_invalid(mint('{"exp":%s}' % exp), "payload must be a JSON object")
        for milliseconds in (NOW * 1000, 2**53):
            token = mint('{"exp":%d}' % milliseconds)
            self.assertEqual(verify_token(token, "secret", now=NOW), {"exp": milliseconds})

    def test_it_expires_at_exp(self) -> None:
        token = Capability("AC123123", "secret").generate_token(600, now=NOW)
        now: float
        leeway: float
        for now, leeway in ((0, 0), (NOW + 599, 0), (NOW + 599.9, 0), (NOW + 600, 1)):
            verify_token(token, "secret", now=now, leeway=leeway)
        verify_token(token, "secret", now=NOW + 600, leeway=0.5)
        verify_token(token, "secret", now=NOW + 629, leeway=30)
        verify_token(token, "secret", now=2**53 - 86400, leeway=2**53)
        for now, leeway in ((NOW + 600, 0), (NOW + 601, 0.5), (NOW + 630, 30), (2**53 - 86400, 0)):
            with self.assertRaises(ExpiredTokenError) as caught:
                verify_token(token, "secret", now=now, leeway=leeway)
            self.assertIn("expired at 2026-01-01T00:10:00Z", str(caught.exception))
        with self.assertRaises(ExpiredTokenError):
            verify_token(token, "secret", now=NOW + 10**6)
        for exp, when in ((0, "1970-01-01T00:00:00Z"), (-(2**53), str(-(2**53)))):
            with self.assertRaisesRegex(ExpiredTokenError, "expired at " + when):
                verify_token(mint('{"exp":%d}' % exp), "secret", now=0)

    def test_what_is_minted_at_the_end_of_time_can_be_read(self) -> None:
        end = 2**53 - 86400
        token = Capability("AC1", "secret").generate_token(86400, now=end)
        self.assertEqual(verify_token(token, "secret", now=end)["exp"], 2**53)

    def test_the_clock_is_asked_unless_now_is_given(self) -> None:
        capability = Capability("AC1", "secret")
        verify_token(capability.generate_token(60), "secret")
        with self.assertRaises(ExpiredTokenError):
            verify_token(capability.generate_token(60, now=time.time() - 61), "secret")

    def test_nbf_is_honoured(self) -> None:
        for nbf in ("1767225601", "1767225600.5", "1767229999", "1" + "0" * 400):
            self.assert_invalid(mint('{"exp":1767226200,"nbf":%s}' % nbf), "nbf")
        self.assert_invalid(mint('{"exp":1767226200,"nbf":1767225631}'), "nbf", leeway=30)
        for nbf, leeway in (("1767225600", 0), ("-5", 0), ("1767225600.0", 0), ("1767225630", 30)):
            token = mint('{"exp":1767226200,"nbf":%s}' % nbf)
            verify_token(token, "secret", now=NOW, leeway=leeway)
        for nbf in ("null", "true", '"0"', "[]", "{}"):
            self.assert_invalid(mint('{"exp":1767226200,"nbf":%s}' % nbf), "nbf must be a number")

    def test_the_signature_is_compared_in_constant_time(self) -> None:
        self.assertIn("hmac.compare_digest(", inspect.getsource(verify_token))

    def test_the_errors_are_a_small_tree(self) -> None:
        self.assertTrue(issubclass(InvalidSignatureError, InvalidTokenError))
        self.assertTrue(issubclass(ExpiredTokenError, InvalidTokenError))
        self.assertTrue(issubclass(InvalidTokenError, ValueError))

    def test_what_a_capability_was_told_comes_back(self) -> None:
        rng = random.Random(7519)
        for _ in range(3000):
            capability = Capability("AC123123", "secret")
            told: list[tuple[str, dict[str, Any]]] = []
            name = ""
            for _ in range(rng.randrange(5)):
                kind = rng.choice(["incoming", "outgoing", "subscribe"])
                params = {some_text(rng): some_text(rng) for _ in range(rng.randrange(3))}
                if kind == "incoming":
                    name = rng.choice(["Alice", "bob_2", "x" * 256])
                    capability.allow_client_incoming(name)
                    told.append((kind, {"clientName": name}))
                elif kind == "outgoing":
                    sid = "AP" + str(rng.randrange(1, 10**9))
                    capability.allow_client_outgoing(sid, params)
                    told.append((kind, {"appSid": sid, "appParams": params}))
                else:
                    capability.allow_event_stream(params)
                    told.append((kind, {"path": "/2010-04-01/Events", "params": params}))
            claims = verify_token(capability.generate_token(), "secret")
            self.assertEqual(claims["iss"], "AC123123")
            read: list[tuple[str, dict[str, Any]]] = []
            for uri in claims["scope"].split():
                scope = ScopeURI.parse(uri)
                read.append((scope.privilege, dict(scope.params)))
                for key in scope.params.keys() & {"appParams", "params"}:
                    nested = ScopeURI.parse("scope:x:x?" + scope.params[key])
                    read[-1][1][key] = nested.params
            for kind, expected in told:
                if kind == "outgoing" and name:
                    expected["clientName"] = name
            self.assertEqual(read, told)


class InspectTokenTest(unittest.TestCase):
    def test_header_and_claims_are_shown_whatever_the_signature(self) -> None:
        token = alice().generate_token(600, now=0)
        expected = {
            "header": {"typ": "JWT", "alg": "HS256"},
            "claims": json.loads(decoded(token.split(".")[1])),
        }
        for other in (token, token[:-9], token.rpartition(".")[0] + "."):
            self.assertEqual(inspect_token(other), expected)

    def test_any_algorithm_and_any_claims_are_shown(self) -> None:
        token = mint('{"exp":"soon"}', header='{"alg":"none","crit":[]}')
        self.assertEqual(
            inspect_token(token),
            {"header": {"alg": "none", "crit": []}, "claims": {"exp": "soon"}},
        )

    def test_its_docstring_says_that_nothing_is_checked(self) -> None:
        self.assertIn("NOT checked", inspect_token.__doc__ or "")

    def test_what_cannot_be_read_is_an_invalid_token(self) -> None:
        for token in (
            "",
            "a.b",
            "..",
            "a.b.c.d.e",
            mint("[]"),
            mint("{}", header="[]"),
            mint('{"a":' * 200000),
            mint("[" * 200000 + "]" * 200000),
            mint('{"x":' + "9" * 100000 + "e999}"),
            "\ud800.\ud800.\ud800",
        ):
            with self.subTest(token=token[:40]), self.assertRaises(InvalidTokenError) as caught:
                inspect_token(token)
            self.assertIsNone(caught.exception.__context__)
        with self.assertRaisesRegex(InvalidTokenError, "the header must be a JSON object"):
            inspect_token(mint("[]", header="[]"))
        with self.assertRaisesRegex(InvalidTokenError, "the payload must be a JSON object"):
            inspect_token(mint("[]"))

    def test_nothing_but_an_invalid_token_error_gets_out(self) -> None:
        rng = random.Random(2026)
        token = alice().generate_token()
        pieces = [
            "{",
            "}",
            "[",
            "]",
            '"',
            ":",
            ",",
            "\\",
            "\\ud800",
            "1e999",
            "NaN",
            "-",
            "é",
            "\0",
        ]
        read = 0
        for _ in range(10000):
            kind = rng.randrange(3)
            if kind == 0:
                text = "".join(
                    rng.choice(BASE64URL + "..==é\n\ud800") for _ in range(rng.randrange(60))
                )
            elif kind == 1:
                at = rng.randrange(len(token))
                text = token[:at] + rng.choice(BASE64URL + ".=é") + token[at + rng.randrange(3) :]
            else:
                payload = '{"a":[1,"b"],"exp":1}'
                for _ in range(rng.randrange(3)):
                    at = rng.randrange(len(payload))
                    payload = payload[:at] + rng.choice(pieces) + payload[at + rng.randrange(2) :]
                text = mint(payload)
            with contextlib.suppress(InvalidTokenError):
                self.assertEqual(set(inspect_token(text)), {"header", "claims"})
                read += 1
        self.assertGreater(read, 1000)


class AccessTokenTest(unittest.TestCase):
    def claims(self, capability: Capability, **options: Any) -> dict[str, Any]:
        token = capability.generate_access_token("SK123123", "s", now=NOW, **options)
        self.assertEqual(decoded(token.split(".")[0]), ACCESS_HEADER)
        return verify_token(token, "s", now=NOW)

    def test_the_claims_in_their_order(self) -> None:
        token = alice(None).generate_access_token("SK123123", "secret", 600, now=NOW + 0.9)
        self.assertEqual(
            token,
            mint(
                '{"jti":"SK123123-1767225600","iss":"SK123123","sub":"AC123123","exp":1767226200,'
                '"grants":{"identity":"Alice","voice":{"incoming":{"allow":true},'
                '"outgoing":{"application_sid":"AP123123","params":{"Foo":"Bar"}}}}}',
                header=ACCESS_HEADER,
            ),
        )

    def test_only_what_was_allowed_is_granted(self) -> None:
        capability = Capability("AC1")
        self.assertEqual(
            self.claims(capability, identity="bob")["grants"], {"identity": "bob", "voice": {}}
        )
        capability.allow_client_outgoing("AP1", {})
        self.assertEqual(
            self.claims(capability, identity="bob")["grants"],
            {"identity": "bob", "voice": {"outgoing": {"application_sid": "AP1"}}},
        )

    def test_the_identity_may_repeat_the_client_name(self) -> None:
        self.assertEqual(self.claims(alice(), identity="Alice"), self.claims(alice()))

    def test_the_same_permission_twice_is_one_grant(self) -> None:
        twice = alice()
        twice.allow_client_incoming("Alice")
        twice.allow_client_outgoing("AP123123", {"Foo": "Bar"})
        self.assertEqual(self.claims(twice), self.claims(alice()))

    def test_params_keep_their_type_and_their_text(self) -> None:
        capability = Capability("AC1")
        params: dict[str, str | int] = {"n": 3, "s": "3", "slash": "a/b", "zoë": '☃😀"\\\n'}
        capability.allow_client_outgoing("AP1", params)
        token = capability.generate_access_token("SK1", "s", identity="a", now=NOW)
        self.assertIn(
            r'{"n":3,"s":"3","slash":"a/b","zo\u00eb":"\u2603\ud83d\ude00\"\\\n"}',
            decoded(token.split(".")[1]),
        )
        granted = self.claims(capability, identity="a")["grants"]["voice"]["outgoing"]["params"]
        self.assertEqual(granted, params)
        self.assertEqual(list(granted), list(params))

    def test_the_auth_token_is_not_used(self) -> None:
        self.assertEqual(self.claims(alice("secret")), self.claims(alice(None)))

    def test_what_it_cannot_carry_is_refused(self) -> None:
        def refused(reason: str, *calls: tuple[Any, ...], identity: str | None = None) -> None:
            capability = Capability("AC1")
            for name, *arguments in calls:
                getattr(capability, name)(*arguments)
            with self.subTest(calls=calls), self.assertRaisesRegex(ValueError, reason):
                capability.generate_access_token("SK1", "s", identity=identity)

        alice_in, bob_in = ("allow_client_incoming", "Alice"), ("allow_client_incoming", "bob")
        refused("identity must be one.*got 2", alice_in, bob_in)
        refused("identity must be one.*got 2", alice_in, bob_in, identity="Alice")
        refused("identity must be one.*got 2", alice_in, identity="bob")
        refused("identity must be one.*got 2", alice_in, identity="alice")
        refused("identity must be one.*got 0")
        refused("identity must be one.*got 0", ("allow_client_outgoing", "AP1"))
        app = ("allow_client_outgoing", "AP1", {"a": "1"})
        for other in (
            ("allow_client_outgoing", "AP2", {"a": "1"}),
            ("allow_client_outgoing", "AP1", {"a": 1}),
            ("allow_client_outgoing", "AP1"),
        ):
            refused("application_sid must be one", alice_in, app, other)
        refused("no event stream", alice_in, ("allow_event_stream",))
        refused("no event stream", ("allow_event_stream",), alice_in, app)
        refused("no event stream", alice_in, ("allow_event_stream", {"a": "b"}))

    def test_what_a_capability_was_told_comes_back(self) -> None:
        rng = random.Random(20241006)
        for _ in range(1000):
            params = {some_text(rng): some_value(rng)}
            capability = Capability("AC1")
            capability.allow_client_outgoing("AP1", params)
            grants = self.claims(capability, identity="a")["grants"]
            self.assertEqual(
                grants["voice"]["outgoing"], {"application_sid": "AP1", "params": params}
            )


AUTH_TOKEN = "auth-s3cr3t"
ENVIRONMENT = {
    "TWILIO_ACCOUNT_SID": "AC123123",
    "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
    "TWILIO_API_KEY": "SK123123",
    "TWILIO_API_SECRET": "key-s3cr3t",
}


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command: `given`, and nothing that would change what Python does."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TWILIO_", "PYTHON"))}
    return {**kept, "LC_ALL": "C", "PYTHONIOENCODING": "utf-8:strict", **given}


def command(
    *arguments: str,
    env: Mapping[str, str] = ENVIRONMENT,
    stdin: str | bytes = b"",
    program: tuple[str, ...] = (sys.executable, str(MODULE)),
    cwd: Path = HERE,
) -> tuple[int, str, str]:
    """Run the command line and return its exit status, output and error output."""
    done = subprocess.run(
        [*program, *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        check=False,
        env=environment(env),
        cwd=str(cwd),
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def in_process(
    *arguments: str,
    env: Mapping[str, str] = ENVIRONMENT,
    stdin: Any = "",
    stdout: Any = None,
) -> tuple[int, str, str]:
    """Do the same by main(), with other standard streams."""
    output, errors = stdout or io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), environ(env):
        saved, sys.stdin = sys.stdin, io.StringIO(stdin) if isinstance(stdin, str) else stdin
        try:
            status = main(arguments)
        finally:
            sys.stdin = saved
    return status, getattr(output, "getvalue", str)(), errors.getvalue()


@contextlib.contextmanager
def environ(given: Mapping[str, str]) -> Iterator[None]:
    """Give this process the environment of a command."""
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment(given))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


class CommandLineTest(unittest.TestCase):
    def assert_fails(self, status: int, reason: str, *arguments: str, **options: Any) -> None:
        with self.subTest(arguments=arguments):
            code, output, errors = command(*arguments, **options)
            self.assertEqual((code, output), (status, ""), errors)
            self.assertRegex(errors, r"\Atwilio-capability: [^\n]*" + reason)
            self.assertEqual(errors.count("\n"), 1)
            for secret in ("AC123123", "s3cr3t", "SK123123", "AP123123"):
                self.assertNotIn(secret, errors)

    def test_generate_prints_the_token_and_a_newline(self) -> None:
        for program, cwd in (
            ((sys.executable, str(MODULE)), Path(tempfile.gettempdir())),
            ((sys.executable, "-m", "twilio_capability"), HERE),
        ):
            code, output, errors = command(
                "generate", "--incoming", "Alice", "--outgoing", "AP123123", "--param", "Foo=Bar",
                "--ttl", "600", program=program, cwd=cwd,
            )  # fmt: skip
            self.assertEqual((code, errors), (0, ""))
            self.assertRegex(output, r"\A[\w-]+\.[\w-]+\.[\w-]+\n\Z")
            claims = verify_token(output.strip(), AUTH_TOKEN)
            self.assertEqual(
                output.strip(), alice(AUTH_TOKEN).generate_token(600, now=claims["exp"] - 600)
            )

    def test_generate_takes_every_kind_of_permission(self) -> None:
        arguments = "generate --incoming a --incoming b --outgoing AP1 --outgoing AP2 --events"
        fields = [
            "--param",
            "a=b=c",
            "--param",
            "é=",
            "--event-filter",
            "x=1",
            "--event-filter",
            "y=",
        ]
        _, output, _ = command(*arguments.split(), *fields)
        capability = Capability("AC123123", AUTH_TOKEN)
        capability.allow_client_incoming("a")
        capability.allow_client_incoming("b")
        capability.allow_client_outgoing("AP1", {"a": "b=c", "é": ""})
        capability.allow_client_outgoing("AP2", {"a": "b=c", "é": ""})
        capability.allow_event_stream({"x": "1", "y": ""})
        exp = inspect_token(output.strip())["claims"]["exp"]
        self.assertEqual(output.strip(), capability.generate_token(now=exp - 3600))
        self.assertTrue(time.time() + 3500 < exp <= time.time() + 3600)

    def test_generate_needs_no_api_key_for_a_capability_token_and_only_that_for_an_access_token(
        self,
    ) -> None:
        plain = {k: v for k, v in ENVIRONMENT.items() if "API" not in k}
        self.assertEqual(command("generate", env=plain)[0], 0)
        access = {k: v for k, v in ENVIRONMENT.items() if k != "TWILIO_AUTH_TOKEN"}
        self.assertEqual(command("generate", "--access", "--identity", "a", env=access)[0], 0)

    def test_generate_access_prints_an_access_token(self) -> None:
        for arguments, options in (
            (["--incoming", "Alice"], {}),
            (["--identity", "Alice"], {"identity": "Alice"}),
        ):
            _, output, _ = command(
                "generate", "--access", "--outgoing", "AP123123", "--param", "Foo=Bar",
                "--ttl", "60", *arguments,
            )  # fmt: skip
            capability = Capability("AC123123")
            if not options:
                capability.allow_client_incoming("Alice")
            capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
            now = inspect_token(output.strip())["claims"]["exp"] - 60
            self.assertEqual(
                output.strip(),
                capability.generate_access_token("SK123123", "key-s3cr3t", 60, now=now, **options),
            )

    def test_a_missing_or_empty_variable_is_named(self) -> None:
        def without(name: str, **given: str) -> dict[str, str]:
            return {**{k: v for k, v in ENVIRONMENT.items() if k != name}, **given}

        access_token = alice(AUTH_TOKEN).generate_access_token("SK123123", "key-s3cr3t")
        for name, arguments in (
            ("TWILIO_ACCOUNT_SID", ["generate"]),
            ("TWILIO_AUTH_TOKEN", ["generate"]),
            ("TWILIO_API_KEY", ["generate", "--access", "--identity", "a"]),
            ("TWILIO_API_SECRET", ["generate", "--access", "--identity", "a"]),
            ("TWILIO_AUTH_TOKEN", ["verify", alice(AUTH_TOKEN).generate_token()]),
            ("TWILIO_API_SECRET", ["verify", access_token]),
        ):
            self.assert_fails(2, name, *arguments, env=without(name))
            self.assert_fails(2, name, *arguments, env=without(name, **{name: ""}))

    def test_wrong_usage_is_one_line_and_status_2(self) -> None:
        for reason, arguments in (
            ("required: COMMAND", []),
            ("invalid choice", ["AC123123", "s3cr3t"]),
            ("unrecognized arguments", ["generate", "AC123123", "s3cr3t"]),
            ("unrecognized arguments", ["generate", "--auth-token", "s3cr3t"]),
            ("unrecognized arguments", ["generate", "--auth-token=s3cr3t"]),
            ("unrecognized arguments", ["generate", "--i=s3cr3t"]),
            ("unrecognized arguments", ["verify", "a.b.c", "s3cr3t"]),
            ("--incoming: expected one argument", ["generate", "--incoming"]),
            ("--events: ignored explicit argument", ["generate", "--events=s3cr3t"]),
            ("--events: ignored explicit argument", ["generate", "--events=sec'ret \"s3cr3t"]),
            ("--ttl: invalid int value", ["generate", "--ttl", "s3cr3t"]),
            ("--ttl: invalid int value", ["generate", "--ttl", "s3cr3t'"]),
            (
                r"--ttl: invalid int value \(see twilio-capability generate --help\)",
                ["generate", "--ttl", "1.5"],
            ),
            ("ttl must be 1 to 86400", ["generate", "--ttl", "86401"]),
            ("client_name must match", ["generate", "--incoming", "AC123123 secret"]),
            ("client_name must match", ["generate", "--incoming", ""]),
            ("application_sid must match", ["generate", "--outgoing", "s3cr3t"]),
            ("--param: must be KEY=VALUE", ["generate", "--outgoing", "AP1", "--param", "s3cr3t"]),
            ("twice", ["generate", "--outgoing", "AP1", "--param", "a=1", "--param", "a=2"]),
            ("twice", ["generate", "--events", "--event-filter", "a=", "--event-filter", "a="]),
            ("--param needs --outgoing", ["generate", "--param", "a=1"]),
            ("--event-filter needs --events", ["generate", "--event-filter", "a=1"]),
            ("--identity needs --access", ["generate", "--identity", "a"]),
            ("--identity needs --access", ["generate", "--identity", ""]),
            ("identity must match", ["generate", "--access", "--identity", "a b"]),
            ("identity must be one", ["generate", "--access"]),
            ("no event stream", ["generate", "--access", "--events", "--identity", "a"]),
        ):
            self.assert_fails(2, reason, *arguments)

    def test_swapped_credentials_are_refused_and_not_shown(self) -> None:
        swapped = {"TWILIO_ACCOUNT_SID": AUTH_TOKEN, "TWILIO_AUTH_TOKEN": "AC123123"}
        self.assert_fails(2, "account_sid must match", "generate", env=swapped)

    @unittest.skipIf(os.name == "nt", "Windows has no bytes that are not text in arguments")
    def test_bytes_that_are_no_text_are_refused(self) -> None:
        bad = os.fsdecode(b"\xff")
        self.assert_fails(2, "params", "generate", "--outgoing", "AP1", "--param", "a=" + bad)
        self.assert_fails(
            2, "auth_token", "generate", env={**ENVIRONMENT, "TWILIO_AUTH_TOKEN": bad}
        )
        self.assert_fails(1, "three segments of ASCII", "verify", bad)
        for stdin in (b"\xff", b"\xff.\xff.\xff"):
            self.assert_fails(1, "standard input", "verify", stdin=stdin)
            lenient = {**ENVIRONMENT, "PYTHONIOENCODING": "utf-8:surrogateescape"}
            self.assert_fails(1, "three segments of ASCII", "inspect", stdin=stdin, env=lenient)

    def test_verify_reports_on_a_capability_token(self) -> None:
        capability = alice(AUTH_TOKEN)
        capability.allow_client_outgoing("AP1")
        capability.allow_event_stream({"a": "b c"})
        now = int(time.time())
        token = capability.generate_token(now=now)
        code, output, errors = command("verify", token)
        self.assertEqual((code, errors), (0, ""))
        report = json.loads(output)
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 3600))
        self.assertEqual(
            report,
            {
                **inspect_token(token),
                "scopes": [
                    {
                        "service": "client",
                        "privilege": "incoming",
                        "params": {"clientName": "Alice"},
                    },
                    {
                        "service": "client",
                        "privilege": "outgoing",
                        "params": {
                            "appSid": "AP123123",
                            "appParams": {"Foo": "Bar"},
                            "clientName": "Alice",
                        },
                    },
                    {
                        "service": "client",
                        "privilege": "outgoing",
                        "params": {"appSid": "AP1", "appParams": {}, "clientName": "Alice"},
                    },
                    {
                        "service": "stream",
                        "privilege": "subscribe",
                        "params": {"path": "/2010-04-01/Events", "params": {"a": "b c"}},
                    },
                ],
                "expires": expires,
                "expired": False,
                "signature": "valid",
            },
        )
        self.assertEqual(
            list(report), ["header", "claims", "scopes", "expires", "expired", "signature"]
        )
        self.assertTrue(output.startswith('{\n  "header": {\n    "typ": "JWT",'))

    def test_the_token_may_come_from_standard_input(self) -> None:
        token = alice(AUTH_TOKEN).generate_token()
        expected = command("verify", token)
        self.assertEqual(expected[0], 0)
        for arguments in (["verify"], ["verify", "-"]):
            for stdin in (token, token + "\n", token + "\r\n", "\n " + token):
                self.assertEqual(command(*arguments, stdin=stdin), expected)

    def test_an_empty_token_is_a_bad_token(self) -> None:
        """An empty "$TOKEN" in a script must not wait for standard input."""
        token = alice(AUTH_TOKEN).generate_token()
        for name in ("verify", "inspect"):
            self.assert_fails(1, "token", name, "", stdin=token)

    def test_verify_reports_on_an_access_token(self) -> None:
        token = alice(AUTH_TOKEN).generate_access_token("SK123123", "key-s3cr3t")
        code, output, _ = command("verify", token)
        report = json.loads(output)
        self.assertEqual((code, report["signature"], report["scopes"]), (0, "valid", []))
        self.assertEqual(report["claims"]["grants"]["identity"], "Alice")

    def test_verify_takes_the_api_secret_for_access_tokens_alone(self) -> None:
        payload = '{"exp":%d}' % (time.time() + 60)
        token = mint(payload, AUTH_TOKEN, '{"alg":"HS256","cty":"JWT"}')
        self.assertEqual(command("verify", token)[0], 0)

    def test_a_token_that_does_not_verify_is_status_1(self) -> None:
        token = alice(AUTH_TOKEN).generate_token()
        self.assert_fails(1, "signature mismatch", "verify", token[:-2])
        self.assert_fails(
            1, "signature mismatch", "verify", Capability("AC1", "k").generate_token()
        )
        self.assert_fails(
            1,
            "signature mismatch",
            "verify",
            alice(AUTH_TOKEN).generate_access_token("SK1", "k"),
        )
        self.assert_fails(
            1, "expired at 1970-01-01T01:00:00Z", "verify", alice(AUTH_TOKEN).generate_token(now=0)
        )
        self.assert_fails(1, "signature mismatch", "verify", mint("no JSON"))
        for token in ("", "a", "a.b.c", mint("[]", AUTH_TOKEN), mint("{}", header="[]")):
            self.assert_fails(1, "token|header|payload", "verify", token)
            self.assert_fails(1, "token|header|payload", "inspect", token)
            self.assert_fails(1, "token|header|payload", "verify", "-", stdin=token)

    def test_inspect_reports_without_a_secret(self) -> None:
        token = alice(AUTH_TOKEN).generate_token(now=0)
        code, output, errors = command("inspect", token, env={})
        self.assertEqual((code, errors), (0, ""))
        report = json.loads(output)
        self.assertEqual(report["signature"], "not checked")
        self.assertEqual((report["expires"], report["expired"]), ("1970-01-01T01:00:00Z", True))

    def test_inspect_shows_what_is_wrong(self) -> None:
        for claims, expires, expired in (
            ('{"exp":"soon"}', None, None),
            ('{"exp":1.5}', None, None),
            ('{"exp":true}', None, None),
            ("{}", None, None),
            ('{"exp":253402300799}', "9999-12-31T23:59:59Z", False),
            ('{"exp":253402300800}', None, False),
            ('{"exp":1767226200000}', None, False),
            ('{"exp":1%s}' % ("0" * 400), None, False),
            ('{"exp":-1%s}' % ("0" * 400), None, True),
            ('{"exp":-1}', "1969-12-31T23:59:59Z", True),
        ):
            report = json.loads(command("inspect", mint(claims))[1])
            with self.subTest(claims=claims[:40]):
                self.assertEqual((report["expires"], report["expired"]), (expires, expired))
        for scope, scopes in (
            ('"scope:a:b x scope:a:c?appParams=x"', [
                {"service": "a", "privilege": "b", "params": {}},
                {"unreadable": "x"},
                {"unreadable": "scope:a:c?appParams=x"},
            ]),
            ('""', []),
            ("7", []),
            ('["scope:a:b"]', []),
        ):  # fmt: skip
            report = json.loads(command("inspect", mint('{"scope":%s}' % scope))[1])
            self.assertEqual(report["scopes"], scopes)

    def test_a_report_is_ascii(self) -> None:
        token = mint('{"x":"é\\ud800\\u009b☃"}')
        self.assertIn(r'"x": "\u00e9\ud800\u009b\u2603"', command("inspect", token)[1])

    def test_a_token_nested_too_deeply_is_status_1(self) -> None:
        # Where the limit is, and whether reading or writing meets it first, depends on Python.
        for depth in (200, 900, 994, 2000, 20000):
            status, _, errors = command("inspect", stdin=mint('{"a":' * depth + "1" + "}" * depth))
            self.assertIn(status, (0, 1))
            self.assertEqual(errors.count("\n"), status, errors)
        self.assertEqual(status, 1)

    def test_version_and_help(self) -> None:
        version = f"twilio-capability {twilio_capability.__version__}\n"
        self.assertEqual(command("--version", env={}), (0, version, ""))
        for arguments in (["--help"], ["generate", "-h"], ["verify", "--help"], ["inspect", "-h"]):
            code, output, errors = command(*arguments, env={})
            self.assertEqual((code, errors), (0, ""))
            for text in ("xample", "generate --incoming Alice", "TWILIO_AUTH_TOKEN"):
                self.assertIn(text, output)

    @unittest.skipIf(os.name == "nt", "POSIX pipes, signals and devices")
    def test_the_end_of_a_pipe_is_no_traceback(self) -> None:
        token = alice(AUTH_TOKEN).generate_token()
        for arguments in (["verify", token], ["generate"], ["--help"], ["--version"]):
            with self.subTest(arguments=arguments[0]):
                read, write = os.pipe()
                os.close(read)
                done = subprocess.run(
                    [sys.executable, str(MODULE), *arguments],
                    check=False,
                    stdout=write,
                    stderr=subprocess.PIPE,
                    env=environment(ENVIRONMENT),
                    timeout=60,
                )
                os.close(write)
                self.assertEqual(done.returncode, 1)
                self.assertEqual(done.stderr, b"")

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_a_full_disk_is_an_error_of_one_line(self) -> None:
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [sys.executable, str(MODULE), "generate"],
                check=False,
                stdout=full,
                stderr=subprocess.PIPE,
                env=environment(ENVIRONMENT),
                timeout=60,
            )
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, rb"\Atwilio-capability: [^\n]*No space left[^\n]*\n\Z")

    @unittest.skipIf(os.name == "nt", "POSIX pipes, signals and devices")
    def test_closed_and_unreadable_streams_are_no_traceback(self) -> None:
        shell = f'"{sys.executable}" "{MODULE}" generate --ttl 0 2>&-'
        self.assertEqual(command(program=("/bin/sh", "-c", shell)), (2, "", ""))
        shell = f'"{sys.executable}" "{MODULE}" generate >&-'
        self.assert_fails(1, "standard output is closed", program=("/bin/sh", "-c", shell))
        shell = f'"{sys.executable}" "{MODULE}" verify <&- >&-'
        self.assert_fails(1, "standard input", program=("/bin/sh", "-c", shell))
        for redirection, reason in (("<&-", "standard input"), ("0>/dev/null", "standard input")):
            shell = f'"{sys.executable}" "{MODULE}" verify {redirection}'
            self.assert_fails(1, reason, program=("/bin/sh", "-c", shell))

    @unittest.skipIf(os.name == "nt", "POSIX pipes, signals and devices")
    def test_ctrl_c_is_no_traceback(self) -> None:
        # The child says that it is about to read, so that the signal cannot come too early.
        script = (
            "import signal, sys, twilio_capability as t\n"
            "class Input:\n"
            "    def read(self):\n"
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
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        self.assertEqual((process.returncode, output, errors), (130, b"", b""))

    def test_main_does_the_same_in_process(self) -> None:
        access_token = alice().generate_access_token("SK123123", "key-s3cr3t")
        for arguments in (
            ["--version"],
            ["verify", access_token],
            ["verify", alice(AUTH_TOKEN).generate_token()],
            ["verify", alice(AUTH_TOKEN).generate_token(now=0)],
            ["verify", "x"],
            ["inspect", "-"],
            ["inspect", mint('{"scope":"x scope:a:b?params=a%3Db&c=d","exp":253402300800}')],
            ["inspect", mint('{"exp":"soon"}')],
            ["generate", "--ttl", "0"],
            ["generate", "--access", "--param", "a=1"],
            ["generate", "--param", "a"],
            ["generate", "--access"],
            ["generate", "AC123123"],
            [],
        ):
            with self.subTest(arguments=[argument[:40] for argument in arguments]):
                self.assertEqual(in_process(*arguments), command(*arguments))
        self.assertEqual(in_process("generate", env={}), command("generate", env={}))
        deep = mint('{"a":' * 900 + "1" + "}" * 900)
        self.assertEqual(in_process("inspect", stdin=deep), command("inspect", stdin=deep))
        token = alice(AUTH_TOKEN).generate_token()
        self.assertEqual(in_process("verify", stdin=token + "\n"), command("verify", token))
        self.assertEqual(in_process("verify", stdin=None)[0], 1)

    def test_main_generates_in_process(self) -> None:
        arguments = ["--incoming", "a", "--outgoing", "AP1", "--param", "a=1"]
        events = ["--events", "--event-filter", "b=2"]
        status, output, errors = in_process("generate", *arguments, *events)
        self.assertEqual((status, errors), (0, ""))
        scopes = verify_token(output.strip(), AUTH_TOKEN)["scope"].split()
        self.assertEqual([ScopeURI.parse(uri).params.get("params") for uri in scopes[2:]], ["b=2"])
        status, output, errors = in_process("generate", "--access", *arguments)
        self.assertEqual((status, errors), (0, ""))
        grants = verify_token(output.strip(), "key-s3cr3t")["grants"]
        self.assertEqual(grants["voice"]["outgoing"]["params"], {"a": "1"})

    def test_main_survives_streams_that_fail(self) -> None:
        class Interrupted(io.StringIO):
            def read(self, size: int | None = -1) -> str:
                raise KeyboardInterrupt

        self.assertEqual(in_process("verify", stdin=Interrupted()), (130, "", ""))

        for reading, message in (
            (OSError(5, "Input/output error"), "no token can be read from standard input"),
            (RecursionError("depth"), "the token is nested too deeply to be shown"),
        ):

            class Unreadable(io.StringIO):
                def read(self, size: int | None = -1, error: Exception = reading) -> str:
                    raise error

            expected = (1, "", f"twilio-capability: {message}\n")
            self.assertEqual(in_process("verify", stdin=Unreadable()), expected)
        for error, message in (
            (BrokenPipeError(32, "Broken pipe"), ""),
            (OSError(28, "Full"), "twilio-capability: cannot write: [Errno 28] Full\n"),
        ):
            with tempfile.TemporaryFile() as file:

                class Failing(io.StringIO):
                    def flush(self, error: OSError = error) -> None:
                        raise error

                    def fileno(self, number: int = file.fileno()) -> int:
                        return number

                status, _, errors = in_process("generate", stdout=Failing())
                self.assertEqual((status, errors), (1, message))
                # What a late flush writes goes nowhere.
                self.assertTrue(os.path.samestat(os.fstat(file.fileno()), os.stat(os.devnull)))


class ModuleTest(unittest.TestCase):
    """One file that imports the standard library and no more of it than it needs."""

    def test_the_copied_file_works_alone(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(MODULE, folder)
            Path(folder, "script.py").write_text(
                "from twilio_capability import Capability\n"
                "print(Capability('AC123123', 'secret').generate_token(now=0))\n"
            )
            for flags in ((), ("-OO",)):
                code, output, errors = command(
                    "script.py", program=(sys.executable, "-S", *flags), cwd=Path(folder)
                )
                token = Capability("AC123123", "secret").generate_token(now=0)
                self.assertEqual((code, output, errors), (0, token + "\n", ""))
                code, output, errors = command(
                    "twilio_capability.py", "generate", program=(sys.executable, "-S", *flags),
                    cwd=Path(folder),
                )  # fmt: skip
                self.assertEqual((code, errors), (0, ""))

    def test_importing_it_imports_no_more_than_its_five_modules_do(self) -> None:
        script = "import {}, sys; print(sorted(sys.modules))"
        names = "hmac, hashlib, base64, json, urllib.parse"
        loaded = [
            set(ast.literal_eval(command("-c", script.format(m), program=(sys.executable,))[1]))
            for m in (names, "twilio_capability")
        ]
        own = {"twilio_capability", "__future__", "collections.abc"}
        self.assertEqual(loaded[1] - loaded[0] - own, set())

    def test_run_as_a_script_it_exits_with_the_status_of_main(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as caught:
            self.addCleanup(setattr, sys, "argv", sys.argv)
            sys.argv = ["twilio_capability.py", "inspect", "x"]
            runpy.run_path(str(MODULE), run_name="__main__")
        self.assertEqual(caught.exception.code, 1)

    def test_all_names_what_is_public(self) -> None:
        public = {
            name
            for name, value in vars(twilio_capability).items()
            if getattr(value, "__module__", None) == "twilio_capability" and name[0] != "_"
        }
        # main stays out: "import *" must not replace a script's own.
        self.assertEqual(set(twilio_capability.__all__), public - {"main"})
        for name in public:
            self.assertTrue(getattr(twilio_capability, name).__doc__, name)

    def test_every_annotation_means_something(self) -> None:
        source = MODULE.read_text(encoding="utf-8")
        typed = source.replace("TYPE_CHECKING = False", "TYPE_CHECKING = True")
        self.assertNotEqual(typed, source)
        namespace: dict[str, Any] = {"__name__": "typed"}
        exec(compile(typed, str(MODULE), "exec"), namespace)
        if sys.version_info < (3, 10):
            self.skipTest("str | None has no meaning at run time before Python 3.10")
        for name in namespace["__all__"]:
            members = [namespace[name], *vars(namespace[name]).values()]
            for member in members if isinstance(namespace[name], type) else members[:1]:
                function = getattr(member, "__func__", member)
                if hasattr(function, "__annotations__") and callable(function):
                    typing.get_type_hints(function, namespace)


README = HERE / "README.md"
TEST_COMMAND = "python3 -m unittest"


def readme_blocks() -> Iterator[tuple[str, str]]:
    """The README's fenced blocks: their language and their text."""
    return iter(
        re.findall(
            r"^```(\w+)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    )


@unittest.skipUnless(README.exists(), "the module was copied without its README")
class ReadmeTest(unittest.TestCase):
    """Every block is run, but for the test command, which would run itself."""

    def test_every_block_is_of_a_kind_that_is_run(self) -> None:
        blocks = list(readme_blocks())
        self.assertEqual(README.read_text(encoding="utf-8").count("\n```"), 2 * len(blocks))
        self.assertEqual({language for language, _ in blocks}, {"sh", "text", "json", "python"})
        self.assertIn(("sh", TEST_COMMAND + "\n"), blocks)

    def test_ci_starts_with_the_test_command(self) -> None:
        lines = (HERE / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        commands = [line for line in lines if "python3 " in line and not line.startswith("#")]
        self.assertEqual(commands[0], TEST_COMMAND)

    @unittest.skipIf(os.name == "nt", "the README's commands are for a POSIX shell")
    def test_the_shell_commands_print_what_they_show(self) -> None:
        blocks = list(readme_blocks())
        ran = 0
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(MODULE, folder)
            for name, arguments in (("python3", ""), ("twilio-capability", f'"{MODULE}" ')):
                wrapper = Path(folder, name)
                wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
                wrapper.chmod(0o755)
            path = folder + os.pathsep + os.environ["PATH"]
            for (language, text), (_, shown) in zip(blocks, [*blocks[1:], ("", "")]):
                if language != "sh" or text.strip() == TEST_COMMAND:
                    continue
                code, output, errors = command(
                    program=("/bin/sh", "-euc", text), env={"PATH": path}, cwd=Path(folder)
                )
                self.assertEqual((code, errors), (0, ""), text)
                if " generate " in text:  # the time is in the token
                    made, token = output.strip(), shown.strip()
                    claims = inspect_token(token)["claims"]
                    verify_token(token, "secret", now=claims["exp"] - 1)
                    self.assertEqual(
                        {**inspect_token(made)["claims"], "exp": 0}, {**claims, "exp": 0}
                    )
                else:
                    self.assertEqual(output, shown)
                ran += 1
        self.assertGreaterEqual(ran, 2)

    def test_the_python_blocks_do_what_they_say(self) -> None:
        printed = []
        for language, text in readme_blocks():
            if language == "python" and "flask" not in text:
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(compile(text, "README.md", "exec"), {"__name__": "readme"})
                printed.append(output.getvalue().split())
        walk, verified, *moving = printed
        hour, ten_minutes = (verify_token(token, "secret") for token in walk)
        self.assertIn(hour["exp"] - ten_minutes["exp"], (3000, 2999))
        self.assertEqual(walk[0], alice().generate_token(now=hour["exp"] - 3600))
        self.assertEqual(verified, ["Alice"])
        self.assertEqual(moving, [[], [], []])

    def test_every_argument_has_its_rule_in_the_table(self) -> None:
        text = README.read_text(encoding="utf-8")
        table = text.partition("## The rules on input")[2].partition("\n## ")[0]
        cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        functions = [
            *(value for name, value in vars(Capability).items() if callable(value)),
            ScopeURI.__init__,
            verify_token,
        ]
        arguments = {name for f in functions for name in inspect.signature(f).parameters}
        self.assertEqual(named - {"ScopeURI"}, arguments - {"self", "token"})


@unittest.skipUnless(os.environ.get("TWILIO_CAPABILITY_INTEROP"), "run by tox -e interop")
class InteropTest(unittest.TestCase):
    """Tokens exchanged with other libraries, in both directions."""

    def setUp(self) -> None:
        self.jwt = importlib.import_module("jwt")
        self.jose = importlib.import_module("joserfc.jwt")
        self.jwk = importlib.import_module("joserfc.jwk")
        self.secret = "a secret of thirty-two bytes or more"

    def ours(self) -> list[str]:
        capability = alice(self.secret)
        access_token = capability.generate_access_token("SK123123", self.secret)
        capability.allow_event_stream({"a b": "~ë&"})
        return [capability.generate_token(), access_token]

    def test_pyjwt_verifies_our_tokens(self) -> None:
        for token in self.ours():
            claims = self.jwt.decode(token, self.secret, algorithms=["HS256"])
            self.assertEqual(claims, verify_token(token, self.secret))
            self.assertEqual(self.jwt.get_unverified_header(token), inspect_token(token)["header"])
            with self.assertRaises(self.jwt.InvalidSignatureError):
                self.jwt.decode(token, self.secret + "x", algorithms=["HS256"])

    def test_we_verify_the_tokens_of_pyjwt(self) -> None:
        claims = {"scope": "", "iss": "AC1", "exp": int(time.time()) + 60, "nbf": 1, "é": ["☃"]}
        token = self.jwt.encode(claims, self.secret, algorithm="HS256")
        self.assertEqual(verify_token(token, self.secret), claims)
        with self.assertRaises(InvalidSignatureError):
            verify_token(token, self.secret + "x")
        for algorithm in ("HS384", "HS512", "none"):
            other = self.jwt.encode(
                claims, self.secret if algorithm != "none" else "", algorithm=algorithm
            )
            with self.assertRaises(InvalidTokenError):
                verify_token(other, self.secret)

    def test_joserfc_verifies_our_tokens(self) -> None:
        key = self.jwk.OctKey.import_key(self.secret)
        for token in self.ours():
            read = self.jose.decode(token, key, algorithms=["HS256"])
            self.assertEqual(read.claims, verify_token(token, self.secret))
            self.assertEqual(read.header, inspect_token(token)["header"])

    def test_we_verify_the_tokens_of_joserfc(self) -> None:
        claims = {"scope": "", "iss": "AC1", "exp": int(time.time()) + 60}
        key = self.jwk.OctKey.import_key(self.secret)
        token = self.jose.encode({"alg": "HS256"}, claims, key)
        self.assertEqual(verify_token(token, self.secret), claims)

    def test_twilio_python_writes_the_same_capability(self) -> None:
        client = importlib.import_module("twilio.jwt.client")
        theirs = client.ClientCapabilityToken("AC123123", self.secret, ttl=600)
        theirs.allow_client_incoming("Alice")
        theirs.allow_client_outgoing("AP123123", **{"Foo": "Bar", "a b": "~ë&"})
        theirs.allow_event_stream(x="1 2")
        ours = Capability("AC123123", self.secret)
        ours.allow_client_incoming("Alice")
        ours.allow_client_outgoing("AP123123", {"Foo": "Bar", "a b": "~ë&"})
        ours.allow_event_stream({"x": "1 2"})

        def meaning(token: str) -> list[Any]:
            scopes = []
            for uri in verify_token(token, self.secret)["scope"].split(" "):
                scope = vars(ScopeURI.parse(uri))
                for name in scope["params"].keys() & {"appParams", "params"}:
                    scope["params"][name] = urllib.parse.parse_qs(scope["params"][name])
                scopes.append(scope)
            return scopes

        self.assertEqual(meaning(theirs.to_jwt()), meaning(ours.generate_token(600)))
        read = client.ClientCapabilityToken.from_jwt(ours.generate_token(600), self.secret)
        self.assertEqual(read.payload["iss"], "AC123123")

    def test_twilio_python_writes_the_same_access_token(self) -> None:
        access_token = importlib.import_module("twilio.jwt.access_token")
        grants = importlib.import_module("twilio.jwt.access_token.grants")
        cases: list[dict[str, str | int] | None] = [{"Foo": "Bar"}, {"n": 3, "zoë": "☃"}, None]
        for params in cases:
            theirs = access_token.AccessToken(
                "AC123123", "SK123123", self.secret, identity="Alice", ttl=600
            )
            theirs.add_grant(
                grants.VoiceGrant(
                    incoming_allow=True,
                    outgoing_application_sid="AP123123",
                    outgoing_application_params=params,
                )
            )
            token = theirs.to_jwt()
            claims = verify_token(token, self.secret)
            ours = Capability("AC123123")
            ours.allow_client_incoming("Alice")
            ours.allow_client_outgoing("AP123123", params)
            made = ours.generate_access_token("SK123123", self.secret, 600, now=claims.pop("nbf"))
            self.assertEqual(verify_token(made, self.secret), claims)
            self.assertEqual(inspect_token(made)["header"], inspect_token(token)["header"])

    def test_the_web_endpoint_of_the_readme_answers_its_user_alone(self) -> None:
        (block,) = [text for language, text in readme_blocks() if "flask" in text]
        namespace: dict[str, Any] = {"__name__": "readme"}
        variables = {**ENVIRONMENT, "FLASK_SECRET_KEY": "k", "TWILIO_APP_SID": "AP1"}
        with environ(variables):
            exec(compile(block, "README.md", "exec"), namespace)
            browser = namespace["app"].test_client()
            self.assertEqual(browser.post("/token").status_code, 401)
            with browser.session_transaction(base_url="https://localhost") as session:
                session["user_id"] = 7
            answer = browser.post("/token", base_url="https://localhost")
        self.assertEqual(answer.status_code, 200)
        claims = verify_token(answer.get_json()["token"], AUTH_TOKEN)
        self.assertIn("clientName=user_7", claims["scope"])
        self.assertEqual(answer.headers["Cache-Control"], "no-store")


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None
) -> unittest.TestSuite:
    tests.addTests(doctest.DocTestSuite(twilio_capability, optionflags=doctest.ELLIPSIS))
    return tests


if __name__ == "__main__":
    unittest.main()
