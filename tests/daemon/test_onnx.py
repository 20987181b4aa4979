"""What ONNX Runtime leaves behind."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_model_that_was_loaded_leaves_nothing_in_the_home(tiny, tmp_path):
    folder = tiny.make_artifact(tmp_path / "parrot", "onnx", tiny.parrot_weights())
    home = tmp_path / "home"
    home.mkdir()
    # Where it thinks to be tested it keeps nothing by itself.
    quiet = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    environment = {name: said for name, said in os.environ.items() if name not in quiet}
    code = (
        "import sys; from pathlib import Path; from slmops.daemon.onnx import OnnxEngine; "
        "OnnxEngine(Path(sys.argv[1]), 64, 1, 8).feed([1])"
    )

    subprocess.run(
        [sys.executable, "-c", code, folder / "model.onnx"],
        env={**environment, "HOME": str(home)},
        cwd=Path(__file__).parents[2],
        check=True,
    )

    assert list(home.iterdir()) == []
