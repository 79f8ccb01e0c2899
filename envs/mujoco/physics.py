"""N copies of one MuJoCo model, stepped together, read as arrays with a row for each copy.

Holds physics alone: rewards and observations are in the task files, episodes in vector.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.mujoco.crew import Crew, Pace

Reader = Callable[[mujoco.MjData], NDArray[np.float64]]  # a live view into one MjData
Values = Mapping[str, NDArray[np.float64]]

# Everything that decides the next step bit for bit, the solver's warm start included.
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Physics:
    """One `MjModel` shared, never changed, by `num_envs` `MjData`.

    `values` maps names to arrays [N, ...] that `step` and `gather` refresh in place:
    `state` [N, nq + nv], its views `qpos` and `qvel`, and one array for each of `readers`.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        frame_skip: int,
        readers: Mapping[str, Reader],
        *,
        contact_forces: bool,
        num_threads: int | None = None,
    ) -> None:
        """Allocate the copies in the model's default state.

        Args:
            model: the compiled model.
            num_envs: copies, N.
            frame_skip: MuJoCo steps in one `step`.
            readers: name -> view of the quantity in one MjData.
            contact_forces: compute `cfrc_ext` after each step, which MuJoCo leaves out by default.
            num_threads: threads that step, at most N; default: the cores this process may use, while that is
                faster than the calling thread alone.
        """
        self.model = model
        self.datas = [mujoco.MjData(model) for _ in range(num_envs)]
        state = [view for data in self.datas for view in (data.qpos, data.qvel)]
        flat = np.empty(num_envs * (model.nq + model.nv))
        rows = flat.reshape(num_envs, -1)
        self.values: dict[str, NDArray[np.float64]] = {
            "state": rows,
            "qpos": rows[:, : model.nq],
            "qvel": rows[:, model.nq :],
        }
        self._gathered = [(state, flat)]
        for name, read in readers.items():
            views = [read(data) for data in self.datas]
            flat = np.empty(num_envs * views[0].size)
            self._gathered.append(([view.reshape(-1) for view in views], flat))
            self.values[name] = flat.reshape(num_envs, *views[0].shape)

        self._ctrl = np.zeros((num_envs, model.nu))
        self._jobs = [(data, data.ctrl, row) for data, row in zip(self.datas, self._ctrl, strict=True)]
        self._work = _stepper(model, frame_skip, contact_forces)
        self._crew = Crew(self._work, min(num_envs, num_threads or available_cores()))
        self._pace = Pace() if num_threads is None and self._crew.threads > 1 else None

    def step(self, ctrl: NDArray) -> None:
        """Apply controls [N, nu] for `frame_skip` MuJoCo steps in every copy, then gather."""
        np.copyto(self._ctrl, ctrl)
        if self._pace is None:
            self._crew.run(self._jobs)
        else:
            start = time.perf_counter()
            self._crew.run(self._jobs, alone=not self._pace.shared)
            self._pace.took(time.perf_counter() - start)
        self.gather()

    def reset(self, i: int, qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> None:
        """Start copy `i` afresh from positions [nq] and velocities [nv]; `gather` is left to the caller."""
        data = self.datas[i]
        mujoco.mj_resetData(self.model, data)
        data.qpos[:] = qpos
        data.qvel[:] = qvel
        mujoco.mj_forward(self.model, data)

    def gather(self) -> None:
        """Refresh `values` from every copy."""
        for views, flat in self._gathered:
            np.concatenate(views, out=flat)

    def get_state(self) -> NDArray[np.float64]:
        """MuJoCo's integration state of every copy, [N, n]."""
        states = np.empty((len(self.datas), self.state_size))
        for data, row in zip(self.datas, states, strict=True):
            mujoco.mj_getState(self.model, data, row, _STATE)
        return states

    def set_state(self, states: NDArray[np.float64]) -> None:
        """Put back what `get_state` gave."""
        for data, row in zip(self.datas, states, strict=True):
            mujoco.mj_resetData(self.model, data)
            mujoco.mj_setState(self.model, data, row, _STATE)
            mujoco.mj_forward(self.model, data)  # body positions and contacts, which renderers read
            mujoco.mj_setState(self.model, data, row, _STATE)
        self.gather()

    @property
    def state_size(self) -> int:
        """Numbers in the integration state of one copy."""
        return mujoco.mj_stateSize(self.model, _STATE)

    def close(self) -> None:
        """End the threads."""
        self._crew.close()


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _stepper(
    model: mujoco.MjModel, frame_skip: int, contact_forces: bool
) -> Callable[[Iterator[tuple[mujoco.MjData, NDArray[np.float64], NDArray[np.float64]]]], None]:
    mj_step, mj_rne = mujoco.mj_step, mujoco.mj_rnePostConstraint

    def step(jobs: Iterator[tuple[mujoco.MjData, NDArray[np.float64], NDArray[np.float64]]]) -> None:
        for data, ctrl, row in jobs:
            ctrl[:] = row
            mj_step(model, data, frame_skip)

    def step_with_contact_forces(
        jobs: Iterator[tuple[mujoco.MjData, NDArray[np.float64], NDArray[np.float64]]],
    ) -> None:
        for data, ctrl, row in jobs:
            ctrl[:] = row
            mj_step(model, data, frame_skip)
            mj_rne(model, data)

    return step_with_contact_forces if contact_forces else step
