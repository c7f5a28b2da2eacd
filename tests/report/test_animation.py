"""Movies: the right number of frames, the field in them, a clear word where a codec is missing."""

from __future__ import annotations

import builtins
import itertools

import numpy as np
import pytest
from PIL import Image, ImageSequence

from eddycast.errors import InputError
from eddycast.report import plot
from eddycast.report.animation import animate


def test_gif_has_a_frame_for_each_lead(tmp_path, forecast, wave_truth):
    path = plot(forecast, tmp_path / "waves.gif", truth=wave_truth)
    with Image.open(path) as movie:
        assert movie.n_frames == forecast.sizes["lead_time"] and movie.info["loop"] == 0
        frames = [np.asarray(frame.convert("RGB"), dtype=int) for frame in ImageSequence.Iterator(movie)]
    assert all((np.abs(a - b) > 60).any() for a, b in itertools.pairwise(frames))
    again = plot(forecast, tmp_path / "again.gif", truth=wave_truth)
    assert again.read_bytes() == path.read_bytes()


def test_long_forecasts_are_thinned(tmp_path, make_waves):
    path = animate(make_waves(members=None, leads=200), tmp_path / "long.gif", frames=10)
    with Image.open(path) as movie:
        assert movie.n_frames == 10


def test_maps_move(tmp_path, ocean):
    """The sea warms by a degree a month: with the thermal map its pixels brighten, the island stays grey."""
    path = animate(ocean, tmp_path / "sea.gif")
    with Image.open(path) as movie:
        assert movie.n_frames == 6
        frames = [np.asarray(frame.convert("RGB"), dtype=float).mean() for frame in ImageSequence.Iterator(movie)]
    assert frames[-1] > frames[0]


def test_mp4_asks_for_the_extra(tmp_path, forecast, monkeypatch):
    real = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(InputError, match=r"eddycast\[video\]"):
        plot(forecast, tmp_path / "waves.mp4")
    assert not list(tmp_path.iterdir())


def test_mp4_is_written(tmp_path, forecast):
    av = pytest.importorskip("av")
    path = plot(forecast, tmp_path / "waves.mp4")
    with av.open(str(path)) as movie:
        assert sum(1 for _ in movie.decode(video=0)) == forecast.sizes["lead_time"]
