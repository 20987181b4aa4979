"""What of slmops is carried to a device."""

from slmops.artifact import carried


def test_with_a_module_come_its_packages_and_all_that_it_imports():
    found = carried.modules(["slmops.daemon.work"])

    assert {"slmops", "slmops.daemon", "slmops.daemon.llama", "slmops.errors"} <= found
    assert all(carried.source(name).is_file() for name in found)


def test_what_it_does_not_import_stays():
    rooms = {name.split(".")[1] for name in carried.modules(["slmops.daemon.__main__"]) if "." in name}

    modules = {"digest", "errors", "keep_keys", "keys", "wire"}
    assert rooms == {"artifact", "daemon", "profile", "telemetry"} | modules
