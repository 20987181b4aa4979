"""Stands where a device's Python stands: a router that serves artifacts as their model files say.

It answers on the socket that it is handed, and does on its admin socket what the real one does: loads beside
what serves, takes a verdict, moves labels. A version's worker is a process that does nothing but be there.

The model file is JSON: `answers` by prompt, `labels` of a classifier; `exit`, to end at once with
that code; `silent`, never to be ready; `refuses`, to answer 503; `scores`, the log-probabilities of any text
that is echoed (without it, it tells none, like a daemon of before); `pause`, seconds before each word of an
answer; `spools`, statuses of requests that others are said to have made; `dies_at`, a prompt at which its
worker ends, only once where `dies` says so; `odd`, what it says in place of an answer; `keeps_its_mask`, to
leave blocked what was blocked when it was started; `leaves`, to leave who is connected in the passage when it
ends; `elder`, to be a daemon of before, that knows no admin socket and serves one artifact. Standard library
only, so that it is up in no time.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WORDS = [word for word in sys.argv[3:] if word != "--steered"]
OPTIONS = dict(zip(WORDS[::2], WORDS[1::2], strict=True))
ELDER = "--admin" not in OPTIONS
LABELS, VERSIONS, LINES = {}, {}, []


class Version:
    """An artifact that is, or was, resident."""

    def __init__(self, digest, folder):
        self.digest, self.folder = digest, folder
        self.model = json.loads((Path(folder) / "model.gguf").read_bytes())
        said = json.loads((Path(folder) / "artifact.json").read_bytes())
        self.name = f"{said['name']}:{said['version']}@{digest}"
        self.worker, self.crashes, self.last_exit, self.gated = None, 0, None, False

    def load(self):
        """Load it; say how it ended where it did."""
        print("up as", os.getpid(), flush=True)  # noqa: T201
        if "exit" in self.model:
            self.last_exit = self.model["exit"]
            return False
        self.worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        return True

    def drop(self):
        """End its worker."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.communicate()

    def tend(self):
        """Start its worker again where that has ended."""
        if self.worker is not None and self.worker.poll() is not None:
            self.crashes, self.last_exit = self.crashes + 1, self.worker.poll()
            self.drop()
            self.load()

    def said(self):
        """Tell how it stands, as the status does."""
        self.tend()
        state = "gone" if self.worker is None else "loading" if self.model.get("silent") else "ready"
        label = next((label for label, digest in LABELS.items() if digest == self.digest), None)
        return {
            "digest": self.digest, "label": label, "state": state, "resident": self.worker is not None,
            "pid": self.worker and self.worker.pid, "crashes": self.crashes, "last_exit": self.last_exit,
            "why": None, "gated": self.gated, "scores": "scores" in self.model,
        }  # fmt: skip


class Daemon(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/admin/v1/status":
            versions = [each.said() for each in VERSIONS.values()]
            return self.say(200, {"labels": LABELS, "versions": versions, "pid": os.getpid()})
        now = VERSIONS[LABELS["current"]]
        ready = not now.model.get("silent")
        said = {"ready": ready, "digest": now.digest, "pid": os.getpid()}
        return self.say(200 if ready else 503, {**said, "scores": "scores" in now.model})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/admin/v1/"):
            return self.do_verb(self.path.rpartition("/")[2], asked.get("digest"), asked)
        version = VERSIONS[LABELS["current"]]
        if "model" in asked:
            version = next(each for each in VERSIONS.values() if each.name == asked["model"])
        version.tend()
        return self.answer(version, version.model, asked)

    def do_verb(self, verb, digest, asked):
        version = VERSIONS.get(digest)
        if verb == "load":
            loaded = load(digest, asked["folder"])
            return self.say(200, {}) if loaded else self.say(422, {"error": {"message": "it does not load"}})
        if verb == "gate":
            version.gated = asked["verdict"]["outcome"] == "pass"
        elif verb == "rollback":
            bad = VERSIONS[LABELS["current"]]
            move(current=LABELS["previous"])
            bad.drop()
        elif verb == "promote" and version.gated and version.worker:
            move(current=digest, previous=LABELS["current"])
        elif verb == "drop" and LABELS["current"] != digest:
            version.drop()
        else:
            return self.say(409, {"error": {"message": "it has passed no gate"}})
        return self.say(200, {})

    def answer(self, version, model, asked):  # noqa: PLR0911 (a model file may say much)
        self.spool(version)
        if model.get("refuses"):
            return self.say(503, {"error": {"message": "out of order"}})
        if self.path == "/v1/classify":
            label = model["answers"].get(asked["input"], "what?")
            return self.say(200, {"data": [{"label": label, "scores": {label: 1.0}}]})
        if asked.get("prompt") == model.get("dies_at", "") and self.dies(version):
            return self.connection.shutdown(socket.SHUT_RDWR)
        if "labels" in model:
            return self.say(400, {"error": {"message": "this model labels texts; use /v1/classify"}})
        if asked.get("echo"):
            told = {"token_logprobs": [None, *model["scores"]]}
            return self.say(200, {"choices": [{"text": asked["prompt"], "logprobs": told}]})
        chat = "messages" in asked
        question = asked["messages"][-1]["content"] if chat else asked["prompt"]
        answer = model["answers"].get(question, "what?")
        if asked.get("stream"):
            return self.stream(model, answer, chat=chat)
        return self.say(200, {"choices": [{"message": {"content": answer}} if chat else {"text": answer}]})

    def dies(self, version):
        died = Path(OPTIONS["--spool"]) / "died"
        if version.model.get("dies") == "once" and died.exists():
            return False
        died.parent.mkdir(exist_ok=True)
        died.touch()
        print("no more of this: " + "x" * 5000, flush=True)  # noqa: T201
        if ELDER:
            os._exit(9)
        version.worker.kill()
        version.worker.wait()
        return True

    def spool(self, version):
        statuses = version.model.pop("spools", [])
        if statuses:
            sys.path.append(str(Path(__file__).parents[2]))
            from slmops.telemetry import events, spool  # noqa: PLC0415 (a router is up sooner without)

            record = spool.Spool(Path(OPTIONS["--spool"]))
            for status in statuses:
                of = {"time": time.time(), "release": "", "digest": version.digest, "status": status}
                told = {"prompt_tokens": 1, "output_tokens": 0, "first_token_seconds": None, "seconds": 0.1}
                record.append(events.RequestFinished(**of, **told))
            record.close()

    def stream(self, model, answer, *, chat):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in answer.split(" "):
            time.sleep(model.get("pause", 0))
            choice = {"delta": {"content": word}} if chat else {"text": word}
            self.event(json.dumps(model.get("odd", {"choices": [choice]})))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, text):
        data = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def say(self, status, said):
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_words):
        pass


class Server(ThreadingHTTPServer):
    """Answers at a socket that somebody made."""

    daemon_threads = True

    def __init__(self, listening):
        super().__init__(("", 0), Daemon, bind_and_activate=False)
        self.socket.close()
        self.socket = listening

    def get_request(self):
        line, _ = self.socket.accept()
        LINES.append(line)
        return line, ("", 0)

    def handle_error(self, request, client_address):
        """Whoever hangs up leaves no words in the log: who reads its end looks for those of the daemon."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def load(digest, folder):
    """Have a version beside those there are; say whether it is there."""
    version = VERSIONS.get(digest)
    if version is None or version.worker is None:
        version = VERSIONS[digest] = Version(digest, folder)
        if not version.load():
            return False
    if digest not in LABELS.values():
        LABELS["candidate"] = digest
    return True


def move(**to):
    """Say where the labels are."""
    LABELS.clear()
    LABELS.update(to)


def api():
    """The socket that applications ask at."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        return socket.socket(fileno=3)
    made = socket.create_server(("127.0.0.1", int(OPTIONS["--port"])))
    file = Path(OPTIONS["--port-file"])
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{made.getsockname()[1]}\n")
    fresh.replace(file)
    return made


def admin():
    """The socket that the supervisor asks at."""
    place = Path(OPTIONS["--admin"])
    place.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(place))
    made.listen()
    return made


def leave(*_signal):
    """End, and leave to the next router who is connected."""
    passage = socket.socket(fileno=int(os.environ["SLMOPS_PASSAGE"].split()[1]))
    for line in LINES:
        if line.fileno() >= 0:
            socket.send_fds(passage, [b"."], [line.fileno()])
    os._exit(0)


FIRST = Version(OPTIONS["--digest"], OPTIONS["--artifact"])
if FIRST.model.get("elder") and not ELDER:
    sys.exit(2)
if not FIRST.load():
    sys.exit(FIRST.last_exit)
VERSIONS[FIRST.digest], FIRST.gated = FIRST, True
move(current=FIRST.digest)
if not ELDER:
    threading.Thread(target=Server(admin()).serve_forever, daemon=True).start()
if not FIRST.model.get("keeps_its_mask"):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
if FIRST.model.get("leaves"):
    signal.signal(signal.SIGTERM, leave)
Server(api()).serve_forever()
