"""Which rounds are shared among threads, by the clock."""

from envs.mujoco import pace as module
from envs.mujoco.pace import Pace


def shared_rounds(pace, seconds, rounds):
    """Of `rounds` rounds that take `seconds(shared)`, how many are shared."""
    shared = 0
    for _ in range(rounds):
        shared += pace.shared
        pace.took(seconds(pace.shared))
    return shared


def test_rounds_are_shared_where_that_is_worthwhile():
    faster = shared_rounds(Pace(), lambda shared: 60e-6 if shared else 100e-6, 10_000)
    hardly = shared_rounds(Pace(), lambda shared: 90e-6 if shared else 100e-6, 10_000)
    slower = shared_rounds(Pace(), lambda shared: 300e-6 if shared else 100e-6, 10_000)
    assert faster > 9_850
    assert hardly < 150
    assert slower < 150


def test_sharing_stops_while_the_cores_are_busy_and_comes_back():
    pace = Pace()

    def quiet(shared):
        return 60e-6 if shared else 100e-6

    def busy(shared):
        return 500e-6 if shared else 110e-6

    look = module.PERIOD + module.TRIAL
    shared_rounds(pace, quiet, 3 * look)
    assert pace.shared or pace._trying
    shared_rounds(pace, busy, 2 * look)
    assert shared_rounds(pace, busy, 5 * look) <= 6 * module.TRIAL
    shared_rounds(pace, quiet, 2 * look)
    assert shared_rounds(pace, quiet, 5 * look) >= 5 * look - 6 * module.TRIAL
