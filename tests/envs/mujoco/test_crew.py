"""The threads: every job once, errors reach the caller, nothing outlives its crew."""

import gc
import os
import subprocess
import sys
import threading

import pytest

from envs.mujoco import crew as module
from envs.mujoco.crew import Crew, Pace


def crew_threads():
    return [thread for thread in threading.enumerate() if thread.name == "mujoco-step"]


def join_crews():
    """Wait for dismissed threads to end."""
    for thread in crew_threads():
        thread.join(timeout=10)
    assert crew_threads() == []


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("jobs", [0, 1, 2, 7, 100])
def test_every_job_is_done_once(threads, jobs):
    done = []
    crew = Crew(done.extend, threads)
    for _ in range(3):
        done.clear()
        crew.run(list(range(jobs)))
        assert sorted(done) == list(range(jobs))
    crew.close()


def test_all_threads_work_at_once():
    """Four jobs that wait for one another end only if each has its own thread."""
    barrier = threading.Barrier(4, timeout=10)

    def work(jobs):
        for _ in jobs:
            barrier.wait()

    crew = Crew(work, 4)
    crew.run([None] * 4)
    crew.close()


def test_a_round_alone_wakes_nobody():
    caller, workers = threading.get_ident(), set()

    def work(jobs):
        workers.update(threading.get_ident() for _ in jobs)

    before = set(crew_threads())
    crew = Crew(work, 4)
    crew.run([None] * 100, alone=True)
    assert workers == {caller}
    assert set(crew_threads()) <= before
    crew.close()


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


def test_an_error_in_another_thread_reaches_the_caller_and_the_crew_goes_on():
    caller = threading.get_ident()
    helper_came = threading.Event()
    failing = True
    done = []

    def work(jobs):
        for job in jobs:
            if failing and threading.get_ident() == caller:
                assert helper_came.wait(timeout=10)
            elif failing:
                helper_came.set()
                raise ZeroDivisionError
            done.append(job)

    crew = Crew(work, 2)
    with pytest.raises(ZeroDivisionError):
        crew.run([0, 1, 2])
    failing = False
    done.clear()
    crew.run([0, 1, 2])
    assert sorted(done) == [0, 1, 2]
    crew.close()


def test_an_interrupted_caller_leaves_no_round_behind():
    caller = threading.get_ident()
    interrupted = True
    done = []

    def work(jobs):
        for job in jobs:
            if interrupted and threading.get_ident() == caller:
                raise KeyboardInterrupt
            done.append(job)

    crew = Crew(work, 2)
    while interrupted:  # until the caller got a job before the helper had taken all
        try:
            crew.run(list(range(50)))
        except KeyboardInterrupt:
            interrupted = False
    done.clear()
    crew.run([0, 1, 2])
    assert sorted(done) == [0, 1, 2]
    crew.close()


def test_threads_end_with_close_and_with_the_last_reference():
    join_crews()
    crew = Crew(lambda jobs: None, 3)
    assert crew_threads() == []
    crew.run([1])
    assert len(crew_threads()) == 2
    crew.close()
    join_crews()
    crew.run([1])
    del crew
    gc.collect()
    join_crews()


@pytest.mark.parametrize("ending", ["pass", "env.close()", "raise SystemExit(0)"])
def test_an_abandoned_environment_lets_the_interpreter_exit(ending):
    program = (
        "import numpy as np\n"
        "from envs.mujoco import MujocoVectorEnv\n"
        "env = MujocoVectorEnv('Swimmer-v5', 4, num_threads=2)\n"
        "env.reset(seed=0); env.step(np.zeros((4, 2)))\n" + ending
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_its_own_threads():
    program = (
        "import os, numpy as np\n"
        "from envs.mujoco import MujocoVectorEnv\n"
        "env = MujocoVectorEnv('Swimmer-v5', 4, num_threads=2)\n"
        "env.reset(seed=0); action = np.ones((4, 2)); env.step(action)\n"
        "pid = os.fork()\n"
        "obs = env.step(action)[0]\n"
        "if pid == 0: os._exit(0)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
