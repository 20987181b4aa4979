"""The daemon in its hardened unit, on a device that boots systemd."""

import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *("numpy", "numpy.libs", "llama_cpp", "diskcache", "onnxruntime", "flatbuffers", "packaging", "google"),
    *("tokenizers", "jinja2", "markupsafe", "llguidance*", "msgspec", "prometheus_client", "uvicorn", "h11"),
    *("click", "starlette", "anyio", "idna", "sniffio", "typing_extensions.py"),
)
PYTHON = """#!/bin/sh
PYTHONPATH=/opt/slmops exec python3 "$@"
"""
ASK = """import http.client, json, socket, sys
where, method, path, body, key = (sys.argv[1:] + ["", ""])[:5]
line = http.client.HTTPConnection("127.0.0.1", 11435, timeout=60)
if where.startswith("/"):
    line.sock = socket.socket(socket.AF_UNIX)
    line.sock.connect(where)
line.request(method, path, body or None, {"authorization": f"Bearer {key}"} if key else {})
answer = line.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""
CHAT = json.dumps({"messages": [{"role": "user", "content": "turn the kitchen lamp to forty percent"}]})
ANSWER = {"device": "lamp", "room": "kitchen", "action": "set", "value": 40}
UNITS = "/etc/systemd/system"
PATIENCE = 60

pytestmark = [
    pytest.mark.journey,
    pytest.mark.systemd,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="devices with systemd are made by root"),
    pytest.mark.skipif(
        not shutil.which("systemd-nspawn"), reason="needs: apt-get install systemd-container mmdebstrap"
    ),
]


class Device:
    """edge-1, with the daemon's packages under /opt and a model of each format under /var/lib/models."""

    def __init__(self, folder):
        host, port = (folder / "edge-1/place").read_text().split()
        known = f"UserKnownHostsFile={folder}/known_hosts"
        words = ["ssh", "-i", folder / "id", "-p", port, "-o", known, "-o", "BatchMode=yes", f"root@{host}"]
        self.words = [str(word) for word in words]

    def __call__(self, command, *, exits=0, data=b""):
        done = subprocess.run([*self.words, command], input=data, capture_output=True, check=False)
        assert done.returncode in {exits, None}, (command, done.stdout, done.stderr)
        return done.stdout.decode().strip()

    def put(self, path, text):
        self(f"cat > {path} && chmod 755 {path}", data=text.encode())

    def carry(self, folder, names, target):
        packed = ["tar", "cf", "-", "--exclude=__pycache__", "-C", folder, *names]
        with subprocess.Popen(packed, stdout=subprocess.PIPE) as source:
            words = [*self.words, f"mkdir -p {target} && tar xf - -C {target} && chmod -R a+rX {target}"]
            subprocess.run(words, stdin=source.stdout, check=True)

    def ask(self, where, method, path, *more):
        words = ["/opt/ask.py", where, method, path, *more]
        status, body = json.loads(self("python3 " + shlex.join(words)))
        return status, json.loads(body) if body.startswith("{") else body

    def answers(self, where="11435"):
        status, said = self.ask(where, "POST", "/v1/chat/completions", CHAT)
        return status == 200 and json.loads(said["choices"][0]["message"]["content"]) == ANSWER

    def install(self, model, *words, drop_in=""):
        self("systemctl stop slmopsd.socket slmopsd 2>/dev/null; rm -rf /etc/systemd/system/slmopsd.*")
        self(f"rm -rf /var/lib/private/slmopsd /var/lib/slmopsd; mkdir -p {UNITS}/slmopsd.service.d")
        tool = ["/opt/python", "-m", "slmops.daemon", "unit", "--python", "/opt/python", "--into", UNITS]
        self(shlex.join([*tool, "--artifact", f"/var/lib/models/{model}", *words]))
        self.put(f"{UNITS}/slmopsd.service.d/test.conf", f"[Service]\n{drop_in}\n")
        self("systemctl daemon-reload")

    def pid(self):
        return int(self("systemctl show -P MainPID slmopsd"))


def until(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


@pytest.fixture
def device(newcomer, tmp_path):
    for form in ("gguf", "onnx"):
        newcomer("quantize", ROOT / "demo/model", "--profile", "local", "--format", form, "--name", form,
                 "--version", "1.0.0", "--golden", ROOT / "demo/model/golden.jsonl")  # fmt: skip
        newcomer("release", "export", f"{form}:1.0.0", tmp_path / "models" / form)
    newcomer.fleet(1, tmp_path / "fleet", "local", words=("--systemd",))
    made = Device(tmp_path / "fleet")
    site = Path(pytest.__file__).parents[1]
    made.carry(site, [path.name for name in PACKAGES for path in site.glob(name)], "/opt/slmops")
    made.carry(ROOT, ["slmops"], "/opt/slmops")
    made.carry(tmp_path / "models", ["gguf", "onnx"], "/var/lib/models")
    # A llama-cpp-python that was built on a desk needs the desk's OpenMP.
    gomp = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu/libgomp.so.1"
    if gomp.exists():
        made(f"cat > {gomp}", data=gomp.read_bytes())
    made.put("/opt/python", PYTHON)
    made.put("/opt/ask.py", ASK)
    return made


def test_a_daemon_serves_in_its_unit_is_watched_and_starts_by_its_socket(device):
    for model in ("onnx", "gguf"):
        # Its memory may not be written and run: neither runtime needs that, nor does the grammar.
        device.install(model)
        device("systemctl start slmopsd")
        assert device.answers()
        assert device.answers("/run/slmopsd/api.sock")
        worker = device(f"pgrep -P {device.pid()}")
        status = device(f"cat /proc/{device.pid()}/status /proc/{worker}/status")
        assert status.count("NoNewPrivs:\t1") == 2
        assert status.count("Seccomp:\t2") == 2
        assert status.count("CapBnd:\t0000000000000000") == 2
        assert "Uid:\t0" not in status
        bound = json.loads(CHAT) | {"response_format": {"type": "json_object"}, "max_tokens": 40}
        assert device.ask("11435", "POST", "/v1/chat/completions", json.dumps(bound))[0] == 200

    assert device.ask("11435", "GET", "/admin/v1/status")[0] == 403
    status, said = device.ask("/run/slmopsd/admin/admin.sock", "GET", "/admin/v1/status")
    assert (status, said["release"], said["pid"]) == (200, "gguf:1.0.0", device.pid())

    key = device("/opt/python -m slmops.daemon keys create --file /var/lib/slmopsd/keys.json --name app")
    assert device.ask("11435", "GET", "/v1/models")[0] == 401
    assert device.ask("11435", "GET", "/v1/models", "", key)[0] == 200

    device.install("gguf", drop_in="WatchdogSec=2")
    device("systemctl start slmopsd")
    before = device.pid()
    device(f"kill -STOP {before}")
    until(lambda: device.pid() not in {0, before})
    until(device.answers)
    assert "Failed with result 'watchdog'" in device("journalctl -u slmopsd --no-pager")

    device.install("gguf", "--socket-activated")
    device("systemctl start slmopsd.socket")
    assert device("systemctl is-active slmopsd", exits=3) == "inactive"
    assert device.answers("/run/slmopsd.sock")
    device(f"kill -9 {device.pid()}")
    assert device.answers()
