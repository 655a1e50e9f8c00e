"""Try the README's endpoint and JavaScript with Twilio's own clients, in a browser.

Takes a folder to work in. Run with "tox -e browser". Headless Chromium loads a page
that runs one of these, as its npm package has it in dist/twilio.min.js:

- @twilio/voice-sdk 2.18.5, driven by the README's own block of JavaScript;
- twilio-client 1.15.1, whose API is another, driven by OLD_PHONE below.

Each is given both kinds of token, made by the README's blocks for Flask: access tokens
by the blocks as they are, capability tokens with the assignment in a comment put to
use. The README's JavaScript has to export startPhone(onIncoming) and callOut(device,
to).

The SDKs are not changed; only their option "chunderw" is set, which names the host to
which they connect. There a server answers as Twilio's would. Relied on of the protocol:

- one secure WebSocket, path /signal; every message is {"type", "payload"} in JSON;
- "listen" carries the token as it is, after connecting and in every updateToken. Its
  answer is "connected", whose token.ttl sets the timer of 2.x for tokenWillExpire: it
  fires 10 seconds before the end. In 1.x there is no such event, and the page renews
  its token on error 31205, which the SDK calls AccessTokenExpired;
- "register" is answered with "ready", which makes the device registered;
- "invite" is a call: from the device with the page's params, form-encoded, in
  twilio.params (application and signed params are in the token), answered here with
  "ringing"; to the device with "callsid", "sdp" and "parameters";
- "reject" from the device turns that call down, "hangup" to it ends the other one;
- a line feed alone keeps the connection open.

What Twilio itself makes of a token is not tried: nothing leaves the machine. The SDKs
do look up Twilio's hosts for sounds and statistics, and find none of them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator, NoReturn, Protocol, TypeVar
from urllib.parse import parse_qsl

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flask import Flask, Response, request, session
from selenium import webdriver
from selenium.webdriver.common.by import By
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from werkzeug.serving import make_server

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from twilio_capability import (
    InvalidTokenError,
    encode_client_name,
    inspect_token,
    verify_token,
)

USER = "ann.veal@example.com"
NAME = encode_client_name(USER)
CALLED = "+1 555 0100 & more"
CALLER = "client:bob"
CALL_SID = "CA" + "5" * 32
ACCOUNT_SID = "AC" + "1" * 32
API_KEY = "SK" + "2" * 32
APPLICATION_SID = "AP" + "3" * 32
SECRETS = {"access": "the secret of the key", "capability": "the auth token"}
ENVIRONMENT = {
    "FLASK_SECRET_KEY": "the secret of the session cookie",
    "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
    "TWILIO_API_KEY": API_KEY,
    "TWILIO_API_SECRET": SECRETS["access"],
    "TWILIO_APP_SID": APPLICATION_SID,
    "TWILIO_AUTH_TOKEN": SECRETS["capability"],
}
PERMISSIONS = {
    "access": {
        "identity": NAME,
        "voice": {
            "incoming": {"allow": True},
            "outgoing": {"application_sid": APPLICATION_SID, "params": {"user": NAME}},
        },
    },
    "capability": f"scope:client:incoming?clientName={NAME} "
    f"scope:client:outgoing?appSid={APPLICATION_SID}"
    f"&appParams=user%3D{NAME}&clientName={NAME}",
}
PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver", "npm": "npm"}
LIMIT = 110  # seconds for everything but installing
SUMMARY = """\
Each got no token when logged out (401). Logged in, it sent the endpoint's token on
unchanged, registered, was called, called with params, and renewed its token.
verify_token accepts all of these tokens, and inspect_token finds no problem in them.
Nothing was sent to any other host."""
PATIENCE = 15  # seconds for one thing to happen
REFRESH_AHEAD = 10  # seconds before a token's end in which 2.x asks for the next

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>TITLE</title>
<h1>TITLE</h1>
<p>Device: <output id="state">starting</output></p>
<p><button id="call" disabled>Call</button></p>
<ol id="log"></ol>
<script src="/sdk.js"></script>
<script>
  Twilio.Device = class extends Twilio.Device {
    constructor(token, options) {
      super(token, { ...options, chunderw: "SIGNALLING" });
    }
  };
</script>
<script type="importmap">{ "imports": { "@twilio/voice-sdk": "/package.js" } }</script>
<script type="module">
  import { callOut, startPhone } from "/phone.js";

  function log(text) {
    const line = document.createElement("li");
    line.textContent = text;
    document.querySelector("#log").append(line);
  }

  const button = document.querySelector("#call");
  try {
    const device = await startPhone((call) => {
      log(`${call.parameters.From} is calling`);
      call.reject();
    });
    setInterval(() => {
      document.querySelector("#state").textContent = STATE;
    }, 50);
    button.addEventListener("click", () => {
      log("calling out");
      callOut(device, "CALLED");
    });
    button.disabled = false;
  } catch (error) {
    document.querySelector("#state").textContent = error.message;
  }
</script>
</html>
"""

# What a bundler would find under the name of the package.
PACKAGE = "export const { Device } = Twilio;\n"

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
  await new Promise((resolve) => device.once("ready", resolve));
  return device;
}

export function callOut(device, to) {
  return device.connect({ To: to });
}
"""


@dataclass(frozen=True)
class Client:
    """One of Twilio's SDKs, and how to ask its device for its state."""

    package: str
    version: str
    sha512: str
    phone: str
    state: str
    registered: str
    tells_of_expiry: bool

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


@dataclass(frozen=True)
class Answer:
    """What the endpoint said to one request."""

    status: int
    body: str
    cache_control: str | None
    at: float


T = TypeVar("T")


class CheckFailedError(Exception):
    """Something is not as it has to be."""


def fail(reason: str) -> NoReturn:
    raise CheckFailedError(reason)


def check(holds: object, reason: str) -> None:
    if not holds:
        fail(reason)


def wait_for(what: str, look: Callable[[], T | None]) -> T:
    """Return what is found, once there is something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    fail(f"waited {PATIENCE} seconds in vain for {what}")


def execute(*command: str, folder: Path = ROOT, **variables: str) -> None:
    """Run a command, of which only errors are shown."""
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=600,
    )
    check(done.returncode == 0, f"{' '.join(command)!r} failed")


def find_programs() -> dict[str, str]:
    """Return where each program is; install those that are missing, if we may."""
    missing = [package for name, package in PACKAGES.items() if not shutil.which(name)]
    if missing:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            fail(f"please install, as Debian's packages: {' '.join(missing)}")
        print("installing", *missing, flush=True)
        execute("apt-get", "-qq", "update")
        install = ["apt-get", "-qq", "--yes", "--no-install-recommends", "install"]
        execute(*install, *missing, DEBIAN_FRONTEND="noninteractive")
    return {name: shutil.which(name) or fail(f"no {name}") for name in PACKAGES}


def fetch_sdk(client: Client, npm: str, work: Path) -> str:
    """Return the built file of the SDK's npm package."""
    folder = work / client.package.replace("/", "-")
    folder.mkdir()
    name = f"{client.package}@{client.version}"
    command = [npm, "pack", "--loglevel=error", "--no-update-notifier", name]
    execute(*command, folder=folder)
    (archive,) = folder.glob("*.tgz")
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    check(digest == client.sha512, f"the package of {client} is not the one known here")
    with tarfile.open(archive) as package:
        file = package.extractfile("package/dist/twilio.min.js")
        return file.read().decode() if file else fail(f"{client} has no built file")


def readme_block(language: str, mark: str) -> str:
    """Return the one block of the README in that language with that text in it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [block for block in blocks if mark in block]
    if len(found) != 1:
        fail(f"README.md has {len(found)} blocks of {language} with {mark!r}, not 1")
    return str(found[0])


def readme_app(kind: str) -> Flask:
    """Return the README's Flask app, which issues that kind of token."""
    code = readme_block("python", "def token_for(")
    if kind == "capability":
        uncommented = re.sub(r"^( *)# (\w+ = )", r"\1\2", code, flags=re.MULTILINE)
        check(uncommented != code, "README.md: no assignment in a comment of token_for")
        code = uncommented
    tokens, endpoint = ModuleType("tokens"), ModuleType("endpoint")
    exec(compile(code, "README.md", "exec"), vars(tokens))
    sys.modules["tokens"] = tokens
    code = readme_block("python", "from flask import")
    exec(compile(code, "README.md", "exec"), vars(endpoint))
    app = endpoint.app
    assert isinstance(app, Flask)
    return app


class Site:
    """The README's app with a page, a login and the SDK beside its endpoint."""

    def __init__(self, kind: str, files: dict[str, str]) -> None:
        self.answers: list[Answer] = []
        self.app = readme_app(kind)
        self.app.add_url_rule("/login", view_func=self.log_in)
        self.app.after_request(self.record)
        for path, content in files.items():
            self.add_file(path, content)

    def add_file(self, path: str, content: str) -> None:
        mimetype = "text/javascript" if path.endswith(".js") else "text/html"

        def view() -> Response:
            return Response(content, mimetype=mimetype)

        self.app.add_url_rule(path, path, view)

    def log_in(self) -> str:
        session["user_id"] = USER
        return "logged in"

    def record(self, response: Response) -> Response:
        if request.path == "/token":
            body = response.get_data(as_text=True)
            cache_control = response.headers.get("Cache-Control")
            answer = Answer(response.status_code, body, cache_control, time.time())
            self.answers.append(answer)
        return response


class Signalling:
    """As much of Twilio's side as the docstring of this file names."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.connection: ServerConnection | None = None

    def handle(self, connection: ServerConnection) -> None:
        self.connection = connection
        if connection.request:
            self.paths.append(connection.request.path)
        with contextlib.suppress(ConnectionClosed):
            while True:
                try:
                    text = connection.recv(timeout=5)
                except TimeoutError:
                    text = "\n"
                    connection.send(text)  # or the SDK would connect anew
                if text != "\n":
                    self.answer(json.loads(text))

    def answer(self, message: dict[str, Any]) -> None:
        self.received.append(message)
        if message["type"] == "listen":
            first = len(self.all("listen")) == 1
            ttl = REFRESH_AHEAD + 2 if first else 600
            self.send("connected", token={"identity": NAME, "ttl": ttl})
        elif message["type"] == "register":
            self.send("ready")
        elif message["type"] == "invite":
            self.send("ringing", callsid=message["payload"]["callsid"])

    def send(self, kind: str, **payload: Any) -> None:
        assert self.connection
        self.connection.send(json.dumps({"type": kind, "payload": payload}))

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Return the payloads of all messages of that kind."""
        return [m["payload"] for m in self.received if m["type"] == kind]

    def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Return the payload of that message, once it is here."""
        what = f"message {count} of type {kind!r} from the SDK"
        return wait_for(what, lambda: self.all(kind)[count - 1 : count])[0]


class Server(Protocol):
    def serve_forever(self) -> None: ...
    def shutdown(self) -> None: ...


@contextlib.contextmanager
def running(server: Server) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(PATIENCE)


def make_certificate() -> tuple[ssl.SSLContext, str]:
    """Return a server's context for 127.0.0.1, and what its key is known by."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    parsed = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes())
    key = parsed.public_key().public_bytes(
        serialization.Encoding.DER,
        serialization.PublicFormat.SubjectPublicKeyInfo,
    )
    return context, base64.b64encode(hashlib.sha256(key).digest()).decode()


def start_browser(programs: dict[str, str], pin: str, folder: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "--headless",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-quic",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={folder / 'net-log.json'}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--ignore-certificate-errors-spki-list={pin}",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        "--window-size=800,600",
    ):
        options.add_argument(argument)
    if not os.geteuid():
        options.add_argument("--no-sandbox")  # root cannot have one
    service = webdriver.ChromeService(
        programs["chromedriver"], env={**os.environ, "HOME": str(folder)}
    )
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_page_load_timeout(PATIENCE)
    return browser


def check_traffic(net_log: Path) -> None:
    """Check by the browser's own log that it sent nothing to any other host."""
    log = json.loads(net_log.read_text(encoding="utf-8"))
    numbers = log["constants"]["logEventTypes"]

    def params(name: str) -> list[dict[str, Any]]:
        events = [event for event in log["events"] if event["type"] == numbers[name]]
        return [event.get("params", {}) for event in events]

    addresses = {str(p.get("address", "")) for p in params("TCP_CONNECT_ATTEMPT")}
    hosts = {address.rpartition(":")[0] for address in addresses if address}
    check(hosts == {"127.0.0.1"}, f"the browser connected to {hosts}")
    check(not params("UDP_BYTES_SENT"), "the browser sent UDP")


def check_token(token: str, kind: str) -> None:
    """Check that this is the token that the README's endpoint should make."""
    try:
        claims = verify_token(token, SECRETS[kind])
    except InvalidTokenError as error:
        fail(f"verify_token refuses the token: {error}")
    report = inspect_token(token)
    check(report["kind"] == kind, f"not of kind {kind}, but {report['kind']}")
    check(not report["problems"], f"the token has problems: {report['problems']}")
    permissions = claims["grants"] if kind == "access" else claims["scope"]
    check(permissions == PERMISSIONS[kind], f"the token allows {permissions}")


def check_answer(answer: Answer, token: str, kind: str) -> None:
    check(answer.status == 200, f"the endpoint answered {answer.status}")
    check(answer.cache_control == "no-store", f"not no-store: {answer.cache_control}")
    body = json.loads(answer.body)
    check(token == body["token"], "the SDK sent another token than the endpoint made")
    check(body["identity"] == NAME, f"another identity: {body['identity']}")
    check_token(token, kind)


def console(browser: webdriver.Chrome) -> list[str]:
    """Return what the page has written, but for Twilio's hosts not being found."""
    entries = browser.execute("getLog", {"type": "browser"})["value"]
    lines = [str(entry["message"]) for entry in entries]
    return [s for s in lines if not re.search("ERR_NAME_NOT_RES|insights", s, re.I)]


def use_phone(
    browser: webdriver.Chrome,
    url: str,
    client: Client,
    kind: str,
    site: Site,
    signalling: Signalling,
) -> None:
    """Go with the browser through everything that a phone does."""

    def shown(selector: str) -> str:
        text: str = browser.find_element(By.CSS_SELECTOR, selector).text
        return text

    def wait_until_shown(selector: str, text: str) -> None:
        what = f"the page to show {text!r}"
        wait_for(what, lambda: text in shown(selector).splitlines())

    # Logged out.
    browser.get(url)
    wait_until_shown("#state", "no token: HTTP status 401")
    check([answer.status for answer in site.answers] == [401], f"{site.answers}")
    check("token" not in site.answers[0].body, f"401, and yet: {site.answers[0]}")
    check(not signalling.paths, "the SDK connected without a token")

    # Logged in: the first token, and registering.
    browser.get(f"{url}/login")
    cookie = browser.get_cookie("session") or {}
    check(cookie.get("secure"), f"the session cookie is not Secure: {cookie}")
    browser.get(url)
    wait_until_shown("#state", client.registered)
    first = signalling.wait_for("listen")["token"]
    check(signalling.paths == ["/signal"], f"connected to {signalling.paths}")
    check(signalling.all("register"), "registered without having asked for it")
    check_answer(site.answers[1], first, kind)

    # A call to this device.
    parameters = {"From": CALLER, "To": f"client:{NAME}", "CallSid": CALL_SID}
    signalling.send("invite", callsid=CALL_SID, sdp="v=0", parameters=parameters)
    wait_until_shown("#log", f"{CALLER} is calling")
    rejected = signalling.wait_for("reject")
    check(rejected["callsid"] == CALL_SID, f"another call was rejected: {rejected}")

    # A call from this device.
    browser.find_element(By.ID, "call").click()
    invite = signalling.wait_for("invite")
    sent = dict(parse_qsl(invite["twilio"]["params"], strict_parsing=True))
    check(sent == {"To": CALLED}, f"the call carries other params: {sent}")
    check("m=audio" in invite["sdp"], f"the call offers no audio: {invite['sdp']}")
    signalling.send("hangup", callsid=invite["callsid"])

    # The second token: the time in it has to differ.
    if not client.tells_of_expiry:
        next_second = site.answers[1].at + 1
        wait_for("the next second", lambda: time.time() > next_second)
        signalling.send("error", error={"code": 31205, "message": "expired"})
    second = signalling.wait_for("listen", 2)["token"]
    check(second != first, "after the refresh the token is the old one")
    check_answer(site.answers[2], second, kind)
    wait_until_shown("#state", client.registered)
    check(len(site.answers) == 3, f"{len(site.answers) - 1} tokens made, not 2")
    check(len(signalling.paths) == 1, "the SDK connected more than once")
    complaints = [line for line in console(browser) if "/phone.js" in line]
    check(not complaints, f"the page complains: {complaints}")


def try_client(
    client: Client, kind: str, sdk: str, programs: dict[str, str], work: Path
) -> None:
    title = f"{client}, {kind} token"
    folder = work / re.sub(r"\W+", "-", title).strip("-")
    folder.mkdir()
    tls, pin = make_certificate()
    with contextlib.ExitStack() as stack:
        signalling = Signalling()
        sockets = serve(signalling.handle, "127.0.0.1", 0, ssl=tls)
        stack.enter_context(running(sockets))
        address = f"127.0.0.1:{sockets.socket.getsockname()[1]}"
        page = PAGE.replace("SIGNALLING", address).replace("TITLE", title)
        page = page.replace("STATE", client.state).replace("CALLED", CALLED)
        files = {"/": page, "/sdk.js": sdk, "/package.js": PACKAGE}
        site = Site(kind, {**files, "/phone.js": client.phone})
        web = make_server("127.0.0.1", 0, site.app, threaded=True, ssl_context=tls)
        stack.enter_context(running(web))
        browser = start_browser(programs, pin, folder)
        stack.callback(browser.quit)
        try:
            url = f"https://127.0.0.1:{web.port}"
            use_phone(browser, url, client, kind, site, signalling)
        except CheckFailedError:
            print(f"{title}: the page, its console, and the messages received:")
            print(browser.find_element(By.TAG_NAME, "body").text)
            print(*console(browser), sep="\n")
            print(*signalling.received, sep="\n", flush=True)
            raise
        finally:
            browser.save_screenshot(str(folder / "screenshot.png"))
    check_traffic(folder / "net-log.json")
    print(f"{title}: ok", flush=True)


def stop(number: int, _frame: object) -> None:
    reason = f"{LIMIT} seconds are over" if number == signal.SIGALRM else "told to stop"
    raise SystemExit(f"browser check: {reason}")


def run(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    programs = find_programs()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ.update(ENVIRONMENT)
    clients = [
        Client(
            package="@twilio/voice-sdk",
            version="2.18.5",
            sha512="2/tw1IDAIn7j6yFDOln8p93v3aHIxNIN93JwL98cHIlb"
            "kSNeU/Jt9zGM/0TvDpNjo+k88lvAew4jgOjKlc9/KA==",
            phone=readme_block("javascript", "@twilio/voice-sdk"),
            state="device.state",
            registered="registered",
            tells_of_expiry=True,
        ),
        Client(
            package="twilio-client",
            version="1.15.1",
            sha512="O2Cdq4THosTPLMIfFK0/xcS8SCCLUiv1hDB4i4sAisqt"
            "fHEVLXSuNoL332rPkDPC3jzgm3C5zzbEz/XyEXO+NQ==",
            phone=OLD_PHONE,
            state="device.status()",
            registered="ready",
            tells_of_expiry=False,
        ),
    ]
    for client in clients:
        sdk = fetch_sdk(client, programs["npm"], work)
        for kind in SECRETS:
            try_client(client, kind, sdk, programs, work)
    print(SUMMARY)
    print(f"The screenshots are in {work}.")


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]))
    except CheckFailedError as error:
        raise SystemExit(f"browser check: {error}") from None
