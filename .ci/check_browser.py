"""Try the README's endpoint and JavaScript with Twilio's own clients, in a browser.

Takes a folder to work in. Run with "tox -e browser". Headless Chromium loads a page
with the built file of an npm package: @twilio/voice-sdk, driven by the README's own
block of JavaScript, or twilio-client, whose API is another, driven by OLD_PHONE below.
Each is given both kinds of token, made by the README's blocks for Flask: access tokens
by the blocks as they are, capability tokens with the assignment in a comment put to
use. The clocks of page and server are put forward together, so that tokens soon expire.

The SDK's WebSocket to Twilio ends in class Twilio, which answers as Twilio's servers
would. Relied on of the protocol, whose messages are {"type", "payload"} in JSON:

- "listen" carries the token, after connecting and in every updateToken. The answer is
  "connected", whose token.ttl sets the timer of voice-sdk for tokenWillExpire;
- "register", sent every 30 seconds, is answered with "ready", or with "offline" if it
  takes the device away;
- to an expired token both get error 31205. Then the SDK registers no more, but the
  state of voice-sdk stays "registered". "close" may follow, which ends the connection;
- "invite" is a call: from the device with the page's params, form-encoded, in
  twilio.params; to the device with "callsid", "sdp" and "parameters";
- "reject" from the device turns that call down, "hangup" to it ends the other one;
- without a message, such as a line feed, the SDK connects anew after 15 seconds.

What Twilio itself makes of a token is not tried: nothing leaves the machine. The SDKs
do look up Twilio's hosts for sounds and statistics, and find none of them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Callable
from unittest import mock
from urllib.parse import parse_qsl

from flask import Response, session
from playwright.sync_api import Error, sync_playwright
from werkzeug.serving import make_server

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from twilio_capability import encode_client_name, inspect_token, verify_token

NEW, OLD = "@twilio/voice-sdk@2.18.5", "twilio-client@1.15.1"
USER = "ann.veal@example.com"
NAME = encode_client_name(USER)
APP_SID = "AP" + "3" * 32
SECRETS = {"access": "the secret of the key", "capability": "the auth token"}
ENVIRONMENT = {
    "FLASK_SECRET_KEY": "the secret of the session cookie",
    "TWILIO_ACCOUNT_SID": "AC" + "1" * 32,
    "TWILIO_API_KEY": "SK" + "2" * 32,
    "TWILIO_API_SECRET": SECRETS["access"],
    "TWILIO_APP_SID": APP_SID,
    "TWILIO_AUTH_TOKEN": SECRETS["capability"],
}
OUTGOING = {"application_sid": APP_SID, "params": {"user": NAME}}
VOICE = {"incoming": {"allow": True}, "outgoing": OUTGOING}
PERMISSIONS = {
    "access": {"identity": NAME, "voice": VOICE},
    "capability": f"scope:client:incoming?clientName={NAME} scope:client:outgoing"
    f"?appSid={APP_SID}&appParams=user%3D{NAME}&clientName={NAME}",
}
CSRF = "c" * 32
CALLED = "+1 555 0100 & more"
CALL_SID = "CA" + "5" * 32
# What the page may report. The SDK's register() can fail with no reason: undefined.
REPORTS = r"no token: HTTP status (401|503)|\(\d{5}\)|undefined|is calling"
PATIENCE = 10  # seconds for one thing to happen
PAGE = """\
<!doctype html>
<button id="start">Start</button> <button id="call">Call</button>
<script src="/sdk.js"></script>
<script type="importmap">{ "imports": { "@twilio/voice-sdk": "/package.js" } }</script>
<script type="module">
  import { callOut, startPhone } from "/phone.js";

  function onIncoming(call) {
    console.log(`${call.parameters.From} is calling`);
    call.reject();
  }
  document.querySelector("#start").onclick = async () => {
    window.device = await startPhone(onIncoming);
  };
  document.querySelector("#call").onclick = () => callOut(device, "CALLED");
</script>
"""

# What a bundler would find under the name of the package.
PACKAGE = "export const { Device } = Twilio;"

OLD_PHONE = """\
async function fetchToken() {
  const response = await fetch("/token", { method: "POST" });
  if (!response.ok) throw new Error(`no token: HTTP status ${response.status}`);
  return (await response.json()).token;
}

export async function startPhone(onIncoming) {
  const device = new Twilio.Device(await fetchToken());
  device.on("incoming", onIncoming);
  device.on("error", async (error) => {
    if (error.code === 31205) device.updateToken(await fetchToken());
  });
  return device;
}

export const callOut = (device, to) => device.connect({ To: to });
"""


def install_programs() -> None:
    missing = [name for name in ("chromium", "npm") if not shutil.which(name)]
    if missing:
        may_install = os.geteuid() == 0 and shutil.which("apt-get")
        assert may_install, f"please install {' and '.join(missing)}"
        apt_get = ["apt-get", "-qq", "--yes", "--no-install-recommends"]
        subprocess.run([*apt_get, "update"], check=True)
        subprocess.run([*apt_get, "install", *missing], check=True)


def fetch_sdk(package: str, work: Path) -> str:
    """Return the built file of that npm package."""
    command = ["npm", "pack", "--silent", f"--pack-destination={work}", package]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    archive = work / (re.sub("[/@]", "-", package.lstrip("@")) + ".tgz")
    with tarfile.open(archive) as tar:
        file = tar.extractfile("package/dist/twilio.min.js")
        assert file, f"{package} has no built file"
        return file.read().decode()


def readme_block(language: str, *marks: str) -> str:
    """Return the one block of the README in that language with those texts in it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [str(block) for block in blocks if all(mark in block for mark in marks)]
    assert len(found) == 1, f"README.md: {len(found)} {language} blocks with {marks}"
    return found[0]


def readme_app(kind: str) -> Any:
    """Return the README's Flask app, which issues that kind of token."""
    tokens = readme_block("python", "def token_for(")
    if kind == "capability":
        tokens, found = re.subn(r"^( *)# (\w+ = )", r"\1\2", tokens, flags=re.MULTILINE)
        assert found, "README.md: no assignment in a comment of token_for"
    endpoint = readme_block("python", "from flask import", '@app.post("/token")')
    for name, code in (("tokens", tokens), ("endpoint", endpoint)):
        sys.modules[name] = ModuleType(name)
        exec(compile(code, "README.md", "exec"), vars(sys.modules[name]))
    return vars(sys.modules["endpoint"])["app"]


def serve(app: Any, files: dict[str, str]) -> str:
    """Serve the app with these files and a login beside its endpoint."""

    @app.get("/login")  # type: ignore[untyped-decorator]
    def log_in() -> Response:
        session["user_id"] = USER
        response = Response("logged in")
        response.set_cookie("csrftoken", CSRF, secure=True)  # as Django would
        return response

    for path, text in files.items():
        mimetype = "text/javascript" if path.endswith(".js") else "text/html"
        response = Response(text, mimetype=mimetype)
        app.add_url_rule(path, path, lambda response=response: response)
    server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context="adhoc")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"https://127.0.0.1:{server.port}"


class Twilio:
    """As much of Twilio's side as the docstring of this file names."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.sockets: list[Any] = []
        self.registered = False
        self.hasty = False  # tell of one second for every token
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
        if kind == "invite":
            self.send("ringing", callsid=payload["callsid"])
        if kind not in ("listen", "register"):
            return
        report = inspect_token(self.tokens()[-1])
        if report["expired"]:
            self.registered = False
            self.send("error", error={"code": 31205, "message": "expired"})
            if self.strict:
                self.send("close")
        elif kind == "listen":
            ttl = 1 if self.hasty else report["claims"]["exp"] - int(time.time())
            self.send("connected", token={"identity": NAME, "ttl": ttl})
        else:
            self.registered = payload["media"]["audio"]
            self.send("ready" if self.registered else "offline")

    def keep_open(self) -> None:
        if self.sockets:
            self.sockets[-1].send("\n")

    def send(self, kind: str, **payload: Any) -> None:
        self.sockets[-1].send(json.dumps({"type": kind, "payload": payload}))

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Return the payloads of all messages of that kind."""
        return [m["payload"] for m in self.received if m["type"] == kind]

    def tokens(self) -> list[str]:
        """Return the tokens that the SDK has sent, each once."""
        return list(dict.fromkeys(payload["token"] for payload in self.all("listen")))


class Trial:
    """A page with one SDK and one kind of token."""

    def __init__(self, page: Any, kind: str, sdk: str, phone: str) -> None:
        self.page, self.kind = page, kind
        index = PAGE.replace("CALLED", CALLED)
        scripts = {"/sdk.js": sdk, "/package.js": PACKAGE, "/phone.js": phone}
        self.url = serve(readme_app(kind), {"/": index, **scripts})
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
        if message.location["url"] in (f"{self.url}/", f"{self.url}/phone.js"):
            self.reports.append(message.text.partition("\n")[0])

    def answers(self, status: int) -> list[Any]:
        """Return the endpoint's answers with that status."""
        url = f"{self.url}/token"
        return [r for r in self.responses if r.url == url and r.status == status]

    def wait_for(self, what: str, look: Callable[[], Any]) -> Any:
        """Return what is found, once there is something."""
        end = time.monotonic() + PATIENCE
        while not look():
            assert time.monotonic() < end, f"waited {PATIENCE} s in vain for {what}"
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
        state = self.page.evaluate("device.state ?? device.status()")
        assert state in ("registered", "ready"), f"the SDK says that it is {state}"

    def pass_time(self, seconds: int) -> None:
        """Let that time pass, ten seconds at a time, with the network up."""
        for _ in range(0, seconds, 10):
            self.ahead += 10
            self.twilio.keep_open()
            self.page.clock.run_for(10_000)
            self.page.wait_for_timeout(30)  # for the network, which has no such clock

    def sleep(self) -> None:
        """Let time pass as on a laptop whose lid is closed, and a minute after that."""
        sockets = self.twilio.sockets
        before = len(sockets)
        self.ahead += 1200
        sockets[-1].close()
        self.page.clock.fast_forward(1_200_000)
        self.wait_for("a new connection", lambda: len(sockets) > before)
        self.pass_time(60)

    def start(self) -> None:
        """Get no token when logged out, then log in and register."""
        self.page.goto(self.url)
        self.page.click("#start")
        self.wait_for_report("no token: HTTP status 401")
        assert len(self.answers(401)) == 1, "asked again when logged out"
        assert not self.twilio.sockets, "the SDK connected without a token"

        self.page.goto(f"{self.url}/login")
        for cookie in self.page.context.cookies():
            assert cookie["secure"], f"the cookie {cookie['name']} is not Secure"
        self.page.goto(self.url)
        self.page.click("#start")
        self.wait_until_registered("the start")

    def call(self) -> None:
        """Call the device, then let it call."""
        parameters = {"From": "client:bob", "To": f"client:{NAME}", "CallSid": CALL_SID}
        self.twilio.send("invite", callsid=CALL_SID, sdp="v=0", parameters=parameters)
        self.wait_for_report("client:bob is calling")
        (rejected,) = self.wait_for("a reject", lambda: self.twilio.all("reject"))
        assert rejected["callsid"] == CALL_SID, f"the SDK rejected {rejected}"

        self.page.click("#call")
        (invite,) = self.wait_for("an invite", lambda: self.twilio.all("invite"))
        sent = dict(parse_qsl(invite["twilio"]["params"], strict_parsing=True))
        assert sent == {"To": CALLED}, f"the call carries other params: {sent}"
        assert "m=audio" in invite["sdp"], f"the call offers no audio: {invite['sdp']}"
        error = {"code": 31486, "message": "busy"}
        self.twilio.send("hangup", callsid=invite["callsid"], error=error)

    def renew(self) -> None:
        self.pass_time(660)
        self.wait_until_registered("the token's end")

    def recover(self) -> None:
        """Go through all that may keep the README's page from being registered."""
        self.wait_for_report("31005")  # an error of the call

        self.page.route("**/token", lambda route: route.fulfill(status=503))
        self.pass_time(660)
        tries = len(self.answers(503))
        assert 2 <= tries <= 15, f"{tries} requests in the two minutes without tokens"
        assert not self.twilio.registered, "registered with an expired token"
        self.page.unroute("**/token")
        self.pass_time(40)
        self.wait_until_registered("failed renewals")

        self.sleep()
        self.wait_until_registered("a sleep")
        self.twilio.strict = True
        self.sleep()
        self.wait_until_registered("Twilio has closed the connection")

        # Twilio asks for the next token at once, as if the TTL were very short.
        self.twilio.hasty = True
        before = len(self.answers(200))
        self.pass_time(600)
        tokens = len(self.answers(200)) - before
        assert 1 <= tokens <= 8, f"{tokens} tokens fetched in ten minutes, not a few"
        self.twilio.hasty = False
        self.pass_time(60)

        self.page.context.clear_cookies(name="session")
        self.sleep()
        requests = len(self.answers(401)) - 1
        assert requests == 1, f"logged out, the page asked {requests} times for a token"

        wrong = [report for report in self.reports if not re.search(REPORTS, report)]
        assert not wrong, f"the page reports {wrong}"
        sent = {a.request.headers.get("x-csrftoken") for a in self.answers(200)}
        assert sent == {CSRF}, f"the page sent other CSRF tokens than Django's: {sent}"

    def check_tokens(self) -> None:
        """Check that the tokens are those that the endpoint should make."""
        answers = self.answers(200)
        made = [answer.json()["token"] for answer in answers]
        assert len(set(made)) == len(made) > 1, "the token was not renewed"
        assert self.twilio.tokens() == made, "the SDK sent other tokens than were made"
        for answer, token in zip(answers, made):
            cache_control = answer.headers.get("cache-control")
            assert cache_control == "no-store", f"Cache-Control is {cache_control}"
            name = answer.json()["identity"]
            assert name == NAME, f"the endpoint names the identity {name}"
            live = inspect_token(token)["claims"]["exp"] - 1
            report = inspect_token(token, now=live)
            kind, problems = report["kind"], report["problems"]
            assert kind == self.kind, f"the token is of kind {kind}"
            assert not problems, f"the token has problems: {problems}"
            claims = verify_token(token, SECRETS[kind], now=live)
            allowed = claims["grants" if kind == "access" else "scope"]
            assert allowed == PERMISSIONS[kind], f"the token allows {allowed}"


def check_traffic(net_log: Path) -> None:
    """Check by the browser's own log that it sent nothing to any other host."""
    log = json.loads(net_log.read_text(encoding="utf-8"))
    types = log["constants"]["logEventTypes"]
    tcp, udp = types["TCP_CONNECT_ATTEMPT"], types["UDP_BYTES_SENT"]
    hosts = set()
    for event in log["events"]:
        assert event["type"] != udp, "the browser sent UDP"
        address = event.get("params", {}).get("address")
        if event["type"] == tcp and address:
            hosts.add(address.rpartition(":")[0])
    assert hosts == {"127.0.0.1"}, f"the browser connected to {hosts}"


def try_client(package: str, kind: str, sdk: str, work: Path) -> None:
    name = re.sub(r"\W+", "-", f"{package} {kind}").strip("-")
    net_log = work / f"{name}.json"
    readme_phone = readme_block("javascript", "@twilio/voice-sdk")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            chromium_sandbox=os.geteuid() != 0,  # root cannot have one
            args=[
                f"--log-net-log={net_log}",
                "--disable-quic",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        page = browser.new_page(ignore_https_errors=True)
        trial = Trial(page, kind, sdk, readme_phone if package == NEW else OLD_PHONE)
        try:
            with mock.patch("time.time", lambda now=time.time: now() + trial.ahead):
                trial.start()
                trial.call()
                trial.recover() if package == NEW else trial.renew()
                trial.check_tokens()
        except AssertionError:
            print(name, *trial.reports, sep="\n")
            print(*trial.twilio.received[-10:], sep="\n", flush=True)
            raise
        finally:
            browser.close()
    check_traffic(net_log)
    print(f"{package}, {kind} token: ok", flush=True)


def main(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    install_programs()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ.update(ENVIRONMENT)
    for package in (NEW, OLD):
        sdk = fetch_sdk(package, work)
        for kind in SECRETS:
            try_client(package, kind, sdk, work)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (AssertionError, ValueError, subprocess.CalledProcessError, Error) as error:
        reason = str(error).partition("\n")[0]
        raise SystemExit(f"browser check: {reason}") from None
