"""What twilio_capability promises: a class a topic, a test a sentence.

Run with nothing but Python: python3 -m unittest. What needs other libraries is in .ci.

The known-good vectors come first, then the helpers that several classes share. A class
for each public name follows, in the order of the module; then the file itself, the
command line, the messages and the README.
"""

from __future__ import annotations

import ast
import base64
import collections
import contextlib
import copy
import doctest
import enum
import hmac
import html
import http.server
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
import string
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import typing
import unittest
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Callable, NamedTuple
from unittest import mock
from urllib.parse import urlencode
from xml.etree import ElementTree

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

NOW = 1767225600  # 2026-01-01T00:00:00Z
INCOMING = "allow_client_incoming"
OUTGOING = "allow_client_outgoing"
EVENTS = "allow_event_stream"

# ---- Known-good vectors: tokens that Twilio's own libraries made ---------------------
# fmt: off

# twilio-php 3.12.7 (commit 3a3410468ae1b7fb68c0fe0dd1203d8f511832f0), the class
# Services_Twilio_Capability, under PHP 8.2.36 at NOW: account SID, auth token, calls,
# TTL (None: the default), token. Made again by .ci/make_vectors.py, as are the next.
CAPABILITY_TOKENS: list[tuple[str, str, list[tuple[Any, ...]], int | None, str]] = [
    ("AC123123", "secret", [], None,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6IiIsImlzcyI6IkFDMTIzMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ.GTC4YI8isVKafLO0vnuTwY73tzZBa1wsLwKW5wwh1Q0"),
    ("AC123123", "secret", [(INCOMING, "Alice")], None,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIiwiaXNzIjoiQUMxMjMxMjMiLCJleHAiOjE3NjcyMjkyMDB9.WqsjC1oeZ4jD4LXdkZycRUBw70-nTTIfFZJ-5otbuf4"),
    ("AC123123", "secret", [(OUTGOING, "AP123123")], None,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPSIsImlzcyI6IkFDMTIzMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ.AKDVC2z6wU4noblvAMgkkbUNDyoNnR4gxnpM2Vz2h0E"),
    ("AC123123", "secret", [(OUTGOING, "AP123123", {"Foo": "Bar"})], None,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPUZvbyUzREJhciIsImlzcyI6IkFDMTIzMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ.4ISWDLFnTeu9oi5HNFIfP1nbnGbWSrGxespjqpYWMX8"),
    ("AC123123", "secret",
     [(INCOMING, "Alice"), (OUTGOING, "AP123123", {"Foo": "Bar"})], 600,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPUZvbyUzREJhciZjbGllbnROYW1lPUFsaWNlIiwiaXNzIjoiQUMxMjMxMjMiLCJleHAiOjE3NjcyMjYyMDB9.Q7_bi7xA7phTIFfXmqh_sgrBcZv31DbshO6mOfysXgU"),
    ("AC123123", "secret",
     [(OUTGOING, "AP123123", {"Foo": "Bar"}), (INCOMING, "Alice")], 600,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMxMjMmYXBwUGFyYW1zPUZvbyUzREJhciZjbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIiwiaXNzIjoiQUMxMjMxMjMiLCJleHAiOjE3NjcyMjYyMDB9.vgByPZvdbeJ5fqD_VU6iwWzHOJgl8rCHgO18R-fCdv4"),
    ("AC123", "foo", [(EVENTS,)], None,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGF0aD0lMkYyMDEwLTA0LTAxJTJGRXZlbnRzJnBhcmFtcz0iLCJpc3MiOiJBQzEyMyIsImV4cCI6MTc2NzIyOTIwMH0.3GyxJyAu_1xtBm_X9cynKwXsdrm-btcIKnC2mPEgZek"),
    ("AC123", "foo", [(EVENTS, {"foobar": "hey"})], None,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGF0aD0lMkYyMDEwLTA0LTAxJTJGRXZlbnRzJnBhcmFtcz1mb29iYXIlM0RoZXkiLCJpc3MiOiJBQzEyMyIsImV4cCI6MTc2NzIyOTIwMH0.X0aW7_Z0smbipYsU8MOKx77k1IsTR1kyzn_KbtUqaQ4"),
    ("AC123", "foo",
     [(OUTGOING, "AP123", {"foobar": 3}), (INCOMING, "andy"), (EVENTS,)], None,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMmYXBwUGFyYW1zPWZvb2JhciUzRDMmY2xpZW50TmFtZT1hbmR5IHNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPWFuZHkgc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPSUyRjIwMTAtMDQtMDElMkZFdmVudHMmcGFyYW1zPSIsImlzcyI6IkFDMTIzIiwiZXhwIjoxNzY3MjI5MjAwfQ.adNY8vVE0fdGL2_dBrQ04wP-PDhl_wqldP_7P-TH2Jc"),
    ("AC123", "foo",
     [(INCOMING, "andy"), (INCOMING, "bob_2"), (OUTGOING, "AP123"),
      (OUTGOING, "AP456", {"a": "1", "b": "2"})], 86400,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPWFuZHkgc2NvcGU6Y2xpZW50OmluY29taW5nP2NsaWVudE5hbWU9Ym9iXzIgc2NvcGU6Y2xpZW50Om91dGdvaW5nP2FwcFNpZD1BUDEyMyZhcHBQYXJhbXM9JmNsaWVudE5hbWU9Ym9iXzIgc2NvcGU6Y2xpZW50Om91dGdvaW5nP2FwcFNpZD1BUDQ1NiZhcHBQYXJhbXM9YSUzRDElMjZiJTNEMiZjbGllbnROYW1lPWJvYl8yIiwiaXNzIjoiQUMxMjMiLCJleHAiOjE3NjczMTIwMDB9.HsNJEnVnmeg1cd-QsdBaeLy-R_22tJI7ab_rTVlYkZY"),
    ("AC123", "k",
     [(OUTGOING, "AP123",
       {"a b": "c&d=e", "marks": "~!*'()-._", "plus": "1+1", "percent": "100%",
        "path": "a/b?c#d", "empty": ""})], 1,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMmYXBwUGFyYW1zPWElMkJiJTNEYyUyNTI2ZCUyNTNEZSUyNm1hcmtzJTNEJTI1N0UlMjUyMSUyNTJBJTI1MjclMjUyOCUyNTI5LS5fJTI2cGx1cyUzRDElMjUyQjElMjZwZXJjZW50JTNEMTAwJTI1MjUlMjZwYXRoJTNEYSUyNTJGYiUyNTNGYyUyNTIzZCUyNmVtcHR5JTNEIiwiaXNzIjoiQUMxMjMiLCJleHAiOjE3NjcyMjU2MDF9.PnourrqwxOsZo3m9x98En-xz2nAfWAe6hDIUtATPDqk"),
    ("AC123", "sécrèt ☃",
     [(OUTGOING, "AP123", {"name": "Zoë ☃ 😀", "ключ": "значение"}),
      (EVENTS, {"a": "x y", "b": "&"})], None,
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAxMjMmYXBwUGFyYW1zPW5hbWUlM0RabyUyNUMzJTI1QUIlMkIlMjVFMiUyNTk4JTI1ODMlMkIlMjVGMCUyNTlGJTI1OTglMjU4MCUyNiUyNUQwJTI1QkElMjVEMCUyNUJCJTI1RDElMjU4RSUyNUQxJTI1ODclM0QlMjVEMCUyNUI3JTI1RDAlMjVCRCUyNUQwJTI1QjAlMjVEMSUyNTg3JTI1RDAlMjVCNSUyNUQwJTI1QkQlMjVEMCUyNUI4JTI1RDAlMjVCNSBzY29wZTpzdHJlYW06c3Vic2NyaWJlP3BhdGg9JTJGMjAxMC0wNC0wMSUyRkV2ZW50cyZwYXJhbXM9YSUzRHglMkJ5JTI2YiUzRCUyNTI2IiwiaXNzIjoiQUMxMjMiLCJleHAiOjE3NjcyMjkyMDB9.vOhp8DdS3aDNBeM49yUW4ktIfcRLR1z-C1bIkkD4KW4"),
]

# twilio-php 8.12.0 (commit ba0784ba0095eb4cea6f7f1e8e3201f6ff6f3404), the classes
# Twilio\Jwt\AccessToken and VoiceGrant, under PHP 8.2.36 at NOW: account SID, API key
# SID, API key secret, calls, options, token.
ACCESS_TOKENS: list[tuple[str, str, str, list[tuple[Any, ...]], dict[str, Any],
                          str]] = [
    ("AC123123", "SK123123", "secret",
     [(INCOMING, "Alice"), (OUTGOING, "AP123123", {"Foo": "Bar"})], {"ttl": 600},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyNjIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fX19fQ.NBbrVEn71GC0fC-otWDA4QPCJ0bU5KSs8MLvGIhoT-c"),
    ("AC123123", "SK123123", "secret", [(INCOMING, "Alice")], {},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX19fX0.oqb8LJD-3tWL3jlVXyMEKy7LM_KaCVN2ECt9FBQn6SA"),
    ("AC123123", "SK123123", "secret",
     [(INCOMING, "Alice"), (OUTGOING, "AP123123")], {"ttl": 86400},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzMxMjAwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIn19fX0.ckxlmjuYverCLWpKXzaBi2CnvU9tqt89dB59vvmZXF0"),
    ("AC123123", "SK123123", "secret",
     [(INCOMING, "Alice"), (OUTGOING, "AP123123", {"name": "Zoë ☃ 😀", "n": "3"})], {},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIiwicGFyYW1zIjp7Im5hbWUiOiJab1x1MDBlYiBcdTI2MDMgXHVkODNkXHVkZTAwIiwibiI6IjMifX19fX0.jzGaxNScchlnL4cBz_medRRBmnOaGhCgoB1eG_uMndQ"),
    ("ACb0e7153bf7c3706d85c524e440066559", "SKa6656c90bd5482a90a29b9fa5ff5180b",
     "C1uwB5FXZPf7s=tg7NvlE3Lar=",
     [(INCOMING, "u6JVR7siFTrUTLzFoJusTeKuDFmi7ZCPvmW0QdpaJD_6oCzf"),
      (OUTGOING, "AP4d35db41d94e5efaf89fc43c5fa52f8b")], {"region": "ie1"},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTS2E2NjU2YzkwYmQ1NDgyYTkwYTI5YjlmYTVmZjUxODBiLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2E2NjU2YzkwYmQ1NDgyYTkwYTI5YjlmYTVmZjUxODBiIiwic3ViIjoiQUNiMGU3MTUzYmY3YzM3MDZkODVjNTI0ZTQ0MDA2NjU1OSIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidTZKVlI3c2lGVHJVVEx6Rm9KdXNUZUt1REZtaTdaQ1B2bVcwUWRwYUpEXzZvQ3pmIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDRkMzVkYjQxZDk0ZTVlZmFmODlmYzQzYzVmYTUyZjhiIn19fX0.PfzjtxoEmla5sPc-pKFYqkLJcJ_j0khuYwFbg5DPhX8"),
    ("AC19b8f89a50f8a8e9bb8bdb5eba456bf9", "SK2d5d98065e5751f75143a5f61debc267",
     "Aszj0OvEmMl=rltQ10v7SUw9", [(INCOMING, "umF")],
     {"push_credential_sid": "CRa4acdd7f9fcc589f8d0a9f94f03e7914", "region": "au1"},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiYXUxIn0.eyJqdGkiOiJTSzJkNWQ5ODA2NWU1NzUxZjc1MTQzYTVmNjFkZWJjMjY3LTE3NjcyMjU2MDAiLCJpc3MiOiJTSzJkNWQ5ODA2NWU1NzUxZjc1MTQzYTVmNjFkZWJjMjY3Iiwic3ViIjoiQUMxOWI4Zjg5YTUwZjhhOGU5YmI4YmRiNWViYTQ1NmJmOSIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidW1GIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJwdXNoX2NyZWRlbnRpYWxfc2lkIjoiQ1JhNGFjZGQ3ZjlmY2M1ODlmOGQwYTlmOTRmMDNlNzkxNCJ9fX0.vIoe-xt8WySuDx9ss30WhZxMmDuBoNq9uMDd1Rw_Xx8"),
    ("AC60ddfcfc69e290d9f945ffa4d1278220", "SKad2cf1337349e455d52613c2813c40d2",
     "__tvHRlT/lchIegkéRev6",
     [(INCOMING, "uLItBpVFkqCF3HgmdPY4de9UGyhBiuYD2J88bryOvHF_6qf0NIs"),
      (OUTGOING, "AP79abcc4b9db165c23115661ffb0df9da",
       {"8E": "Tkl 8", "PCQmk": "l%D7su", "QEAg6N": 558})],
     {"ttl": 86400, "push_credential_sid": "CR6452bcf48385971f1bba10ef43a9e751",
      "region": "us1"},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoidXMxIn0.eyJqdGkiOiJTS2FkMmNmMTMzNzM0OWU0NTVkNTI2MTNjMjgxM2M0MGQyLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2FkMmNmMTMzNzM0OWU0NTVkNTI2MTNjMjgxM2M0MGQyIiwic3ViIjoiQUM2MGRkZmNmYzY5ZTI5MGQ5Zjk0NWZmYTRkMTI3ODIyMCIsImV4cCI6MTc2NzMxMjAwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidUxJdEJwVkZrcUNGM0hnbWRQWTRkZTlVR3loQml1WUQySjg4YnJ5T3ZIRl82cWYwTklzIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDc5YWJjYzRiOWRiMTY1YzIzMTE1NjYxZmZiMGRmOWRhIiwicGFyYW1zIjp7IjhFIjoiVGtsIDgiLCJQQ1FtayI6ImwlRDdzdSIsIlFFQWc2TiI6NTU4fX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjY0NTJiY2Y0ODM4NTk3MWYxYmJhMTBlZjQzYTllNzUxIn19fQ.Drz24sOV0vHV80Fks00Cdu3D2ZeubbmHglyvjs7uPGw"),
    ("AC72cb95eb92e57561d80e1ed511b327f2", "SKf171fc118de91165c672a325260ebfdc",
     "QBn5cORn9LhzoQQK8fK2fjH+fGZkvMJ1ow", [(INCOMING, "u5")],
     {"ttl": 60, "push_credential_sid": "CRe401d83c4a29548fa91200314bd807d4",
      "region": "ie1"},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTS2YxNzFmYzExOGRlOTExNjVjNjcyYTMyNTI2MGViZmRjLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2YxNzFmYzExOGRlOTExNjVjNjcyYTMyNTI2MGViZmRjIiwic3ViIjoiQUM3MmNiOTVlYjkyZTU3NTYxZDgwZTFlZDUxMWIzMjdmMiIsImV4cCI6MTc2NzIyNTY2MCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidTUiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUmU0MDFkODNjNGEyOTU0OGZhOTEyMDAzMTRiZDgwN2Q0In19fQ.qml98Le_3iRVZ2uNd_r4gVTDxFgkglZA67SORMLq3iM"),
    ("AC7fbce66869b7bb71fcb447fc135c396a", "SKff26c035c0a09cfce14db0699202bd90",
     "eJELmsa9éLPer2yAxw",
     [(INCOMING, "u5N6rn"), (OUTGOING, "APb736998252d572dd7df79d82a5d04395",
       {"U": "ANQ1GaAE", "VS532": "5d73V4"})],
     {"ttl": 86400, "push_credential_sid": "CR3a21f42a6ec7f306532a4b3ea53b3266",
      "region": "ie1"},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTS2ZmMjZjMDM1YzBhMDljZmNlMTRkYjA2OTkyMDJiZDkwLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2ZmMjZjMDM1YzBhMDljZmNlMTRkYjA2OTkyMDJiZDkwIiwic3ViIjoiQUM3ZmJjZTY2ODY5YjdiYjcxZmNiNDQ3ZmMxMzVjMzk2YSIsImV4cCI6MTc2NzMxMjAwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidTVONnJuIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUGI3MzY5OTgyNTJkNTcyZGQ3ZGY3OWQ4MmE1ZDA0Mzk1IiwicGFyYW1zIjp7IlUiOiJBTlExR2FBRSIsIlZTNTMyIjoiNWQ3M1Y0In19LCJwdXNoX2NyZWRlbnRpYWxfc2lkIjoiQ1IzYTIxZjQyYTZlYzdmMzA2NTMyYTRiM2VhNTNiMzI2NiJ9fX0._kulUJiThgDjInKg9MD6JB2y9Sz24v5I8g-Ph7jcLOY"),
    ("ACd782483fd5c72eb4204b008ec2166e0f", "SK28f015cd160dddc05a496d2b6cd684fb",
     "APV6JJwE0TZC+o6R7eJ",
     [(OUTGOING, "AP33cb9bfe74800c47f1006d779171cb09",
       {"Kfz7wA": "QA wrJ", "lCO9": 768, "ZrwSl ": "\\O", "0rI": "c"})],
     {"identity": "uBALzbFRIwpXVxNJSh5_5", "ttl": 86400,
      "push_credential_sid": "CR3b8cc952e16c39bd4eb2f06e1123a4ba", "region": "ie1"},
     "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTSzI4ZjAxNWNkMTYwZGRkYzA1YTQ5NmQyYjZjZDY4NGZiLTE3NjcyMjU2MDAiLCJpc3MiOiJTSzI4ZjAxNWNkMTYwZGRkYzA1YTQ5NmQyYjZjZDY4NGZiIiwic3ViIjoiQUNkNzgyNDgzZmQ1YzcyZWI0MjA0YjAwOGVjMjE2NmUwZiIsImV4cCI6MTc2NzMxMjAwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoidUJBTHpiRlJJd3BYVnhOSlNoNV81Iiwidm9pY2UiOnsib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAzM2NiOWJmZTc0ODAwYzQ3ZjEwMDZkNzc5MTcxY2IwOSIsInBhcmFtcyI6eyJLZno3d0EiOiJRQSB3ckoiLCJsQ085Ijo3NjgsIlpyd1NsICI6IlxcTyIsIjBySSI6ImMifX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjNiOGNjOTUyZTE2YzM5YmQ0ZWIyZjA2ZTExMjNhNGJhIn19fQ.icWZfRphknJq5aXyrGNGNaJkJB-3IyD1k88fOn2gwDg"),
]
# The same without a client's name; Twilio refuses such a token.
NAMELESS_ACCESS_TOKEN: tuple[
    str, str, str, list[tuple[Any, ...]], dict[str, Any], str
] = (
    "AC123123", "SK123123", "secret", [(OUTGOING, "AP123123")], {},
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTSzEyMzEyMy0xNzY3MjI1NjAwIiwiaXNzIjoiU0sxMjMxMjMiLCJzdWIiOiJBQzEyMzEyMyIsImV4cCI6MTc2NzIyOTIwMCwiZ3JhbnRzIjp7InZvaWNlIjp7Im91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMTIzMTIzIn19fX0.HtHMQsFbQZioorjxhLIoKLddt4r_3XeYSFVpwVxWEWw"
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
# Twilio's libraries with SIDs of real length, run at NOW with a TTL of 600 (go: 3600)
# and the secret that stands here: Alice, calling out with Foo=Bar, reading events where
# foobar=hey, with a push credential or a region, as the names say. They are
# twilio-python 9.13.0 and 5.7.0, twilio-node 5.13.1 and 2.11.1,
# twilio-php 8.12.0 (commit ba0784ba0095) and 4.12.0 (6e4b45fc3f8b),
# twilio-ruby 7.11.1 (dd1cc09b90cb) and 4.13.0 (828e11e27c97),
# twilio-go 1.30.9 (d858acdc0955), twilio-java 12.0.0 (179bd9c64650), 7.47.4
# (2bd2fe750f89) and 7.17.0 (73f8176cc553), and, under Mono 6.8, twilio-csharp 7.14.9
# built for .NET 3.5 (f6b1f01016af) and 4.7.2 (700915451d87).
LONG_SECRET = "a secret of thirty-two bytes or more"  # as jjwt asks for
REAL_TOKENS: list[tuple[str, str, str]] = [
    ("node 5, capability", "secret", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZjbGllbnROYW1lPUFsaWNlJmFwcFBhcmFtcz1Gb28lM0RCYXIgc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPS8yMDEwLTA0LTAxL0V2ZW50cyZhcHBQYXJhbXM9Zm9vYmFyJTNEaGV5IiwiaXNzIjoiQUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZiIsImV4cCI6MTc2NzIyNjIwMCwiaWF0IjoxNzY3MjI1NjAwfQ.YE_4Luh712llHA4DgWN7YSsCof8GSvx_F1NXI93kPWc"),
    ("node 5, region", "secret", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIn0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJncmFudHMiOnsiaWRlbnRpdHkiOiJBbGljZSIsInZvaWNlIjp7ImluY29taW5nIjp7ImFsbG93Ijp0cnVlfSwib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCIsInBhcmFtcyI6eyJGb28iOiJCYXIifX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjg3OTZhNWI0YzNkMmUxZjA4Nzk2YTViNGMzZDJlMWYwIn19LCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6MTc2NzIyNjIwMCwiaXNzIjoiU0tmZWRjYmE5ODc2NTQzMjEwZmVkY2JhOTg3NjU0MzIxMCIsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.ibtMpeRb3z1t94U4fLzJed--rrHQooQhz5Z6gcmuTpc"),
    ("python 9, capability", "secret", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBQYXJhbXM9Rm9vJTNEQmFyJmFwcFNpZD1BUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4JmNsaWVudE5hbWU9QWxpY2Ugc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXJhbXM9Zm9vYmFyJTNEaGV5JnBhdGg9JTJGMjAxMC0wNC0wMSUyRkV2ZW50cyIsImlzcyI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCJleHAiOjE3NjcyMjYyMDAsIm5iZiI6MTc2NzIyNTYwMH0.Yfs0Jk8ul3A0FvzyiZj9dlxcoUI72CcJL2CRAym3QKg"),
    ("python 9, region", "secret", "eyJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIiwidHlwIjoiSldUIn0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJncmFudHMiOnsidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4IiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fSwicHVzaF9jcmVkZW50aWFsX3NpZCI6IkNSODc5NmE1YjRjM2QyZTFmMDg3OTZhNWI0YzNkMmUxZjAifSwiaWRlbnRpdHkiOiJBbGljZSJ9LCJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwiZXhwIjoxNzY3MjI2MjAwLCJuYmYiOjE3NjcyMjU2MDAsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.aVZ9RioEZ5mi9FTiks4MbWzH9Lbq_1HGajNZzJdqJKk"),
    ("python 9, no region", "secret", "eyJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHlwIjoiSldUIn0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJncmFudHMiOnsidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4IiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fSwicHVzaF9jcmVkZW50aWFsX3NpZCI6IkNSODc5NmE1YjRjM2QyZTFmMDg3OTZhNWI0YzNkMmUxZjAifSwiaWRlbnRpdHkiOiJBbGljZSJ9LCJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwiZXhwIjoxNzY3MjI2MjAwLCJuYmYiOjE3NjcyMjU2MDAsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.unnW8bCQR7nBYHJFtItVbGdqXYQaX8FBtTr8sEc8Ptc"),
    ("python 9, push credential", "secret", "eyJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHlwIjoiSldUIn0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJncmFudHMiOnsidm9pY2UiOnsib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCJ9LCJwdXNoX2NyZWRlbnRpYWxfc2lkIjoiQ1I4Nzk2YTViNGMzZDJlMWYwODc5NmE1YjRjM2QyZTFmMCJ9LCJpZGVudGl0eSI6IkFsaWNlIn0sImlzcyI6IlNLZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTAiLCJleHAiOjE3NjcyMjYyMDAsIm5iZiI6MTc2NzIyNTYwMCwic3ViIjoiQUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZiJ9.UNVd6pxjpp-htXbtD4Bip2wUgSUqJxPoPelD5mMAhJI"),
    ("python 5, capability", "secret", "eyJ0eXAiOiAiSldUIiwgImFsZyI6ICJIUzI1NiJ9.eyJzY29wZSI6ICJzY29wZTpjbGllbnQ6aW5jb21pbmc_Y2xpZW50TmFtZT1BbGljZSBzY29wZTpjbGllbnQ6b3V0Z29pbmc_YXBwUGFyYW1zPUZvbyUzREJhciZhcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZjbGllbnROYW1lPUFsaWNlIHNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGFyYW1zPWZvb2JhciUzRGhleSZwYXRoPSUyRjIwMTAtMDQtMDElMkZFdmVudHMiLCAiaXNzIjogIkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCAiZXhwIjogMTc2NzIyNjIwMH0.RnUJa0SqmoaPj0LtJEcnq0f1P-NUkWlIVrj8FQdFB4I"),
    ("node 5, push credential", "secret", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJncmFudHMiOnsiaWRlbnRpdHkiOiJBbGljZSIsInZvaWNlIjp7Im91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMGYxZTJkM2M0YjVhNjk3ODBmMWUyZDNjNGI1YTY5NzgifSwicHVzaF9jcmVkZW50aWFsX3NpZCI6IkNSODc5NmE1YjRjM2QyZTFmMDg3OTZhNWI0YzNkMmUxZjAifX0sImlhdCI6MTc2NzIyNTYwMCwiZXhwIjoxNzY3MjI2MjAwLCJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwic3ViIjoiQUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZiJ9.iHTJl401ksOvZHlLBt_Y0dzoYVkI2_uIAI6p-ql1loc"),
    ("node 2, capability", "secret", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGF0aD0lMkYyMDEwLTA0LTAxJTJGRXZlbnRzJnBhcmFtcz1mb29iYXIlM0RoZXkgc2NvcGU6Y2xpZW50Om91dGdvaW5nP2FwcFNpZD1BUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4JmFwcFBhcmFtcz1Gb28lM0RCYXImY2xpZW50TmFtZT1BbGljZSIsImlzcyI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCJleHAiOjE3NjcyMjYyMDAsImlhdCI6MTc2NzIyNTYwMH0.emkyJn9RsvNk7xLDqVRnlodpZWWCiNMBw8QY-fD96gE"),
    ("php 8, capability", "secret", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZhcHBQYXJhbXM9Rm9vJTNEQmFyJmNsaWVudE5hbWU9QWxpY2Ugc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPSUyRjIwMTAtMDQtMDElMkZFdmVudHMmcGFyYW1zPWZvb2JhciUzRGhleSIsImlzcyI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCJleHAiOjE3NjcyMjYyMDB9.jytxcLKrj6Avl1Be02BExIQWYbA4TjsJSAcDBB06d04"),
    ("php 8, push credential", "secret", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwic3ViIjoiQUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZiIsImV4cCI6MTc2NzIyNjIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4In0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjg3OTZhNWI0YzNkMmUxZjA4Nzk2YTViNGMzZDJlMWYwIn19fQ.bsGwrIyp5lXqNEuYakCf94iVthKwcqBacIheLxUffzg"),
    ("php 4, params are a str", "secret", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIn0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwic3ViIjoiQUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZiIsImV4cCI6MTc2NzIyNjIwMCwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4IiwicGFyYW1zIjoiRm9vPUJhciJ9LCJwdXNoX2NyZWRlbnRpYWxfc2lkIjoiQ1I4Nzk2YTViNGMzZDJlMWYwODc5NmE1YjRjM2QyZTFmMCJ9fX0.dEJ-ni8hN9gDoJt7HUIODmr_GWz3wAZVFCA3E3o8Kqg"),
    ("ruby 7, capability", "secret", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZjbGllbnROYW1lPUFsaWNlJmFwcFBhcmFtcz1Gb28lM0RCYXIgc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPSUyRjIwMTAtMDQtMDElMkZFdmVudHMmcGFyYW1zPWZvb2JhciUzRGhleSIsImlzcyI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCJuYmYiOjE3NjcyMjU2MDAsImV4cCI6MTc2NzIyNjIwMH0.wpD2mx29mpfMsteeD25p5MVFKUyB_nhjAzkB3qO2IIw"),
    ("ruby 7, a space in a param", "secret", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZjbGllbnROYW1lPUFsaWNlJmFwcFBhcmFtcz1Gb28lM0RBbm4rVmVhbCIsImlzcyI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCJuYmYiOjE3NjcyMjU2MDAsImV4cCI6MTc2NzIyNjIwMH0.McLbH6gBcYhdLiRczVv2JF45MB9-jHWUgN5nNsRfAFI"),
    ("ruby 7, twr is null", "secret", "eyJjdHkiOiJ0d2lsaW8tZnBhO3Y9MSIsInR3ciI6bnVsbCwidHlwIjoiSldUIiwiYWxnIjoiSFMyNTYifQ.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJncmFudHMiOnsiaWRlbnRpdHkiOiJBbGljZSIsInZvaWNlIjp7ImluY29taW5nIjp7ImFsbG93Ijp0cnVlfSwib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCIsInBhcmFtcyI6eyJGb28iOiJCYXIifX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjg3OTZhNWI0YzNkMmUxZjA4Nzk2YTViNGMzZDJlMWYwIn19LCJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwibmJmIjoxNzY3MjI1NjAwLCJleHAiOjE3NjcyMjYyMDAsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.NshXaCxn72PFeQ--WCcpXL2u7kUCAUbk-hFKy9wGTTM"),
    ("ruby 7, region", "secret", "eyJjdHkiOiJ0d2lsaW8tZnBhO3Y9MSIsInR3ciI6ImllMSIsInR5cCI6IkpXVCIsImFsZyI6IkhTMjU2In0.eyJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJncmFudHMiOnsiaWRlbnRpdHkiOiJBbGljZSIsInZvaWNlIjp7ImluY29taW5nIjp7ImFsbG93Ijp0cnVlfSwib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCIsInBhcmFtcyI6eyJGb28iOiJCYXIifX0sInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjg3OTZhNWI0YzNkMmUxZjA4Nzk2YTViNGMzZDJlMWYwIn19LCJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwibmJmIjoxNzY3MjI1NjAwLCJleHAiOjE3NjcyMjYyMDAsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.zm9de77oy0-F_ZIEMdQiUqC-79IBQbyttKHLtmlKOJg"),
    ("ruby 4, capability", "secret", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZhcHBQYXJhbXM9Rm9vJTNEQmFyJTI2QmF6JTNEYSUyQmIlMjUyNmMmY2xpZW50TmFtZT1BbGljZSIsImlzcyI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCJleHAiOjE3NjcyMjYyMDB9.Qgug7LOML2raGrO8WDLY5CWErUzkAbNl8bmSseeI8nA"),
    ("go 1, no region", "secret", "eyJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHlwIjoiSldUIn0.eyJleHAiOjE3NjcyMjkyMDAsImdyYW50cyI6eyJpZGVudGl0eSI6IkFsaWNlIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4IiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fSwicHVzaF9jcmVkZW50aWFsX3NpZCI6IkNSODc5NmE1YjRjM2QyZTFmMDg3OTZhNWI0YzNkMmUxZjAifX0sImlzcyI6IlNLZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTAiLCJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJuYmYiOjE3NjcyMjU2MDAsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.PwrtRdp9RMqLeblJXm4qw27WvwTCEqHtda5y0674oUQ"),
    ("go 1, region", "secret", "eyJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHdyIjoiaWUxIiwidHlwIjoiSldUIn0.eyJleHAiOjE3NjcyMjYyMDAsImdyYW50cyI6eyJpZGVudGl0eSI6IkFsaWNlIiwidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4IiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fSwicHVzaF9jcmVkZW50aWFsX3NpZCI6IkNSODc5NmE1YjRjM2QyZTFmMDg3OTZhNWI0YzNkMmUxZjAifX0sImlzcyI6IlNLZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTAiLCJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJuYmYiOjE3NjcyMjU2MDAsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.pcW_C4V-yaZMqsIb6xPpvbvFpT_HXCya32RAtyTrtek"),
    ("go 1, push credential", "secret", "eyJhbGciOiJIUzI1NiIsImN0eSI6InR3aWxpby1mcGE7dj0xIiwidHlwIjoiSldUIn0.eyJleHAiOjE3NjcyMjYyMDAsImdyYW50cyI6eyJpZGVudGl0eSI6IkFsaWNlIiwidm9pY2UiOnsib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCJ9LCJwdXNoX2NyZWRlbnRpYWxfc2lkIjoiQ1I4Nzk2YTViNGMzZDJlMWYwODc5NmE1YjRjM2QyZTFmMCJ9fSwiaXNzIjoiU0tmZWRjYmE5ODc2NTQzMjEwZmVkY2JhOTg3NjU0MzIxMCIsImp0aSI6IlNLZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTAtMTc2NzIyNTYwMCIsIm5iZiI6MTc2NzIyNTYwMCwic3ViIjoiQUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZiJ9.vvHweJ1qlVe-0pe2sRn2RgdfxWJcWq_ho98ocKP1TMs"),
    ("java 12, capability", LONG_SECRET, "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJBQzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIiwiZXhwIjoxNzY3MjI2MjAwLCJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZjbGllbnROYW1lPUFsaWNlJmFwcFBhcmFtcz1Gb28lM0RCYXIgc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPS8yMDEwLTA0LTAxL0V2ZW50cyZhcHBQYXJhbXM9Zm9vYmFyJTNEaGV5In0.2cTI9pEZjl1K8nAw6RnytoOOYub84ZkvLysWjm0KSog"),
    ("java 12, region", LONG_SECRET, "eyJjdHkiOiJ0d2lsaW8tZnBhO3Y9MSIsInR5cCI6IkpXVCIsInR3ciI6ImllMSIsImFsZyI6IkhTMjU2In0.eyJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwiZXhwIjoxNzY3MjI2MjAwLCJncmFudHMiOnsidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4IiwicGFyYW1zIjp7IkZvbyI6IkJhciJ9fSwicHVzaF9jcmVkZW50aWFsX3NpZCI6IkNSODc5NmE1YjRjM2QyZTFmMDg3OTZhNWI0YzNkMmUxZjAifSwiaWRlbnRpdHkiOiJBbGljZSJ9LCJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJzdWIiOiJBQzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIn0.JBNdtxM8-wito_jKiH60B0_9apSvuFFc5J486SJwk8g"),
    ("java 12, push credential", LONG_SECRET, "eyJjdHkiOiJ0d2lsaW8tZnBhO3Y9MSIsInR5cCI6IkpXVCIsImFsZyI6IkhTMjU2In0.eyJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwiZXhwIjoxNzY3MjI2MjAwLCJncmFudHMiOnsidm9pY2UiOnsib3V0Z29pbmciOnsiYXBwbGljYXRpb25fc2lkIjoiQVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCJ9LCJwdXNoX2NyZWRlbnRpYWxfc2lkIjoiQ1I4Nzk2YTViNGMzZDJlMWYwODc5NmE1YjRjM2QyZTFmMCJ9LCJpZGVudGl0eSI6IkFsaWNlIn0sImp0aSI6IlNLZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTAtMTc2NzIyNTYwMCIsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.ZBgi-75ERWrexTA2ebtm-IVdR30WFp31gVqw_QAq2B8"),
    ("java 7.17, outgoing is null", "secret", "eyJjdHkiOiJ0d2lsaW8tZnBhO3Y9MSIsInR5cCI6IkpXVCIsImFsZyI6IkhTMjU2In0.eyJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwiZXhwIjoxNzY3MjI2MjAwLCJncmFudHMiOnsidm9pY2UiOnsib3V0Z29pbmciOm51bGwsInB1c2hfY3JlZGVudGlhbF9zaWQiOiJDUjg3OTZhNWI0YzNkMmUxZjA4Nzk2YTViNGMzZDJlMWYwIiwiZW5kcG9pbnRfaWQiOm51bGx9LCJpZGVudGl0eSI6IkFsaWNlIn0sImp0aSI6IlNLZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTAtMTc2NzIyNTYwMCIsInN1YiI6IkFDMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYifQ.cX-aQ_PpiaLUE4eImDGmJfzi10h4lRkR87Wf-UaSNcY"),
    ("java 7.47, incoming is null", LONG_SECRET, "eyJjdHkiOiJ0d2lsaW8tZnBhO3Y9MSIsInR5cCI6IkpXVCIsImFsZyI6IkhTMjU2In0.eyJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwiZXhwIjoxNzY3MjI2MjAwLCJncmFudHMiOnsidm9pY2UiOnsiaW5jb21pbmciOm51bGwsIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMGYxZTJkM2M0YjVhNjk3ODBmMWUyZDNjNGI1YTY5NzgifSwicHVzaF9jcmVkZW50aWFsX3NpZCI6IkNSODc5NmE1YjRjM2QyZTFmMDg3OTZhNWI0YzNkMmUxZjAiLCJlbmRwb2ludF9pZCI6bnVsbH0sImlkZW50aXR5IjoiQWxpY2UifSwianRpIjoiU0tmZWRjYmE5ODc2NTQzMjEwZmVkY2JhOTg3NjU0MzIxMC0xNzY3MjI1NjAwIiwic3ViIjoiQUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZiJ9.vIjkv50NlZRq8nzxXee_8XRSHC9fvxPD-pR1l5zecwQ"),
    ("java 7.47, push credential is null", LONG_SECRET, "eyJjdHkiOiJ0d2lsaW8tZnBhO3Y9MSIsInR5cCI6IkpXVCIsImFsZyI6IkhTMjU2In0.eyJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwiZXhwIjoxNzY3MjI2MjAwLCJncmFudHMiOnsidm9pY2UiOnsiaW5jb21pbmciOnsiYWxsb3ciOnRydWV9LCJvdXRnb2luZyI6eyJhcHBsaWNhdGlvbl9zaWQiOiJBUDBmMWUyZDNjNGI1YTY5NzgwZjFlMmQzYzRiNWE2OTc4In0sInB1c2hfY3JlZGVudGlhbF9zaWQiOm51bGwsImVuZHBvaW50X2lkIjpudWxsfSwiaWRlbnRpdHkiOiJBbGljZSJ9LCJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJzdWIiOiJBQzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIn0.viMXHun-_VuVFf_dSo4x5QcwpBS0fViMisknYKJBakM"),
    ("csharp 7, capability", "secret", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJBQzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIiwiZXhwIjoxNzY3MjI2MjAwLCJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZjbGllbnROYW1lPUFsaWNlJmFwcFBhcmFtcz1Gb28lM2RCYXIgc2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPS8yMDEwLTA0LTAxL0V2ZW50cyZhcHBQYXJhbXM9Zm9vYmFyJTNkaGV5In0.FmIm6I5WlNaa_dFJmGgM73XMmfLf0d9s5KcXzJxGO7I"),
    ("csharp 7, no region", "secret", "eyJjdHkiOiJ0d2lsaW8tZnBhO3Y9MSIsInR5cCI6IkpXVCIsImFsZyI6IkhTMjU2In0.eyJpc3MiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwIiwiZXhwIjoxNzY3MjI2MjAwLCJqdGkiOiJTS2ZlZGNiYTk4NzY1NDMyMTBmZWRjYmE5ODc2NTQzMjEwLTE3NjcyMjU2MDAiLCJzdWIiOiJBQzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIiwiZ3JhbnRzIjp7ImlkZW50aXR5IjoiQWxpY2UiLCJ2b2ljZSI6eyJpbmNvbWluZyI6eyJhbGxvdyI6dHJ1ZX0sIm91dGdvaW5nIjp7ImFwcGxpY2F0aW9uX3NpZCI6IkFQMGYxZTJkM2M0YjVhNjk3ODBmMWUyZDNjNGI1YTY5NzgiLCJwYXJhbXMiOnsiRm9vIjoiQmFyIn19LCJwdXNoX2NyZWRlbnRpYWxfc2lkIjoiQ1I4Nzk2YTViNGMzZDJlMWYwODc5NmE1YjRjM2QyZTFmMCJ9fX0.Zepre4i9w5HYDh3hMEW-F8AA6YyDp1xWJWEGcZWw_ZY"),
    ("csharp 4, capability", "secret", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJBQzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIiwiZXhwIjoxNzY3MjI2MjAwLCJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOmNsaWVudDpvdXRnb2luZz9hcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZhcHBQYXJhbXM9Rm9vJTNkQmFyJmNsaWVudE5hbWU9QWxpY2UifQ.Frvn2pnFywrvEJJGsj-Hafbb7sFG9bEYO2z1x7fq_88"),
]
# Two with a fault: old twilio-java writes exp in quotes, and of twilio-ruby's event
# streams with two filters nobody can tell how many params they have.
FAULTY_TOKENS: list[tuple[str, str, str]] = [
    ("java 6.3.0 (cea6731bf3d1)", "claims.exp", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJBQzAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmIiwiZXhwIjoiMTc2NzIyNjIwMCIsInNjb3BlIjoic2NvcGU6c3RyZWFtOnN1YnNjcmliZT9wYXRoPSUyRjIwMTAtMDQtMDElMkZFdmVudHMmcGFyYW1zPWZvb2JhciUzRGhleSBzY29wZTpjbGllbnQ6aW5jb21pbmc_Y2xpZW50TmFtZT1BbGljZSBzY29wZTpjbGllbnQ6b3V0Z29pbmc_Y2xpZW50TmFtZT1BbGljZSZhcHBTaWQ9QVAwZjFlMmQzYzRiNWE2OTc4MGYxZTJkM2M0YjVhNjk3OCZhcHBQYXJhbXM9Rm9vJTNEQmFyIn0.-N3VTvN9KvAQGT4e3HdOnbuUBMmRiEnzb9aH5SU-29Q"),
    ("ruby 7.11.1", "scopes[1]", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzY29wZSI6InNjb3BlOmNsaWVudDppbmNvbWluZz9jbGllbnROYW1lPUFsaWNlIHNjb3BlOnN0cmVhbTpzdWJzY3JpYmU_cGF0aD0lMkYyMDEwLTA0LTAxJTJGRXZlbnRzJnBhcmFtcz1Gb28lM0RCYXImQmF6JTNEUXV4IiwiaXNzIjoiQUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZiIsIm5iZiI6MTc2NzIyNTYwMCwiZXhwIjoxNzY3MjI2MjAwfQ.EY0QPGVK6Urk1eeu4QsGXAh7VhTyy2Jat4Ki5X7YVqA"),
]
# fmt: on


class KnownGoodVectorsTest(unittest.TestCase):
    """Our tokens are the strings that twilio-php makes, and we read all the others."""

    def test_a_capability_token_is_the_string_that_twilio_php_makes(self) -> None:
        for account_sid, auth_token, calls, ttl, token in CAPABILITY_TOKENS:
            with self.subTest(calls=calls):
                capability = capability_with(
                    *calls, sid=account_sid, auth_token=auth_token
                )
                options = {} if ttl is None else {"ttl": ttl}
                self.assertEqual(capability.generate_token(now=NOW, **options), token)

    def test_an_access_token_is_the_string_that_twilio_php_makes(self) -> None:
        for account_sid, api_key_sid, secret, calls, options, token in ACCESS_TOKENS:
            with self.subTest(calls=calls, options=options):
                device = capability_with(*calls, sid=account_sid, auth_token=None)
                make = partial(device.generate_access_token, api_key_sid, secret)
                self.assertEqual(make(now=NOW, **options), token)

    def test_without_a_name_twilio_php_makes_one_that_we_refuse_to_make(self) -> None:
        account_sid, api_key_sid, secret, calls, _, token = NAMELESS_ACCESS_TOKEN
        claims = verify_token(token, secret, now=NOW)
        self.assertEqual(list(claims["grants"]), ["voice"])
        device = capability_with(*calls, sid=account_sid)
        with self.assertRaises(ValueError):
            device.generate_access_token(api_key_sid, secret)

    def test_verify_token_returns_the_claims_of_each_of_them(self) -> None:
        tokens = [(token, "secret") for token in OTHER_TOKENS.values()]
        tokens += [(token, secret) for _, secret, token in REAL_TOKENS]
        tokens += [(token, secret) for _, secret, *_, token in CAPABILITY_TOKENS]
        tokens += [(token, secret) for _, _, secret, *_, token in ACCESS_TOKENS]
        for token, secret in tokens:
            with self.subTest(token=token):
                claims = verify_token(token, secret, now=NOW)
                self.assertEqual(claims, json.loads(decoded(token.split(".")[1])))

    def test_inspect_token_finds_no_problem_in_those_with_real_sids(self) -> None:
        real = [
            (f"php {key_sid}", token) for _, key_sid, *_, token in ACCESS_TOKENS[4:]
        ]
        real += [(library, token) for library, _, token in REAL_TOKENS]
        for name, token in real:
            with self.subTest(name):
                self.assertEqual(inspect_token(token, now=NOW)["problems"], [])
        for name, place, token in FAULTY_TOKENS:
            with self.subTest(name):
                (line,) = inspect_token(token, now=NOW)["problems"]
                self.assertEqual(line.partition(":")[0], place)


# ---- Helpers that several classes share ----------------------------------------------

Call = Callable[..., object]


def capability_with(
    *calls: tuple[Any, ...],
    sid: str = "AC1",
    auth_token: str | None = "k",
    lenient_names: bool = False,
) -> Capability:
    """A Capability after these calls, each a method's name and its arguments."""
    capability = Capability(sid, auth_token, lenient_names=lenient_names)
    for name, *arguments in calls:
        getattr(capability, name)(*arguments)
    return capability


def capability_of_alice(
    *calls: tuple[Any, ...], auth_token: str | None = "secret"
) -> Capability:
    """One that is called by Alice and calls out through AP123123; then more calls."""
    known = [(INCOMING, "Alice"), (OUTGOING, "AP123123", {"Foo": "Bar"})]
    return capability_with(*known, *calls, sid="AC123123", auth_token=auth_token)


def both_tokens(capability: Capability) -> tuple[str, str]:
    access_token = capability.generate_access_token("SK1", "k", now=NOW)
    return capability.generate_token(now=NOW), access_token


HEADER = '{"typ":"JWT","alg":"HS256"}'
ACCESS_HEADER = '{"typ":"JWT","alg":"HS256","cty":"twilio-fpa;v=1"}'


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def signed(signing_input: str, secret: str = "secret") -> str:
    digest = hmac.new(secret.encode(), signing_input.encode(), "sha256").digest()
    return f"{signing_input}.{base64url(digest)}"


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
        segments.append(base64url(as_bytes(part)))
    return signed(".".join(segments), secret)


def decoded(segment: str) -> str:
    """The text in a segment of a token."""
    return base64.urlsafe_b64decode(segment + "==").decode()


def scopes_of(token: str, secret: str, now: float = NOW) -> list[Any]:
    """Service, privilege and params of each scope, the params in params read, too."""
    scopes = []
    for uri in verify_token(token, secret, now=now)["scope"].split():
        scope = ScopeURI.parse(uri)
        params: dict[str, Any] = dict(scope.params)
        for name in params.keys() & {"appParams", "params"}:
            params[name] = ScopeURI.parse("scope:x:x?" + params[name]).params
        scopes.append((scope.service, scope.privilege, params))
    return scopes


LETTERS_AND_DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits
BASE64URL = LETTERS_AND_DIGITS + "-_"
CHARACTERS = [*map(chr, range(0x180)), *"\u0661\u2160\ud800\uff21\U0001d7d8"]
DEEP = "[" * 40000

# What is no JSON object, or not one that may be read.
NOT_OBJECTS: list[str | bytes] = ["", "{", "[]", '"x"', "1", "null", "{'a':1}", DEEP]
NOT_OBJECTS += [
    '{"alg":"HS256","exp":1767226200,"x":%s}' % value
    for value in ("NaN", "-Infinity", "1e400", "-1e400", '"\n"', '{"":' * 9000)
]
NOT_OBJECTS.append(b'{"alg":"HS256","exp":1767226200,"x":"\xed\xa0\x80"}')


def access_token_with(**options: Any) -> str:
    given = {"api_key_sid": "SK1", "api_key_secret": "k", "identity": "a", **options}
    return Capability("AC1").generate_access_token(**given)


def claims_with(**options: Any) -> dict[str, Any]:
    given = {"token": Capability("AC1", "k").generate_token(), "secret": "k", **options}
    return verify_token(**given)


# Each argument that is a str, by what is called with it. None is fine for some.
TEXT_ARGUMENTS: list[tuple[str, Call]] = [
    ("account_sid", Capability),
    ("application_sid", Capability("AC1").allow_client_outgoing),
    ("api_key_sid", lambda text: access_token_with(api_key_sid=text)),
    ("push_credential_sid", lambda text: access_token_with(push_credential_sid=text)),
    ("region", lambda text: access_token_with(region=text)),
    ("client_name", Capability("AC1").allow_client_incoming),
    ("identity", lambda text: access_token_with(identity=text)),
    ("auth_token", lambda text: Capability("AC1", text)),
    ("api_key_secret", lambda text: access_token_with(api_key_secret=text)),
    ("secret", lambda text: claims_with(secret=text)),
    ("token", lambda text: claims_with(token=text)),
    ("token", inspect_token),
    ("text", encode_client_name),
    ("name", decode_client_name),
    ("service", lambda text: ScopeURI(text, "incoming")),
    ("privilege", lambda text: ScopeURI("client", text)),
    ("uri", ScopeURI.parse),
]
# Each argument, by what is called with it.
CALLS: dict[str, Call] = {
    **dict(TEXT_ARGUMENTS),
    "lenient_names": lambda given: Capability("AC1", lenient_names=given),
    "params": partial(Capability("AC1").allow_client_outgoing, "AP1"),
    "filters": Capability("AC1").allow_event_stream,
    "ttl": Capability("AC1", "k").generate_token,
    "now": lambda now: claims_with(now=now),
    "leeway": lambda leeway: claims_with(leeway=leeway),
}

# SIDs as Twilio makes them.
REAL_ACCOUNT = "AC" + "0123456789abcdef" * 2
REAL_KEY = "SK" + "fedcba9876543210" * 2
REAL_APP = "AP" + "0f1e2d3c4b5a6978" * 2
REAL_CREDENTIAL = "CR" + "8796a5b4c3d2e1f0" * 2
REAL = "0123456789abcdefABCDEF0123456789"  # what may stand behind the two letters

MISSING = object()
PROBLEM = r"\A[\w.\[\]]+: [ -~]+( \(Twilio (error \d{5}|errors \d{5}, \d{5})\))?\Z"


def good_token(kind: str, changes: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A token without a fault, and then with values put in at places."""
    uri = f"scope:client:outgoing?appSid={REAL_APP}&appParams=a%3Db&clientName=a"
    header: dict[str, Any] = {"typ": "JWT", "alg": "HS256"}
    claims: dict[str, Any] = {"scope": uri, "iss": REAL_ACCOUNT, "exp": NOW + 600}
    if kind == "access":
        header["cty"] = "twilio-fpa;v=1"
        voice: dict[str, Any] = {"incoming": {"allow": True}}
        voice["outgoing"] = {"application_sid": REAL_APP, "params": {"a": "b"}}
        voice["push_credential_sid"] = REAL_CREDENTIAL
        claims = {"iss": REAL_KEY, "sub": REAL_ACCOUNT, "exp": NOW + 600}
        claims["grants"] = {"identity": "a", "voice": voice}

    parts = {"header": header, "claims": claims}
    for place, value in changes.items():
        holder: Any = parts
        *path, name = place.split(".")
        for step in path:
            holder = holder.get(step) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder.pop(name, None)
            if value is not MISSING:
                holder[name] = copy.deepcopy(value)
    return mint(parts["claims"], header=json.dumps(parts["header"]))


def lines_of(kind: str, changes: Mapping[str, Any]) -> list[str]:
    """The problems of a good token after some changes."""
    problems: list[str] = inspect_token(good_token(kind, changes), now=NOW)["problems"]
    return problems


def clock_at(now: float) -> contextlib.AbstractContextManager[Any]:
    """Let the time be `now`."""
    return mock.patch.object(time, "time", lambda: now)


HERE = Path(__file__).resolve().parent
MODULE = HERE / "twilio_capability.py"
AUTH_TOKEN = "auth-s3cr3t"
API_SECRET = "key-s3cr3t"
ENVIRONMENT = {
    "TWILIO_ACCOUNT_SID": "AC123123",
    "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
    "TWILIO_API_KEY": "SK123123",
    "TWILIO_API_SECRET": API_SECRET,
}


REAL_ENVIRONMENT = {
    "TWILIO_ACCOUNT_SID": REAL_ACCOUNT,
    "TWILIO_API_KEY": REAL_KEY,
    "TWILIO_API_SECRET": API_SECRET,
    "TWILIO_APP_SID": REAL_APP,
    "no_proxy": "*",
}


class Result(NamedTuple):
    """What a command did. `output` is empty if it went elsewhere."""

    status: int
    output: str
    errors: str


def plain_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python and the system speak as on any machine."""
    ours = ("TWILIO_", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**kept, "LC_ALL": "C", **variables}


def run_process(
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
        env=plain_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    output, errors = ((text or b"").decode() for text in (done.stdout, done.stderr))
    output, errors = (text.replace(os.linesep, "\n") for text in (output, errors))
    return Result(done.returncode, output, errors)


def run_main(
    *arguments: str,
    env: Mapping[str, str] = ENVIRONMENT,
    stdin: str | bytes | io.StringIO | None = "",
    stdout: io.StringIO | None = None,
    timer: Callable[[], float] = lambda: NOW,
) -> Result:
    """Run main() with an environment, standard streams and a clock of its own."""
    streams: dict[str, Any] = {"stdin": stdin, "stderr": io.StringIO()}
    streams["stdout"] = io.StringIO() if stdout is None else stdout
    if isinstance(stdin, str):
        streams["stdin"] = io.StringIO(stdin)
    elif isinstance(stdin, bytes):
        streams["stdin"] = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    variables = mock.patch.dict(os.environ, {"COLUMNS": "80", **env}, clear=True)
    patched = mock.patch.object(time, "time", timer)
    with variables, mock.patch.multiple(sys, **streams), patched:
        status = main(arguments)
    return Result(status, streams["stdout"].getvalue(), streams["stderr"].getvalue())


def failed(status: int, message: str) -> Result:
    """What a command does that fails: a line of errors, and no output."""
    return Result(status, "", f"twilio-capability: {message}\n")


def error_of(call: Call, *given: Any) -> str:
    """The message of the error that a call raises."""
    try:
        call(*given)
    except (TypeError, ValueError) as error:
        return str(error)
    return "none"


README = HERE / "README.md"
PAGE = README.read_text(encoding="utf-8") if README.exists() else ""


class Block(NamedTuple):
    """A fenced block, and the text behind it that shows what it prints."""

    language: str
    text: str
    shown: str


def readme_blocks() -> list[Block]:
    blocks: list[Block] = []
    for language, body in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", PAGE):
        if language == "text":
            blocks[-1] = blocks[-1]._replace(shown=body)
        else:
            blocks.append(Block(language, body, ""))
    return blocks


def readme_block(language: str, *marks: str) -> Block:
    """The one block of that language with each of these marks in it."""
    (block,) = [
        block
        for block in readme_blocks()
        if block.language == language and all(mark in block.text for mark in marks)
    ]
    return block


def readme_module(name: str) -> Any:
    """The README's file tokens.py or calls.py."""
    mark = {"tokens": "def token_for(", "calls": "def twiml_for("}[name]
    module = ModuleType(name)
    text = readme_block("python", mark).text
    exec(compile(text, "README.md", "exec"), vars(module))
    return module


# ---- Capability: capability tokens ---------------------------------------------------


class CapabilityTokenTest(unittest.TestCase):
    """A capability token is a JWT that says what a device may do, and until when."""

    def scope(self, *calls: tuple[Any, ...], **options: Any) -> str:
        """The scope claim after these calls."""
        token = capability_with(*calls, **options).generate_token(now=NOW)
        return str(verify_token(token, "k", now=NOW)["scope"])

    def test_it_is_a_header_a_payload_and_their_signature(self) -> None:
        token = capability_of_alice().generate_token(600, now=NOW)
        header, payload, signature = token.split(".")
        self.assertEqual(decoded(header), '{"typ":"JWT","alg":"HS256"}')
        self.assertEqual(
            decoded(payload),
            '{"scope":"scope:client:incoming?clientName=Alice '
            "scope:client:outgoing?appSid=AP123123&appParams=Foo%3DBar&clientName=Alice"
            '","iss":"AC123123","exp":1767226200}',
        )
        self.assertEqual(token, signed(f"{header}.{payload}", "secret"))
        self.assertEqual(len(signature), 43)

    def test_its_scope_is_what_was_allowed_in_the_order_of_the_calls(self) -> None:
        events = "scope:stream:subscribe?path=%2F2010-04-01%2FEvents&params="
        named = "scope:client:incoming?clientName="
        app = "scope:client:outgoing?appSid="
        cases: list[tuple[list[tuple[Any, ...]], list[str]]] = [
            ([], []),
            ([(INCOMING, "a")], [named + "a"]),
            ([(INCOMING, "a"), (INCOMING, "a")], [named + "a", named + "a"]),
            ([(OUTGOING, "AP1")], [app + "AP1&appParams="]),
            ([(EVENTS,), (INCOMING, "a")], [events, named + "a"]),
            ([(EVENTS, {"a b": "é&~", "n": 3})],
             [events + "a%2Bb%3D%25C3%25A9%2526%257E%26n%3D3"]),
            # An outgoing scope bears the last name, whether given before or after it.
            ([(INCOMING, "b"), (OUTGOING, "AP1", {"x": "y"}), (INCOMING, "a")],
             [named + "b", app + "AP1&appParams=x%3Dy&clientName=a", named + "a"]),
            ([(OUTGOING, "AP1", {}), (OUTGOING, "AP2"), (INCOMING, "a")],
             [app + "AP1&appParams=&clientName=a", app + "AP2&appParams=&clientName=a",
              named + "a"]),
        ]  # fmt: skip
        for calls, uris in cases:
            with self.subTest(calls=calls):
                self.assertEqual(self.scope(*calls), " ".join(uris))

    def test_a_lenient_name_is_encoded_as_a_value(self) -> None:
        calls = [(INCOMING, "+1&a=b~c/d"), (OUTGOING, "AP1")]
        name = "clientName=%2B1%26a%3Db%7Ec%2Fd"
        self.assertEqual(
            self.scope(*calls, lenient_names=True),
            f"scope:client:incoming?{name} "
            f"scope:client:outgoing?appSid=AP1&appParams=&{name}",
        )

    def test_now_is_floored(self) -> None:
        capability = Capability("AC1", "k")
        nine = capability.generate_token(now=9)
        self.assertEqual(capability.generate_token(now=9.999), nine)
        self.assertNotEqual(capability.generate_token(now=10), nine)

    def test_it_is_at_most_65536_characters(self) -> None:
        longest = capability_with((EVENTS, {"a": "b" * 48988}), auth_token="secret")
        token = longest.generate_token(now=NOW)
        self.assertEqual(len(token), 65536)
        verify_token(token, "secret", now=NOW)
        for device in (
            capability_with((EVENTS, {"a": "b" * 48989})),
            capability_with((OUTGOING, "AP1", {"a": "b" * 60000})),
            capability_with(*[(INCOMING, "a")] * 2000),
        ):
            with self.subTest(device=device), self.assertRaises(ValueError):
                device.generate_token(now=NOW)
        device = capability_with((OUTGOING, "AP1", {"a": "b" * 60000}))
        with self.assertRaises(ValueError):
            device.generate_access_token("SK1", "k", identity="a")

    def test_params_are_copied(self) -> None:
        params: dict[str, str | int] = {"Foo": "Bar"}
        capability = capability_with((INCOMING, "a"), (OUTGOING, "AP1", params))
        before = both_tokens(capability)
        params["Foo"] = "changed"
        self.assertEqual(both_tokens(capability), before)

    def test_generating_changes_nothing(self) -> None:
        alice = (INCOMING, "Alice")
        capability = capability_with(alice, sid="AC123123", auth_token="secret")
        first = both_tokens(capability)
        self.assertEqual(both_tokens(capability), first)
        capability.allow_client_outgoing("AP123123", {"Foo": "Bar"})
        self.assertEqual(both_tokens(capability), both_tokens(capability_of_alice()))

    def test_threads_may_share_an_object(self) -> None:
        capability = capability_of_alice()
        state = copy.deepcopy(vars(capability))
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as pool:
            times = [*range(50)] * 4
            tokens = pool.map(lambda now: capability.generate_token(now=now), times)
        expected = [capability_of_alice().generate_token(now=now) for now in times]
        self.assertEqual(list(tokens), expected)
        capability.generate_access_token("SK1", "k")
        self.assertEqual(vars(capability), state)

    def test_a_copy_goes_its_own_way(self) -> None:
        original = capability_of_alice()
        tokens = both_tokens(original)
        pickled = pickle.loads(pickle.dumps(original))
        twins = {"copy": copy.copy(original), "deepcopy": copy.deepcopy(original)}
        for name, twin in {**twins, "pickle": pickled}.items():
            with self.subTest(name):
                self.assertEqual(both_tokens(twin), tokens)
                twin.allow_client_incoming("bob")
                twin.allow_client_outgoing("AP2")
                twin.allow_event_stream()
                self.assertEqual(both_tokens(original), tokens)
                scopes = scopes_of(twin.generate_token(now=NOW), "secret")
                self.assertEqual(len(scopes), 5)

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
        uses = [(INCOMING, "Alice"), (OUTGOING, "AP1"), (EVENTS,), ("generate_token",)]
        for name, *arguments in (*uses, ("generate_access_token", "SK1", "k")):
            with self.subTest(name), self.assertRaises(AttributeError):
                getattr(old, name)(*arguments)


# ---- Capability: access tokens -------------------------------------------------------


class AccessTokenTest(unittest.TestCase):
    """An access token grants the same, signed with an API key instead."""

    def claims(self, capability: Capability, **options: Any) -> dict[str, Any]:
        token = capability.generate_access_token("SK123123", "s", now=NOW, **options)
        self.assertEqual(decoded(token.split(".")[0]), ACCESS_HEADER)
        return verify_token(token, "s", now=NOW)

    def voice(self, *calls: tuple[Any, ...], **options: Any) -> str:
        """The voice grant after these calls, as JSON, which shows its order."""
        grants = self.claims(capability_with(*calls), **options)["grants"]
        return json.dumps(grants["voice"])

    def test_it_is_a_header_a_payload_and_their_signature(self) -> None:
        device = capability_of_alice(auth_token=None)
        token = device.generate_access_token("SK123123", "secret", 600, now=NOW + 0.9)
        header, payload, _ = token.split(".")
        self.assertEqual(decoded(header), ACCESS_HEADER)
        self.assertEqual(
            decoded(payload),
            '{"jti":"SK123123-1767225600","iss":"SK123123","sub":"AC123123",'
            '"exp":1767226200,"grants":{"identity":"Alice",'
            '"voice":{"incoming":{"allow":true},'
            '"outgoing":{"application_sid":"AP123123","params":{"Foo":"Bar"}}}}}',
        )
        self.assertEqual(token, signed(f"{header}.{payload}", "secret"))

    def test_a_region_is_named_in_the_header_alone(self) -> None:
        make = partial(capability_of_alice().generate_access_token, "SK1", "k", now=NOW)
        header, payload, _ = make(region="ie1").split(".")
        self.assertEqual(decoded(header), ACCESS_HEADER[:-1] + ',"twr":"ie1"}')
        self.assertEqual(payload, make().split(".")[1])

    def test_only_what_was_allowed_is_granted(self) -> None:
        incoming = '"incoming": {"allow": true}'
        outgoing = '"outgoing": {"application_sid": "AP1"}'
        params = '"outgoing": {"application_sid": "AP1", "params": {"a": 1}}'
        credential = '"push_credential_sid": "CR1"'
        cases: list[tuple[list[tuple[Any, ...]], list[str]]] = [
            ([], []),
            ([(INCOMING, "bob")], [incoming]),
            ([(OUTGOING, "AP1", {})], [outgoing]),
            ([(OUTGOING, "AP1", {"a": 1})], [params]),
            ([(OUTGOING, "AP1"), (INCOMING, "bob")], [incoming, outgoing]),
        ]
        for calls, granted in cases:
            with self.subTest(calls=calls):
                voice = self.voice(*calls, identity="bob")
                self.assertEqual(voice, "{%s}" % ", ".join(granted))
                voice = self.voice(*calls, identity="bob", push_credential_sid="CR1")
                self.assertEqual(voice, "{%s}" % ", ".join([*granted, credential]))

    def test_the_clock_is_asked_once(self) -> None:
        times = itertools.count(NOW)
        with mock.patch.object(time, "time", lambda: next(times)):
            token = capability_of_alice().generate_access_token("SK1", "s")
        claims = verify_token(token, "s", now=NOW)
        self.assertEqual((claims["jti"], claims["exp"]), (f"SK1-{NOW}", NOW + 3600))

    def test_the_auth_token_is_not_used(self) -> None:
        without = self.claims(capability_of_alice(auth_token=None))
        self.assertEqual(self.claims(capability_of_alice(auth_token="secret")), without)

    def test_it_is_not_signed_with_the_auth_token(self) -> None:
        auth_token = "0123456789abcdef" * 2
        with self.assertRaises(ValueError):
            capability_of_alice(auth_token=auth_token).generate_access_token(
                "SK1", auth_token
            )
        for secret, other in (
            *(
                (auth_token, None),
                (auth_token, "secret"),
                (auth_token[::-1], auth_token),
            ),
            *((text, text) for text in ("secret", auth_token.upper(), auth_token[1:])),
        ):
            with self.subTest(secret=secret, other=other):
                device = capability_of_alice(auth_token=other)
                device.generate_access_token("SK1", secret)

    def test_the_identity_may_repeat_the_client_name(self) -> None:
        device = capability_of_alice()
        self.assertEqual(self.claims(device, identity="Alice"), self.claims(device))

    def test_the_same_permission_twice_is_one_grant(self) -> None:
        app = (OUTGOING, "AP123123", {"Foo": "Bar"})
        twice = capability_of_alice((INCOMING, "Alice"), app)
        self.assertEqual(self.claims(twice), self.claims(capability_of_alice()))

    def test_params_keep_their_type_their_text_and_their_order(self) -> None:
        params = {"n": 3, "s": "3", "slash": "a/b", "zoë": '☃😀"\\\n'}
        device = capability_with((OUTGOING, "AP1", params))
        token = device.generate_access_token("SK1", "s", identity="a", now=NOW)
        spelled = r'{"n":3,"s":"3","slash":"a/b","zo\u00eb":"\u2603\ud83d\ude00\"\\\n"}'
        self.assertIn(spelled, decoded(token.split(".")[1]))

    def test_an_int_that_javascript_would_change_is_refused(self) -> None:
        for value in (2**53, -(2**53)):
            with self.subTest(value=value):
                voice = self.voice((OUTGOING, "AP1", {"a": value}), identity="a")
                self.assertIn(f'"params": {{"a": {value}}}', voice)
        for value in (2**53 + 1, -(2**53) - 1, 10**400):
            with self.subTest(value=value):
                device = capability_with((OUTGOING, "AP1", {"b": "c", "a": value}))
                with self.assertRaises(ValueError):
                    self.claims(device, identity="a")
                ((_, _, params),) = scopes_of(device.generate_token(now=NOW), "k")
                self.assertEqual(params["appParams"]["a"], str(value))  # text there
                as_text = capability_with((OUTGOING, "AP1", {"a": str(value)}))
                self.claims(as_text, identity="a")

    def test_what_it_cannot_carry_is_refused(self) -> None:
        alice, bob, events = (INCOMING, "Alice"), (INCOMING, "bob"), (EVENTS,)
        app, bare = (OUTGOING, "AP1", {"a": "1"}), (OUTGOING, "AP1")
        number, other = (OUTGOING, "AP1", {"a": 1}), (OUTGOING, "AP2", {"a": "1"})
        cases: list[tuple[str | None, list[Any]]] = [
            *((name, [alice, bob]) for name in (None, "Alice", "bob")),
            *((name, [alice]) for name in ("bob", "alice", "")),
            (None, []), (None, [bare]), (None, [alice, app, other]),
            (None, [alice, app, number]), (None, [alice, app, bare]),
            (None, [alice, bare, app, app]), (None, [alice, app, app, bare]),
            (None, [alice, events]), (None, [events, alice, app]),
        ]  # fmt: skip
        for identity, calls in cases:
            with self.subTest(calls=calls, identity=identity):
                device = capability_with(*calls)
                with self.assertRaises(ValueError):
                    self.claims(device, identity=identity)


# ---- Capability: its arguments, and those of all that follows ------------------------

NAN, INFINITY = float("nan"), float("inf")


class LazyProxy:
    """As Django's SimpleLazyObject and werkzeug's LocalProxy: it only pretends."""

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "value", value)

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, "value")
        return type(value) if name == "__class__" else getattr(value, name)


class MultiDict(typing.Dict[str, Any]):
    """As Flask's request.values: only its own items() says what it holds."""

    def __init__(self, items: Any) -> None:
        super().__init__()
        self.given = items

    def items(self) -> Any:
        return self.given


class Markup(str):
    """As in markupsafe, which web frameworks hand out."""

    def __add__(self, other: str) -> Markup:
        return Markup(str(self) + html.escape(other))

    def __radd__(self, other: str) -> Markup:
        return Markup(html.escape(other) + str(self))


class Text(str, enum.Enum):
    SID = "AC1"
    APP = "AP1"
    KEY = "SK1"
    NAME = "Alice"
    SECRET = "secret"
    PARAM = "&"


class Number(enum.IntEnum):
    THREE = 3


class Float64(float):
    """As in numpy, which adds up to its own type."""

    def __add__(self, other: float) -> Float64:
        return Float64(float(self) + other)


def tokens_and_uri(number: int, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Tokens and a URI in which each kind of argument stands."""
    name, param = texts["NAME"], texts["PARAM"]
    calls = [(INCOMING, name), (OUTGOING, texts["APP"], {param: param, "n": number})]
    capability = capability_with(*calls, sid=texts["SID"], auth_token=texts["SECRET"])
    access_token = capability.generate_access_token(
        texts["KEY"], texts["SECRET"], number, identity=name, now=0
    )
    scope = ScopeURI("client", "incoming", {"clientName": name, param: param})
    return capability.generate_token(number, now=0), access_token, str(scope)


MAY_BE_NONE = {"push_credential_sid", "region", "identity", "auth_token"}


def name_in_scope(lenient: bool, name: str) -> object:
    """The client name in a capability token that was made with it."""
    device = capability_with((INCOMING, name), lenient_names=lenient)
    ((_, _, params),) = scopes_of(device.generate_token(now=NOW), "k")
    return params["clientName"]


def name_in_grants(lenient: bool, name: str) -> object:
    """The identity in an access token that was made with it."""
    device = Capability("AC1", lenient_names=lenient)
    token = device.generate_access_token("SK1", "k", identity=name, now=NOW)
    return verify_token(token, "k", now=NOW)["grants"]["identity"]


TTL: list[Call] = [CALLS["ttl"], lambda ttl: access_token_with(ttl=ttl)]
TIME: list[Call] = [
    lambda now: Capability("AC1", "k").generate_token(now=now),
    lambda now: access_token_with(now=now),
    lambda now: claims_with(now=now),
    lambda now: inspect_token(mint("{}"), now=now),
]
PARAMS: list[Call] = [CALLS["params"], partial(ScopeURI, "client", "incoming")]
LAZY_TEXT, LAZY_NUMBER = LazyProxy("AC1"), LazyProxy(1)

# What is refused: the error, the argument, what is called with it, and the values.
# fmt: off
NO_PARAMS: list[Any] = [
    [("a", "b")], [], (), "", "a=b", 0, 1, False, True, b"", mock.Mock(), mock.Mock(dict),
    *({name: "a"} for name in (1, None, b"a", LAZY_TEXT)),
    *({"a": value}
      for value in (True, None, 1.5, b"b", ["b"], {"b": "c"}, LAZY_NUMBER)),
    *map(MultiDict, (None, [None], ["ab"], [("a",)], [("a", "b", "c")], [["a", "b"]])),
]
BAD_ARGUMENTS: list[tuple[type[Exception], str, list[Call], list[Any]]] = [
    *((TypeError, argument, [call], [1, 1.5, True, b"AC1", ["AC1"], {"AC": 1}, LAZY_TEXT])
      for argument, call in TEXT_ARGUMENTS),
    *((TypeError, argument, [call], [None])
      for argument, call in TEXT_ARGUMENTS if argument not in MAY_BE_NONE),
    (TypeError, "lenient_names", [CALLS["lenient_names"]],
     [None, 0, 1, "", "yes", b"", [], LazyProxy(True)]),
    (ValueError, "region", [CALLS["region"]],
     ["", "IE1", "ireland", "ie", "ie1\n", " ie1", "i1", "iee1", "ie11"]),
    (TypeError, "params", PARAMS, NO_PARAMS),
    (TypeError, "filters", [CALLS["filters"]], NO_PARAMS),
    (TypeError, "params value", [PARAMS[1]], [{"n": 3}]),
    (ValueError, "params name", PARAMS, [{"\udfff": "a"}]),
    (ValueError, "params value", PARAMS, [{"a": "\ud800"}]),
    (ValueError, "filters name", [CALLS["filters"]],
     [{"\udfff": "a"}, MultiDict([("a", "1"), ("a", "2")])]),
    (TypeError, "ttl", TTL,
     [None, True, False, 1.5, 3600.0, "3600", b"1", [1], NAN, LAZY_NUMBER]),
    (ValueError, "ttl", TTL, [0, -1, 86401, 10**400]),
    (TypeError, "now", TIME, ["1", b"1", True, False, [1], 1j, LAZY_NUMBER]),
    (TypeError, "leeway", [CALLS["leeway"]],
     [None, "1", b"1", True, False, [1], 1j, LAZY_NUMBER]),
    *((ValueError, argument, calls,
       [-1, -0.5, NAN, INFINITY, -INFINITY, 1e300, 10**400, 2**53 + 1])
      for argument, calls in (("now", TIME), ("leeway", [CALLS["leeway"]]))),
    (ValueError, "now", TIME, [2**53 - 86399]),
]
# fmt: on


class ArgumentsTest(unittest.TestCase):
    """A wrong type is a TypeError, a wrong value a ValueError: see the README's table.

    A rule is tried with every character by itself, so that no neighbour of a range of
    letters slips in and none of its ends is missing.
    """

    def assert_refused(
        self, error: type[Exception], argument: str, call: Call, *given: Any
    ) -> None:
        """The message is one line that names the argument and the rule."""
        with self.subTest(argument=argument, given=given):
            with self.assertRaises(error) as caught:
                call(*given)
            self.assertIs(type(caught.exception), error)
            self.assertRegex(str(caught.exception), rf"\A{argument}\b.* must [^\n]*\Z")
            self.assertIsNone(caught.exception.__context__)

    def assert_takes(self, alphabet: str, call: Call, prefix: str = "") -> None:
        """Of all characters, the call takes those of the alphabet."""
        with self.subTest(alphabet=alphabet, prefix=prefix):
            taken = []
            for character in CHARACTERS:
                with contextlib.suppress(ValueError):
                    call(prefix + character)
                    taken.append(character)
            self.assertEqual(taken, sorted(alphabet))

    def test_what_is_refused(self) -> None:
        for error, argument, calls, values in BAD_ARGUMENTS:
            for call, value in itertools.product(calls, values):
                self.assert_refused(error, argument, call, value)

    def test_what_lies_at_the_limits_is_taken(self) -> None:
        region = CALLS["region"]
        self.assert_takes(string.ascii_lowercase, lambda letter: region(letter + "e1"))
        self.assert_takes(string.ascii_lowercase, lambda letter: region(f"i{letter}1"))
        self.assert_takes(string.digits, region, "ie")
        for call, value in (
            *itertools.product(TTL, (1, 86400)),
            *itertools.product((*TIME, CALLS["leeway"]), (0, 2**53 - 86400)),
            (CALLS["leeway"], 2**53),
        ):
            with self.subTest(value=value), contextlib.suppress(ExpiredTokenError):
                call(value)

    def test_a_str_is_its_text_whatever_adding_to_it_gives(self) -> None:
        plain = {member.name: member.value for member in Text}
        marked = {name: Markup(text) for name, text in plain.items()}
        self.assertEqual(tokens_and_uri(3, marked), tokens_and_uri(3, plain))
        params: dict[str, str] = {Markup("b"): Markup("&"), Markup("c"): Markup()}
        scope = ScopeURI(Markup("a"), Markup("x"), params)
        self.assertEqual(str(scope), "scope:a:x?b=%26&c=")
        self.assertIs(type(scope.service), str)
        self.assertEqual(str(ScopeURI.parse(Markup(str(scope)))), str(scope))

    def test_an_enum_member_is_its_value(self) -> None:
        plain = {member.name: member.value for member in Text}
        members = tokens_and_uri(Number.THREE, Text.__members__)
        self.assertEqual(members, tokens_and_uri(3, plain))

    def test_a_number_of_numpy_is_its_value(self) -> None:
        token = Capability("AC1", "k").generate_token(now=Float64(9.5))
        self.assertEqual(token, Capability("AC1", "k").generate_token(now=9))
        verify_token(token, "k", now=3609, leeway=Float64(1.5))

    def test_a_sid_is_its_prefix_and_one_or_more_letters_or_digits(self) -> None:
        # XX is the prefix.
        not_sids = ["", "XX", "1", "123", " XX123", "XX123 ", "XX123\n", "\nXX123"]
        not_sids += ["XX12-3", "XX_1", "XXé1", "XX\u0661", "XX\ud800", "xXX1", "1XX1"]
        for argument, prefix in (
            ("account_sid", "AC"),
            ("application_sid", "AP"),
            ("api_key_sid", "SK"),
            ("push_credential_sid", "CR"),
        ):
            call = CALLS[argument]
            others = [prefix[0] + "X1", "X" + prefix[1] + "1", prefix[::-1] + "1"]
            for bad in (*not_sids, *others, prefix.lower() + "1"):
                sid = bad.replace("XX", prefix)
                self.assert_refused(ValueError, argument, call, sid)
            for good in ("a", "0" * 32, "aZ9" * 99):
                with self.subTest(argument, good=good):
                    call(prefix + good)
            self.assert_takes(LETTERS_AND_DIGITS, call, prefix)
            self.assert_takes(LETTERS_AND_DIGITS, call, prefix + "1")

    def test_a_secret_is_text_that_was_not_read_with_what_is_around_it(self) -> None:
        texts = ["\ud800", "secret\udfff", "\ud800😀", "😀\udc00"]
        texts += ["k\n", "k\r\n", " k", "k ", "\tk", "k\xa0", "\u2003k", "\ufeffk"]
        texts += ["\0", "\0\0", "k\0", "\0k", "k\0k", '"secret"', "'secret'"]
        for argument in ("auth_token", "api_key_secret", "secret"):
            for bad in texts:
                self.assert_refused(ValueError, argument, CALLS[argument], bad)
        good = [
            "in the \ufeff middle\nit may be",
            "'\"",
            "it's",
            "a'",
            "eyJ",
            f"PN{REAL}",
        ]
        for text in (*good, f"C{REAL}", f"AC{REAL[1:]}", f"AC{REAL}0", "AC" + "g" * 32):
            with self.subTest(text):
                Capability("AC1", text)
        not_last = {"\0", "\ud800", *filter(str.isspace, CHARACTERS)}
        others = "".join([c for c in CHARACTERS if c not in not_last])
        self.assert_takes(others, CALLS["auth_token"], "k")

    def assert_is_name(
        self, argument: str, call: Call, alphabet: str, longest: int
    ) -> None:
        """The call takes a name of this alphabet, and returns it from a token."""
        not_names = ["", "a b", "a\n", "\na", " a", "a%20b", 'a"b', "a{", "a\x7f", "é"]
        not_names += ["\uff21", "\u0661", "\ud800", "a\0", "a" * (longest + 1)]
        for bad in not_names:
            self.assert_refused(ValueError, argument, call, bad)
        self.assert_takes(alphabet, call)
        for good in ("Z", "z", "9", "0", "_", "Alice_2", "a" * longest, alphabet):
            with self.subTest(good=good):
                self.assertEqual(call(good), good)

    def test_a_client_name_is_1_to_256_letters_digits_or_underscores(self) -> None:
        alphabet = LETTERS_AND_DIGITS + "_"
        self.assert_is_name("client_name", partial(name_in_scope, False), alphabet, 256)

    def test_the_name_of_an_access_token_has_at_most_121_of_them(self) -> None:
        alphabet = LETTERS_AND_DIGITS + "_"
        self.assert_is_name("identity", partial(name_in_grants, False), alphabet, 121)
        both_tokens(capability_with((INCOMING, "a" * 121)))
        device = capability_with((INCOMING, "a" * 122))
        self.assert_refused(ValueError, "client_name", both_tokens, device)

    def test_lenient_names_have_all_characters_that_twilio_is_known_to_take(
        self,
    ) -> None:
        printable = set(map(chr, range(0x21, 0x7F)))
        alphabet = "".join(printable - set('"#%<>[\\]^`{|}'))
        self.assert_is_name("client_name", partial(name_in_scope, True), alphabet, 256)
        self.assert_is_name("identity", partial(name_in_grants, True), alphabet, 121)

    def test_what_a_name_means_is_not_asked(self) -> None:
        names = ["None", "null", "undefined", "true", "client", "client42", REAL]
        names += ["AC" + REAL, "PN" + REAL, "ap" + REAL, "AP" + REAL[1:], f"AP{REAL}0"]
        for name in (*names, "AP" + "g" * 32, "eyJ0", "your_name", "SKXXXX"):
            for lenient in (False, True):
                with self.subTest(name=name, lenient=lenient):
                    self.assertEqual(name_in_scope(lenient, name), name)
                    self.assertEqual(name_in_grants(lenient, name), name)
        # Not each of these may be a name, but encoding does not ask either.
        self.assertEqual(encode_client_name(REAL_APP), REAL_APP)

    def test_a_mapping_is_read_in_its_own_words(self) -> None:
        pairs = [("a", "1"), ("b", "2")]
        moved = collections.OrderedDict(reversed(pairs))
        moved.move_to_end("b")
        mappings: list[Any] = [MultiDict(pairs), MultiDict(iter(pairs)), moved]
        mappings += [
            collections.ChainMap({"b": "2"}, {"a": "1"}),
            MappingProxyType(dict(pairs)),
        ]
        mappings += [collections.UserDict(pairs), LazyProxy(dict(pairs))]
        plain = capability_with((INCOMING, "x"), (OUTGOING, "AP1", dict(pairs)))
        for params in mappings:
            with self.subTest(type(params).__name__):
                device = capability_with((INCOMING, "x"), (OUTGOING, "AP1", params))
                self.assertEqual(both_tokens(device), both_tokens(plain))

    def test_options_are_keyword_only(self) -> None:
        capability = capability_of_alice()
        token = capability.generate_token()
        calls: list[tuple[Any, ...]] = [
            (Capability, "AC1", "k", True),
            (capability.generate_token, 60, 0),
            (capability.generate_access_token, "SK1", "k", 60, "Alice"),
            (verify_token, token, "secret", 0),
            (inspect_token, token, 0),
        ]
        for call, *given, option in calls:
            with self.subTest(call=call):
                call(*given)
                with self.assertRaises(TypeError):
                    call(*given, option)

    def test_a_refused_call_changes_nothing(self) -> None:
        capability = capability_of_alice()
        before = both_tokens(capability)
        calls: list[tuple[Any, ...]] = [(INCOMING, "a b"), (EVENTS, {1: ""})]
        calls += [(OUTGOING, "AP1", {"a": None})]
        calls += [("generate_token", 0), ("generate_access_token", "SK1", "")]
        for name, *given in calls:
            with self.subTest(name):
                with self.assertRaises((TypeError, ValueError)):
                    getattr(capability, name)(*given)
                self.assertEqual(both_tokens(capability), before)


# ---- Capability: what its errors and reprs do not say --------------------------------


def frames_of(error: BaseException | None) -> Iterator[dict[str, Any]]:
    """The locals of the module's frames that an error shows, without two names.

    Error trackers send them along, and hide what is called secret or token.
    """
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals is vars(twilio_capability):
                yield {**frame.f_locals, "secret": "hidden", "token": "hidden"}
        error = error.__cause__ or error.__context__


def texts_in(value: Any) -> Iterator[str]:
    """Each text and number in what is given to a call."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from texts_in(part)
    elif isinstance(value, bytes):
        yield value.decode("latin-1")
    elif value not in (INCOMING, OUTGOING, EVENTS, 10**5000):
        yield str(value)


class SecretsTest(unittest.TestCase):
    """Errors and reprs end up in logs: none repeats a secret, a SID or a token."""

    SID = "AC0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
    SECRET = "d3adb33fd3adb33fd3adb33fd3adb33f"

    def assert_discreet(self, texts: Sequence[str], call: Call, *given: Any) -> None:
        """The call fails, and nothing of the error shows any of the texts."""
        error: BaseException | None = raised_by(call, *given)[0]
        while error is not None:
            for text in texts:
                shown = f"{error} {error!r} {vars(error)}"
                self.assertNotIn(repr(text)[1:-1], shown)
            error = error.__cause__ or error.__context__

    def test_no_error_repeats_what_was_given(self) -> None:
        for message, call, *given in refusals():
            texts = [text for text in texts_in(given) if len(text) > 3]
            if texts == ["client:"]:
                continue  # which is no secret, and which the message is about
            with self.subTest(message=message, texts=str(texts)[:300]):
                self.assert_discreet(texts, call, *given)

    def test_no_error_repeats_a_secret_in_the_place_of_any_argument(self) -> None:
        for argument, call in CALLS.items():
            for secret in (self.SECRET, self.SID):
                for bad in (secret.encode(), [secret], secret + " \ud800"):
                    with self.subTest(argument=argument, bad=bad):
                        self.assert_discreet([secret], call, bad)

    def assert_hidden(self, call: Call, *texts: str) -> None:
        """The call fails, and no frame of the module holds any of the texts."""
        frames = []
        try:
            call()
        except (TypeError, ValueError, MemoryError) as error:
            frames = list(frames_of(error))
        self.assertNotEqual(frames, [])
        for text in texts:
            with self.subTest(text=text[:300]):
                self.assertNotIn(repr(text)[1:-1], repr(frames))

    def test_no_frame_holds_what_was_given_for_a_sid_or_a_secret(self) -> None:
        hidden = {call for rules in ("SID", "secret") for _, call in RULES[rules]}
        for message, call, *given in refusals():
            with self.subTest(message=message):
                if call in hidden and not message.startswith("TypeError"):
                    texts = [text for text in given if len(text) > 5]
                    self.assert_hidden(partial(call, *given), *texts)
                elif call is verified:  # a bad token may be a good one, cut off
                    texts = ["s3cr3t", given[0].rpartition(".")[2]]
                    self.assert_hidden(partial(call, *given), *filter(None, texts))

    def test_no_frame_holds_them_when_signing_is_cut_short(self) -> None:
        token = Capability("AC1", self.SECRET).generate_token()
        with mock.patch.object(hmac, "digest", side_effect=MemoryError):
            device, other = Capability("AC1", self.SECRET), capability_of_alice()
            for name, call in (
                ("capability", device.generate_token),
                ("access", partial(other.generate_access_token, "SK1", self.SECRET)),
                ("verify", partial(verify_token, token, self.SECRET)),
            ):
                with self.subTest(name):
                    self.assert_hidden(call, self.SECRET)

    def test_no_frame_holds_them_when_a_token_is_at_fault(self) -> None:
        # Nor what would make a forged token a good one, nor a live token's signature:
        # a bad secret may be a good one and its line break.
        good = Capability(self.SID, self.SECRET).generate_token(now=NOW)
        start, _, right = good.rpartition(".")
        for token, secret, leeway in (
            (good, self.SECRET + "\n", 0),
            (good, self.SECRET, -1),
            (f"{start}.forged", self.SECRET, 0),
        ):
            with self.subTest(token=token, leeway=leeway):
                check = partial(verify_token, token, secret, leeway=leeway, now=NOW)
                self.assert_hidden(check, self.SECRET, right)

    def test_no_frame_holds_them_when_another_argument_is_at_fault(self) -> None:
        secret = self.SECRET
        no_bool = no_str = typing.cast(Any, 1)
        device = capability_with((INCOMING, "a"), (OUTGOING, "AP1", {"n": 2**60}))
        make, key = capability_of_alice().generate_access_token, "SK1"
        lengthy = capability_with(
            (OUTGOING, "AP1", {"a": "b" * 65536}), auth_token=secret
        )
        calls: list[Callable[[], object]] = [
            lambda: Capability("AP1", secret),
            lambda: Capability("AC1", secret, lenient_names=no_bool),
            lambda: make(key, secret, 0),
            lambda: make(key, secret, identity="bob"),
            lambda: make(key, secret, push_credential_sid="AP1"),
            lambda: make(key, secret, region="ireland"),
            lambda: make(key, secret, now=-1),
            lambda: make("AC1", secret),
            # Swapped, or the auth token given twice.
            lambda: Capability(secret, "AC1"),
            lambda: Capability(secret, secret),
            lambda: Capability(secret[:-1] + "\n", self.SID),
            lambda: make(secret, key),
            lambda: make(secret, secret),
            lambda: make(key, "k", push_credential_sid=secret),
            lambda: device.allow_client_outgoing(secret, {"a": "\ud800"}),
            lambda: Capability("AC1", secret).generate_access_token(key, secret),
            # A token that is too long, or cannot be one.
            lambda: lengthy.generate_access_token(key, secret, identity="a"),
            lengthy.generate_token,
            lambda: device.generate_access_token(key, secret),
            lambda: verify_token(no_str, secret),
        ]
        for number, call in enumerate(calls):
            with self.subTest(number=number):
                self.assert_hidden(call, secret[:-1])

    def test_a_repr_says_in_words_what_is_allowed(self) -> None:
        cases: list[tuple[str, list[tuple[Any, ...]]]] = [
            ("<Capability: nothing>", []),
            ("<Capability: incoming>", [(INCOMING, "a"), (INCOMING, "b")]),
            ("<Capability: incoming, outgoing>", [(INCOMING, "a"), (OUTGOING, "AP1")]),
            ("<Capability: event stream, outgoing>", [(EVENTS,), (OUTGOING, "AP1")]),
        ]
        for words, calls in cases:
            with self.subTest(words):
                self.assertEqual(repr(capability_with(*calls)), words)

    def test_a_repr_may_be_asked_for_before_the_constructor_is_done(self) -> None:
        self.assertEqual(repr(Capability.__new__(Capability)), "<Capability: nothing>")

    def test_no_repr_shows_them(self) -> None:
        calls = [(INCOMING, "a"), (OUTGOING, "AP1", {"a": "b"})]
        capability = capability_with(*calls, sid=self.SID, auth_token=self.SECRET)
        words = "<Capability: incoming, outgoing>"
        self.assertEqual((repr(capability), str(capability)), (words, words))
        scope = ScopeURI("client", "outgoing", {"appSid": self.SID})
        self.assertEqual(repr(scope), "<ScopeURI client:outgoing, 1 params>")


# ---- Client names --------------------------------------------------------------------


class ClientNameTest(unittest.TestCase):
    """Any text makes a client name, and comes back from it."""

    def test_a_letter_or_digit_is_itself_and_any_other_byte_is_escaped(self) -> None:
        self.assertEqual(encode_client_name(LETTERS_AND_DIGITS), LETTERS_AND_DIGITS)
        others = [chr(code) for code in range(0x80)]
        others = [other for other in others if other not in LETTERS_AND_DIGITS]
        names = [encode_client_name(other) for other in others]
        self.assertEqual(names, [f"_{ord(other):02X}" for other in others])
        self.assertEqual(encode_client_name("_é☃😀"), "_5F_C3_A9_E2_98_83_F0_9F_98_80")

    def test_it_is_the_spelling_of_twilio_flex(self) -> None:
        # From Twilio's support article on the TaskRouter Worker contact_uri.
        contact_uri = "client:ann_2Eveal_40arresteddevelopment_2Ecom"
        address = "ann.veal@arresteddevelopment.com"
        self.assertEqual("client:" + encode_client_name(address), contact_uri)
        self.assertEqual(decode_client_name(contact_uri), address)

    def test_any_text_comes_back(self) -> None:
        rng = random.Random(42799965656987)
        planes = [range(0x80), range(0x80, 0xD800), range(0xE000, 0x110000)]
        for _ in range(500):
            length = rng.randrange(1, 20)
            text = "".join(chr(rng.choice(rng.choice(planes))) for _ in range(length))
            with self.subTest(text=text):
                name = encode_client_name(text)
                self.assertRegex(name, r"\A[A-Za-z0-9_]+\Z")
                self.assertEqual(decode_client_name(name), text)
                self.assertEqual(decode_client_name("client:" + name), text)

    def test_lower_case_hex_is_read(self) -> None:
        self.assertEqual(decode_client_name("a_5fb_c3_a9_0A"), "a_bé\n")

    def test_a_name_has_up_to_256_characters(self) -> None:
        for text in ("a" * 256, "." * 85 + "a", "☃" * 28 + "aaaa"):
            with self.subTest(text=text):
                self.assertEqual(len(encode_client_name(text)), 256)
                self.assertEqual(decode_client_name(encode_client_name(text)), text)

    def test_text_that_makes_no_name_is_refused(self) -> None:
        too_long = ["a" * 257, "." * 86, "☃" * 100, "a" * 10**6]
        for text in ("", "\ud800", "a\udfff", *too_long):
            with self.subTest(text=text[:99]), self.assertRaises(ValueError):
                encode_client_name(text)

    @unittest.skipIf(sys.implementation.name == "pypy", "it has no tracemalloc")
    def test_long_text_is_refused_before_it_is_encoded(self) -> None:
        text = "☃" * 10**6
        tracemalloc = importlib.import_module("tracemalloc")
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        with self.assertRaises(ValueError):
            encode_client_name(text)
        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(peak, 10**5)

    def test_what_is_not_the_name_of_a_text_is_refused(self) -> None:
        second_spellings = ["_41", "_61", "_39", "_30"]  # of A, a, 9 and 0
        no_utf_8 = ["_FF", "_C3", "_A9", "_C0_80", "_ED_A0_80", "_F5_80_80_80"]
        no_escapes = [
            "_2\ufb00",
            "_",
            "a_",
            "a_4",
            "a__41",
            "_4G",
            "_+4",
            "_ 4",
            "_\n\n",
        ]
        no_names = ["", "client:", "client:client:a", "CLIENT:a", "a-b", "a b", "a\n"]
        no_names += ["+", "%41", "%5F", "é", "\uff21", "\ud800", "a" * 257, "_5F" * 86]
        for name in (*second_spellings, *no_utf_8, *no_escapes, *no_names):
            with self.subTest(name=name), self.assertRaises(ValueError):
                decode_client_name(name)


# ---- verify_token, and the errors ----------------------------------------------------

GOOD = '{"exp":1767226200}'  # in ten minutes


class VerifyTokenTest(unittest.TestCase):
    """Nothing of a token is trusted, nor decoded, before its signature is right."""

    def assert_invalid(
        self,
        token: str,
        reason: str,
        error: type[Exception] = InvalidTokenError,
        **options: Any,
    ) -> None:
        with self.subTest(token=token[:999], **options):
            with self.assertRaisesRegex(error, reason) as caught:
                verify_token(token, "secret", **{"now": NOW, **options})
            self.assertIs(type(caught.exception), error)
            self.assertIsNone(caught.exception.__context__)

    def assert_forged(self, token: str, **options: Any) -> None:
        self.assert_invalid(token, "signature", InvalidSignatureError, **options)

    def test_the_errors_are_a_small_tree(self) -> None:
        self.assertEqual(InvalidTokenError.__bases__, (ValueError,))
        self.assertEqual(InvalidSignatureError.__bases__, (InvalidTokenError,))
        self.assertEqual(ExpiredTokenError.__bases__, (InvalidTokenError,))

    def test_the_claims_come_back_as_they_are(self) -> None:
        for payload in (
            '{"scope":"","iss":"AC123123","exp":1767226200}',
            '{"exp":1767226200,"nbf":1.5,"x":[1,2.5,null,true,{"y":"\\u00eb☃"}]}',
            '{"exp":1767226200,"exp ":1}',
            ' \t\r\n{ "exp" : 1767226200 } \n',
        ):
            with self.subTest(payload=payload):
                claims = verify_token(mint(payload), "secret", now=NOW)
                self.assertEqual(claims, json.loads(payload))

    def test_no_token_with_a_character_changed_added_or_dropped_passes(self) -> None:
        token = Capability("AC1", "secret").generate_token(now=NOW)
        verify_token(token, "secret", now=NOW)
        others = {token[:at] + token[at + 1 :] for at in range(len(token))}
        for char in "Aa09-_=+/. \t\n\0\x7fé\uff21\ud800":
            for at in range(len(token) + 1):
                others.add(token[:at] + char + token[at + 1 :])
                others.add(token[:at] + char + token[at:])
        for char in BASE64URL:  # the last has two bits that mean nothing
            others.add(token[:-1] + char)
        passed = []
        for other in others - {token}:
            with contextlib.suppress(InvalidTokenError):
                verify_token(other, "secret", now=NOW)
                passed.append(other)
        self.assertEqual(passed, [])

    def test_another_secret_is_refused(self) -> None:
        for secret in ("Secret", "secrets", "s", "x" * 1000):
            self.assert_forged(mint(GOOD, secret))

    def test_a_comparison_in_constant_time_alone_decides(self) -> None:
        token = capability_of_alice().generate_token(now=NOW)
        with mock.patch.object(hmac, "compare_digest", lambda *_: True):
            verify_token(token[:-1], "secret", now=NOW)
        with mock.patch.object(hmac, "compare_digest", lambda *_: False):
            self.assert_forged(token)

    def test_it_is_three_segments_of_ascii(self) -> None:
        for token in ("", ".", "a.b", "a.b.c.d", "é.b.c", "\ud800.b.c", "a.b.é"):
            self.assert_invalid(token, "token")
        for token in ("..", "a.b.", ".b.c", "a b.c.d"):
            self.assert_forged(token)

    def test_it_is_at_most_65536_characters(self) -> None:
        longest = mint(GOOD + " " * 49073)
        self.assertEqual(len(longest), 65536)
        verify_token(longest, "secret", now=NOW)
        inspect_token(longest)
        for token in (mint(GOOD + " " * 49074), "." * 65537, "é" * 65537):
            with self.subTest(start=token[:9]):
                too_long = "token"
                self.assert_invalid(token, too_long)
                with self.assertRaisesRegex(InvalidTokenError, too_long):
                    inspect_token(token)

    def test_nothing_is_decoded_before_the_signature_is_right(self) -> None:
        for token in ("!.!.!", mint("no JSON").replace(".", ".A", 1), mint(DEEP)[:-1]):
            self.assert_forged(token)

    def test_a_wrong_argument_is_not_taken_for_a_forgery(self) -> None:
        options: list[dict[str, Any]] = [{"leeway": "0"}, {"now": "0"}]
        for wrong in options:
            with self.subTest(wrong=wrong), self.assertRaises(TypeError):
                verify_token("..", "secret", **wrong)

    def test_of_several_faults_the_first_in_this_order_is_told(self) -> None:
        claims: dict[str, Any] = {"aud": "x", "exp": "x", "nbf": "x"}
        header = '{"alg":"HS512"}'
        self.assert_forged(mint(claims, "another", header))
        self.assert_invalid(mint("[]", header=header), "header")
        for name, good in (("aud", None), ("exp", NOW), ("nbf", NOW + 99)):
            self.assert_invalid(mint(claims), name)
            claims[name] = good
            if good is None:
                del claims[name]
        self.assert_invalid(mint(claims), "expired", ExpiredTokenError)
        self.assert_invalid(mint({**claims, "exp": NOW + 1}), "nbf")

    def test_only_hs256_and_nothing_critical_is_accepted(self) -> None:
        algs = ['"none"', '"HS384"', '"HS512"', '"RS256"', '"hs256"', '"HS256 "']
        headers = ['{"alg":%s}' % alg for alg in (*algs, '["HS256"]', "null")]
        for crit in ('["exp"]', "[]", "null"):
            headers.append('{"alg":"HS256","crit":%s}' % crit)
        for header in ('{"typ":"JWT"}', *headers):
            self.assert_invalid(mint(GOOD, header=header), "header")
        token = mint(GOOD, header='{"alg":"HS256"}')
        self.assertEqual(verify_token(token, "secret", now=NOW), json.loads(GOOD))

    def test_header_and_payload_are_json_objects(self) -> None:
        good = '{"alg": "HS256", "exp": 1767226200}'
        verify_token(mint(good, header=good), "secret", now=NOW)
        cases: list[str | bytes] = [good + good, 'X{"exp":9}']
        cases += [start + good for start in ("x", "X", "\x0b", "\x0c", "\ufeff")]
        cases += [good + end for end in ("x", "\0", "\x1c", "\xa0")]
        cases += [good.encode("utf-16"), b"\xff" + good.encode()]
        for bad in (*NOT_OBJECTS, *cases):
            with self.subTest(bad=bad[:40]):
                self.assert_invalid(mint(bad), "payload")
                self.assert_invalid(mint(good, header=bad), "header")

    def test_a_name_may_not_come_twice(self) -> None:
        for payload in (
            '{"exp":1767226200,"exp":1767226200}',
            '{"exp":1767226200,"\\u0065xp":1767226200}',
            '{"exp":1767226200,"grants":{"identity":"a","identity":"b"}}',
        ):
            self.assert_invalid(mint(payload), "payload")
        header = '{"typ":"JWT","alg":"none","alg":"HS256"}'
        self.assert_invalid(mint(GOOD, header=header), "header")

    def test_segments_are_plain_base64url(self) -> None:
        good = mint('{"exp":1767226200,"x":"??>~~~"}')
        verify_token(good, "secret", now=NOW)
        head, payload, _ = good.split(".")
        self.assertEqual(len(payload) % 4, 2)
        strange = [char for char in CHARACTERS[:0x80] if char not in BASE64URL + "."]
        payloads = [payload + end for end in ("==", "AAA", *strange)]
        payloads += [payload[:4] + mark + payload[4:] for mark in "\n!+/"]
        payloads += [payload.replace("_", "/"), payload.replace("-", "+"), "A"]
        heads = [head + "=", head + "==", head + "\t", head[:4] + " " + head[4:]]
        for bad in payloads:
            self.assert_invalid(signed(f"{head}.{bad}"), "payload")
        for bad in heads:
            self.assert_invalid(signed(f"{bad}.{payload}"), "header")

    def test_a_token_for_somebody_else_is_refused(self) -> None:
        for aud in ('"x"', '["x"]', '""', "null", "[]"):
            self.assert_invalid(mint('{"exp":1767226200,"aud":%s}' % aud), "aud")
        self.assert_invalid(mint('{"exp":1,"aud":1}'), "aud")

    def test_exp_is_an_integer(self) -> None:
        huge = ["1" + "0" * 400, "-1" + "0" * 400, "9007199254740993"]
        floats = ["1767226200.0", "1767226200.5", "1.7672262e9"]
        others = ['"1767226200"', "true", "false", "null", "[1767226200]", "{}"]
        for exp in (*huge, "-9007199254740993", *floats, *others):
            self.assert_invalid(mint(f'{{"exp":{exp}}}'), "exp")
            self.assert_invalid(mint(f'{{"exp":{exp}}}'), "exp", leeway=0.5)
        for payload in ("{}", '{"Exp":1767226200}', '{"iss":"AC123123"}'):
            self.assert_invalid(mint(payload), "exp")
        for milliseconds in (NOW * 1000, 2**53):
            with self.subTest(exp=milliseconds):
                claims = {"exp": milliseconds}
                self.assertEqual(verify_token(mint(claims), "secret", now=NOW), claims)

    def test_it_expires_at_exp(self) -> None:
        token = Capability("AC123123", "secret").generate_token(600, now=NOW)
        end, last = NOW + 600, 2**53 - 86400
        valid = [(0, 0), (end - 1, 0), (end - 0.1, 0), (end, 1), (end, 0.5)]
        for now, leeway in [*valid, (end + 29, 30), (last, 2**53)]:
            with self.subTest(now=now, leeway=leeway):
                verify_token(token, "secret", now=now, leeway=leeway)
        expired = partial(self.assert_invalid, error=ExpiredTokenError)
        for now, leeway in [(end, 0), (end + 1, 0.5), (end + 30, 30), (last, 0)]:
            expired(token, "expired", now=now, leeway=leeway)
        expired(mint({"exp": 0}), "expired", now=0)
        expired(mint({"exp": -(2**53)}), "expired", now=0)

    def test_the_clock_is_asked_unless_now_is_given(self) -> None:
        capability = Capability("AC1", "secret")
        verify_token(capability.generate_token(60), "secret")
        with self.assertRaises(ExpiredTokenError):
            verify_token(capability.generate_token(60, now=time.time() - 61), "secret")

    def test_nbf_is_honoured(self) -> None:
        payload = '{"exp":1767226200,"nbf":%s}'
        good = [("-5", 0), ("1767225600", 0), ("1767225600.0", 0), ("1767225601", 1)]
        for nbf, leeway in [*good, ("1767225600.5", 0.5), ("1767225630", 30)]:
            with self.subTest(nbf=nbf, leeway=leeway):
                verify_token(mint(payload % nbf), "secret", now=NOW, leeway=leeway)
        huge = "1" + "0" * 400
        bad = [("1767225601", 0), ("1767225600.5", 0), (huge, 0), (huge, 0.5)]
        for nbf, leeway in [*bad, ("1767225601", 0.5), ("1767225631", 30)]:
            self.assert_invalid(mint(payload % nbf), "nbf", leeway=leeway)
        for nbf in ("null", "true", '"0"', "[]", "{}"):
            self.assert_invalid(mint(payload % nbf), "nbf")


# ---- ScopeURI ------------------------------------------------------------------------


def php_query(params: Mapping[str, str | int]) -> str:
    """Params as PHP's http_build_query writes them."""
    return urlencode(params).replace("~", "%7E")


def some_text(rng: random.Random) -> str:
    alphabet = "aZ09 ~+%&=?#/;:.-_*'()[]\"\\\n\0\x7fëß☃😀ключ"
    return "".join(rng.choices(alphabet, k=rng.randrange(8)))


class ScopeURITest(unittest.TestCase):
    """A scope is a service, a privilege and params, and is written as a URI."""

    def test_str_is_the_uri(self) -> None:
        self.assertEqual(str(ScopeURI("client", "incoming")), "scope:client:incoming")
        params = {"path": "/2010-04-01/Events", "params": "a=b"}
        self.assertEqual(
            str(ScopeURI("stream", "subscribe", params)),
            "scope:stream:subscribe?path=%2F2010-04-01%2FEvents&params=a%3Db",
        )

    def test_each_byte_is_spelled_as_by_http_build_query(self) -> None:
        characters = [chr(code) for code in range(0x800)] + ["☃", "😀"]
        spelled = [str(ScopeURI("a", "b", {"c": char})) for char in characters]
        expected = ["scope:a:b?" + php_query({"c": char}) for char in characters]
        self.assertEqual(spelled, expected)
        plain = [uri[-1] for uri in spelled if "%" not in uri]
        self.assertEqual(plain, sorted(LETTERS_AND_DIGITS + "-_.+"))  # "+" is a space

    def test_a_word_is_letters_digits_and_three_marks(self) -> None:
        for argument in ("service", "privilege"):
            call, taken = CALLS[argument], []
            others = ("", "a b", "a:b", "a\n", "\na", "Z_a.9-", "a" * 300)
            for word in (*CHARACTERS, *others):
                with self.subTest(argument, word=word), contextlib.suppress(ValueError):
                    self.assertEqual(ScopeURI.parse(str(call(word))), call(word))
                    taken.append(word)
            with self.subTest(argument):
                self.assertEqual(taken[:-2], sorted(LETTERS_AND_DIGITS + "_.-"))
                self.assertEqual(taken[-2:], ["Z_a.9-", "a" * 300])

    def test_its_parts_can_be_read(self) -> None:
        given = {"b": "1", "a": "2"}
        scope = ScopeURI("client", "incoming", given)
        given["c"] = "3"
        self.assertEqual((scope.service, scope.privilege), ("client", "incoming"))
        self.assertIs(type(scope.params), dict)
        self.assertEqual(list(scope.params.items()), [("b", "1"), ("a", "2")])

    def test_equality_is_of_all_three_parts_in_any_order_of_params(self) -> None:
        params = {"a": "1", "b": "2"}
        scope = ScopeURI("client", "incoming", params)
        self.assertEqual(scope, ScopeURI("client", "incoming", {"b": "2", "a": "1"}))
        others = [
            ScopeURI("stream", "incoming", params),
            ScopeURI("client", "x", params),
        ]
        others += [ScopeURI("client", "incoming", {**params, "b": "3"})]
        for other in (*others, ScopeURI("client", "incoming"), str(scope), None):
            with self.subTest(other=str(other)):
                self.assertNotEqual(scope, other)
        self.assertEqual(scope, mock.ANY)

    def test_it_may_have_a_subclass(self) -> None:
        class Sub(ScopeURI):
            pass

        self.assertIs(type(Sub.parse("scope:a:b")), Sub)
        self.assertEqual(Sub("a", "b"), ScopeURI("a", "b"))

    def test_it_cannot_be_hashed(self) -> None:
        with self.assertRaises(TypeError):
            hash(ScopeURI("client", "incoming"))

    def test_parse_is_the_inverse_of_str(self) -> None:
        rng = random.Random(7515)
        for _ in range(300):
            params = {some_text(rng): some_text(rng) for _ in range(rng.randrange(4))}
            with self.subTest(params=params):
                scope = ScopeURI(rng.choice(["client", "a.b-c_9"]), "x", params)
                parsed = ScopeURI.parse(str(scope))
                self.assertEqual(parsed, scope)
                self.assertEqual(str(parsed), str(scope))

    def test_parse_reads_what_other_libraries_write(self) -> None:
        cases: list[tuple[str, dict[str, str]]] = [
            # twilio-python: params in alphabetical order, "~" as it is
            ("outgoing?appParams=a%3D~&appSid=AP1&clientName=Alice",
             {"appParams": "a=~", "appSid": "AP1", "clientName": "Alice"}),
            # twilio-node: a bare slash, !'()*~ as they are, space as %20
            ("subscribe?path=/2010-04-01/Events&appParams=a%20b%3D~!*'()",
             {"path": "/2010-04-01/Events", "appParams": "a b=~!*'()"}),
            ("incoming?clientName=%c3%ab", {"clientName": "ë"}),
            ("incoming?a=b=c", {"a": "b=c"}), ("incoming?=", {"": ""}),
            ("incoming?", {}), ("incoming", {}),
        ]  # fmt: skip
        for uri, params in cases:
            with self.subTest(uri=uri):
                self.assertEqual(ScopeURI.parse("scope:client:" + uri).params, params)

    def values(self, spellings: Sequence[str]) -> dict[str, str]:
        """What each spelling of a param's value is read as, if it can be read."""
        read = {}
        for spelling in spellings:
            with contextlib.suppress(ValueError):
                read[spelling] = ScopeURI.parse("scope:a:b?c=" + spelling).params["c"]
        return read

    def test_parse_reads_each_character_that_a_query_may_have(self) -> None:
        bare = LETTERS_AND_DIGITS + "!$'()*,-./:;=?@_~"
        expected = {**dict(zip(bare, bare)), "+": " "}
        self.assertEqual(self.values(CHARACTERS), expected)
        for char in bare.replace("=", ""):
            with self.subTest(name=char):
                scope = ScopeURI.parse(f"scope:a:b?{char}=1")
                self.assertEqual(scope.params, {char: "1"})

    def test_parse_reads_each_escape_of_a_byte(self) -> None:
        some = ["\0", " ", "+", "-", "/", *"01789:@AFG_`afg\x7f\x80\uff11"]
        pairs = [f"%{first}{second}" for first in some for second in some]
        expected = {
            pair: chr(int(pair[1:], 16))
            for pair in pairs
            if re.fullmatch("%[0-7][0-9A-Fa-f]", pair)
        }
        self.assertEqual(self.values(pairs), expected)

    def test_what_is_no_scope_uri_is_refused(self) -> None:
        heads = ["", "scope", "scope:a", "scope::b", "scope:a:", "scope:a:b:c"]
        heads += ["Scope:a:b", "SCOPE:a:b", "xscope:a:b", " scope:a:b", "scope:a:b\n"]
        heads += ["scope:a:b&c=d", "scope:a:b:c=d", "scope:a c:b", "scope:%61:b"]
        queries = ["c", "c=1&", "&c=1", "c=1&&d=2", "c=1&c=2", "c=1&%63=2", "%FF=c"]
        values = ["%", "%4", "%4G", "%zz", "%ff", "%ED%A0%80", "b c", "d\n", "é", "b#c"]
        values += ['"b"', "\ud800", *"[\\]^`{|}<>"]
        queries += ["c=" + value for value in values]
        for uri in (*heads, *("scope:a:b?" + query for query in queries)):
            with self.subTest(uri=uri):
                with self.assertRaises(ValueError) as caught:
                    ScopeURI.parse(uri)
                self.assertIs(type(caught.exception), ValueError)
                self.assertIsNone(caught.exception.__context__)

    def test_parse_reads_at_most_65536_characters(self) -> None:
        longest = "scope:a:b?c=" + "%41" * 21840 + "defg"
        self.assertEqual(len(longest), 65536)
        self.assertEqual(ScopeURI.parse(longest).params, {"c": "A" * 21840 + "defg"})
        for uri in (longest + "h", "\ud800" * 65537):
            with self.subTest(start=uri[:20]), self.assertRaises(ValueError):
                ScopeURI.parse(uri)


# ---- inspect_token -------------------------------------------------------------------


class InspectTokenTest(unittest.TestCase):
    """A report says what is in a token; nobody has checked its signature."""

    def assert_no_token(self, reason: str, text: str) -> None:
        with self.subTest(text=text[:999]):
            self.assertIn(reason, error_of(inspect_token, text))

    def assert_reports(self, token: str, kind: str, scopes: list[Any]) -> None:
        header, payload, _ = token.split(".")
        report = {
            "kind": kind,
            "header": json.loads(decoded(header)),
            "claims": json.loads(decoded(payload)),
            "scopes": scopes,
            "expires": "2026-01-01T01:00:00Z",
            "expired": False,
            "signature": "not checked",
            "problems": [],
        }
        inspected = inspect_token(token, now=NOW)
        self.assertEqual(json.dumps(inspected), json.dumps(report))

    def test_the_report_of_a_capability_token(self) -> None:
        app, events = (OUTGOING, REAL_APP, {"b": "c d"}), (EVENTS, {"e": "f"})
        device = capability_with((INCOMING, "a"), app, events, sid=REAL_ACCOUNT)
        incoming = {"clientName": "a"}
        outgoing = {"appSid": REAL_APP, "appParams": {"b": "c d"}, "clientName": "a"}
        stream = {"path": "/2010-04-01/Events", "params": {"e": "f"}}
        scopes = [
            {"service": "client", "privilege": "incoming", "params": incoming},
            {"service": "client", "privilege": "outgoing", "params": outgoing},
            {"service": "stream", "privilege": "subscribe", "params": stream},
        ]
        self.assert_reports(device.generate_token(now=NOW), "capability", scopes)

    def test_the_report_of_an_access_token(self) -> None:
        calls = [(INCOMING, "a"), (OUTGOING, REAL_APP)]
        device = capability_with(*calls, sid=REAL_ACCOUNT)
        token = device.generate_access_token(REAL_KEY, "k", region="ie1", now=NOW)
        self.assert_reports(token, "access", [])

    def test_what_kind_a_token_is_of(self) -> None:
        cases: list[tuple[str, str, dict[str, Any]]] = [
            ("access", ACCESS_HEADER, {}),
            ("access", ACCESS_HEADER, {"scope": ""}),
            ("access", HEADER, {"grants": None, "iss": "SK1"}),
            ("access", HEADER, {"grants": [], "sub": "AC1", "iss": 1}),
            ("access", '{"cty":"plivo;v=1"}', {"grants": {}, "iss": REAL_ACCOUNT}),
            ("access", '{"cty":"Twilio-fpa;v=2"}', {"grants": {}}),
            ("access", '{"cty":1}', {"grants": {}}),
            ("unknown", HEADER, {"grants": None, "iss": ["SK1"], "sub": "SA1"}),
            ("unknown", HEADER, {"grants": ["voice"], "iss": "https://a.b/"}),
            ("unknown", '{"cty":"plivo;v=1"}', {"grants": {}, "iss": "MAXXX"}),
            ("unknown", '{"cty":""}', {"grants": {"voice": {}}}),
            ("capability", '{"cty":""}', {"grants": {}, "scope": "scope:a:b"}),
            ("access", HEADER, {"scope": "", "grants": {}}),
            ("capability", HEADER, {"scope": None, "iss": "AC1"}),
            ("capability", '{"cty":"JWT"}', {"scope": "", "iss": REAL_ACCOUNT}),
            ("capability", HEADER, {"scope": "a\nscope:", "iss": "x"}),
            ("unknown", HEADER, {"scope": ""}),
            ("unknown", HEADER, {"scope": "read myscope:x", "iss": "SK1"}),
            ("unknown", HEADER, {"scope": ["scope:a:b"], "iss": ["AC1"]}),
            ("unknown", HEADER, {"scope": "", "iss": "AP1"}),
            ("unknown", HEADER, {"iss": "AC1"}),
            ("unknown", '{"cty":["twilio-fpa;v=1"]}', {"exp": 1}),
        ]
        for kind, header, claims in cases:
            with self.subTest(header=header, claims=claims):
                report = inspect_token(mint(claims, header=header))
                self.assertEqual(report["kind"], kind)

    def test_a_scope_is_taken_apart_where_it_can_be_read(self) -> None:
        scope = {"service": "a", "privilege": "b"}
        half = {"service": "a", "privilege": "c", "params": {"appParams": "x"}}
        cases: list[tuple[Any, list[Any]]] = [
            ("scope:a:b", [{**scope, "params": {}}]),
            ("scope:a:b?c=d%3De", [{**scope, "params": {"c": "d=e"}}]),
            ("scope:a:b?params=a%3Db", [{**scope, "params": {"params": {"a": "b"}}}]),
            ("scope:a:b?appParams=", [{**scope, "params": {"appParams": {}}}]),
            ("x scope:a:c?appParams=x", [{"unreadable": "x"}, half]),
            *((nothing, []) for nothing in ("", " ", 7, ["scope:a:b"], None)),
        ]
        for given, scopes in cases:
            with self.subTest(given=given):
                report = inspect_token(mint({"scope": given, "iss": "AC1"}))
                self.assertEqual(report["scopes"], scopes)

    def test_what_twilio_ruby_encodes_once_is_read(self) -> None:
        token = mint({"scope": "scope:a:b?appParams=a%3Db+c%26%C3%A9%3D%22%2525"})
        (scope,) = inspect_token(token)["scopes"]
        self.assertEqual(scope["params"]["appParams"], {"a": "b c", "é": '"%'})
        token = mint({"scope": "scope:a:b?appParams=a%3D100%25%26b%3D%254%25zz"})
        (scope,) = inspect_token(token)["scopes"]
        self.assertEqual(scope["params"]["appParams"], {"a": "100%", "b": "%4%zz"})
        with self.assertRaises(ValueError):
            ScopeURI.parse("scope:a:b?c=100%")

    def test_of_very_many_scopes_the_first_100_are_shown(self) -> None:
        for count, more in ((100, 0), (101, 1), (24000, 1)):
            with self.subTest(count=count):
                token = good_token("capability", {"claims.scope": "x " * count})
                report = inspect_token(token, now=NOW)
                self.assertEqual(len(report["scopes"]), 100)
                self.assertEqual(len(report["problems"]), 100 + more)
                self.assertLess(len(json.dumps(report, indent=2)), 100_000)

    def test_it_says_when_a_token_expires(self) -> None:
        cases: list[tuple[str, str | None, bool | None]] = [
            *((exp, None, None) for exp in ('"soon"', "1.5", "true", "null")),
            ("1767225599", "2025-12-31T23:59:59Z", True),
            ("1767225600", "2026-01-01T00:00:00Z", True),
            ("1767225601", "2026-01-01T00:00:01Z", False),
            ("253402300799", "9999-12-31T23:59:59Z", False),
            *((exp, None, False) for exp in ("253402300800", "1" + "0" * 400)),
            ("-1" + "0" * 400, None, True),
            ("-1", "1969-12-31T23:59:59Z", True),
        ]
        for exp, expires, expired in cases:
            with self.subTest(exp=exp):
                report = inspect_token(mint(f'{{"exp":{exp}}}'), now=NOW + 0.999)
                self.assertEqual(report["expires"], expires)
                self.assertIs(report["expired"], expired)

    def test_the_clock_is_asked_unless_now_is_given(self) -> None:
        token = good_token("capability")
        self.assertIs(inspect_token(token, now=0)["expired"], False)
        with clock_at(NOW + 3600):
            self.assertIs(inspect_token(token)["expired"], True)

    def test_a_report_is_at_most_100_levels_deep(self) -> None:
        payload = '{"exp":1767226200,"x":%s}'  # which is one level
        nested = [
            (len(closing) * repeats, opening * repeats + "0" + closing * repeats)
            for opening, closing in (("[", "]"), ('{"a":', "}"), ('[1,{"a":', "}]"))
            for repeats in (49, 50, 99, 100, 300)
        ]
        nested.append((2, "[" + "[{}]," * 999 + '"' + "[{" * 999 + '"]'))
        nested.append((100, "[1,[]," + "[" * 99 + "]" * 99 + ',"x"]'))
        for levels, value in nested:
            for token in (mint(payload % value), mint("{}", header=payload % value)):
                self.assert_no_token("levels" if levels >= 100 else "none", token)

    def test_a_bare_token_is_none_of_these(self) -> None:
        token = good_token("access")
        start = token.rpartition(".")[0]
        spaced = mint({}, header='{ "alg":"HS256"}')
        broken = mint({}, header='{\n"alg":"HS256"}')
        signatures = ["", f"a+{BASE64URL}/b=", f"eyJ{'a' * 40}"]
        tokens = [f"{start}.{signature}" for signature in signatures]
        for bare in (token, *tokens, spaced, broken):
            with self.subTest(bare=bare):
                inspect_token(bare, now=NOW)

    def test_what_is_not_a_json_object_is_refused(self) -> None:
        for text in ("..", mint("{}", header="[]"), mint("[]", header="[]")):
            self.assert_no_token("header", text)
        huge_number = '{"x":' + "9" * 40000 + "e999}"
        for payload in (*NOT_OBJECTS, huge_number, "[" * 20000 + "]" * 20000):
            self.assert_no_token("payload", mint(payload))

    @unittest.skipIf(sys.flags.optimize > 1, "python -OO drops docstrings")
    def test_its_docstring_says_that_nothing_is_checked(self) -> None:
        self.assertIn("NOT checked", inspect_token.__doc__ or "")


# ---- inspect_token: why Twilio refuses a token ---------------------------------------

IDENTITY, VOICE = "claims.grants.identity", "claims.grants.voice"
HEADER_CODES, SID_CODES, GRANT_CODES = "20102, 20101", "20103, 20101", "20106, 20101"
NAMED, APP = "scope:client:incoming?clientName=", "scope:client:outgoing?appSid="
APP_PARAMS = f"{APP}{REAL_APP}&appParams="

CALLED = {"incoming": {"allow": True}}
PUSH, ALLOW = VOICE + ".push_credential_sid", VOICE + ".incoming.allow"
OUT_APP, OUT_PARAMS = VOICE + ".outgoing.application_sid", VOICE + ".outgoing.params"
# Values in which there is no fault: kind, place, values.
# fmt: off
FINE: list[tuple[str, str, list[Any]]] = [
    ("capability", "header.typ", [MISSING, "jwt", None]),
    ("capability", "header.cty", [MISSING, "JWT"]),
    ("capability", "header.twr", ["", 1]),
    ("access", "header.twr", ["jp1", None]),
    ("capability", "claims.sub", [1, REAL_KEY]),
    ("access", "claims.scope", [1, ""]),
    *((kind, "claims.exp", [NOW + 1, NOW + 86400])
      for kind in ("access", "capability")),
    ("access", "claims.iat", [NOW, NOW - 0.5, 0, -(10**400), -1e308]),
    ("access", "claims.nbf", [NOW, NOW - 0.5, -1, -1e308]),
    ("access", IDENTITY,
     ["a" * 121, "Undefined", "undefined1", "nullable", "client42"]),
    ("access", VOICE, [{"incoming": {"allow": True}}]),
    ("access", VOICE, [{"outgoing": {"application_sid": REAL_APP}}]),
    ("access", VOICE, [{"push_credential_sid": REAL_CREDENTIAL}]),
    ("access", VOICE + ".incoming", [MISSING, None, {"allow": False}]),
    ("access", VOICE + ".outgoing", [MISSING, None]),
    ("access", VOICE + ".outgoing.params",
     [MISSING, None, {}, "a=b", {"a": "b", "c": 1, "d": 1.5, "e": True},
      {"undefined": "null", "b": "None", "c": "true", "d": "nil", "e": "", "f": " NaN",
       "g": "Undefined", "h": "your_id", "i": "hi {{name}}", "j": "AP1", "k": "{id}",
       "l": "env.example.com", "m": "[object detection] v2", "n": "#{5}", "o": "%(a)s"}]),
    ("access", VOICE + ".push_credential_sid", [MISSING, None]),
    ("capability", "claims.scope",
     [NAMED + "a" * 256, f"{APP}{REAL_APP}&clientName=", APP_PARAMS,
      APP_PARAMS + "a%3D%25", APP_PARAMS + "a%3D100%25",
      APP_PARAMS + "a%3D%25%26b%3D%25zz",
      APP_PARAMS + "a%3D1%26clientName%3Dann%26params%3D%253D",
      APP_PARAMS + "To%3Dscope%3Aclient%3Aincoming", APP_PARAMS + "Foo%3DAnn+Veal",
      APP_PARAMS + "Foo%3D%C3%A9%22", "scope:stream:subscribe?appParams=a%3Db"]),
]
# fmt: on

# The claims of a good access token.
CLAIMS: dict[str, Any] = json.loads(decoded(good_token("access").split(".")[1]))


class ProblemsTest(unittest.TestCase):
    """Everything for which Twilio is known to refuse a token is a problem."""

    def test_a_good_token_has_none(self) -> None:
        for kind in ("capability", "access"):
            with self.subTest(kind):
                self.assertEqual(lines_of(kind, {}), [])
        token = capability_with((INCOMING, "a"), sid=REAL_ACCOUNT).generate_token(now=0)
        self.assertEqual(inspect_token(token, now=0)["problems"], [])

    def test_what_is_fine_is_none(self) -> None:
        for kind, place, values in FINE:
            for value in values:
                with self.subTest(kind=kind, place=place, value=value):
                    self.assertEqual(lines_of(kind, {place: value}), [])

    def test_a_sid_has_32_hex_digits(self) -> None:
        for kind, place, rule, _ in SID_PLACES:
            good = []
            for character in CHARACTERS[:0x80]:
                for digits in (character + "0" * 31, "0" * 31 + character):
                    if not lines_of(kind, {place: rule[-2:] + digits}):
                        good.append(character)
            with self.subTest(kind=kind, place=place):
                self.assertEqual("".join(good[::2]), "".join(sorted(string.hexdigits)))
                self.assertEqual(good[::2], good[1::2])
                fine = rule[-2:] + string.hexdigits + "0" * 10
                self.assertEqual(lines_of(kind, {place: fine}), [])

    def test_a_signature_is_43_characters_of_base64url(self) -> None:
        start = good_token("capability").rpartition(".")[0]
        taken = []
        for character in CHARACTERS:
            token = f"{start}.{'A' * 42}{character}"
            with contextlib.suppress(InvalidTokenError):
                if not inspect_token(token, now=NOW)["problems"]:
                    taken.append(character)
        self.assertEqual(taken, sorted(BASE64URL))

    def test_a_name_is_not_compared_where_it_may_be_somebodys_own(self) -> None:
        push = VOICE + ".push_credential_sid"
        fifty = {f"x{chr(97 + i // 26)}{chr(97 + i % 26)}": 1 for i in range(50)}
        long_name = "pushcredentialsid" + "_" * 23
        cases: list[dict[str, Any]] = [
            *({"claims.region": region} for region in ("Ireland", "", 1, None, "ie1\n")),
            {"claims.region": "ie1", "header.twr": "us1"},
            {"claims.issuer": "x", "claims.voice": {}, "claims.incoming": 1},
            {"claims.pushCredentialSid": None, push: MISSING},
            *({f"claims.grants.{name}": 1} for name in ("video", "rtc", "chat")),
            *({f"claims.{name}": 1, f"claims.grants.{name}": 1, VOICE: CALLED}
              for name in ("params", "application_sid", "allow", "Allow", "allowed",
                           "app_sid", "appParams")),
            {VOICE: {"allow": 1, "push_credential_sid": REAL_CREDENTIAL}},
            {VOICE + ".outgoing.allow": 1, VOICE + ".incoming": MISSING},
            {VOICE + ".outgoing.params": {"region": "ie1", "twr": "ie1"}},
            {"claims.grants.video": {"region": "ie1", "incoming_allow": True}},
            *({f"claims.{name}": REAL_CREDENTIAL, push: MISSING} for name in (
                "pushCredentialSid1", "push credential", "p\u00fcshcredentialsid",
                long_name + "_")),
            *({f"claims.{name}": NOW, VOICE + ".outgoing": MISSING} for name in (
                "jti", "iat", "nbf", "kid", "cred", "sid", "voices_of", "ongoing")),
            {"claims": {**fifty, **CLAIMS, "region": "ie1"}},
        ]  # fmt: skip
        for changes in cases:
            with self.subTest(changes=changes):
                self.assertEqual(lines_of("access", changes), [])
        for target, name, value in (
            ("header.cty", "city", "Bonn"), ("header.cty", "entity", "twilio-fpa;v=1"),
            ("claims.iss", "issue", "SK-12"), ("claims.iss", "issuer", REAL_ACCOUNT),
            ("claims.sub", "accounts", "x"), ("claims.sub", "accountSid", REAL_KEY),
            ("claims.exp", "express", NOW), ("claims.exp", "expires_in", 3600),
            (IDENTITY, "userId", 7),
        ):  # fmt: skip
            with self.subTest(name, value=value):
                lines = lines_of("access", {target: MISSING, f"claims.{name}": value})
                self.assertEqual(
                    [line.split(";")[0] for line in lines], [f"{target}: is missing"]
                )
        for changes in (
            {f"claims.{long_name}": REAL_CREDENTIAL, push: MISSING},
            {"claims": {**dict(list(fifty.items())[:45]), **CLAIMS, "region": "ie1"}},
        ):
            with self.subTest(changes=changes):
                self.assertEqual(len(lines_of("access", changes)), 1)

    def test_a_capability_token_may_have_any_names(self) -> None:
        changes = {"claims.region": "ie1", "claims.voice": {}, "header.twr": "ie1"}
        self.assertEqual(lines_of("capability", changes), [])

    def test_of_a_token_of_unknown_kind_only_that_is_said(self) -> None:
        for claims in (
            {"iss": 1, "aud": 1, "nbf": ""},
            {"iss": "https://example.com/", "scope": "openid email", "exp": 0},
            {"scope": ["read"], "aud": "x"},
        ):
            with self.subTest(claims=claims):
                token = mint(claims, header='{"typ":1,"twr":1}')[:-1]
                report = inspect_token(token)
                self.assertEqual((report["scopes"], len(report["problems"])), ([], 1))

    def test_several_faults_are_several_problems_in_the_order_of_the_table(
        self,
    ) -> None:
        ends = ["claims.exp", "claims.iat", "claims.nbf", "claims.aud"]
        scope = "x scope:client:outgoing?appSid=x&appParams=y&clientName=a-b"
        params = [
            f"scopes[1].params.{n}" for n in ("clientName", "appSid", "appParams")
        ]
        push = VOICE + ".push_credential_sid"
        cases: list[tuple[str, dict[str, Any], list[str]]] = [
            ("capability", {}, ["header.alg", "header.crit", "claims.iss", *ends]),
            ("access", {"header.cty": "twilio"}, [
                "header.alg", "header.typ", "header.cty", "header.twr", "header.crit",
                "claims.iss", "claims.sub", *ends, IDENTITY,
                VOICE + ".outgoing.application_sid", push,
            ]),
            ("access", {}, [IDENTITY, VOICE]),
            ("access", {}, ["claims.exp", "claims.grants"]),
            ("access", {VOICE: {"push_credential_sid": "x"}}, [push]),
            ("capability", {"claims.scope": scope}, ["claims.exp", "scopes[0]", *params]),
        ]  # fmt: skip
        for kind, others, places in cases:
            with self.subTest(kind=kind, places=places):
                changes = {**dict.fromkeys(places, "a-b"), **others}
                lines = lines_of(kind, changes)
                self.assertEqual([line.partition(":")[0] for line in lines], places)
        token = good_token("access", {"header.alg": 1, "claims.iss": 1})[:-1]
        lines = inspect_token(token, now=NOW)["problems"]
        places = ["header.alg", "signature", "claims.iss"]
        self.assertEqual([line.partition(":")[0] for line in lines], places)

    def test_any_json_gets_lines_and_nothing_else(self) -> None:
        strange: list[Any] = [
            *(MISSING, None, True, 0, -1, 1.5, 10**400, -(10**400)),
            *("", "x", "{since}", "\ud800", "\u2028", "scope:a:b?c=%C3%28 scope:a:b"),
            *([], [[]], {}, {"": {}}, {"allow": 1}, ["scope"], {"voice": []}),
        ]
        places = {"header.kid", *(line.partition(":")[0] for line, *_ in FAULTS)}
        for place, value in itertools.product(places, strange):
            for kind in ("capability", "access"):
                with self.subTest(kind=kind, place=place, value=value):
                    for line in lines_of(kind, {place: value}):
                        self.assertRegex(line, PROBLEM)


# ---- The file: the line across it, what it imports, and its copies -------------------


class LineTest(unittest.TestCase):
    """What stands above the line makes and verifies tokens, and needs nothing else."""

    def setUp(self) -> None:
        text = MODULE.read_text(encoding="utf-8")
        self.above, line, _ = text.partition("# ==== What follows only explains")
        self.assertTrue(line)
        self.core = ModuleType("core")
        exec(compile(self.above, "core.py", "exec"), vars(self.core))

    def test_it_makes_and_verifies_the_known_good_vectors(self) -> None:
        names = ["Capability", "ScopeURI", "verify_token"]
        core = {name: getattr(self.core, name) for name in names}
        load = unittest.defaultTestLoader.loadTestsFromTestCase
        result = unittest.TestResult()
        with mock.patch.dict(globals(), core):
            load(KnownGoodVectorsTest).run(result)
        self.assertEqual(result.errors + result.failures, [])
        self.assertGreater(result.testsRun, 4)

    def test_its_public_names_are_all_but_inspect_token(self) -> None:
        names = {name for name in vars(self.core) if name in twilio_capability.__all__}
        self.assertEqual(names, set(self.core.__all__))
        self.assertEqual({*names, "inspect_token"}, set(twilio_capability.__all__))

    def test_it_names_nothing_that_is_below(self) -> None:
        below = set(vars(twilio_capability)) - set(vars(self.core)) - {"__file__"}
        self.assertLess({"inspect_token", "main", "os", "sys"}, below)
        names: set[str] = set()
        for node in ast.walk(ast.parse(self.above)):
            fields = [value for _, value in ast.iter_fields(node)]
            names.update(value for value in fields if isinstance(value, str))
        self.assertEqual(names & below, set())


def with_constants(phrase: str) -> str:
    """A phrase in which the module's private constants are put."""
    printable = "".join(map(chr, range(0x21, 0x7F)))
    refused = re.sub(f"[{twilio_capability._LENIENT_ALPHABET}]", "", printable)
    bits = twilio_capability._MAX_EXACT_INT.bit_length() - 1
    return phrase.format(**vars(twilio_capability), refused=refused, bits=bits)


def statuses_in(text: str) -> list[int]:
    """The numbers in a list of exit statuses, which ends with a full stop."""
    return [int(number) for number in re.findall(r"\b\d+\b", text.partition(".")[0])]


def exit_statuses() -> list[int]:
    """Of a good token, of none, of wrong usage, and after Ctrl-C."""
    interrupted = FailingStream(KeyboardInterrupt())
    return [
        run_main("inspect", good_token("access")).status,
        run_main("inspect", "no token").status,
        run_main("generate").status,
        run_main("inspect", stdin=interrupted).status,
    ]


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
                with self.subTest(flags=flags):
                    result = run_process(
                        sys.executable, *flags, "script.py", cwd=folder
                    )
                    self.assertEqual(result, (0, token + "\n", ""))
            command = [sys.executable, "-S", "-OO", "twilio_capability.py"]
            result = run_process(*command, "inspect", token, cwd=folder)
            self.assertEqual((result.status, result.errors), (0, ""))

    def test_importing_it_imports_no_more_than_a_few_modules(self) -> None:
        # With -S, as what a site imports would hide what the module imports.
        script = (
            "import base64, hmac, json, os, re, sys, time, urllib.parse\n"
            "before = set(sys.modules)\n"
            "import twilio_capability\n"
            "print(*set(sys.modules) - before)\n"
        )
        loaded = set(run_process(sys.executable, "-S", "-c", script).output.split())
        self.assertIn("twilio_capability", loaded)
        own = {"twilio_capability", "__future__", "collections.abc"}
        self.assertEqual(loaded - own, set())

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
            with self.subTest(name):
                self.assertTrue(getattr(twilio_capability, name).__doc__)

    @unittest.skipIf(sys.flags.optimize > 1, "python -OO drops docstrings")
    def test_its_docstrings_have_the_numbers_that_hold(self) -> None:
        cases: list[tuple[object, list[str]]] = [
            (Capability, ["1 to {_MAX_CLIENT_NAME} of ``{_NAME_ALPHABET}``",
                          "in an access token at most {_MAX_IDENTITY};",
                          "printable ASCII except space and ``{refused}``."]),
            (Capability.generate_token,
             ["an int from 1 to {_MAX_TTL}.", "more than {_MAX_TEXT:,} characters"]),
            (Capability.generate_access_token,
             ["more than {_MAX_IDENTITY} characters", "beyond 2**{bits}",
              "more than {_MAX_TEXT:,} characters"]),
            (encode_client_name, ["longer than {_MAX_CLIENT_NAME} characters"]),
            (ScopeURI.parse, ["more than {_MAX_TEXT:,} characters"]),
            (inspect_token, ["the first {_MAX_SCOPES} of"]),
        ]  # fmt: skip
        for documented, phrases in cases:
            text = " ".join((inspect.getdoc(documented) or "").split())
            for phrase in phrases:
                with self.subTest(phrase):
                    self.assertIn(with_constants(phrase), text)

    @unittest.skipIf(sys.flags.optimize > 1, "python -OO drops docstrings")
    def test_the_statuses_of_its_docstring_are_those_of_the_command(self) -> None:
        text = inspect.getdoc(main) or ""
        self.assertEqual(statuses_in(text.partition("Returns ")[2]), exit_statuses())

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
                    with self.subTest(function.__qualname__):
                        self.assertTrue(typing.get_type_hints(function, namespace))


# ---- The command line ----------------------------------------------------------------


class FailingStream(io.StringIO):
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


NO_INPUT = "no token can be read from standard input"


def env_without(*names: str) -> dict[str, str]:
    return {key: value for key, value in ENVIRONMENT.items() if key not in names}


class CommandLineTest(unittest.TestCase):
    """Run by main() in this process, with the clock at NOW."""

    def assert_fails(
        self, status: int, message: str, *given: str, **options: Any
    ) -> None:
        with self.subTest(given=given, **options):
            self.assertEqual(run_main(*given, **options), failed(status, message))

    def assert_prints(self, text: str, *given: str, **options: Any) -> None:
        with self.subTest(given=given, **options):
            self.assertEqual(run_main(*given, **options), (0, text + "\n", ""))

    def test_generate_prints_the_token_and_a_newline(self) -> None:
        arguments = "--incoming Alice --outgoing AP123123 --param Foo=Bar --ttl 600"
        token = capability_of_alice(auth_token=AUTH_TOKEN).generate_token(600, now=NOW)
        self.assert_prints(token, "generate", *arguments.split())

    def test_generate_takes_every_kind_of_permission(self) -> None:
        arguments = (
            "generate --incoming a --incoming b --outgoing AP1 --outgoing AP2 --events"
            " --param a=b=c --param é= --event-filter x=1 --event-filter y="
        )
        params, filters = {"a": "b=c", "é": ""}, {"x": "1", "y": ""}
        calls = [(INCOMING, "a"), (INCOMING, "b"), (OUTGOING, "AP1", params)]
        calls += [(OUTGOING, "AP2", params), (EVENTS, filters)]
        capability = capability_with(*calls, sid="AC123123", auth_token=AUTH_TOKEN)
        token = capability.generate_token(now=NOW)  # for an hour, unless told
        self.assert_prints(token, *arguments.split())

    def test_generate_takes_lenient_names_if_told(self) -> None:
        device = Capability("AC123123", AUTH_TOKEN, lenient_names=True)
        device.allow_client_incoming("agent-7")
        arguments = ["generate", "--incoming", "agent-7"]
        self.assert_prints(
            device.generate_token(now=NOW), *arguments, "--lenient-names"
        )
        self.assertEqual(run_main(*arguments).status, 2)
        access = ["generate", "--access", "--identity", "agent-7", "--outgoing", "AP1"]
        self.assertEqual(run_main(*access, "--lenient-names").status, 0)

    def test_generate_access_prints_an_access_token(self) -> None:
        alice, app = (INCOMING, "Alice"), (OUTGOING, "AP123123", {"Foo": "Bar"})
        phone = {"push_credential_sid": "CR1", "region": "ie1"}
        out = "--outgoing AP123123 --param Foo=Bar"
        cases: list[tuple[str, list[Any], dict[str, Any]]] = [
            (f"--incoming Alice --ttl 60 {out}", [alice, app], {"ttl": 60}),
            (f"--identity Alice {out}", [app], {"identity": "Alice"}),
            (f"--incoming Alice --push-credential CR1 --region ie1 {out}",
             [alice, app], phone),
            ("--identity a --push-credential CR1", [],
             {"identity": "a", "push_credential_sid": "CR1"}),
        ]  # fmt: skip
        for arguments, calls, options in cases:
            device = capability_with(*calls, sid="AC123123", auth_token=None)
            make = partial(device.generate_access_token, "SK123123", API_SECRET)
            token = make(now=NOW, **options)
            self.assert_prints(token, "generate", "--access", *arguments.split())

    def test_generate_access_signs_with_no_auth_token(self) -> None:
        same = {**ENVIRONMENT, "TWILIO_AUTH_TOKEN": "0123456789abcdef" * 2}
        same["TWILIO_API_SECRET"] = same["TWILIO_AUTH_TOKEN"]
        result = run_main("generate", "--access", "--incoming", "a", env=same)
        message = (
            "twilio-capability: api_key_secret must not be the auth_token: make an API "
            "key, and give its secret\n"
        )
        self.assertEqual(result, (2, "", message))

    def test_a_kind_of_token_needs_no_variable_of_the_other(self) -> None:
        for arguments, env in (
            ([], env_without("TWILIO_API_KEY", "TWILIO_API_SECRET")),
            (["--access"], env_without("TWILIO_AUTH_TOKEN")),
        ):
            with self.subTest(arguments=arguments):
                result = run_main("generate", "--incoming", "a", *arguments, env=env)
                self.assertEqual((result.status, result.errors), (0, ""))

    def test_all_missing_or_empty_variables_are_named_at_once(self) -> None:
        sid, auth_token = "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"
        key, secret = "TWILIO_API_KEY", "TWILIO_API_SECRET"
        hint = "; or make an access token: give --access"
        misnamed = {"TWILIO_API_KEY_SID": "SK1", "TWILIO_API_KEY_SECRET": "s3cr3t"}
        no_token = env_without(auth_token)
        cases: list[tuple[str, str, str, dict[str, str]]] = [
            ("", sid, "", env_without(sid)),
            ("", auth_token, hint, no_token),
            ("", auth_token, hint, {**no_token, auth_token: ""}),
            ("", auth_token, "", {**no_token, key: ""}),
            ("", f"{sid}, {auth_token}", hint, {key: "SK1"}),
            ("", f"{sid}, {auth_token}", "", {}),
            *(("--access", name, "", env_without(name)) for name in (sid, key, secret)),
            ("--access", f"{sid}, {key}, {secret}", "", misnamed),
            ("--access", f"{key}, {secret}", "", {**misnamed, sid: "AC1", key: ""}),
        ]
        for option, names, hint, env in cases:
            arguments = ["generate", "--incoming", "a", *option.split()]
            message = f"{names} must be set in the environment{hint}"
            self.assert_fails(2, message, *arguments, env=env)

    def test_a_malformed_variable_is_named_by_its_own_name(self) -> None:
        plain, access = "generate --incoming a", "generate --access --incoming a"
        token = capability_of_alice(auth_token=AUTH_TOKEN).generate_token(now=NOW)
        rule = "must be a secret as Twilio shows it: "
        account = "must be an account's SID, AC and one or more of A-Za-z0-9"
        key = "must be an API key's SID, SK and one or more of A-Za-z0-9"
        sid, auth_token, secret = "ACCOUNT_SID", "AUTH_TOKEN", "API_SECRET"
        for arguments, name, value, fault in (
            (plain, sid, AUTH_TOKEN, account),
            (plain, sid, '"AC123123"', f"{account}: {QUOTES}"),
            (access, sid, "AC123123\r", f"{account}: {SPACE}"),
            (access, "API_KEY", "'SK123123'", f"{key}: {QUOTES}"),
            (access, "API_KEY", "AC123123", f"{key}: it is an account's SID"),
            (plain, auth_token, REAL_KEY, rule + "it is an API key's SID"),
            (plain, auth_token, "\udcff", "must be free of lone surrogates"),
            (access, secret, f'"{API_SECRET}"', rule + QUOTES),
            (access, secret, API_SECRET + "\r", rule + SPACE),
            (f"verify {token}", auth_token, AUTH_TOKEN + "\n", rule + SPACE),
            (f"verify {token}", auth_token, f"'{AUTH_TOKEN}'", rule + QUOTES),
        ):
            env = {**ENVIRONMENT, f"TWILIO_{name}": value}
            message = f"TWILIO_{name} {fault}"
            self.assert_fails(2, message, *arguments.split(), env=env)

    def test_bytes_that_are_no_text_are_refused(self) -> None:
        byte = "\udcff"  # as Python hands on a byte that is not UTF-8
        message = "params value must be free of lone surrogates"
        generate = ["generate", "--outgoing", "AP1", "--param", "a=" + byte]
        self.assert_fails(2, message, *generate)
        self.assert_fails(1, error_of(inspect_token, byte), "verify", byte)
        token = f"{byte}.{byte}.{byte}"
        self.assert_fails(1, error_of(inspect_token, token), "inspect", stdin=token)
        for stdin in (b"\xff", b"\xff.\xff.\xff"):
            self.assert_fails(1, NO_INPUT, "verify", stdin=stdin)

    def test_inspect_prints_the_report_of_inspect_token(self) -> None:
        for token in (good_token("capability"), good_token("access"), mint("{}")):
            report = inspect_token(token, now=NOW)
            self.assert_prints(json.dumps(report, indent=2), "inspect", token, env={})

    def test_verify_prints_the_report_and_that_the_signature_is_valid(self) -> None:
        device = capability_of_alice(auth_token=AUTH_TOKEN)
        for token in (
            device.generate_token(now=NOW),
            device.generate_access_token("SK123123", API_SECRET, now=NOW),
            mint({"exp": NOW + 60}, AUTH_TOKEN),
        ):
            report = {**inspect_token(token, now=NOW), "signature": "valid"}
            self.assert_prints(json.dumps(report, indent=2), "verify", token)

    def test_verify_prints_the_report_also_when_a_token_does_not_verify(self) -> None:
        good = capability_of_alice(auth_token=AUTH_TOKEN)
        other = capability_of_alice(auth_token="other").generate_token(now=NOW)
        for signature, secret, token in (
            ("invalid", AUTH_TOKEN, other),
            ("invalid", AUTH_TOKEN, good.generate_token(now=NOW)[:-2]),
            ("invalid", API_SECRET, good.generate_access_token("SK1", "k", now=NOW)),
            ("valid", AUTH_TOKEN, good.generate_token(now=0)),
            ("valid", AUTH_TOKEN, mint({"exp": NOW + 1}, AUTH_TOKEN, '{"alg":"none"}')),
        ):
            with self.subTest(signature=signature, token=token):
                message = error_of(partial(verify_token, now=NOW), token, secret)
                report = {**inspect_token(token, now=NOW), "signature": signature}
                output = json.dumps(report, indent=2) + "\n"
                expected = failed(1, message)._replace(output=output)
                self.assertEqual(run_main("verify", token), expected)

    def test_verify_says_when_the_other_secret_has_signed(self) -> None:
        auth_token, secret = "TWILIO_AUTH_TOKEN", "TWILIO_API_SECRET"
        device = capability_of_alice(auth_token=API_SECRET)
        access_token = device.generate_access_token("SK1", AUTH_TOKEN, now=NOW)
        ours, late = device.generate_token(now=NOW), {"grants": {}, "exp": NOW}
        access = f"{auth_token}; an access token needs {secret}"
        capability = f"{secret}; a capability token needs {auth_token}"
        unknown = f"{secret}; a token of unknown kind needs {auth_token}"
        for words, token, env in (
            (access, access_token, ENVIRONMENT),
            (access, mint(late, AUTH_TOKEN), ENVIRONMENT),
            (capability, ours, ENVIRONMENT),
            (unknown, mint({"exp": NOW + 1}, API_SECRET), ENVIRONMENT),
            ("", ours, env_without(secret)),
            ("", ours, {**ENVIRONMENT, secret: API_SECRET + " "}),
            ("", mint({}, "neither"), ENVIRONMENT),
        ):
            with self.subTest(words=words, token=token):
                status, output, errors = run_main("verify", token, env=env)
                self.assertEqual(status, 1)
                self.assertEqual(json.loads(output)["signature"], "invalid")
                message = f"the token is signed with {words}"
                message = message if words else error_of(verify_token, ours, "another")
                self.assertEqual(errors, failed(1, message).errors)

    def test_verify_compares_a_token_with_the_sids_in_the_environment(self) -> None:
        account, key = "TWILIO_ACCOUNT_SID", "TWILIO_API_KEY"
        right = {**ENVIRONMENT, account: REAL_ACCOUNT, key: REAL_KEY}
        other = {**right, account: REAL_ACCOUNT[:-1] + "0", key: "SK1"}
        unset = env_without(account, key)
        differs = "claims.{}: is not the {} that is set in the environment"
        around = "claims.{}: {} has quotes or white space around it; remove that"
        cases: list[tuple[str, dict[str, str], list[str]]] = [
            *(("capability", env, []) for env in (right, unset)),
            *(("access", env, []) for env in (right, {**unset, account: ""})),
            ("capability", other, [differs.format("iss", account)]),
            ("access", other, [differs.format("iss", key), differs.format("sub", account)]),
            ("access", {**right, key: f'"{REAL_KEY}"'}, [around.format("iss", key)]),
            ("access", {**right, key: REAL_KEY + "\r"}, [around.format("iss", key)]),
            ("access", {**right, account: f" '{REAL_ACCOUNT}'"},
             [around.format("sub", account)]),
            ("capability", {**right, account: "'AC1'"},
             [around.format("iss", account), differs.format("iss", account)]),
        ]  # fmt: skip
        for kind, env, lines in cases:
            with self.subTest(kind=kind, env=env):
                secret = {"capability": AUTH_TOKEN, "access": API_SECRET}[kind]
                token = signed(good_token(kind).rpartition(".")[0], secret)
                status, output, _ = run_main("verify", token, env=env)
                self.assertEqual((status, json.loads(output)["problems"]), (0, lines))
        for issuer, subject in (("SK1", 1), ("SA" + "0" * 32, REAL_APP)):
            with self.subTest(issuer=issuer, subject=subject):
                claims: dict[str, Any] = {"iss": issuer, "sub": subject, "grants": {}}
                token = mint({**claims, "exp": NOW + 1}, API_SECRET)
                output = run_main("verify", token, env=other).output
                self.assertNotIn("is not the", output)

    def test_the_name_of_a_file_or_folder_is_told_how_to_be_read(self) -> None:
        file = "TOKEN is the name of a file: to read it, use < FILE"
        folder = "TOKEN is the name of a folder: give the token itself"
        with tempfile.TemporaryDirectory(prefix="app-1.2.0") as path:
            like_a_token = Path(path, "a.b.c")
            like_a_token.write_text("x", encoding="utf-8")
            neither = str(Path(path, "d.e.f g"))
            for message, token in (
                (file, str(MODULE)),
                (file, str(like_a_token)),
                (folder, path),
                (folder, path + os.sep),
                *((error_of(inspect_token, no), no) for no in (neither, "no-file\0")),
            ):
                for command in ("verify", "inspect"):
                    self.assert_fails(1, message, command, token)

    def test_verify_says_how_the_secret_was_spelled_that_has_signed(self) -> None:
        start = good_token("access").rpartition(".")[0]
        for how, spelling in (
            ("in double quotes", '"{}"'),
            ("in single quotes", "'{}'"),
            ("with a line break at its end", "{}\n"),
            ("with a carriage return and a line break at its end", "{}\r\n"),
            ("with a carriage return at its end", "{}\r"),
            ("with a space at its end", "{} "),
        ):
            for secret, words in (
                (API_SECRET, f"SECRET {how}; remove that where the token is made"),
                (AUTH_TOKEN, f"TOKEN {how}; an access token needs TWILIO_API_SECRET"),
            ):
                variable = "TWILIO_API_" if secret == API_SECRET else "TWILIO_AUTH_"
                with self.subTest(words):
                    token = signed(start, spelling.format(secret))
                    status, output, errors = run_main("verify", token)
                    self.assertEqual((status, output[:1]), (1, "{"))
                    self.assertEqual(json.loads(output)["signature"], "invalid")
                    message = f"the token is signed with {variable}{words}"
                    self.assertEqual(errors, failed(1, message).errors)

    def test_verify_takes_no_empty_secret_for_one_that_has_signed(self) -> None:
        token = signed(good_token("access").rpartition(".")[0], '""')
        env = {**ENVIRONMENT, "TWILIO_AUTH_TOKEN": ""}
        _, _, errors = run_main("verify", token, env=env)
        self.assertIn("signature mismatch", errors)

    def test_verify_and_its_report_go_by_one_clock(self) -> None:
        token = capability_of_alice(auth_token=AUTH_TOKEN).generate_token(60, now=NOW)
        times = itertools.count(NOW + 59)
        result = run_main("verify", token, timer=lambda: next(times))
        self.assertEqual((result.status, result.errors), (0, ""))
        self.assertIs(json.loads(result.output)["expired"], False)

    def test_verify_knows_an_access_token_by_its_kind(self) -> None:
        grants: dict[str, Any] = {"grants": {}}
        for secret, header, claims in (
            (API_SECRET, HEADER, grants),
            (AUTH_TOKEN, '{"alg":"HS256","cty":"JWT"}', grants),
            (API_SECRET, ACCESS_HEADER, {}),
            (AUTH_TOKEN, HEADER, {}),
        ):
            with self.subTest(header=header, claims=claims):
                token = mint({"exp": NOW + 60, **claims}, secret, header)
                self.assertEqual(run_main("verify", token).status, 0)

    def test_verify_names_the_missing_variable_and_the_kind_that_needs_it(self) -> None:
        for token, kind, name in (
            (good_token("capability"), "a capability token", "TWILIO_AUTH_TOKEN"),
            (good_token("access"), "an access token", "TWILIO_API_SECRET"),
            (mint("{}"), "a token of unknown kind", "TWILIO_AUTH_TOKEN"),
        ):
            message = f"this is {kind}: {name} must be set in the environment"
            self.assert_fails(2, message, "verify", token, env=env_without(name))

    def test_the_token_may_come_from_standard_input(self) -> None:
        token = capability_of_alice(auth_token=AUTH_TOKEN).generate_token(now=NOW)
        expected = run_main("verify", token)
        self.assertEqual(expected.status, 0)
        for arguments in (["verify"], ["verify", "-"]):
            for stdin in (token, token + "\n", token + "\r\n", "\n " + token):
                with self.subTest(arguments=arguments, stdin=stdin):
                    self.assertEqual(run_main(*arguments, stdin=stdin), expected)

    def test_what_is_not_a_token_is_status_1(self) -> None:
        good = capability_of_alice(auth_token=AUTH_TOKEN).generate_token(now=NOW)
        for bad in ("", "a", "a.b.c", mint("[]", AUTH_TOKEN), mint("{}", header="[]")):
            message = error_of(inspect_token, bad)
            self.assert_fails(1, message, "verify", bad, stdin=good)
            self.assert_fails(1, message, "inspect", bad, stdin=good)
            self.assert_fails(1, message, "verify", "-", stdin=bad)

    def test_a_report_is_ascii(self) -> None:
        output = run_main("inspect", mint('{"x":"é\\ud800\\u009b☃"}')).output
        self.assertIn(r'"x": "\u00e9\ud800\u009b\u2603"', output)

    def test_input_that_cannot_be_read_is_status_1(self) -> None:
        closed = io.StringIO()
        closed.close()
        for stdin in (None, closed, FailingStream(OSError(5, "Input/output error"))):
            self.assert_fails(1, NO_INPUT, "verify", stdin=stdin)
        interrupted = run_main("verify", stdin=FailingStream(KeyboardInterrupt()))
        self.assertEqual(interrupted, (130, "", ""))

    def test_standard_input_is_read_no_further_than_a_token_can_be_long(self) -> None:
        longest = mint('{"exp":1}' + " " * (49091 - 9))
        self.assertEqual(len(longest), 65536)
        for end in ("", "\n", "\r\n"):
            with self.subTest(end=end):
                self.assertEqual(run_main("inspect", stdin=longest + end).status, 0)
        endless = io.StringIO("a" * 10**6)
        message = error_of(inspect_token, " " * 65537)
        self.assert_fails(1, message, "inspect", stdin=endless)
        self.assertLess(endless.tell(), 65536 + 10)
        self.assert_fails(1, message, "inspect", stdin=" " * 99 + longest)

    def test_output_that_cannot_be_written_is_status_1(self) -> None:
        broken, full = BrokenPipeError(32, "Broken pipe"), OSError(28, "Full")
        complaint = "twilio-capability: cannot write: [Errno 28] Full\n"
        for arguments in ("generate --incoming a", "--help", "--version"):
            for error, errors in ((broken, ""), (full, complaint)):
                with self.subTest(arguments, error=error):
                    self.assert_goes_nowhere(arguments, error, errors)
        interrupted = run_main("--version", stdout=FailingStream(KeyboardInterrupt()))
        self.assertEqual(interrupted.status, 130)

    def assert_goes_nowhere(self, arguments: str, error: OSError, errors: str) -> None:
        """The status is 1; no descriptor is left open; what is written late is lost."""
        with tempfile.TemporaryFile() as file:
            free = os.dup(file.fileno())
            os.close(free)
            stdout = FailingStream(error, file.fileno())
            result = run_main(*arguments.split(), stdout=stdout)
            self.assertEqual((result.status, result.errors), (1, errors))
            self.assertEqual(os.dup(file.fileno()), free)
            os.close(free)
            late = os.fstat(file.fileno())
            self.assertTrue(os.path.samestat(late, os.stat(os.devnull)))

    def test_the_status_stays_when_a_stream_is_closed(self) -> None:
        closed = io.StringIO()
        closed.close()
        for stream in (None, closed):
            with self.subTest(stream=stream):
                with mock.patch.object(sys, "stderr", stream):
                    self.assertEqual(main(["generate", "--no-such-option"]), 2)
                    self.assertEqual(main(["inspect", "x"]), 1)
                with mock.patch.multiple(sys, stdout=stream, stderr=stream):
                    self.assertEqual(main(["--help"]), 1)
                lines = io.StringIO()
                with mock.patch.multiple(sys, stdout=stream, stderr=lines):
                    self.assertEqual(main(["generate", "-h"]), 1)
                self.assertRegex(lines.getvalue(), r"\A.*cannot write: .*\n\Z")
        with mock.patch.object(sys, "stderr", FailingStream(KeyboardInterrupt())):
            self.assertEqual(main(["inspect", "x"]), 130)

    def test_run_as_a_script_it_exits_with_the_status_of_main(self) -> None:
        arguments = ["twilio_capability.py", "inspect", "x"]
        patched = mock.patch.multiple(sys, argv=arguments, stderr=io.StringIO())
        with patched, self.assertRaises(SystemExit) as caught:
            runpy.run_path(str(MODULE), run_name="__main__")
        self.assertEqual(caught.exception.code, 1)


COMMAND = (sys.executable, str(MODULE))


@unittest.skipIf(os.name == "nt", "POSIX shells, pipes, signals and devices")
class ProcessTest(unittest.TestCase):
    """What only a process of its own shows."""

    def run_redirected(self, redirection: str, *arguments: str) -> Result:
        script = f'"$@" {redirection}'
        return run_process("/bin/sh", "-c", script, "sh", *COMMAND, *arguments)

    def test_the_module_is_a_command_with_an_exit_status(self) -> None:
        for program in (COMMAND, (sys.executable, "-m", "twilio_capability")):
            with self.subTest(program=program):
                before = int(time.time())
                result = run_process(*program, "generate", "--incoming", "a")
                status, output, errors = result
                self.assertEqual((status, errors), (0, ""))
                self.assertRegex(output, r"\A[\w-]+\.[\w-]+\.[\w-]+\n\Z")
                exp = verify_token(output.strip(), AUTH_TOKEN)["exp"]
                self.assertTrue(before + 3600 <= exp <= time.time() + 3600)
        self.assertEqual(run_process(*COMMAND, "verify", "x"), run_main("verify", "x"))

    def test_a_closed_stream_is_no_traceback(self) -> None:
        self.assertEqual(self.run_redirected("2>&-", "generate"), (2, "", ""))
        for redirection, arguments, message in (
            (">&-", "generate --incoming a", "cannot write: the stream is closed"),
            *((way, "verify", NO_INPUT) for way in ("<&- >&-", "<&-", "0>/dev/null")),
        ):
            with self.subTest(redirection):
                result = self.run_redirected(redirection, *arguments.split())
                self.assertEqual(result, failed(1, message))

    def test_the_end_of_a_pipe_is_no_traceback(self) -> None:
        token = capability_of_alice().generate_token()
        for arguments in (["inspect", token], ["--help"]):
            with self.subTest(arguments=arguments):
                read, write = os.pipe()
                os.close(read)
                with open(write, "wb") as pipe:
                    result = run_process(*COMMAND, *arguments, stdout=pipe)
                self.assertEqual(result, (1, "", ""))

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_a_full_disk_is_an_error_of_one_line(self) -> None:
        with open("/dev/full", "wb") as full:
            result = run_process(*COMMAND, "generate", "--incoming", "a", stdout=full)
        message = "cannot write: [Errno 28] No space left on device"
        self.assertEqual(result, failed(1, message))
        self.assertEqual(self.run_redirected("2>/dev/full", "generate"), (2, "", ""))


# ---- What the module says: each message, whole ---------------------------------------
#
# Each table has the words and what is given for them. Here alone they are compared; the
# other tests say what is refused.


def access_token_after(*calls: tuple[Any, ...], **options: Any) -> str:
    return capability_with(*calls).generate_access_token("SK1", "s3cr3t", **options)


def signed_with_both(secret: str) -> str:
    return Capability("AC1", secret).generate_access_token("SK1", secret, identity="a")


def verified(token: str, secret: str = "s3cr3t") -> dict[str, Any]:
    return verify_token(token, secret, now=NOW)


def raised_by(call: Call, *given: Any) -> tuple[BaseException, str]:
    """The error of a call, and its message, behind its type if no mere ValueError."""
    try:
        call(*given)
    except (TypeError, ValueError) as error:
        name = type(error).__name__
        return error, str(error) if name == "ValueError" else f"{name}: {error}"
    raise AssertionError("nothing is raised")


def encoded(*texts: str | bytes) -> list[str]:
    return [base64url(as_bytes(text)) for text in texts]


FEW_DIGITS = hasattr(sys, "get_int_max_str_digits")  # not in every Python 3.8 and 3.9
# fmt: off
ERRORS: list[tuple[Any, ...]] = [
    # Types
    *((f"TypeError: {argument} must be str, not bytes", call, b"s3cr3t")
      for argument, call in TEXT_ARGUMENTS),
    ("TypeError: lenient_names must be bool, not int", CALLS["lenient_names"], 5318008),
    ("TypeError: ttl must be int, not str", CALLS["ttl"], "s3cr3t"),
    ("TypeError: now must be int or float, not str", CALLS["now"], "s3cr3t"),
    ("TypeError: leeway must be int or float, not str", CALLS["leeway"], "s3cr3t"),
    ("TypeError: params must be a mapping, not list", CALLS["params"], [("s3cr3t", 1)]),
    ("TypeError: filters must be a mapping, not str", CALLS["filters"], "s3cr3t"),
    ("TypeError: filters must be a mapping whose items() are pairs", CALLS["filters"],
     MultiDict(["s3cr3t"])),
    ("TypeError: params name must be str, not bytes", CALLS["params"], {b"s3cr3t": ""}),
    ("TypeError: params value must be str or int, not bytes", CALLS["params"],
     {"name": b"s3cr3t"}),
    ("TypeError: params value must be str, not int", partial(ScopeURI, "a", "b"),
     {"s3cr3t": 5318008}),

    # Values: of SIDs, secrets and names see LOOKS
    ("api_key_sid must be an API key's SID, SK and one or more of A-Za-z0-9",
     CALLS["api_key_sid"], "ACs3cr3t_"),
    ("region must match [a-z]{2}[0-9]: such as us1, ie1 or au1", CALLS["region"],
     "s3cr3t"),
    ("service must match [A-Za-z0-9_.-]+: such as client", CALLS["service"],
     "s3cr3t:"),
    ("privilege must match [A-Za-z0-9_.-]+: such as incoming",
     CALLS["privilege"], "s3cr3t "),
    ("ttl must be 1 to 86400 seconds", CALLS["ttl"], 5318008),
    ("now must be 0 to 9007199254654592 seconds", CALLS["now"], -5318008),
    ("leeway must be 0 to 9007199254740992 seconds", CALLS["leeway"], -5318008),
    ("filters name must be free of lone surrogates", CALLS["filters"],
     {"s3cr3t\ud800": ""}),
    ("params value must be free of lone surrogates", CALLS["params"],
     {"": "s3cr3t\ud800"}),
    ("params name must not come twice", CALLS["params"],
     MultiDict([("s3cr3t", "1"), ("s3cr3t", "2")])),
    *((f"{argument} must not contain a NUL", CALLS[argument], "s3cr3t\0")
      for argument in ("auth_token", "api_key_secret", "secret")),
    *((f"{argument} must be free of lone surrogates", CALLS[argument], "s3cr3t\ud800")
      for argument in ("auth_token", "api_key_secret", "secret")),

    # Tokens that are not made
    ("auth_token must be given to Capability to sign a token",
     Capability("AC123123").generate_token),
    (("a token must be at most 65536 characters: give fewer params, filters or "
      "permissions, which make this one longer"),
     capability_with((EVENTS, {"a": "s3cr3t" * 9999})).generate_token),
    (("an access token must carry no event stream: make a capability token, or do not "
      "call allow_event_stream"), access_token_after, (INCOMING, "s3cr3t"), (EVENTS,)),
    ("api_key_secret must not be the auth_token: make an API key, and give its secret",
     signed_with_both, "0123456789abcdef" * 2),
    ("client_name must be 1 to 121 characters in an access token: take a shorter one",
     access_token_after, (INCOMING, "s3cr3t" * 21)),
    (("identity must be given, since no client name is allowed: every access token "
      "names its device"), access_token_after, (OUTGOING, "APs3cr3t")),
    (("client_name and identity must be one and the same name in an access token: make "
      "one Capability for each device"), access_token_after, (INCOMING, "s3cr3t"),
     (INCOMING, "s3cr3t2")),
    (("application_sid must be one, with one set of params, in an access token: make "
      "one Capability for each application"), access_token_after, (INCOMING, "a"),
     (OUTGOING, "APs3cr3t"), (OUTGOING, "AP2")),
    (("params value must be an int of at most 2**53 either way in an access token, as "
      "JavaScript changes larger ones: give it as a str"), access_token_after,
     (INCOMING, "a"), (OUTGOING, "AP1", {"s3cr3t": -(10**20)})),

    # Client names
    ("text must be free of lone surrogates", encode_client_name, "s3cr3t\ud800"),
    ("text must not be empty", encode_client_name, ""),
    (("text must be at most 256 characters long as a name, where a letter or digit is "
      "one and another byte three: take a shorter id"), encode_client_name,
     "s3cr3t" * 43),
    (("name must be as encode_client_name writes it: letters, digits, and _XX for each "
      "other byte of UTF-8"), decode_client_name, "s3cr3t-"),

    # Scope URIs
    ("uri must be at most 65536 characters", ScopeURI.parse,
     "scope:a:b?c=" + "s3cr3t" * 11000),
    ("uri must be scope:SERVICE:PRIVILEGE?NAME=VALUE&...", ScopeURI.parse,
     "scope:s3cr3t"),
    ("uri must have a query of NAME=VALUE&..., percent-encoded UTF-8, each name once",
     ScopeURI.parse, "scope:a:b?s3cr3t=%ff"),

    # Tokens that are not verified; for their header and payload see JSON_FAULTS
    (("InvalidTokenError: token must be at most 65536 characters, and Twilio's are "
      "shorter"), verified, "s3cr3t" * 11000),
    ("InvalidTokenError: token must be three segments of ASCII, joined by dots",
     verified, "s3cr3t"),
    (("InvalidSignatureError: signature mismatch: the token was altered or cut off, or "
      "signed with another secret or algorithm. A capability token is signed with the "
      "auth token, an access token with its API key's secret"), verified,
     mint({"exp": NOW + 600}, "another")),
    (("InvalidTokenError: the header must have alg HS256 and no crit, as every Twilio "
      "token has: make a new token"), verified,
     mint({"exp": NOW + 600}, "s3cr3t", '{"alg":"HS5318008"}')),
    (("InvalidTokenError: the token must have no aud: it is for somebody else, and no "
      "Twilio token has one"), verified,
     mint({"exp": NOW + 600, "aud": "5318008"}, "s3cr3t")),
    (("InvalidTokenError: exp must be an int of seconds since the epoch, up to 2**53: "
      "make a new token"), verified, mint({"exp": "5318008"}, "s3cr3t")),
    (("InvalidTokenError: nbf must be a number of seconds since the epoch: make a new "
      "token, best without it"), verified,
     mint({"exp": NOW + 600, "nbf": "5318008"}, "s3cr3t")),
    ("ExpiredTokenError: the token expired at 2026-01-01T00:00:00Z: make a new one",
     verified, mint({"exp": NOW}, "s3cr3t")),
    ("ExpiredTokenError: the token expired at -9007199254740992: make a new one",
     verified, mint({"exp": -(2**53)}, "s3cr3t")),
    (("InvalidTokenError: the token is not valid yet (nbf): compare the clocks of the "
      "two machines, or allow some leeway"), verified,
     mint({"exp": NOW + 600, "nbf": NOW + 599}, "s3cr3t")),

    # Tokens that are not inspected; for text that is none see no_tokens
    (("InvalidTokenError: token must have at most 100 levels of JSON; Twilio's have "
      "five"), inspect_token, mint('{"s3cr3t":%s}' % ("[" * 100 + "]" * 100))),
]
if FEW_DIGITS:
    ERRORS += [
        (f"{name} value must be an int with fewer digits: give it as a str",
         CALLS[name], {"s3cr3t": 10**5000}) for name in ("params", "filters")
    ]

# How a message begins, and the call that raises it, by what is asked for there.
RULES: dict[str, list[tuple[str, Call]]] = {
    "SID": [
        (f"{argument} must be {owner} SID, {prefix} and one or more of A-Za-z0-9",
         CALLS[argument])
        for argument, owner, prefix in (
            ("account_sid", "an account's", "AC"),
            ("api_key_sid", "an API key's", "SK"),
            ("application_sid", "a TwiML app's", "AP"),
            ("push_credential_sid", "a push credential's", "CR"))
    ],
    "secret": [
        (f"{argument} must be a secret as Twilio shows it", CALLS[argument])
        for argument in ("auth_token", "api_key_secret", "secret")
    ],
    "name": [("client_name must be 1 to 256 of A-Za-z0-9_", CALLS["client_name"])],
    "identity": [("identity must be 1 to 121 of A-Za-z0-9_", CALLS["identity"])],
    "lenient": [
        ("client_name must be 1 to 256 of A-Za-z0-9_!$&'()*+,./:;=?@~-",
         partial(name_in_scope, True)),
        ("identity must be 1 to 121 of A-Za-z0-9_!$&'()*+,./:;=?@~-",
         partial(name_in_grants, True)),
    ],
}
EMPTY, QUOTES = "it is empty", "remove the quotes around it"
SPACE = "remove the white space (its line break?) or byte order mark at its ends"
NO_VALUE = "it is what a program writes for no value"
UNFILLED = "it is a placeholder that was not filled in; put your own in"
PLACEHOLDER = "it is a placeholder; put your own in"
CUT_OFF = "it is cut off, or has other characters"
OTHER_SID = "it is a SID of another kind"
IS_AUTH, IS_SECRET = "it looks like an auth token", "it looks like an API key's secret"
ENCODE = "encode_client_name makes such a name of any text"
LENIENT = "lenient_names takes this one as it is"
PLUS = "was a + in it not encoded?"

# What a text is that stands in the place of another: where it is asked, the words
# behind the rule, and such texts. XX is the prefix of a SID.
LOOKS: list[tuple[str, str, list[str]]] = [
    ("SID secret name identity lenient", EMPTY, [""]),
    ("SID secret name identity lenient", SPACE,
     ["AC1\r", "a\n", "\ufeffAP1", "AC1\ufeff", "\tAC1", "a ", "\xa0a", " ", '"a" ',
      "XX1 "]),
    ("SID secret name identity", QUOTES,
     ['"AC123"', "'SK1'", f"'AC{REAL}'", f"'AP{REAL}'", '""', "'", '"']),
    ("lenient", QUOTES, ['"AC123"', '""', '"']),
    ("SID", NO_VALUE,
     ["undefined", "null", "None", "nil", "<nil>", "NaN", "[object Object]",
      "[object Promise]", "Optional(nil)", "True", "true", "False", "false", "NULL",
      "Nothing", "undef", "(null)", "<undefined>", "%!s(<nil>)", "Optional.empty",
      "Optional[null]", "DBNull", "void 0", "[object Object],[object Object]"]),
    ("SID", UNFILLED,
     ["{{key}}", "{{ a.b }}", "${KEY}", "#{key}", "<%= key %>", "{api_key}", "%(key)s",
      "process.env.KEY", "os.environ['KEY']", 'os.environ.get("KEY")', "ENV['KEY']",
      'System.getenv("KEY")', "getenv('KEY')", "import.meta.env.KEY", 'env!("KEY")',
      'os.Getenv("KEY")', 'std::env::var("KEY")', 'System.get_env("KEY")', "$(KEY)",
      '$_SERVER["KEY"]', "$env:KEY", "{% key %}", "{!! $key !!}", "__KEY__",
      'Configuration["KEY"]', "config('key')", "settings.KEY", "BuildConfig.KEY",
      "os.getenv('KEY')", 'Deno.env.get("KEY")', "$_ENV['KEY']", "env('KEY')",
      'Environment.GetEnvironmentVariable("KEY")', 'GetEnvironmentVariable("KEY")']),
    ("SID", PLACEHOLDER,
     ["$KEY", "%KEY%", "<YOUR_KEY>", "<account sid>", "[your key]", "your_api_key",
      "YOUR-API-KEY", "Your key", "changeme", "change_me", "CHANGE-ME",
      "insert_key_here", "xxxx", "SK****", "SK...", "****", "TWILIO_API_KEY", "MYKEY",
      "yourkey", "EXAMPLE", "YourApiKey", "auth_key", "authKey", "TODO",
      "<redacted>", "[FILTERED]"]),
    ("SID", "unwrap what is in it", [f'Optional("SK{REAL}")', "Some(x)", f"b'AC{REAL}'"]),
    ("SID", OTHER_SID, ["PN" + REAL]),
    ("SID", IS_AUTH, ["0123456789abcdef" * 2]),
    ("SID", IS_SECRET, [REAL, "CX" + "a" * 30, "sk" + "a" * 30, "pbv3" * 8]),
    ("SID", "it is a token", ["eyJ", "eyJhbGciOiJIUzI1NiJ9.eyJ9.abc"]),
    ("SID", "it is a URL", ["https://example.com/", "http://127.0.0.1"]),
    ("SID", CUT_OFF, ["XX", "xx1", "XX1-2", 'XX1"', f"XX{REAL}-"]),
    ("SID", "",
     ["s3cr3t", "my app", "PNg", "PN" + "g" * 32, "pn" + REAL, "client:a", "I None",
      "nullable", "undefined1", "truest", "heyJude", "xhttps://", "Change me not"]),
    ("secret", "it is an account's SID", ["AC" + REAL]),
    ("secret", "it is a TwiML app's SID", ["AP" + REAL]),
    ("secret", "it is a push credential's SID", ["CR" + REAL]),
    ("secret", "it is an API key's SID", ["SK" + REAL]),
    ("name identity lenient", "it is a SID, meant for another place",
     ["AP" + REAL, "CR" + REAL, "SK" + REAL]),
    ("name identity lenient", "leave out client:, which Twilio puts there itself",
     ["client:", "client:ann", "client:a b", "client:" + "a" * 300]),
    ("name identity", f"{ENCODE}; {LENIENT}",
     ["agent-7", "+14155550100", "-" * 40 + "a"]),  # 121 once encoded
    ("name", f"{ENCODE}; {LENIENT}", ["-" * 41]),
    ("identity", LENIENT, ["-" * 41]),  # 123 once encoded
    ("name identity lenient", f"{PLUS} {ENCODE}", ["a b", " 15129918788", " a "]),
    ("name identity lenient", "it is percent-encoded; decode it first", ["ann%40x.com"]),
    ("name identity lenient", "it is percent-encoded; decode it first", ["ann%40x.com"]),
    ("identity", f"{PLUS} take another one", [" " * 41 + "a"]),
    ("name identity lenient", ENCODE, ["é"]),
    ("name identity lenient", "take another one", ["\ud800"]),
    ("identity", "it is too long, take a shorter one", ["a" * 122, "-" * 122]),
    ("name lenient", "it is too long, take a shorter one", ["a" * 257]),
]

# Why a header or payload is no JSON object, and such segments.
JSON_FAULTS: list[tuple[str, list[str]]] = [
    ("it has characters that base64url does not have", ["e30=", "e+/="]),
    ("it has a character too few or too many", ["e30uLi5AA"]),
    ("its bytes are no UTF-8", encoded(b'{"a":"\xff"}', "{}".encode("utf-16"))),
    ("it is no JSON from character 1 on", encoded("", "hello", "\ufeff{}")),
    ("it is no JSON from character 2 on", encoded("{'a':1}")),
    ("it is no JSON from character 3 on", encoded("{}}")),
    ("it is no JSON from character 16 on", encoded('{"identity":"O"Brien"}')),
    ("it is a string; was it encoded twice?", encoded(json.dumps(HEADER))),
    ("it is a list", encoded("[]")),
    ("it is a number", encoded("17", "1.5")),
    ("it is null", encoded("null")),
    ("it is true or false", encoded("true")),
    ("a name in it comes twice", encoded('{"exp":1,"exp":1}')),
    ("a number in it is not finite, or has too many digits",
     encoded('{"a":NaN}', '{"a":-1e999}', *['{"a":%s}' % ("9" * 5000)][:FEW_DIGITS])),
    ("it is nested too deep", encoded(DEEP)),
]
# fmt: on


def no_tokens() -> list[tuple[str, list[str]]]:
    """What a text is that is no token, and such texts."""
    token = good_token("access")
    header, payload, signature = token.split(".")
    standard = base64.b64encode(b'{"a":"\xc3\xbf>>??"}').decode()  # has all of +/=
    alphabet = f"eyJ{BASE64URL}.eyJ{BASE64URL}"
    there = "look at what your token URL answers"
    made = "your server makes the token from it"
    # fmt: off
    around = [f'{{"token": "{token}"}}', json.dumps({"a": [token]}, indent=1)]
    around += [f'["{token}"]', f'{{"token":"{token}","secret":"x"}}', f"b'{token}'"]
    around += [f"{{{header}.{payload}", f"token: {header}.{payload}", f"\n\"{token}'"]
    for mark in ('"', "'", "`", "**", "\u201c", "\u200b", "\ufeff", " ", "\n"):
        around += [mark + token, token + mark, mark + token + mark]
    for label in ("Bearer ", "bearer\n", "Authorization: Bearer ", "Bearer%20", "-> ",
                  "Access Token:\t", "AccessToken:", "AccessToken", "eyJ:"):
        around += [label + token, " " + label + token]
    for label in ("token=", "?token%3D", "https://example.com/?token=", "a.b.c."):
        around += [label + token, label + token + "&b=1"]
    for end in (*";,%*)>.|}", "...", "\u2026", "%3D"):
        around += [token + end, "(" + token + end]
    around += [f'{{"token" => "{token}"}}', f"token => {token}", f"{token}. Thanks"]
    around += [token + " (copied)", token + "#end", "Your token... " + token]
    around += [f"{alphabet}.{BASE64URL[:43]} copied", f" {header}.{payload}.a+/="]
    around += [token[:at] + "\r\n" + token[at:] for at in (1, 50, 150)]
    around += [token.replace(".", ". "), token[:150] + "\n> " + token[150:]]
    around += ["eyJ%2g.b.c", "eyJ[0].b.c", "eyJ`.b.c", f"{header}= .\ne."]
    around += [f"{token[:-3]}{end}" for end in ('"', '"}', ",")] + [f"a^.{token}"]
    around += [f'{header}.{payload}."{signature}"', f"{token[:-9]}<{token[-9:]}"]
    pretty = mint({}, header='{\n  "alg": "HS256"}')
    return [
        (EMPTY, ["", " ", "\n", "\ufeff", " \ufeff\r\n"]),
        (NO_VALUE,
         ["undefined", "null", "None", "nil", "<nil>", "NaN", "Optional(nil)",
          "[object Promise]\n", "[object Object]", "True", "false", "(null)", "NULL",
          "nan", '"undefined"', "Bearer null"]),
        (UNFILLED,
         ["{{token}}", " {{ user.token }}", "${TOKEN}", "process.env.TOKEN",
          'os.environ["TOKEN"]', "<%= token %>", "{token}", "'{{token}}'",
          'System.getenv("T")', "window.env.TOKEN"]),
        (PLACEHOLDER,
         ["<YOUR_TOKEN>", "<token>", "[your token]", "<redacted>", "<redacted>", "your_token", "YOUR-TOKEN",
          "your token here", "changeme", "$TOKEN", "ACCESS_TOKEN", "xxxx"]),
        ("it is how Python prints an AccessToken; call to_jwt()",
         [f"<AccessToken {token}>", f"<ClientCapabilityToken {token}>\n"]),
        ("it is how a program prints an object or a function; call it, or await it",
         ["<coroutine object get_token at 0x7f1c2b3d4e50>",
          "<Task pending name='Task-1' coro=<token()>>",
          "<bound method AccessToken.to_jwt of <AccessToken at 0x7f00>>",
          "<function token at 0x7f00>", "<Token object at 0xAB>",
          "#<Twilio::JWT::AccessToken:0x000055d0>", "Twilio.Jwt.AccessToken.Token",
          "System.Threading.Tasks.Task`1[S.S]",
          "com.twilio.jwt.accesstoken.AccessToken@1b2c3d",
          "Instance of 'Future<String>'", "[Function: toJwt]",
          "[AsyncFunction: getToken]", "[class AccessToken]", "Promise { <pending> }",
          "function toJwt() {", "async function f(",
          "toJwt(algorithm) {\n return 1;\n}", "async () => {", "(a, b) => a", "x=>x",
          "fn() -> String", f"<Task finished result='{token}'>", f"<Markup {token}>",
          "<Future at 0x1 result='eyJ'>", "<Response [200]>", "<class 'x'>", "(Function)",
          "<AccessToken: 0x6000>", "<AccessToken 0x6000>", "&{x}", "async toJwt() {",
          "class AccessToken {", "0xc000012345", "map[a:b]", "%!s(func() string=0x1)",
          "Closure: () => String", "HASH(0x1)", "Main$$Lambda$14/0x1@1b2c3d4",
          "#Function<1.2/0>", "%Mod{a: 1}", "object(Foo)#1", "stdClass Object (",
          "\u0192 toJwt() { [native code] }", "[B@1b2c3d", "[GeneratorFunction: x]",
          "[Getter]", "Future<String>", "Newtonsoft.Json.Linq.JObject"]),
        (f"it is a web page or XML; {there}",
         ["<!DOCTYPE html>" + token, '\n <?xml version="1"?>', "<",
          "<html><body>at 10:00</body></html>", "<div>Function</div>",
          "<Response><Say>Hi</Say></Response>", "<p>an object at 09</p>",
          '<Error code="1">x</Error>', f"<p {token}"]),
        (("it is an AccessToken's own fields, with the secret in them; call toJwt(), "
          "and delete the key, as its secret has been sent away"),
         ['{"accountSid":"AC1","keySid":"SK1","secret":"x","ttl":3600}',
          "{'account_sid': 'AC1', 'secret_key': 'x'}", "AccessToken {\n  secret: 'x' }",
          '{"AccountSid":"AC","Secret":"x"}', "&{AccountSid:AC Secret:abc}",
          '#<Twilio::JWT::AccessToken:0x1 @secret="x">', "AccessToken(secret=abc)",
          'object(Twilio\\Jwt\\AccessToken)#3 { ["secret":"x":private]=> "y" }',
          "Twilio\\Jwt\\AccessToken Object ( [secret:protected] => x )"]),
        (f"it is JSON without a token in it; {there}",
         ['{"message": "no identity"}', " [", "{x.y.z", "[]", "{}",
          '{"error":"my secret: x"}', '["secret"]', '{"error":{"secret":"no"}}',
          '{"secret":null}', '{"authToken":"x"}']),
        ("it is two tokens, run together; take one of them",
         [token + token, f"{token}\n{token}", f"{token},{token}", f"{token}.{token}",
          f"old: {token} new: {token}"]),
        (("it has five segments: an encrypted token, as Twilio Flex has, and none for "
          "Voice"), ["a.b.c.d.e", f"{header}..x.y.z", f"{header}.eyJ.{BASE64URL}.y.z"]),
        (("take what begins with eyJ alone, without quotes, Bearer, JSON, other text, "
          "white space or line breaks"), around),
        (("take what begins with ey or ew alone, without quotes, Bearer, JSON, other "
          "text, white space or line breaks"),
         [f'"{pretty}"', f"Bearer {pretty}", f"token={pretty}", pretty + "\n",
          json.dumps({"token": pretty})]),
        ("it is in standard base64; a JWT has - for +, _ for / and no =",
         [f"{header}==.{payload}.{signature}", f"{header}.{standard}.a=",
          *(f"{header}.a{mark}.b" for mark in "+/=")]),
        ("it is percent-encoded; decode it first",
         [token.replace(".", "%2E"), "%2e", "%Fa", "a%3D.b.c"]),
        ("it is shortened; take the whole token",
         [f"{token[:60]}...{token[-20:]}", header + "...", header + "\u2026",
          f"{header}.eyJ\u2026"]),
        (f"it is an account's SID; {made}", [REAL_ACCOUNT, REAL_ACCOUNT + "\n"]),
        (f"it is an API key's SID; {made}", [REAL_KEY]),
        (f"{OTHER_SID}; {made}", ["PN" + REAL_KEY[2:]]),
        (f"{IS_AUTH}; {made}", ["0123456789abcdef" * 2]),
        (f"{IS_SECRET}; {made}", ["pbv3" * 8]),
        ("it is a URL; take the token that it answers",
         ["https://my-app.twil.io/token", "http://a.b/"]),
        ("it has characters that are not ASCII",
         ["\u00e9.b.c", "\ud800.b.c", "a.b.\u00e9", '"\u00e9.b.c"']),
        (f"it is no token; {there}",
         ["Error. Please log in. Bye", "no (token).x.y", "a_b. .c", "404 not found\n",
          '"Internal Error"', "\ufeffa.b.c", "abc.def.ghi\n", "www.example.com",
          "xxxxx.yyyyy.zzzzz", "undefined.undefined.undefined",
          'x {"secret": "y"}']),
        ("it is cut off, or is no token: a JWT has three segments, joined by dots",
         [token[:30], "eyJ", "hello", "a.b", "SK123", "ew$a.b", f"{header}.{payload}",
          "SK1 ", "Bearer ", '"hello"', "Unauthorized\n", token[:99] + "\n", "'SK1'",
          f"{payload}.{signature}", f"{header}.{payload} and more"]),
        ("it has more than three segments",
         [token + ".a", "." * 9999, f"{header}.{payload}.{payload}.x",
          f"{header}.{payload}.ayJ.eyJ"]),
        ("it is cut off at its beginning", [token[3:], f".{payload}.{signature}"]),
    ]
    # fmt: on


def refusals() -> Iterator[tuple[Any, ...]]:
    """Each message of an error, the call that raises it, and what that is given."""
    yield from ERRORS
    for places, words, texts in LOOKS:
        for place, text in itertools.product(places.split(), texts):
            for rule, call in RULES[place]:
                prefix = rule.partition(" SID, ")[2][:2]
                given = re.sub("^XX", prefix, text)
                given = re.sub("^xx(?=1)", prefix.lower(), given)
                yield f"{rule}: {words}".rstrip(": "), call, given
    invalid = "InvalidTokenError: "
    for words, texts in no_tokens():
        for text in texts:
            yield f"{invalid}token must be a bare JWT: {words}", inspect_token, text
    good = base64url(b'{"alg":"HS256"}')
    rule = "must be a JSON object, names unique, in base64url"
    for words, segments in JSON_FAULTS:
        for segment in segments:
            for part, start in (
                ("header", f"{segment}.{good}"),
                ("payload", f"{good}.{segment}"),
            ):
                token = signed(start, "s3cr3t")
                yield f"{invalid}the {part} {rule}: {words}", verified, token


# fmt: off
SET_IT = "set it where the token is made"
NO_TEXT = "must be a number of seconds since the epoch, not"
MILLISECONDS = "must be in seconds, not in milliseconds or microseconds"
FUTURE = "is in the future; compare the clock of your server with that of this machine"
STORED = "if you have just fetched it, your server may answer with a stored token"
CLOCKS = "or its clock and that of this machine differ"

# Each problem of a report: the line but for the codes that end it, in a capability and
# in an access token ("": Twilio names none), and the values that have it in that place.
FAULTS: list[tuple[str, str | None, str | None, list[Any]]] = [
    (f"header.alg: is missing; it must be HS256; {SET_IT}", "31204", HEADER_CODES,
     [MISSING]),
    (f"header.alg: must be HS256; {SET_IT}", "31204", HEADER_CODES,
     ["none", "HS512", "hs256", ["HS256"], 1]),
    (f"header.typ: is missing; it must be JWT; {SET_IT}", None, HEADER_CODES,
     [MISSING]),
    (f"header.typ: must be JWT; {SET_IT}", None, HEADER_CODES, ["jwt", None]),
    (f"header.cty: is missing; it must be twilio-fpa;v=1; {SET_IT}", None, HEADER_CODES,
     [MISSING]),
    (f"header.cty: must be twilio-fpa;v=1; {SET_IT}", None, HEADER_CODES,
     ["JWT", "twilio-fpa;v=2"]),
    (f"header.twr: must be a region, such as ie1; {SET_IT}, or leave it out", None,
     "20101", ["", "IE1", "ireland", "ie1\n", 1]),
    ("header.crit: must not be there; verify_token refuses it", "", "",
     [["exp"], [], None]),
    ("claims.iss: is missing; it must be an account's SID", "31203", None, [MISSING]),
    ("claims.iss: is missing; it must be an API key's SID", None, SID_CODES, [MISSING]),
    ("claims.iss: must be an account's SID, not null", "31203", None, [None]),
    ("claims.iss: must be an API key's SID, not an object", None, SID_CODES,
     [{}]),
    (("claims.iss: must be an API key's SID, SK and 32 hex digits: it is an account's "
      "SID, which belongs in sub"), None, SID_CODES, [REAL_ACCOUNT, "AC123"]),
    (("claims.iss: must be an account's SID, AC and 32 hex digits: it is an API key's "
      "SID"), "31203", None, [REAL_KEY, "SK123"]),
    ("claims.sub: is missing; it must be an account's SID", None, SID_CODES, [MISSING]),
    ("claims.sub: must be an account's SID, not a number", None, SID_CODES,
     [1, 1.5]),
    (("claims.sub: must be an account's SID, AC and 32 hex digits: it is an API key's "
      "SID, which belongs in iss"), None, SID_CODES, [REAL_KEY]),
    ("claims.exp: is missing; it must be the time now plus the TTL, in seconds",
     "31204", "20104", [MISSING]),
    ("claims.exp: must be an integer; leave the quotes out", "", "",
     [str(NOW + 600), "0"]),
    ("claims.exp: must be an integer of seconds since the epoch, not a string", "31204",
     "20104", ["soon", "", "-5", "\u0663"]),
    ("claims.exp: must be an integer of seconds since the epoch, not a fraction",
     "31204", "20104", [NOW + 600.0]),
    ("claims.exp: must be an integer of seconds since the epoch, not true or false",
     "31204", "20104", [True]),
    (("claims.exp: is a duration, or was never set; it must be the time now plus the "
      "TTL, in seconds"), "31205", "20104", [10**9 - 1, 3600, 0, -(10**400)]),
    (f"claims.exp: {MILLISECONDS}", "31207", "20157, 31207",
     [10**10, NOW * 1000, NOW * 10**6, 10**400]),
    ("claims.exp: is more than 24 hours from now; use a shorter ttl", "31207",
     "20157, 31207", [NOW + 86401, 10**10 - 1]),
    ((f"claims.exp: is past, since 2026-01-01T00:00:00Z; make a new token; {STORED}, "
      f"{CLOCKS}"), "31205", "20104", [NOW]),
    (f"claims.exp: is past, since 2025-12-30T23:59:59Z; make a new token; {STORED}",
     "31205", "20104", [NOW - 86401]),
    (f"claims.exp: is past, since 2001-09-09T01:46:40Z; make a new token; {STORED}",
     "31205", "20104", [10**9]),
    (f"claims.iat: {NO_TEXT} null", "", "", [None]),
    (f"claims.iat: {NO_TEXT} a string", "", "", [str(NOW)]),
    (f"claims.iat: {NO_TEXT} true or false", "", "", [True]),
    (f"claims.iat: {MILLISECONDS}", "", "", [NOW * 1000, 10**10, 10**400]),
    (f"claims.iat: {FUTURE}", "", "", [NOW + 1, NOW + 0.5, 10**10 - 1]),
    (f"claims.nbf: {NO_TEXT} null", "", "20105", [None]),
    (f"claims.nbf: {NO_TEXT} a string", "", "20105", [str(NOW)]),
    (f"claims.nbf: {MILLISECONDS}", "", "20105", [NOW * 1000, 10**400]),
    (f"claims.nbf: {FUTURE}", "", "20105", [NOW + 1, NOW + 0.5]),
    ("claims.aud: must not be there; verify_token refuses it", "", "",
     ["x", "", None, []]),
    ("claims.scope: must be a string of scope URIs, not null", "", None, [None]),
    ("claims.scope: must be a string of scope URIs, not a list", "", None, [[]]),
    ("claims.scope: is empty, so the token allows nothing; allow a call", "", None,
     ["", " "]),
    (("claims.scope: has 101 scopes, of which the first 100 are judged; allow each "
      "call once"), "", None, [f"{NAMED}a " * 101]),
    ("claims.grants: is missing; it must be an object with identity and voice", None,
     GRANT_CODES, [MISSING]),
    ("claims.grants: must be an object with identity and voice, not null", None,
     GRANT_CODES, [None]),
    ("claims.grants: must be an object with identity and voice, not a list", None,
     GRANT_CODES, [[]]),
    (f"{IDENTITY}: is missing; it must be the name of the device", None, GRANT_CODES,
     [MISSING]),
    (f"{IDENTITY}: is empty; it must be the name of the device", None, GRANT_CODES,
     [""]),
    (f"{IDENTITY}: must be the name of the device, not null", None, GRANT_CODES, [None]),
    (f"{IDENTITY}: must be the name of the device, not a number", None, GRANT_CODES,
     [42]),
    (f"{IDENTITY}: must be the name of the device: {UNFILLED}", None, "", ["{{user}}"]),
    (f"{IDENTITY}: must be 1 to 121 of A-Za-z0-9_: {QUOTES}", None, "", ["'ann'"]),
    (f"{IDENTITY}: must be the name of the device: {NO_VALUE}", None, "",
     ["undefined", "null", "None", "nil", "NaN", "[object Object]"]),
    ((f"{IDENTITY}: must be 1 to 121 of A-Za-z0-9_: it is a SID, meant for another "
      "place"), None, "", [REAL_KEY]),
    ((f"{IDENTITY}: must be 1 to 121 of A-Za-z0-9_: leave out client:, which Twilio "
      "puts there itself"), None, "", ["client:ann"]),
    ((f"{IDENTITY}: must be 1 to 121 of A-Za-z0-9_: leave out client:, which Twilio "
      "puts there itself"), None, "31105", ["client:a b"]),
    ((f"{IDENTITY}: may work in a browser, but Twilio promises A-Za-z0-9_: use "
      "encode_client_name"), None, "", ["agent-7", "+1", "-" * 121]),
    (f"{IDENTITY}: must be 1 to 121 of A-Za-z0-9_: {PLUS} {ENCODE}", None, "31105",
     [" 15129918788", "a b"]),
    (f"{IDENTITY}: must be 1 to 121 of A-Za-z0-9_: {ENCODE}", None, "31105",
     ["é", 'a"']),
    (f"{IDENTITY}: must be 1 to 121 of A-Za-z0-9_: {SPACE}", None, "31105", ["a\n"]),
    (f"{IDENTITY}: must be 1 to 121 of A-Za-z0-9_: it is too long, take a shorter one",
     None, "31105", ["a" * 122, "-" * 122, "é" * 122]),
    (f"{VOICE}: is missing; it must be an object that allows calls", None, GRANT_CODES,
     [MISSING]),
    (f"{VOICE}: must be an object that allows calls, not null", None, GRANT_CODES,
     [None]),
    (f"{VOICE}: must be an object that allows calls, not a string", None, GRANT_CODES,
     ["x"]),
    (f"{VOICE}: allows neither incoming nor outgoing calls; allow one", None,
     GRANT_CODES, [{}, {"incoming": {"allow": False}}]),
    (f'{VOICE}.incoming: must be {{"allow": true}}', None, "",
     [{}, True, "true", {"allow": 1}]),
    (f'{VOICE}.incoming: must be {{"allow": true}}, without quotes around true', None,
     "", [{"allow": "true"}]),
    (f"{VOICE}.outgoing: must be an object with application_sid, not a list", None,
     "21218, 31100", [[]]),
    (f"{OUT_APP}: is missing; it must be a TwiML app's SID", None, "21218, 31100",
     [MISSING]),
    (f"{OUT_APP}: must be a TwiML app's SID, not a number", None,
     "21218, 31100", [1]),
    (f"{OUT_PARAMS}: must be an object of strings and numbers, not true or false", None,
     "", [True]),
    (f"{OUT_PARAMS}: must be an object of strings and numbers, not a number", None, "",
     [1]),
    (f"{OUT_PARAMS}: must hold strings, numbers, true and false, and nothing else",
     None, "", [{"a": []}, {"a": {}}, {"a": None}]),
    (f"{OUT_PARAMS}: has a wrong value: {NO_VALUE}", None, "",
     [{"a": text} for text in ("undefined", "NaN", "[object Object]", "<nil>",
                               "Optional(nil)", "(null)")]),
    (f"{OUT_PARAMS}: has a wrong value: {UNFILLED}", None, "",
     [{"a": text} for text in ("{{id}}", "${id}", "#{id}", "<%= id %>",
                               "process.env.ID", "os.environ['ID']")]),
    (f"{PUSH}: must be a push credential's SID, not a number", None, "52002",
     [1]),
]

# The same where more is changed than the place: kind, the changes, and the lines.
WAS_PAST = (
    "claims.exp: was past when the token was made, by its iat or nbf; was local time "
     "taken for UTC?")
LIVES_LONG = "(Twilio errors 20157, 31207)"
MORE_FAULTS: list[tuple[str, dict[str, Any], list[str]]] = [
    # A name or params in a wrong place explain neither missing grants nor an empty voice.
    ("access", {"claims.identity": "a", "claims.grants": MISSING},
     [("claims.grants: is missing; it must be an object with identity and voice "
       "(Twilio errors 20106, 20101)"),
      f"claims.identity: is not read here; it belongs in {IDENTITY}"]),
    ("access", {VOICE: {"params": {"a": "b"}}},
     [(f"{VOICE}: allows neither incoming nor outgoing calls; allow one (Twilio errors "
       "20106, 20101)"),
      f"claims.grants.voice.params: is not read here; it belongs in {OUT_PARAMS}"]),
    ("access", {VOICE: {"outgoing_application_sid": REAL_APP, "incoming_allow": True}},
     [(f"{VOICE}.{name}: is not read here; it belongs in {place} (Twilio "
       f"errors {GRANT_CODES})")
      for name, place in (("outgoing_application_sid", OUT_APP),
                          ("incoming_allow", ALLOW))]),
    ("capability", {"claims": {"iss": REAL_ACCOUNT, "exp": 0}, "header.alg": 1},
     [("claims: must have Twilio's scope or grants; this is no Twilio voice token "
       "(Twilio errors 31204, 20101)")]),
    ("access", {VOICE: MISSING, "claims.grants.video": {"room": "x"}},
     [(f"{VOICE}: is missing; with other grants alone, this is no token for Voice "
       "(Twilio errors 20106, 20101)")]),
    ("capability", {"claims.exp": NOW - 60, "claims.iat": NOW - 60},
     [f"{WAS_PAST} (Twilio error 31205)"]),
    ("access", {"claims.exp": NOW - 60, "claims.nbf": NOW - 30},
     [f"{WAS_PAST} (Twilio error 20104)"]),
    ("access", {"claims.exp": NOW - 86400, "claims.iat": NOW - 90000.5},
     [("claims.exp: is past, since 2025-12-31T00:00:00Z, 3600 seconds after it was "
       f"made; make a new token; {STORED}, {CLOCKS} (Twilio error 20104)")]),
    ("access", {"claims.exp": NOW - 60, "claims.iat": NOW - 120, "claims.nbf": NOW},
     [("claims.exp: is past, since 2025-12-31T23:59:00Z, 60 seconds after it was "
       f"made; make a new token; {STORED}, {CLOCKS} (Twilio error 20104)")]),
    ("access", {"claims.exp": NOW - 60, "claims.nbf": NOW - 119},
     [("claims.exp: is past, since 2025-12-31T23:59:00Z, 59 seconds after it was "
       f"made; make a new token, with a longer ttl; {STORED}, {CLOCKS} (Twilio error "
       "20104)")]),
    # A life is counted from iat, if that can be one; nbf may have been set back.
    *(("access", {"claims.exp": exp, "claims.iat": iat, "claims.nbf": NOW},
       [f"claims.exp: is more than 24 hours after iat; use a shorter ttl {LIVES_LONG}"])
      for exp, iat in ((NOW + 36401, NOW - 50000), (NOW + 86400, NOW - 0.5),
                       (NOW + 600, 10**9))),
    ("access", {"claims.exp": NOW + 86399, "claims.iat": NOW - 1}, []),
    ("access", {"claims.exp": NOW + 86400, "claims.iat": 10**9 - 1}, []),
    ("access", {"claims.exp": NOW + 86400, "claims.nbf": NOW - 300}, []),
    ("access", {"claims.exp": NOW + 86401, "claims.nbf": NOW - 300},
     [f"claims.exp: is more than 24 hours from now; use a shorter ttl {LIVES_LONG}"]),
    ("access", {"claims.exp": NOW + 86400, "claims.iat": NOW + 1},
     [f"claims.iat: {FUTURE}"]),
    # One line for both, if it is one fault.
    ("access", {"claims.iat": NOW + 1, "claims.nbf": NOW + 2},
     [f"claims.nbf: {FUTURE}; the same is true of iat (Twilio error 20105)"]),
    ("capability", {"claims.iat": NOW * 1000, "claims.nbf": NOW * 1000},
     [f"claims.nbf: {MILLISECONDS}; the same is true of iat"]),
    ("capability", {"claims.iat": NOW * 1000, "claims.nbf": NOW + 1},
     [f"claims.iat: {MILLISECONDS}", f"claims.nbf: {FUTURE}"]),
    ("capability", {"claims.iat": "0", "claims.nbf": "0"},
     [f"claims.iat: {NO_TEXT} a string", f"claims.nbf: {NO_TEXT} a string"]),
    # Of scopes the first was split by no space, and the last is followed by none.
    *(("capability", {"claims.scope": scope},
       ["scopes[0]: must be a scope URI, such as scope:client:incoming?clientName=Alice"])
      for scope in ("x", f'"{NAMED}a"', "scope:client")),
    *(("capability", {"claims.scope": f"{NAMED}a{mark} {APP}{REAL_APP}"},
       ["scopes[0]: must be one scope URI; a space belongs between two, and nothing else"])
      for mark in ",;"),
]

# Each problem of a scope: the line behind scopes[1], its code, and scopes that have it.
SCOPE_FAULTS: list[tuple[str, str, list[str]]] = [
    (": must be one scope URI; a space belongs between two, and nothing else", "",
     [f"{NAMED}a+{APP}{REAL_APP}&clientName=a", f"{NAMED}a,{APP}{REAL_APP}&appParams=",
      f"{NAMED}a%20scope:stream:subscribe"]),
    (": is escaped for HTML or JSON, as in &amp; for &; take it as it was before", "",
     [f"{APP}{REAL_APP}&amp;clientName=a", f"{NAMED}a&amp;x&y",
      f"{APP}{REAL_APP}&#38;clientName=a", f"{APP}{REAL_APP}\\u0026clientName=a"]),
    (": has its =, & or ? encoded, too; encode the values alone", "",
     ["scope:client:incoming?clientName%3Dann", "scope:client:incoming%3fclientName=a",
      "scope%3Aclient%3Aincoming%3FclientName%3Da", APP_PARAMS + "&clientName%3dann",
      f"{APP}{REAL_APP}%26appParams=a", f"{APP}{REAL_APP}%26clientName%3Dann",
      "scope%253Aclient%253Aincoming", "scope:client:incoming?clientName%253Da"]),
    ((": must be a scope URI, such as scope:client:incoming?clientName=Alice; was a "
      "space before it not encoded?"), "",
     ["https://example.com/?a&b", "x", f'"{NAMED}a"', f"b'{NAMED}a'", "scope:client",
      "scope:client:incoming:x?a=b", "scope:%:b?a=b", "Scope:client:incoming?a=b"]),
    (f": must be a scope URI: {NO_VALUE}", "", ["undefined", '"NaN"']),
    (f": must be a scope URI: {UNFILLED}", "", ["${scope}"]),
    ((": has broken params; was an = or & in them not encoded? appParams and params "
      "must be encoded as a whole"), "",
     [APP_PARAMS + "a%3D1&b%3D2", APP_PARAMS + "a&appParams=b",
      NAMED + "a&clientName=b", "scope:client:incoming?clientName"]),
    (": has params that are not percent-encoded UTF-8; encode each value", "",
     [NAMED + "%", NAMED + "José", NAMED + "%ff"]),
    (": must be client:incoming, client:outgoing or stream:subscribe", "",
     ["scope:client:x", "scope:stream:incoming", "scope:Client:incoming"]),
    (": must have clientName, the name of the device", "",
     [NAMED, "scope:client:incoming", "scope:client:incoming?clientname=a"]),
    (": must have appSid, the SID of a TwiML app", "",
     ["scope:client:outgoing", "scope:client:outgoing?clientName=a"]),
    ((".params: has a name that client:incoming does not have; was an = or & not "
      "encoded?"), "", [f"{NAMED}a&appSid={REAL_APP}"]),
    ((".params: has a name that client:outgoing does not have; was an = or & not "
      "encoded?"), "", [APP_PARAMS + "a=1&b=2"]),
    ((".params: has a name that stream:subscribe does not have; was an = or & not "
      "encoded?"), "", ["scope:stream:subscribe?x=y"]),
    (f".params.clientName: must be the name of the device: {NO_VALUE}", "",
     [NAMED + "undefined"]),
    ((".params.clientName: must be 1 to 256 of A-Za-z0-9_: it is a SID, meant for "
      "another place"), "", [NAMED + REAL_APP]),
    ((".params.clientName: must be 1 to 256 of A-Za-z0-9_: leave out client:, which "
      "Twilio puts there itself"), "", [NAMED + "client:a"]),
    ((".params.clientName: may work in a browser, but Twilio promises A-Za-z0-9_: use "
      "encode_client_name"), "", [NAMED + name for name in ("agent-7", "%2B1", "ann,")]),
    (f".params.clientName: must be 1 to 256 of A-Za-z0-9_: {PLUS} {ENCODE}", "31105",
     [NAMED + "+1555", NAMED + "a+b"]),
    (f".params.clientName: must be 1 to 256 of A-Za-z0-9_: {QUOTES}", "31105",
     [f"{APP}{REAL_APP}&clientName=%22"]),
    ((".params.clientName: must be 1 to 256 of A-Za-z0-9_: it is too long, take a "
      "shorter one"), "31105", [NAMED + "a" * 257, NAMED + "-" * 257]),
    (f".params.appSid: must be a TwiML app's SID, AP and 32 hex digits: {CUT_OFF}",
     "31100", [APP + "AP1"]),
    (f".params.appSid: must be a TwiML app's SID, AP and 32 hex digits: {EMPTY}",
     "31100", [APP]),
    ((".params.appParams: must be form-encoded NAME=VALUE pairs; encode each name and "
      "value"), "",
     [APP_PARAMS + form for form in ("x", "a%26b", "a%3D1%26a%3D2", "a%3D%25FF")]),
    (f".params.appParams: has a wrong value: {NO_VALUE}", "",
     [APP_PARAMS + form for form in ("a%3Dundefined", "undefined")]),
    (f".params.appParams: has a wrong value: {UNFILLED}", "",
     [APP_PARAMS + "a%3D%257B%257Bid%257D%257D"]),
    ((".params.params: must be form-encoded NAME=VALUE pairs; encode each name and "
      "value"), "", ["scope:stream:subscribe?params=x"]),
    (f".params.params: has a wrong value: {NO_VALUE}", "",
     ["scope:stream:subscribe?params=a%3DNaN"]),
]

# Where a SID belongs: kind, place, how each line begins, and its codes.
SID_PLACES = [
    ("capability", "claims.iss", "must be an account's SID, AC", "31203"),
    ("access", "claims.iss", "must be an API key's SID, SK", SID_CODES),
    ("access", "claims.sub", "must be an account's SID, AC", SID_CODES),
    ("access", VOICE + ".outgoing.application_sid", "must be a TwiML app's SID, AP",
     "21218, 31100"),
    ("access", VOICE + ".push_credential_sid", "must be a push credential's SID, CR",
     "52002"),
]
AUTH, SECRET = "0123456789abcdef" * 2, "pbv3xQq0TtYy1Zz2Aa3Bb4Cc5Dd6Ee7F"
KNOWN_AUTH = f"{IS_AUTH}; change it, as whoever has the token can read it"
KNOWN_SECRET = f"{IS_SECRET}; delete that key, as whoever has the token can read it"

# What a line says of a text there; XX is the prefix.
SID_LINES = [
    (EMPTY, [""]),
    (NO_VALUE, ["undefined"]),
    (PLACEHOLDER, ["XXXXXX", "your_api_key", "<YOUR_API_KEY>"]),
    (CUT_OFF, ["XX1", f"XX{AUTH}0", "XX" + "g" * 32, f"xx{AUTH}"]),
    (SPACE, [f"XX{AUTH} "]),
    (QUOTES, [f'"XX{AUTH}"', f"'XX{AUTH}'"]),
    (OTHER_SID, ["PN" + AUTH]),
    ("", ["my app"]),
    (KNOWN_AUTH, [AUTH]),
    (KNOWN_SECRET, [SECRET, "XX" + "v3" * 15, "SB" + "0" * 30]),
    (f"{QUOTES}; {KNOWN_AUTH}", [f'"{AUTH}"']),
    (f"{SPACE}; {KNOWN_AUTH}", ["\ufeff" + AUTH]),
    (f"{SPACE}; {KNOWN_SECRET}", [f" '{SECRET}'\n"]),
]

# What is wrong with a signature; the right one's bytes are DIGEST.
DIGEST = bytes(range(224, 256))
IN_HEX = "it is in hex; encode the bytes themselves"
STANDARD = "it is in standard base64, or padded; a JWT has - for +, _ for / and no ="
SIGNATURES = [
    (IN_HEX, [DIGEST.hex(), DIGEST.hex().upper(), base64url(DIGEST.hex().encode())]),
    (STANDARD,
     ["+" + "a" * 42, "/" + "a" * 42, base64url(DIGEST) + "=",
      base64.b64encode(DIGEST.hex().encode()).decode()]),
    ("it has characters that base64url does not have", ["*" * 43, "*" * 9, "^`"]),
    ("it is cut off", ["", "a" * 42]),
    ("it is too long, or of another algorithm than HS256", ["a" * 44, "a" * 342]),
    ("it is too long, or of another algorithm than HS256, SHA-384",
     ["Q" * 64, "a" * 63 + "-"]),
    ("it is too long, or of another algorithm than HS256, SHA-512",
     ["A" * 86, base64url(DIGEST * 2)]),
]

# Names in a wrong place: the place, a value, the right place, where nothing stands, and
# the codes; and what else is changed in a good access token.
MISPLACED: list[tuple[str, Any, str, str, dict[str, Any]]] = [
    ("claims.region", "ie1", "header.twr", "", {}),
    ("header.region", "au1", "header.twr", "", {}),
    (VOICE + ".Region", "us1", "header.twr", "", {}),
    ("claims.cty", "twilio-fpa;v=1", "header.cty", HEADER_CODES, {}),
    ("header.algorithm", "HS256", "header.alg", HEADER_CODES, {}),
    ("claims.issuer", REAL_KEY, "claims.iss", SID_CODES, {}),
    ("claims.account_sid", REAL_ACCOUNT, "claims.sub", SID_CODES, {}),
    ("claims.expiresAt", NOW + 60, "claims.exp", "20104", {}),
    ("claims.identity", "a", IDENTITY, GRANT_CODES, {}),
    (VOICE + ".identity", "a", IDENTITY, GRANT_CODES, {IDENTITY: ""}),
    ("claims.grants.indentity", "a", IDENTITY, GRANT_CODES, {}),
    ("claims.grants.Identity", "a", IDENTITY, GRANT_CODES, {IDENTITY: None}),
    ("claims.voice", CALLED, VOICE, GRANT_CODES, {}),
    ("claims.voice", CALLED, VOICE, GRANT_CODES, {"claims.grants": {"identity": "a"}}),
    ("claims.grants.incoming", {"allow": True}, VOICE + ".incoming", GRANT_CODES,
     {VOICE: MISSING}),
    (VOICE + ".incoming_allow", True, ALLOW, GRANT_CODES,
     {VOICE: {"incoming_allow": 1}}),
    (VOICE + ".outgoingApplicationSid", REAL_APP, OUT_APP, "",
     {VOICE: {**CALLED, "outgoingApplicationSid": 1}}),
    (VOICE + ".outgoing_application_sid", REAL_APP, OUT_APP, GRANT_CODES,
     {VOICE: {"outgoing_application_sid": REAL_APP}}),
    (VOICE + ".incomming", {"allow": True}, VOICE + ".incoming", GRANT_CODES,
     {VOICE: {"incomming": 1}}),
    ("claims.userId", "u7", IDENTITY, GRANT_CODES, {}),
    ("claims.apiKey", REAL_KEY, "claims.iss", SID_CODES, {}),
    (VOICE + ".incoming.allowed", True, ALLOW, "", {}),
    (VOICE + ".incoming.Allow", True, ALLOW, "", {}),
    (VOICE + ".outgoing.applicationSid", REAL_APP, OUT_APP, "21218, 31100", {}),
    (VOICE + ".outgoing.application_params", {"a": "b"}, OUT_PARAMS, "", {}),
    ("claims.pushCredentialId", REAL_CREDENTIAL, PUSH, "", {}),
    ("claims.grants.push_credential_sid", REAL_CREDENTIAL, PUSH, "", {PUSH: None}),
    ("claims.grants.push-credential", REAL_CREDENTIAL, PUSH, GRANT_CODES, {VOICE: {}}),
]

# A value that may stand at a place, where not each may.
FITTING = {
    "header.twr": "ie1", "claims.iss": REAL_KEY, "claims.sub": REAL_ACCOUNT,
    "claims.exp": NOW + 60, IDENTITY: "a",
}  # fmt: skip

# What people call a place, where that can be told: in claims, or else in voice.
SPELLINGS = {
    "header.alg": "alg algorithm", "header.typ": "typ", "header.cty": "cty content_type",
    "header.twr": "twr region", "claims.iss": "issuer apiKeySid keySid signing_key_sid",
    "claims.sub": "subject account-sid", "claims.grants": "Grants grant",
    "claims.exp": "expires expiresAt expiration expiry validUntil",
    IDENTITY: "identity client_name userName",
    VOICE: "voice VoiceGrant programmable_voice",
    VOICE + ".incoming": "incoming", VOICE + ".outgoing": "outgoing",
    ALLOW: "incoming_allow allowIncoming allow_incoming_calls",
    PUSH: "push_credential_sid PushCredential",
}
SPELLINGS_IN_VOICE = {
    "claims.iss": "iss", "claims.sub": "sub", "claims.exp": "exp", ALLOW: "allowed",
    OUT_APP: "application_sid appSid twiml_app_sid twimlApplicationSid outgoingAppSid "
             "outgoing_application_sid",
    OUT_PARAMS: "params parameters app_params applicationParams outgoingparams "
                "outgoing_application_params customParameters",
}

# Wrong usage, status 2: the message's end, and the message for such arguments.
USAGE: dict[str, list[tuple[str, str]]] = {
    " (see twilio-capability --help)": [
        ("required: COMMAND; choose generate, verify or inspect", ""),
        ("unrecognized arguments --vers", "--vers"),
        ("argument --version: ignored explicit argument", "--version=s3cr3t"),
        *((("argument COMMAND: invalid choice; choose generate, verify or inspect, and "
            "give options behind it"), words)
          for words in ("--incoming a generate", "genrate", "AC123123 s3cr3t")),
    ],
    " (see twilio-capability generate --help)": [
        *(("unrecognized arguments", f"generate {words}")
          for words in ("AC123123 s3cr3t", "-ps3cr3t", "--s3cr3t")),
        ("unrecognized arguments --inc", "generate --inc s3cr3t"),
        ("unrecognized arguments --auth-token", "generate --auth-token=s3cr3t"),
        ("unrecognized arguments --i --events-x", "generate --i=s3cr3t x --events-x"),
        ("unrecognized arguments --A-Z", "generate --A-Z --s_cr_t"),
        ("argument --incoming: expected one argument", "generate --incoming"),
        ("argument --events: ignored explicit argument", "generate --events=s3cr3t"),
        ("argument --events: ignored explicit argument",
         "generate --events=sec'ret\"s3cr3t"),
        ("argument --ttl: invalid int value", "generate --ttl s3cr3t"),
        ("argument --param: must be KEY=VALUE",
         "generate --outgoing AP1 --param s3cr3t"),
        ("argument --event-filter: must be KEY=VALUE",
         "generate --events --event-filter s3cr3t"),
    ],
    " (see twilio-capability verify --help)": [
        ("unrecognized arguments", "verify a.b.c s3cr3t"),
    ],
    " (see twilio-capability inspect --help)": [
        ("unrecognized arguments --verb", "inspect --verb"),
    ],
    "": [
        ("--param needs --outgoing", "generate --incoming a --param a=1"),
        ("--param: no KEY may be given twice",
         "generate --outgoing AP1 --param a=1 --param a=2"),
        ("--event-filter needs --events", "generate --incoming a --event-filter a=1"),
        ("--event-filter: no KEY may be given twice",
         "generate --events --event-filter a= --event-filter a="),
        ("--identity needs --access", "generate --incoming a --identity a"),
        ("--push-credential needs --access", "generate --events --push-credential="),
        ("--region needs --access", "generate --events --region="),
        ("ttl must be 1 to 86400 seconds", "generate --incoming a --ttl 86401"),
        ("region must match [a-z]{2}[0-9]: such as us1, ie1 or au1",
         "generate --access --incoming a --region ireland"),
        ("generate must allow something: give --incoming, --outgoing or --events",
         "generate"),
        ("generate must allow something: give --incoming, --outgoing or --push-credential",
         "generate --access --identity a"),
    ],
}

# What --help prints after each command, but for the line breaks, which Python makes.
H = "-h, --help show this help message and exit"
MAKE = """Example: twilio-capability generate --incoming Alice. Set TWILIO_ACCOUNT_SID,
    and TWILIO_AUTH_TOKEN or (--access) TWILIO_API_KEY and TWILIO_API_SECRET, in the
    environment."""
HELP = {
    "": f"""usage: twilio-capability [-h] [--version] COMMAND ...
        positional arguments: COMMAND
            generate  print a new token
            verify    check a token and show it
            inspect   show one, unchecked
        options: {H}
            --version  show program's version number and exit
        {MAKE}""",
    "generate": f"""usage: twilio-capability generate [-h] [--incoming NAME]
            [--outgoing APP_SID] [--param KEY=VALUE] [--events]
            [--event-filter KEY=VALUE] [--lenient-names] [--ttl SECONDS] [--access]
            [--identity NAME] [--push-credential CR_SID] [--region REGION]
        options: {H}
            --incoming NAME           let the device be called NAME; repeatable
            --outgoing APP_SID        let it call through this app; repeatable
            --param KEY=VALUE         passed to the app; repeatable
            --events                  let it read the account's events
            --event-filter KEY=VALUE  which ones; repeatable
            --lenient-names       take names such as agent-7, which phones do not take
            --ttl SECONDS             default: 3600
            --access                  make an access token, not a capability token
            --identity NAME           the device's name; with --access only
            --push-credential CR_SID  lets a phone be called; with --access only
            --region REGION           such as ie1 or au1; with --access only
        {MAKE}""",
    "verify": f"""usage: twilio-capability verify [-h] [TOKEN]
        positional arguments: TOKEN default: standard input options: {H}
        Example: twilio-capability verify < token.txt. Set TWILIO_AUTH_TOKEN for a
        capability token, TWILIO_API_SECRET for an access token, in the environment.
        TWILIO_ACCOUNT_SID and TWILIO_API_KEY, if set, are compared with the
        token's.""",
    "inspect": f"""usage: twilio-capability inspect [-h] [TOKEN]
        positional arguments: TOKEN default: standard input options: {H}
        Example: twilio-capability inspect < token.txt. It checks no signature, and
        reads no environment variable: neither TWILIO_AUTH_TOKEN nor
        TWILIO_API_SECRET.""",
}
# fmt: on


def in_brackets(codes: str) -> str:
    """How a line ends that has these codes."""
    errors = "errors" if "," in codes else "error"
    return f" (Twilio {errors} {codes})" if codes else ""


class MessagesTest(unittest.TestCase):
    """Each message is one line, for a person, and these are all of them."""

    def test_each_error(self) -> None:
        for message, call, *given in refusals():
            texts = [text[:300] for text in given if isinstance(text, str)]
            with self.subTest(message=message, texts=texts):
                error, line = raised_by(call, *given)
                self.assertEqual(line, message)
                self.assertIsNone(error.__context__)

    def test_each_problem_of_a_report(self) -> None:
        for line, *columns, values in FAULTS:
            place = line.partition(":")[0]
            for kind, codes in zip(("capability", "access"), columns):
                if codes is None:
                    continue
                for value in values:
                    with self.subTest(kind=kind, place=place, value=value):
                        lines = lines_of(kind, {place: value})
                        self.assertEqual(lines, [line + in_brackets(codes)])
        for kind, changes, lines in MORE_FAULTS:
            with self.subTest(kind=kind, changes=changes):
                self.assertEqual(lines_of(kind, changes), lines)

    def test_each_problem_of_a_scope(self) -> None:
        for words, code, uris in SCOPE_FAULTS:
            for uri in uris:
                with self.subTest(uri=uri):
                    lines = lines_of("capability", {"claims.scope": f"{NAMED}a {uri}"})
                    self.assertEqual(lines, [f"scopes[1]{words}{in_brackets(code)}"])

    def test_each_problem_of_a_sid(self) -> None:
        for kind, place, rule, codes in SID_PLACES:
            prefix = rule[-2:]
            for words, texts in SID_LINES:
                line = f"{place}: {rule} and 32 hex digits: {words}".rstrip(": ")
                for text in texts:
                    text = text.replace("XX", prefix, 1).replace("xx", prefix.lower())
                    with self.subTest(kind=kind, place=place, text=text):
                        lines = lines_of(kind, {place: text})
                        self.assertEqual(lines, [line + in_brackets(codes)])

    def test_each_problem_of_a_signature(self) -> None:
        rule = "signature: must be 43 characters of base64url"
        for kind, codes in (("capability", "31202"), ("access", "20107, 31202")):
            start = good_token(kind).rpartition(".")[0]
            for words, signatures in SIGNATURES:
                for signature in signatures:
                    with self.subTest(kind=kind, signature=signature):
                        report = inspect_token(f"{start}.{signature}", now=NOW)
                        line = f"{rule}: {words}{in_brackets(codes)}"
                        self.assertEqual(report["problems"], [line])

    def test_each_name_in_a_wrong_place(self) -> None:
        for place, value, target, codes, others in MISPLACED:
            changes = {target: MISSING, place: value, **others}
            line = f"{place}: is not read here; it belongs in {target}"
            with self.subTest(changes=changes):
                lines = lines_of("access", changes)
                self.assertEqual(lines, [line + in_brackets(codes)])

    def test_each_name_that_people_give_to_a_place(self) -> None:
        spellings = [("claims", SPELLINGS), (VOICE, SPELLINGS_IN_VOICE)]
        for holder, names_of in spellings:
            for target, names in names_of.items():
                for name in names.split():
                    value = FITTING.get(target, 1)
                    changes = {target: MISSING, f"{holder}.{name}": value}
                    words = f"{holder}.{name}: is not read here; it belongs in {target}"
                    with self.subTest(name):
                        report = "\n".join(lines_of("access", changes))
                        self.assertIn(words, report)

    def test_each_wrong_usage_of_the_command(self) -> None:
        for end, rows in USAGE.items():
            for message, arguments in rows:
                with self.subTest(arguments):
                    line = f"twilio-capability: {message}{end}\n"
                    self.assertEqual(run_main(*arguments.split()), (2, "", line))

    def test_each_help(self) -> None:
        for command, text in HELP.items():
            for option in ("-h", "--help"):
                with self.subTest(command, option=option):
                    result = run_main(*command.split(), option, env={})
                    self.assertEqual((result.status, result.errors), (0, ""))
                    # So up to Python 3.9.
                    output = result.output.replace("optional arguments:", "options:")
                    self.assertEqual(output.split(), text.split())

    def test_the_version(self) -> None:
        words = f"twilio-capability {twilio_capability.__version__}\n"
        self.assertEqual(run_main("--version", env={}), (0, words, ""))


# ---- The README ----------------------------------------------------------------------

TEST_COMMAND = "python3 -m unittest"
FRAMEWORKS = ("django", "fastapi", "flask")


def needs_a_framework(block: Block) -> bool:
    return any(f"from {framework}" in block.text for framework in FRAMEWORKS)


@contextlib.contextmanager
def bare_machine() -> Iterator[str]:
    """A folder with a copy of the module, and the commands that the README names."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MODULE, folder)
        for name, script in (("python3", ""), ("twilio-capability", f'"{MODULE}"')):
            wrapper = Path(folder, name)
            command = f'exec "{sys.executable}" {script} "$@"'
            wrapper.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
            wrapper.chmod(0o755)
        lines = [f"{name}={value}\n" for name, value in ENVIRONMENT.items()]
        Path(folder, "twilio.env").write_text("".join(lines), encoding="utf-8")
        yield folder


def run_shell(commands: str, folder: str) -> Result:
    path = {"PATH": folder + os.pathsep + os.environ["PATH"]}
    Path(folder, "block.sh").write_text(commands, encoding="utf-8")
    return run_process("/bin/sh", "-eu", "block.sh", env=path, cwd=folder)


def abbreviated(text: str) -> str:
    """The text with each token in it cut off after its header, once it is verified."""

    def cut(match: re.Match[str]) -> str:
        verify_token(match[0], "secret")
        return match[0].partition(".")[0] + ".eyJ…"

    return re.sub(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", cut, text)


@unittest.skipUnless(README.exists(), "the module was copied without its README")
class ReadmeTest(unittest.TestCase):
    """Every block is run, and prints what the block behind it shows.

    But for the test command, which would run itself, the web frameworks (tox -e
    interop), and the JavaScript, which a browser runs (tox -e browser).
    """

    def test_every_block_is_of_a_kind_that_is_run(self) -> None:
        blocks = readme_blocks()
        shown = [block for block in blocks if block.shown]
        self.assertEqual(PAGE.count("\n```"), 2 * (len(blocks) + len(shown)))
        languages = {block.language for block in blocks}
        self.assertEqual(languages, {"sh", "python", "javascript", "html"})
        self.assertIn(Block("sh", TEST_COMMAND + "\n", ""), blocks)

    def test_every_link_leads_to_a_heading(self) -> None:
        headings = re.findall(r"^##+ (.+)$", PAGE.lower(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", h).replace(" ", "-") for h in headings}
        links = re.findall(r"\]\(#([^)]+)\)", PAGE)
        self.assertGreater(len(links), 10)
        self.assertEqual(set(links) - anchors, set())

    def test_ci_starts_with_the_test_command(self) -> None:
        lines = (HERE / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        commands = [line for line in lines if "python3 " in line and line[0] != "#"]
        self.assertEqual(commands[0], TEST_COMMAND)

    @unittest.skipIf(os.name == "nt", "the README's commands are for a POSIX shell")
    def test_the_shell_commands_print_what_they_show(self) -> None:
        blocks = [block for block in readme_blocks() if block.language == "sh"]
        with bare_machine() as folder:
            for block in blocks:
                if block.text.strip() == TEST_COMMAND:
                    continue
                with self.subTest(block=block.text):
                    done = run_shell(block.text, folder)
                    self.assertEqual((done.status, done.errors), (0, ""))
                    self.assertEqual(abbreviated(done.output), block.shown)
        self.assertGreater(len(blocks), 4)

    @unittest.skipIf(os.name == "nt", "the README's commands are for a POSIX shell")
    def test_the_least_of_the_module_makes_and_verifies_tokens(self) -> None:
        script = (
            "from twilio_capability import *\n"
            "capability = Capability('AC123123', 'secret')\n"
            "capability.allow_client_incoming('Alice')\n"
            "print(verify_token(capability.generate_token(), 'secret')['iss'])\n"
        )
        with bare_machine() as folder:
            run_shell(readme_block("sh", "sed ").text, folder)
            least = Path(folder, "least")
            (least / "script.py").write_text(script, encoding="utf-8")
            done = run_process(sys.executable, "-S", "script.py", cwd=str(least))
        self.assertEqual(done, (0, "AC123123\n", ""))

    def test_the_python_blocks_print_what_they_show(self) -> None:
        for block in readme_blocks():
            if block.language != "python" or needs_a_framework(block):
                continue
            with self.subTest(block=block.text):
                output = io.StringIO()
                with contextlib.redirect_stdout(output), clock_at(NOW):
                    exec(compile(block.text, "README.md", "exec"), {"__name__": "md"})
                self.assertEqual(output.getvalue(), block.shown)

    def test_its_version_is_that_of_the_module(self) -> None:
        versions = re.findall(r"\*\*(\d+\.\d+\.\d+)\*\*", self.section("Changes"))
        self.assertEqual(versions[0], twilio_capability.__version__)

    def test_its_numbers_are_those_that_hold(self) -> None:
        text = " ".join(PAGE.partition("\n## Changes")[0].split())
        for phrase in (
            "into the {_MAX_IDENTITY} characters of a name",
            "1 to {_MAX_CLIENT_NAME} of `{_NAME_ALPHABET}`",
            "in an access token at most {_MAX_IDENTITY}",
            "up to {_MAX_CLIENT_NAME} characters once encoded",
            "ints up to 2**{bits} either way",
            "1 to {_MAX_TTL} (",
            "{_DEFAULT_TTL} by default",
            "more than {_MAX_TEXT:,} characters",
        ):
            with self.subTest(phrase):
                self.assertIn(with_constants(phrase), text)
        refused = with_constants("{refused}").replace("|", r"\|")
        self.assertIn(f"except space and ``{refused}``", text)
        for region in re.findall(r'region="(\w*)"', text):
            with self.subTest(region=region):
                self.assertRegex(region, rf"\A{twilio_capability._REGION}\Z")

    def test_its_exit_statuses_are_those_of_the_command(self) -> None:
        text = self.section("Command line").partition("Exit status: ")[2]
        self.assertEqual(statuses_in(text), exit_statuses())

    def test_its_error_codes_are_those_of_a_report(self) -> None:
        table = self.section("Why is my token refused?") + "\n"
        cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
        cells += self.section("Arguments and their rules").split("|")
        named = [set(re.findall(r"\b\d{5}\b", cell)) for cell in cells]
        for key in [
            "signature",
            "issuer",
            "past",
            "application",
            "push",
            "ttl",
            "name",
        ]:
            codes = set(re.findall(r"\d{5}", str(twilio_capability._CODES[key])))
            with self.subTest(key):
                self.assertTrue(any(codes - {"20101"} <= given for given in named))

    def section(self, heading: str) -> str:
        return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]

    def test_every_argument_has_its_rule_in_the_table(self) -> None:
        table = self.section("Arguments and their rules")
        cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        functions: list[Any] = [encode_client_name, decode_client_name, verify_token]
        functions += [inspect_token, Capability.__init__, ScopeURI.__init__]
        functions += [f for name, f in vars(Capability).items() if name[0] != "_"]
        arguments: set[str] = set()
        for function in functions:
            arguments.update(inspect.signature(function).parameters)
        self.assertEqual(named - {"ScopeURI"}, arguments - {"self", "token"})


@unittest.skipUnless(README.exists(), "the module was copied without its README")
class ReadmeTokenForTest(unittest.TestCase):
    """The README's token_for makes one client of each user."""

    def setUp(self) -> None:
        patch = mock.patch.dict(os.environ, REAL_ENVIRONMENT, clear=True)
        patch.start()
        self.addCleanup(patch.stop)
        self.token_for = readme_module("tokens").token_for

    def test_its_token_has_no_problem(self) -> None:
        for user_id in (7, "ann.veal@example.com", "zoë"):
            with self.subTest(user_id=user_id):
                answer = self.token_for(user_id)
                claims = verify_token(answer["token"], API_SECRET)
                self.assertEqual(claims["grants"]["identity"], answer["identity"])
                self.assertEqual(decode_client_name(answer["identity"]), str(user_id))
                self.assertEqual(inspect_token(answer["token"])["problems"], [])

    def test_who_has_no_id_gets_no_token_nor_who_has_too_long_a_one(self) -> None:
        for user_id in (None, "", "ж" * 21):
            with self.subTest(user_id=user_id), self.assertRaises(ValueError):
                self.token_for(user_id)

    def test_an_id_of_forty_bytes_always_fits(self) -> None:
        for user_id in ("_" * 40, "ж" * 20, "\N{SNOWMAN}" * 13):
            with self.subTest(user_id=user_id):
                self.assertLessEqual(len(self.token_for(user_id)["identity"]), 121)

    def test_its_comment_makes_a_capability_token(self) -> None:
        code = readme_block("python", "def token_for(").text
        used = re.sub(r"^( *)# (\w+ = )", r"\1\2", code, flags=re.MULTILINE)
        self.assertNotEqual(used, code)
        tokens: dict[str, Any] = {"__name__": "tokens"}
        exec(compile(used, "README.md", "exec"), tokens)
        with mock.patch.dict(os.environ, TWILIO_AUTH_TOKEN="the auth token"):
            token = tokens["token_for"](7)["token"]
        self.assertEqual(inspect_token(token)["kind"], "capability")
        self.assertEqual(inspect_token(token)["problems"], [])
        verify_token(token, "the auth token")


@unittest.skipUnless(README.exists(), "the module was copied without its README")
class ReadmeNameInTest(unittest.TestCase):
    """The README's name_in finds the name wherever it is."""

    def setUp(self) -> None:
        block = readme_block("python", "def name_in(")
        namespace: dict[str, Any] = {"__name__": "readme"}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block.text, "README.md", "exec"), namespace)
        self.name_in = namespace["name_in"]

    def test_behind_an_event_stream(self) -> None:
        device = Capability("AC123123", "secret")
        self.assertIsNone(self.name_in(device.generate_token(), "secret"))
        device.allow_event_stream({"a": "b"})
        device.allow_client_outgoing("AP123123")
        self.assertIsNone(self.name_in(device.generate_token(), "secret"))
        device.allow_client_incoming("Alice")
        self.assertEqual(self.name_in(device.generate_token(), "secret"), "Alice")

    def test_in_an_access_token(self) -> None:
        device = Capability("AC123123")
        token = device.generate_access_token("SK123123", "secret", identity="Alice")
        self.assertEqual(self.name_in(token, "secret"), "Alice")

    def test_not_where_another_library_gave_none(self) -> None:
        claims = {"iss": "SK123123", "exp": NOW + 60, "grants": {"voice": {}}}
        with clock_at(NOW):
            self.assertIsNone(self.name_in(mint(claims), "secret"))


# Twilio's page "Secure webhooks" had this example for years. Computed again by
# RequestValidator("12345").compute_signature of twilio-python 9.13.0.
SIGNED_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
SIGNED_FORM = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+12349013030",
    "Digits": "1234",
    "From": "+12349013030",
    "To": "+18005551212",
}
SIGNING_TOKEN = "12345"
SIGNATURE = "0/KCTR6DLpKmkAf8muzZqo1nDgQ="

CALLER_ID = "+15550100"
REFUSED = ("Say", None, None)  # what ReadmeVoiceURLTest.dialled tells of a refusal


@unittest.skipUnless(README.exists(), "the module was copied without its README")
class ReadmeVoiceURLTest(unittest.TestCase):
    """The README's calls.py takes calls from Twilio alone, and rings whom it should."""

    def setUp(self) -> None:
        patch = mock.patch.dict(os.environ, TWILIO_CALLER_ID=CALLER_ID)
        patch.start()
        self.addCleanup(patch.stop)
        self.calls = readme_module("calls")

    def test_a_request_of_twilio_is_known_by_its_signature(self) -> None:
        is_from_twilio = self.calls.is_from_twilio
        for fields in itertools.permutations(SIGNED_FORM.items()):
            with self.subTest(fields=fields):
                self.assertTrue(
                    is_from_twilio(SIGNED_URL, fields, SIGNATURE, SIGNING_TOKEN)
                )

    def test_any_other_request_is_not(self) -> None:
        right = (SIGNED_URL, SIGNED_FORM, SIGNATURE, SIGNING_TOKEN)
        form = dict(SIGNED_FORM)
        without_to = {name: form[name] for name in form if name != "To"}
        other_forms = [
            {**form, "To": "+18005551213"},
            {**form, "More": ""},
            without_to,
            {},
        ]
        others: list[list[Any]] = [
            [SIGNED_URL.replace("https", "http"), SIGNED_URL + "&baz=3"],
            other_forms,
            ["", SIGNATURE.rstrip("="), SIGNATURE.lower(), "é☃"],
            ["54321"],
        ]
        for place, values in enumerate(others):
            for value in values:
                request: list[Any] = [*right[:place], value, *right[place + 1 :]]
                with self.subTest(request=request):
                    request[1] = request[1].items()
                    self.assertFalse(self.calls.is_from_twilio(*request))

    def test_what_is_no_auth_token_is_an_error_and_checks_nothing(self) -> None:
        text = SIGNED_URL + "".join(map("".join, sorted(SIGNED_FORM.items())))
        for secret in ("", None, " ", "\n", "12345\n", "'12345'", "\0", REAL_ACCOUNT):
            digest = hmac.new((secret or "").encode(), text.encode(), "sha1").digest()
            forged = base64.b64encode(digest).decode()
            with self.subTest(secret=secret), self.assertRaises(ValueError):
                self.calls.is_from_twilio(
                    SIGNED_URL, SIGNED_FORM.items(), forged, secret
                )

    def dialled(self, caller: str, to: str) -> tuple[str, str | None, str | None]:
        """The noun, whom it names, and the caller ID; or "Say", and what it says."""
        response = ElementTree.fromstring(self.calls.twiml_for(caller, to))
        self.assertEqual((response.tag, response.attrib), ("Response", {}))
        (verb,) = response
        if verb.tag == "Say":
            self.assertTrue(verb.text)
            return REFUSED
        self.assertEqual(verb.tag, "Dial")
        (noun,) = verb
        self.assertEqual((list(noun), noun.attrib), ([], {}))
        return noun.tag, noun.text, verb.get("callerId")

    def decided(self, name: str, *allowed: str) -> Any:
        """A patch: is_user or may_call allows these users or numbers, and no other."""
        return mock.patch.object(self.calls, name, lambda *whom: whom[-1] in allowed)

    def assert_dialled(
        self,
        rings: tuple[Any, Any, Any],
        callers: Sequence[str],
        numbers: Sequence[str],
    ) -> None:
        for caller, to in itertools.product(callers, numbers):
            with self.subTest(caller=caller, to=to):
                self.assertEqual(self.dialled(caller, to), rings)

    def test_one_of_our_users_rings_a_user_or_a_number(self) -> None:
        callers = ["client:" + encode_client_name("ann@example.com"), "client:42"]
        zoe, number = "zoë@example.com", "+15551234567"
        with self.decided("is_user", "7", zoe), self.decided("may_call", number):
            self.assert_dialled(("Client", "7", None), callers, ["7"])
            rings = ("Client", "zo_C3_AB_40example_2Ecom", None)
            self.assert_dialled(rings, callers, [zoe])
            self.assert_dialled(("Number", number, CALLER_ID), callers, [number])

    def test_a_number_as_people_type_it_is_refused_aloud(self) -> None:
        typed = ["5551234567", "15551234567", "0015551234567", "911", "bob", ""]
        typed += ["+1 (555) 123-4567", "+1-555-123-4567", " +15551234567", "client:1"]
        with self.decided("may_call", "+15551234567"):
            self.assert_dialled(REFUSED, ["client:42"], [*typed, "tel:+15551234567"])

    def test_by_default_two_users_and_no_number_can_be_called(self) -> None:
        for user in ("1", "2"):
            self.assert_dialled(("Client", user, None), ["client:42"], [user])
        numbers = ["+15551234567", "+19001234567", "+493012345678"]
        self.assert_dialled(REFUSED, ["client:42"], ["3", *numbers])

    def test_an_id_that_cannot_be_looked_up_is_refused(self) -> None:
        with mock.patch.object(self.calls, "is_user", lambda user_id: int(user_id) > 0):
            self.assert_dialled(("Client", "7", None), ["client:42"], ["7"])
            self.assert_dialled(REFUSED, ["client:42"], ["seven"])

    def test_a_caller_from_outside_rings_the_desk_whatever_is_asked_for(self) -> None:
        callers = ["+15551234567", "+266696687", "anonymous", "sip:ann@example.com"]
        callers += ["sip:client:42@example.com", "42", "Client:42", ""]
        desk = ("Client", self.calls.DESK, None)
        self.assert_dialled(desk, callers, ["+15550100", "+15551234567", "7", ""])

    def test_a_client_that_is_none_of_ours_is_refused(self) -> None:
        names = ["agent-7", "", "_zz", "_41", "a b", "x" * 257]
        self.assert_dialled(REFUSED, [f"client:{name}" for name in names], ["1"])

    def test_the_application_decides_who_may_call_a_number(self) -> None:
        asked = []

        def may_call(user_id: str, number: str) -> bool:
            asked.append((user_id, number))
            return False

        with mock.patch.object(self.calls, "may_call", may_call):
            answer = self.dialled("client:42", "+15551234567")
        self.assertEqual(answer, REFUSED)
        self.assertEqual(asked, [("42", "+15551234567")])

    def test_what_the_page_chose_cannot_add_to_the_twiml(self) -> None:
        chosen = ["</Client></Dial><Hangup/>", '"><Number>+19001234567</Number>', "\0"]
        chosen += ["+1555<1234567", "+15551234567\n", "+1555123456789012", "client:7"]
        for to in (*chosen, "+05551234567", "+\u0661555", "sip:ann@example.com"):
            with self.decided("is_user", to):
                rings = ("Client", encode_client_name(to), None)
                self.assert_dialled(rings, ["client:42"], [to])
            with self.decided("may_call", to):
                self.assert_dialled(REFUSED, ["client:42"], [to])
        for to in ("", "\ud800", "x" * 257):
            with self.decided("is_user", to):
                self.assert_dialled(REFUSED, ["client:42"], [to])

    def test_a_caller_id_is_escaped(self) -> None:
        number, odd = "+15551234567", "\"'<&>"
        caller_id = mock.patch.dict(os.environ, TWILIO_CALLER_ID=odd)
        with caller_id, self.decided("may_call", number):
            self.assert_dialled(("Number", number, odd), ["client:42"], [number])


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers for Twilio as its pages say, about the one TwiML app that it has."""

    ACCOUNT = f"/2010-04-01/Accounts/{REAL_ACCOUNT}/"
    APP = f"{ACCOUNT}Applications/{REAL_APP}.json"
    VOICE_URL = "https://example.com/voice"

    def do_GET(self) -> None:
        scheme, _, login = self.headers["Authorization"].partition(" ")
        right = scheme == "Basic" and self.path.startswith(self.ACCOUNT)
        if not right or base64.b64decode(login) != f"{REAL_KEY}:{API_SECRET}".encode():
            self.answer(401, {"code": 20003, "message": "Authenticate"})
        elif self.path != self.APP:
            self.answer(404, {"code": 20404, "message": "not found"})
        else:
            self.answer(200, {"voice_method": "POST", "voice_url": self.VOICE_URL})

    def answer(self, status: int, content: Mapping[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *_: Any) -> None:
        """Write nothing to standard error."""


@unittest.skipUnless(README.exists(), "the module was copied without its README")
class ReadmeAskTwilioTest(unittest.TestCase):
    """The README's ask.py asks Twilio whether the credentials fit together."""

    def setUp(self) -> None:
        server = http.server.HTTPServer(("127.0.0.1", 0), StandIn)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)

    def printed(self, **variables: str) -> tuple[str, dict[str, Any]]:
        """The status that the file prints, and the answer behind it."""
        code = compile(readme_block("python", "def ask_twilio(").text, "ask.py", "exec")
        output = io.StringIO()
        patches = (
            mock.patch.dict(os.environ, {**REAL_ENVIRONMENT, **variables}, clear=True),
            mock.patch.object(sys, "argv", ["ask.py", self.url]),
            contextlib.redirect_stdout(output),
        )
        with contextlib.ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            exec(code, {"__name__": "__main__"})
        status, _, text = output.getvalue().partition(" ")
        return status, json.loads(text)

    def test_what_fits_together_shows_the_voice_url(self) -> None:
        status, answer = self.printed()
        self.assertEqual((status, answer["voice_method"]), ("200", "POST"))
        self.assertEqual(answer["voice_url"], StandIn.VOICE_URL)

    def test_what_does_not_fit_is_told_apart_as_in_the_list(self) -> None:
        wrong_login = ("401", 20003)
        cases = {
            "TWILIO_ACCOUNT_SID": ("AC" + "1" * 32, wrong_login),
            "TWILIO_API_KEY": ("SK" + "1" * 32, wrong_login),
            "TWILIO_API_SECRET": ("another", wrong_login),
            "TWILIO_APP_SID": ("AP" + "1" * 32, ("404", 20404)),
        }
        for variable, (value, expected) in cases.items():
            with self.subTest(variable=variable):
                status, answer = self.printed(**{variable: value})
                self.assertEqual((status, answer["code"]), expected)


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None
) -> unittest.TestSuite:
    """Run the examples of the docstrings, too."""
    if sys.flags.optimize < 2:
        tests.addTests(doctest.DocTestSuite(twilio_capability))
    return tests


if __name__ == "__main__":
    unittest.main()
