"""MuJoCo's threads neither keep the interpreter from ending nor hang a forked child."""

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
