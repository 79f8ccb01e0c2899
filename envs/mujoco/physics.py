"""N simulations of one MuJoCo model, stepped together, read as arrays with a row for each.

Holds physics alone: rewards and observations are in the task files, episodes in vector.py.
"""

from __future__ import annotations

import ctypes
import os
import time
import weakref
from collections.abc import Callable, Mapping

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from envs.mujoco.pace import Pace

Reader = Callable[[Batch], NDArray[np.float64]]  # a live view [N, ...] of what a batch computes
Values = Mapping[str, NDArray[np.float64]]

# MuJoCo's global callbacks that a user may have set, the clock among them.
_CALLBACKS = [
    getattr(mujoco, f"get_mjcb_{name}")
    for name in ("act_bias", "act_dyn", "act_gain", "contactfilter", "control", "passive", "sensor", "time")
]


class Physics:
    """`num_envs` simulations of one `MjModel`, which is never changed, on MuJoCo's own pool of threads.

    `values` maps names to arrays [N, ...] that `step` and `gather` refresh in place: `state` [N, nq + nv], its views
    `qpos` and `qvel`, one array for each of `readers`, and with `contact_forces` `cfrc_ext` [N, bodies, 6]. `batch`
    is MuJoCo's batch that is in use.
    """

    batch: Batch
    _ctrl: NDArray[np.float64]
    _views: dict[str, NDArray[np.float64]]  # what `gather` copies into `values`

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
        """Allocate the simulations in the model's default state.

        Args:
            model: the compiled model.
            num_envs: simulations, N.
            frame_skip: MuJoCo steps in one `step`.
            readers: name -> view of the quantity in a batch.
            contact_forces: compute `cfrc_ext` after each step, which MuJoCo leaves out by default.
            num_threads: threads that step, at most N; default: the cores this process may use, while that is
                faster than the calling thread alone.
        """
        self.model = model
        self._num_envs = num_envs
        self._frame_skip = frame_skip
        self._readers = readers
        self._threads = min(num_envs, num_threads or available_cores())
        self._pace = Pace() if num_threads is None and self._threads > 1 else None
        self._batches: dict[int, Batch] = {}  # by number of threads: all of them, one, or both, as the pace asks
        self._take(self._new_batch(1 if self._pace else self._threads))

        # Contiguous copies, as Gymnasium's arrays are: strides decide in which order and by which routine numpy adds.
        self.values: dict[str, NDArray[np.float64]] = {name: np.empty(view.shape) for name, view in self._views.items()}
        self.values["qpos"] = self.values["state"][:, : model.nq]
        self.values["qvel"] = self.values["state"][:, model.nq :]
        self._scratch = mujoco.MjData(model) if contact_forces else None
        if contact_forces:
            self.values["cfrc_ext"] = np.zeros((num_envs, model.nbody, 6))
        _living.add(self)

    def step(self, ctrl: NDArray) -> None:
        """Apply controls [N, nu] for `frame_skip` MuJoCo steps in every simulation, then gather."""
        if self._pace is None:
            self._step(ctrl)
        else:
            self._use(self._threads if self._pace.shared else 1)
            start = time.perf_counter()
            self._step(ctrl)
            self._pace.took(time.perf_counter() - start)
        if self._scratch is not None:
            for i, forces in enumerate(self.values["cfrc_ext"]):
                mujoco.mj_rnePostConstraint(self.model, self.get_data(i, self._scratch))
                np.copyto(forces, self._scratch.cfrc_ext)
        self.gather()

    def reset(self, ids: NDArray[np.intp], qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> None:
        """Start simulations `ids`, in ascending order, afresh from positions [n, nq] and velocities [n, nv]; gather."""
        _stop_clock()
        batch = self.batch
        batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        batch.qpos[ids] = qpos
        batch.qvel[ids] = qvel
        batch.forward(ids)
        if self._scratch is not None:
            self.values["cfrc_ext"][ids] = 0
        self.gather()

    def gather(self) -> None:
        """Refresh `values` from the simulations."""
        values = self.values
        for name, view in self._views.items():
            np.copyto(values[name], view)

    def get_state(self) -> NDArray[np.float64]:
        """MuJoCo's integration state of every simulation, [N, n]: all that decides the next step bit for bit, the
        solver's warm start included."""
        return self.batch.state.copy()

    def set_state(self, states: NDArray[np.float64]) -> None:
        """Put back what `get_state` gave."""
        _stop_clock()
        batch = self.batch
        batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE)
        batch.state[:] = states
        batch.forward()  # body positions and contacts, which renderers read
        batch.state[:] = states
        self.gather()

    def get_data(self, i: int, data: mujoco.MjData) -> mujoco.MjData:
        """Simulation `i` as MuJoCo's renderer and functions take it, written into `data`."""
        return self.batch.get_data(i, data)

    @property
    def state_size(self) -> int:
        """Numbers in the integration state of one simulation."""
        return self.batch.nstate

    def close(self) -> None:
        """End the threads; a later step takes the calling one alone."""
        self._pace = None
        self._use(1)
        self._batches = {1: self.batch}

    def _step(self, ctrl: NDArray) -> None:
        self._ctrl[:] = ctrl
        self.batch.step(nstep=self._frame_skip)

    def _use(self, threads: int) -> None:
        """Go on with the batch of so many threads, from where the one in use stands."""
        if threads == self.batch.nthread:
            return
        state = self.batch.state
        self._take(self._batches.get(threads) or self._new_batch(threads))
        self.batch.state[:] = state

    def _new_batch(self, threads: int) -> Batch:
        # persistent: an MjData for each simulation, from which frames and contact forces come
        self._batches[threads] = batch = Batch(self.model, self._num_envs, threads, persistent=True)
        return batch

    def _take(self, batch: Batch) -> None:
        self.batch = batch
        self._ctrl = batch.ctrl
        start = (batch.qpos.ctypes.data - batch.state.ctypes.data) // batch.state.itemsize  # velocities lie behind
        state = batch.state[:, start : start + self.model.nq + self.model.nv]
        self._views = {"state": state, **{name: read(batch) for name, read in self._readers.items()}}

    def _start_again(self) -> None:
        """In a forked child, which has none of its parent's threads: go on with batches of its own."""
        states = self.get_state()
        for batch in self._batches.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(batch))  # never freed: that would wait for its threads
        self._batches = {}
        self._take(self._new_batch(self.batch.nthread))
        self.set_state(states)


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _stop_clock() -> None:
    """Take away the clock that MuJoCo's Python package sets for the process.

    MuJoCo reads it for `MjData.timer` some thirty times a step, a seventh of HalfCheetah's time. A clock of the user's
    own (`mujoco.set_mjcb_time`) stays, and so does the package's beside any other callback of theirs.
    """
    if all(get() is None for get in _CALLBACKS):
        mujoco.mj_resetCallbacks()


_living: weakref.WeakSet[Physics] = weakref.WeakSet()


def _after_fork() -> None:
    for physics in _living:
        physics._start_again()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
