"""What may be loaded when: help, validation and every plug without torch; the command line in a blink."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "sklearn", "matplotlib", "pyarrow", "networkx")


def loaded_by(code: str) -> list[str]:
    """Which heavy libraries a fresh interpreter has loaded after running `code`."""
    check = f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import gossamer",
        "import gossamer.cli",
        "import gossamer; gossamer.Experiment(); gossamer.Experiment.model_json_schema()",
        "from gossamer.plugs import discover, families\nfor base in families().values(): discover(base)",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded_by(code) == []


def test_every_family_is_found_and_kind_is_the_file_name() -> None:
    from gossamer.plugs import discover, families

    assert {"aggregators", "data", "learners", "methods", "models", "partitions", "topologies"} <= families().keys()
    for family, base in families().items():
        assert discover(base), family
        for kind, cls in discover(base).items():
            assert cls.__module__ == f"gossamer.{family}.{kind}"
            assert cls.summary().endswith((".", ")"))
            assert cls.model_fields["kind"].default == kind
