"""`import eddycast`: light, complete, and deaf to the name that a room shares with a function."""

from __future__ import annotations

import subprocess
import sys

import pytest

import eddycast


def test_every_public_name_loads_and_unknown_ones_are_told():
    for name in eddycast.__all__:
        assert getattr(eddycast, name) is not None
        assert name in dir(eddycast)
    with pytest.raises(AttributeError, match="simulate"):
        eddycast.simulat  # noqa: B018


@pytest.mark.parametrize("first", ["import eddycast.report", "eddycast.load", "import eddycast.api", "pass"])
def test_the_function_report_is_not_hidden_by_the_room_of_that_name(first):
    code = (
        f"import eddycast\n{first}\nassert callable(eddycast.report)\n"
        "import eddycast.report\nfrom eddycast import report\nassert callable(report) and callable(eddycast.report)\n"
        "import sys; assert sys.modules['eddycast.report'] is not eddycast.report\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
