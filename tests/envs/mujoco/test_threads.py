"""MuJoCo's threads end with their environment, and neither keep the interpreter from ending nor hang a forked child."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("ending", ["pass", "env.close()", "raise SystemExit(0)"])
def test_an_abandoned_environment_lets_the_interpreter_exit(ending):
    program = (
        "import numpy as np\n"
        "from envs.mujoco import MujocoVectorEnv\n"
        "env = MujocoVectorEnv('Swimmer-v5', 4, num_threads=2)\n"
        "env.reset(seed=0); env.step(np.zeros((4, 2)))\n" + ending
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux's list of threads")
@pytest.mark.parametrize("ending", ["env.close()", "del env"])
def test_threads_end_with_close_and_with_the_last_reference(ending):
    program = (
        "import os, gc, numpy as np\n"
        "from envs.mujoco import MujocoVectorEnv\n"
        "before = set(os.listdir('/proc/self/task'))\n"
        "env = MujocoVectorEnv('Swimmer-v5', 4, num_threads=3)\n"
        "env.reset(seed=0); env.step(np.zeros((4, 2)))\n"
        "assert len(set(os.listdir('/proc/self/task')) - before) == 2\n" + ending + "; gc.collect()\n"
        "assert not set(os.listdir('/proc/self/task')) - before\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("ending", ["os._exit(0)", "raise SystemExit(0)", "del env; gc.collect(); os._exit(0)"])
def test_a_forked_child_starts_its_own_threads(ending):
    program = (
        "import os, gc, numpy as np\n"
        "from envs.mujoco import MujocoVectorEnv\n"
        "env, other = (MujocoVectorEnv('Swimmer-v5', 4, num_threads=n) for n in (2, 1))\n"
        "env.reset(seed=0); action = np.ones((4, 2)); env.step(action)\n"
        "other.set_state(env.get_state())\n"
        "expected = other.step(action)[0]\n"
        "pid = os.fork()\n"
        "assert np.array_equal(env.step(action)[0], expected)\n"
        "if pid == 0:\n    " + ending + "\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
