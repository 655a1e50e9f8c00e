"""Try the README's endpoint, phone.js and page with Twilio's own SDK, in a browser.

Run with "tox -e browser", which names a folder to work in. Headless Chromium loads the
page as printed, bundled and not, with both kinds of token out of the README's blocks
for Flask. The clocks of page and server are put forward, so that tokens soon expire.
Nothing leaves the machine: the SDK finds none of Twilio's hosts.

The SDK's WebSocket to Twilio ends in class Twilio, which answers as Twilio's servers
would. Relied on of the protocol, whose messages are {"type", "payload"} in JSON:

- "listen" carries the token, after connecting and in every updateToken. The ttl in its
  answer, "connected", sets the SDK's timer for tokenWillExpire;
- "register" comes every 30 seconds, until error 31205 says that the token has expired.
  The state of the SDK stays "registered" then, unless the server says "close" as well;
- "invite" is a call: from the device with the page's params, form-encoded, in
  twilio.params; to the device with "callsid", "sdp" and "parameters". "cancel" takes
  that one back, "answer" and "reject" take it or turn it down, "hangup" ends any call;
- without a message, such as a line feed, the SDK connects anew after 15 seconds.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Callable
from unittest import mock
from urllib.parse import parse_qsl

from flask import Response, session
from playwright.sync_api import Error, expect, sync_playwright
from werkzeug.serving import make_server

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from twilio_capability import encode_client_name, inspect_token

README = (ROOT / "README.md").read_text(encoding="utf-8")
SDK = "node_modules/@twilio/voice-sdk/dist/twilio.min.js"
TTL = 600  # of the README's tokens
USER = "ann.veal@example.com"
NAME = encode_client_name(USER)
ENVIRONMENT = {
    "FLASK_SECRET_KEY": "the secret of the session cookie",
    "TWILIO_ACCOUNT_SID": "AC" + "1" * 32,
    "TWILIO_API_KEY": "SK" + "2" * 32,
    "TWILIO_API_SECRET": "the secret of the key",
    "TWILIO_APP_SID": "AP" + "3" * 32,
    "TWILIO_AUTH_TOKEN": "the auth token",
}
CSRF = "c" * 32
CALLED = "+1 555 0100 & more"
# What the page may report. The SDK's register() can fail with no reason: undefined.
REPORTS = r"no token: HTTP status (401|503)|\(\d{5}\)|undefined"
OFFER = "new RTCPeerConnection().createOffer({offerToReceiveAudio: 1}).then(o => o.sdp)"


def install_programs() -> None:
    missing = [name for name in ("chromium", "npm") if not shutil.which(name)]
    if missing:
        assert os.geteuid() == 0 and shutil.which("apt-get"), f"install {missing}"
        apt_get = ["apt-get", "-qq", "--yes", "--no-install-recommends"]
        subprocess.run([*apt_get, "update"], check=True)
        subprocess.run([*apt_get, "install", *missing], check=True)


def readme_block(language: str, *marks: str) -> str:
    """Return the one block of the README in that language with those texts in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)
    found = [str(block) for block in blocks if all(mark in block for mark in marks)]
    assert len(found) == 1, f"README.md: {len(found)} {language} blocks with {marks}"
    return found[0]


def readme_app(kind: str) -> Any:
    """Return the README's Flask app, which issues that kind of token."""
    tokens = readme_block("python", "def token_for(")
    if kind == "capability":
        tokens, found = re.subn(r"^( *)# (\w+ = )", r"\1\2", tokens, flags=re.MULTILINE)
        assert found, "README.md: no assignment in a comment of token_for"
    calls = readme_block("python", "def twiml_for(")
    app = readme_block("python", "from flask import")
    for name, code in (("tokens", tokens), ("calls", calls), ("app", app)):
        sys.modules[name] = ModuleType(name)
        exec(compile(code, "README.md", "exec"), vars(sys.modules[name]))
    return vars(sys.modules["app"])["app"]


def make_page(folder: Path, bundled: bool) -> Path:
    """Do what the README says of its page, and return the folder with the files."""
    static = folder / "static"
    static.mkdir(parents=True, exist_ok=True)
    page = readme_block("html")
    (folder / "phone.js").write_text(readme_block("javascript"), encoding="utf-8")
    if bundled:
        scripts = r'<script (src=|type="importmap").*?</script>\n'
        page = re.sub(scripts, "", page, flags=re.DOTALL)
        assert page.count("<script") == 1, "README.md: other scripts in the page"
        (command,) = re.findall(r"`(npx\s[^`]+)`", README)
        command = [*shlex.split(command), "--log-level=warning"]
        subprocess.run(command, cwd=folder, check=True)
    else:
        for file in (folder / "phone.js", folder.parent / SDK):
            shutil.copy(file, static)
    (static / "index.html").write_text(page, encoding="utf-8")
    return static


def serve(app: Any, static: Path) -> str:
    """Serve the app with its static files and a login beside its endpoint."""

    @app.get("/login")  # type: ignore[untyped-decorator]
    def log_in() -> Response:
        session["user_id"] = USER
        cookie = f"csrftoken={CSRF}; Secure; SameSite=Lax"  # as Django sets it
        return Response("logged in", headers={"Set-Cookie": cookie})

    app.static_folder = str(static)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.port}"


class Twilio:
    """As much of Twilio's side as the docstring of this file names."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.sockets: list[Any] = []
        self.registered = False
        self.strict = False  # close the connection when a token has expired

    def connect(self, socket: Any) -> None:
        self.registered = False
        self.sockets.append(socket)
        socket.on_message(self.receive)

    def receive(self, text: str) -> None:
        if text == "\n":
            return
        message = json.loads(text)
        self.received.append(message)
        kind, payload = message["type"], message["payload"]
        if kind not in ("listen", "register"):
            return
        left = self.expiry() - int(time.time())
        if left <= 0:
            self.registered = False
            self.send("error", error={"code": 31205, "message": "expired"})
            if self.strict:
                self.send("close")
        elif kind == "listen":
            self.send("connected", token={"identity": NAME, "ttl": left})
        else:
            self.registered = payload["media"]["audio"]
            self.send("ready" if self.registered else "offline")

    def keep_open(self) -> None:
        if self.sockets:
            self.sockets[-1].send("\n")

    def send(self, kind: str, **payload: Any) -> None:
        self.sockets[-1].send(json.dumps({"type": kind, "payload": payload}))

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [m["payload"] for m in self.received if m["type"] == kind]

    def tokens(self) -> list[str]:
        return list(dict.fromkeys(payload["token"] for payload in self.all("listen")))

    def expiry(self) -> int:
        return int(inspect_token(self.tokens()[-1])["claims"]["exp"])


class Trial:
    """The page that a server at that URL has."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.status = page.locator("#status")
        self.twilio = Twilio()
        self.responses: list[Any] = []
        self.reports: list[str] = []  # by the page to its console, and errors
        self.ahead = 0  # seconds by which time has been put forward
        page.on("response", lambda response: self.responses.append(response))
        page.on("console", self.note)
        page.on("pageerror", lambda error: self.reports.append(str(error)))
        page.route_web_socket("**", self.twilio.connect)
        page.clock.install()

    def note(self, message: Any) -> None:
        ours = message.location["url"].endswith("/phone.js")
        if ours and not message.text.startswith("[TwilioVoice]"):  # as if bundled
            self.reports.append(message.text.partition("\n")[0])

    def answers(self, status: int) -> list[Any]:
        """Return the endpoint's answers with that status."""
        url = f"{self.url}/token"
        return [r for r in self.responses if r.url == url and r.status == status]

    def wait_for(self, what: str, look: Callable[[], Any]) -> Any:
        """Return what is found, once there is something."""
        end = time.monotonic() + 10
        while not look():
            assert time.monotonic() < end, f"waited ten seconds in vain for {what}"
            self.twilio.keep_open()
            self.page.clock.run_for(50)
            self.page.wait_for_timeout(50)
        return look()

    def wait_for_report(self, text: str) -> None:
        what = f"the page to report {text!r}"
        self.wait_for(what, lambda: any(text in report for report in self.reports))

    def wait_until_registered(self, after: str) -> None:
        what = f"the SDK to register after {after}"
        self.wait_for(what, lambda: self.twilio.registered)

    def pass_time(self, seconds: int) -> None:
        """Let that time pass, ten seconds at a time, with the network up."""
        for _ in range(0, seconds, 10):
            self.ahead += 10
            self.twilio.keep_open()
            self.page.clock.run_for(10_000)
            self.page.wait_for_timeout(30)  # for the network, which has no such clock

    def sleep(self) -> None:
        """Let time pass as on a laptop whose lid is closed, and a minute after that."""
        before = len(self.twilio.sockets)
        self.ahead += 1200
        self.twilio.sockets[-1].close()
        self.page.clock.fast_forward(1_200_000)
        self.wait_for("a new connection", lambda: len(self.twilio.sockets) > before)
        self.pass_time(60)

    def start(self) -> None:
        """Get no token when logged out, then log in and register."""
        self.page.goto(f"{self.url}/static/index.html")
        self.page.click("#start")
        self.wait_for_report("no token: HTTP status 401")
        assert len(self.answers(401)) == 1, "asked again when logged out"
        assert not self.twilio.sockets, "the SDK connected without a token"

        login = self.page.goto(f"{self.url}/login")
        for cookie in login.header_values("set-cookie"):
            assert re.search("; Secure;.* SameSite=Lax", cookie), f"unsafe {cookie}"
        self.page.goto(f"{self.url}/static/index.html")
        self.page.click("#start")
        expect(self.status).to_have_text("registered")

    def ring(self) -> str:
        """Call the device, and return the SID of the call, which names the caller."""
        sid = f"CA{time.time_ns():032}"
        parameters = {"From": f"client:{sid}", "To": f"client:{NAME}", "CallSid": sid}
        offer = self.page.evaluate(OFFER)
        self.twilio.send("invite", callsid=sid, sdp=offer, parameters=parameters)
        self.pass_time(10)  # the SDK waits for its ringtone, which it cannot fetch
        expect(self.status).to_have_text(f"client:{sid} is calling")
        return sid

    def press(self, button: str, kind: str, sid: str = "") -> Any:
        """Return the payload of what the SDK sends then, about that call."""
        before = len(self.twilio.all(kind))
        self.page.click(button)
        what = f"the SDK to send {kind!r}"
        (sent,) = self.wait_for(what, lambda: self.twilio.all(kind)[before:])
        assert sid in ("", sent["callsid"]), f"{kind!r} is of another call: {sent}"
        assert "m=audio" in sent.get("sdp", "m=audio"), f"no audio: {sent['sdp']}"
        return sent

    def call(self) -> None:
        """Use the buttons of the page, and let calls fail."""
        self.press("#hangup", "reject", self.ring())
        self.twilio.send("cancel", callsid=self.ring())
        expect(self.status).to_have_text("missed")
        sid = self.ring()
        self.press("#answer", "answer", sid)
        self.twilio.send("hangup", callsid=sid, error={"code": 31000})
        self.wait_for_report("(31000)")

        self.page.fill("#to", CALLED)
        invite = self.press("#call", "invite")
        sent = dict(parse_qsl(invite["twilio"]["params"], strict_parsing=True))
        assert sent == {"To": CALLED}, f"the call carries other params: {sent}"
        self.twilio.send("hangup", callsid=invite["callsid"], error={"code": 31486})
        self.wait_for_report("(31005)")

    def next_token(self) -> int:
        """Wait for a token, and return how many seconds the one before had left."""
        end = self.twilio.expiry()
        while self.twilio.expiry() == end:
            assert time.time() < end + 60, "the page fetches no other token"
            self.pass_time(10)
        return end + TTL - self.twilio.expiry()

    def renew(self) -> None:
        """Let the page renew its token: without a call, in one, and after one."""
        left = self.next_token()
        assert 40 <= left <= 60, f"renewed {left} seconds before the token's end"
        sid = self.press("#call", "invite")["callsid"]
        self.page.wait_for_timeout(1000)  # for ICE, which has no such clock
        left = self.next_token()
        assert 0 < left <= 20, f"in a call renewed {left} seconds before the end"
        self.pass_time(TTL - 45)
        self.press("#hangup", "hangup", sid)
        left = self.next_token()
        assert 20 < left <= 45, f"after a call renewed {left} seconds before the end"

    def recover(self) -> None:
        """Go through all that may keep the page from being registered."""
        self.page.route("**/token", lambda route: route.fulfill(status=503))
        self.pass_time(660)
        tries = len(self.answers(503))
        assert 2 <= tries <= 13, f"{tries} requests in the two minutes without tokens"
        assert not self.twilio.registered, "registered with an expired token"
        for text in ("HTTP status 503", "(20104)"):
            self.wait_for_report(text)
        self.page.unroute("**/token")
        self.pass_time(40)
        self.wait_until_registered("failed renewals")

        self.ahead += TTL  # a sleep during which the page's clock stood still
        self.pass_time(80)
        assert self.twilio.registered, "not registered after a sleep without a clock"

        for self.twilio.strict in (False, True):
            self.sleep()
            self.wait_until_registered("a sleep")
        self.twilio.registered = False
        self.twilio.send("close")
        self.pass_time(40)
        self.wait_until_registered("a close")

        self.page.context.clear_cookies(name="session")
        self.sleep()
        requests = len(self.answers(401)) - 1
        assert requests == 1, f"logged out, the page asked {requests} times for a token"

        for report in self.reports:
            assert re.search(REPORTS, report), f"the page reports {report!r}"
        sent = {a.request.headers.get("x-csrftoken") for a in self.answers(200)}
        assert sent == {CSRF}, f"the page sent other CSRF tokens than Django's: {sent}"

    def check_tokens(self, kind: str) -> None:
        """Check that the SDK has sent the tokens that the endpoint should make."""
        made = [answer.json()["token"] for answer in self.answers(200)]
        assert self.twilio.tokens() == made, "the SDK sent other tokens than were made"
        for token in made:
            report = inspect_token(token, now=inspect_token(token)["claims"]["exp"] - 1)
            assert report["kind"] == kind, f"the token is of kind {report['kind']}"
            assert not report["problems"], f"it has problems: {report['problems']}"
            params = re.findall(f"user(?:': '|%3D){NAME}", str(report["claims"]))
            assert len(params) == 1, f"the token has other params: {report['claims']}"


def check_traffic(net_log: Path) -> None:
    """Check by the browser's own log that it sent nothing to any other host."""
    log = json.loads(net_log.read_text(encoding="utf-8"))
    types, events = log["constants"]["logEventTypes"], log["events"]
    attempt = types["TCP_CONNECT_ATTEMPT"]
    assert types["UDP_BYTES_SENT"] not in {e["type"] for e in events}, "UDP was sent"
    tcp = [e.get("params", {}) for e in events if e["type"] == attempt]
    hosts = {p["address"].rpartition(":")[0] for p in tcp if "address" in p}
    assert hosts == {"127.0.0.1"}, f"the browser connected to {hosts}"


def give_up(*_: object) -> None:
    raise AssertionError("the page hangs: a trial takes more than 90 s")


def try_page(kind: str, bundled: bool, work: Path) -> None:
    name = f"{kind} token" + ", bundled" * bundled
    folder = work / re.sub(r"\W+", "-", name)
    url = serve(readme_app(kind), make_page(folder, bundled))
    net_log = folder / "net-log.json"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[
                f"--log-net-log={net_log}",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        trial = Trial(browser.new_page(), url)
        clock = mock.patch("time.time", lambda now=time.time: now() + trial.ahead)
        signal.alarm(90)
        with browser, clock:
            try:
                trial.start()
                trial.call()
                trial.renew()
                trial.recover()
                trial.check_tokens(kind)
            except (AssertionError, Error):
                print(name, *trial.reports, *trial.twilio.received[-10:], sep="\n")
                raise
    check_traffic(net_log)
    print(f"{name}: ok", flush=True)


def main(work: Path) -> None:
    install_programs()
    npm = ["npm", "install", "--silent", "--ignore-scripts", f"--prefix={work}"]
    subprocess.run([*npm, "@twilio/voice-sdk@2.18.5", "esbuild@0.28.2"], check=True)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ.update(ENVIRONMENT)
    signal.signal(signal.SIGALRM, give_up)
    for kind, bundled in (("access", True), ("access", False), ("capability", False)):
        try_page(kind, bundled, work)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (AssertionError, ValueError, subprocess.CalledProcessError, Error) as error:
        reason = str(error).partition("\n")[0]
        raise SystemExit(f"browser check: {reason}") from None
