"""Scratch: real agents of before."""
import http.client, json, os, signal, subprocess, sys, time, importlib.util
from pathlib import Path
import pytest
from slmops.device.places import read_json
ELDER = subprocess.run([sys.executable, "-c", "import sys; from slmops.fleet.agent_bundle import bundle; sys.stdout.buffer.write(bundle().data)"], cwd="/tmp/w/rev/elder", capture_output=True, check=True).stdout

def question(device):
    line = http.client.HTTPConnection("127.0.0.1", int(device.places.port.read_text()), timeout=20)
    line.request("POST", "/v1/completions", json.dumps({"prompt": "One and one?"}))
    a = line.getresponse()
    return a.status, json.loads(a.read())["choices"][0]["text"]

def quiet(f):
    try: return f()
    except Exception as e: return repr(e)

def test_down_and_up(device, shop, until):
    assert b"listen.py" not in ELDER
    device.commit(shop.release("1.0.0"))
    assert question(device) == (200, "two")
    # fake runtime decides by "--admin" whether it is an elder: the old agent gives none
    elder = device.push(ELDER)
    new = device.agent
    print(device.ask("hello", agent=elder))
    until(lambda: device.supervised_by() == f"agent/{elder.name}")
    until(lambda: quiet(lambda: question(device)) == (200, "two"))
    print("downgraded ok", device.daemons())
    print(device.ask("hello", agent=new).kind)
    until(lambda: device.supervised_by() == f"agent/{new.name}")
    assert question(device) == (200, "two")
    device.commit(shop.release("1.1.0"))
    assert question(device) == (200, "two")
    assert len(device.daemons()) == 1
    print("upgraded ok", read_json(device.places.daemon)["router"])
