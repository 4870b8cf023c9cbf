from __future__ import annotations

import numpy as np
import pytest

from pocketvit.errors import UsageError
from pocketvit.spec.depth_pictures import colored
from pocketvit.spec.depth_stream import DepthStream
from pocketvit.spec.depth_video import Smoother
from pocketvit.spec.tasks import TASKS
from pocketvit.spec.tasks.depth import Depth
from tests.tiny import photo


def scene(seed: int, noise: float = 0.02, size: tuple[int, int] = (30, 40)) -> np.ndarray:
    """A slope of 1 to 4 m that trembles by ``noise`` of itself and by 3 % as a whole."""
    rng = np.random.default_rng(seed)
    clean = np.linspace(1, 4, size[0] * size[1]).reshape(size)
    return (clean * (1 + rng.normal(0, noise, size)) * (1 + 0.03 * rng.normal())).astype(np.float32)


def test_the_task_names_it() -> None:
    follow = TASKS["depth"].follow
    assert follow is not None
    assert isinstance(follow(None), DepthStream)
    assert TASKS["classify"].follow is None
    assert TASKS["restore"].follow is None


def test_smoothing_is_that_of_the_smoother_and_flicker_falls() -> None:
    stream, reference = DepthStream(), Smoother()
    for seed in range(20):
        answer = stream.steady(Depth(scene(seed)))
        np.testing.assert_array_equal(answer.depth, reference(scene(seed)))
    found = stream.to_dict()
    flicker = found["flicker_percent"]
    assert flicker["pairs"] == 19
    assert 1.5 < flicker["before"] < 3.5  # two trembling maps: 2 % * 2 / sqrt(pi)
    assert flicker["after"] < flicker["before"] / 2
    assert found["smoothing"] == {"keep": 0.8, "jump": 0.06}
    assert f"{flicker['before']:.2f} %" in stream.line


def test_zero_switches_it_off_and_no_share_is_refused() -> None:
    stream = DepthStream(0.0)
    for seed in range(3):
        np.testing.assert_allclose(stream.steady(Depth(scene(seed))).depth, scene(seed), rtol=1e-6)
    flicker = stream.to_dict()["flicker_percent"]
    assert flicker["before"] == pytest.approx(flicker["after"])
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(UsageError):
            DepthStream(wrong)


def test_colours_stay_where_one_thing_comes_near() -> None:
    """A hand of 2 pixels in 100 at 0.3 m: a range of each frame's own would recolour the whole room."""
    room = np.linspace(2, 4, 1200).reshape(30, 40).astype(np.float32)
    hand = room.copy()
    hand[10:20, 10:15] = 0.3
    stream, source = DepthStream(0.0), photo(30, 40)
    first, second = (stream.draw(Depth(each), source).astype(int) for each in (room, hand))
    apart = np.abs(first - second)[hand == room].mean()
    alone = np.abs(colored(room).astype(int) - colored(hand).astype(int))[hand == room].mean()
    assert apart < alone / 4
    for _ in range(200):  # what stays is taken up in the end
        last = stream.draw(Depth(hand), source).astype(int)
    assert np.abs(last - colored(hand).astype(int)).mean() < 3


def test_pictures_have_the_size_of_the_frame() -> None:
    stream = DepthStream()
    picture = stream.draw(Depth(scene(0)), photo(60, 100))
    assert (picture.shape, picture.dtype) == ((60, 100, 3), np.uint8)


@pytest.mark.parametrize("metric", [True, False])
def test_near_is_bright(metric: bool) -> None:
    near_left = np.repeat(np.linspace(1, 5, 40, dtype=np.float32)[None], 30, axis=0)
    depth = near_left if metric else 6 - near_left  # inverse depth is large where it is near
    picture = DepthStream().draw(Depth(depth, metric), photo(30, 40)).sum(axis=2)
    assert picture[:, 0].mean() > 500 > 200 > picture[:, -1].mean()


@pytest.mark.parametrize("value", [0.0, 2.0, -1.0])
def test_flat_maps_and_maps_without_values(value: float) -> None:
    stream, flat = DepthStream(), np.full((8, 8), value, np.float32)
    for metric in (True, False):
        for _ in range(2):
            answer = stream.steady(Depth(flat, metric))
            assert stream.draw(answer, photo(16, 16)).shape == (16, 16, 3)


def test_a_break_and_another_size_begin_anew() -> None:
    stream = DepthStream()
    stream.steady(Depth(scene(0)))
    stream.reset()
    np.testing.assert_array_equal(stream.steady(Depth(scene(1))).depth, scene(1))
    stream.steady(Depth(scene(2, size=(10, 10))))
    assert stream.to_dict()["flicker_percent"] == {"before": None, "after": None, "pairs": 0}
    assert stream.line == ""
