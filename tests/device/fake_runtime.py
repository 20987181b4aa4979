"""Stands where a device's Python stands: serves an artifact as the daemon does, as its model file says.

The model file is JSON: `answers` by prompt, `labels` of a classifier; `exit`, to end at once with
that code; `silent`, never to be ready; `refuses`, to answer 503; `scores`, the log-probabilities of any text
that is echoed (without it, it tells none, like a daemon of before); `pause`, seconds before each word of an
answer; `spools`, statuses of requests that others are said to have made; `dies_at`, a prompt at which it
ends, only once where `dies` says so; `odd`, what it says in place of an answer; `keeps_its_mask`, to leave
blocked what was blocked when it was started. Standard library only, so that it is up in no time.
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

OPTIONS = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=True))
MODEL = json.loads((Path(OPTIONS["--artifact"]) / "model.gguf").read_bytes())


class Daemon(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        ready = not MODEL.get("silent")
        said = {"ready": ready, "digest": OPTIONS["--digest"], "pid": os.getpid()}
        self.say(200 if ready else 503, {**said, "scores": "scores" in MODEL})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.spool()
        if MODEL.get("refuses"):
            return self.say(503, {"error": {"message": "out of order"}})
        if self.path == "/v1/classify":
            label = MODEL["answers"].get(asked["input"], "what?")
            return self.say(200, {"data": [{"label": label, "scores": {label: 1.0}}]})
        if asked.get("prompt") == MODEL.get("dies_at", ""):
            self.die()
        if "labels" in MODEL:
            return self.say(400, {"error": {"message": "this model labels texts; use /v1/classify"}})
        if asked.get("echo"):
            told = {"token_logprobs": [None, *MODEL["scores"]]}
            return self.say(200, {"choices": [{"text": asked["prompt"], "logprobs": told}]})
        chat = "messages" in asked
        question = asked["messages"][-1]["content"] if chat else asked["prompt"]
        answer = MODEL["answers"].get(question, "what?")
        if asked.get("stream"):
            return self.stream(answer, chat=chat)
        return self.say(200, {"choices": [{"message": {"content": answer}} if chat else {"text": answer}]})

    def die(self):
        died = Path(OPTIONS["--spool"]) / "died"
        if MODEL.get("dies") != "once" or not died.exists():
            died.parent.mkdir(exist_ok=True)
            died.touch()
            print("no more of this: " + "x" * 5000, flush=True)  # noqa: T201
            os._exit(9)

    def spool(self):
        place = Path(OPTIONS["--spool"])
        for status in MODEL.pop("spools", []):
            said = {"event": "request", "time": time.time(), "release": "", "digest": OPTIONS["--digest"]}
            said |= {"status": status, "prompt_tokens": 1, "output_tokens": 0, "first_token_seconds": None}
            place.mkdir(exist_ok=True)
            with (place / "0000000001.jsonl").open("a") as file:
                file.write(json.dumps({**said, "seconds": 0.1}) + "\n")

    def stream(self, answer, *, chat):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in answer.split(" "):
            time.sleep(MODEL.get("pause", 0))
            choice = {"delta": {"content": word}} if chat else {"text": word}
            self.event(json.dumps(MODEL.get("odd", {"choices": [choice]})))
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


print("up as", os.getpid(), flush=True)  # noqa: T201
if "exit" in MODEL:
    sys.exit(MODEL["exit"])
with ThreadingHTTPServer(("127.0.0.1", int(OPTIONS["--port"])), Daemon) as server:
    file = Path(OPTIONS["--port-file"])
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{server.server_address[1]}\n")
    fresh.replace(file)
    if not MODEL.get("keeps_its_mask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    server.serve_forever()
