"""The profile of a run: traces its windows, and makes the tables of each when it ends.

    step step | trial | step step step step ... step | tables | step step ...
              from-1  from                           to or full

The trial, of one step, says how many events a step has: a trace holds a million at most, and is cut before that. It is
left out where the window is short.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from jaxdist.profiling import files
from jaxdist.profiling.merge import merge_folder
from jaxdist.profiling.peak import matrix_flops
from jaxdist.profiling.programs import programs_of
from jaxdist.profiling.table import make_table
from jaxdist.profiling.trace import count_events, read
from jaxdist.profiling.windows import Window
from jaxdist.runtime import profiler

MOST_EVENTS = 400_000  # of one trace
FULL = 1_000_000  # what the profiler holds
WARM_UP = 2  # steps of a process that are not profiled: the first compiles, the second is still slow
_SHORT = 12  # steps of a window without a trial
_MARK = "training thread"  # where this span is, the training thread is

SPANS = frozenset(value for name, value in vars(profiler).items() if name.isupper() and isinstance(value, str))


class RunProfile:
    """Called between the steps of one process; does nothing while no window is near.

    A failure is said once, in the log and by `event`, and ends the profile, never the training.

    Args:
      folder: where the profiles are written: FOLDER/WINDOW/PROCESS.*.
      process: 'worker-0', 'server-1', ...
      windows: in order.
      about: what the profile is of (process, strategy, model, ...): goes into its files.
      event: is told what has happened, as fields of an event row.
      blocks, flops: of the model (`table.make_table`).
      in_background: make the tables in a thread, as a server does, which must answer meanwhile.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        process: str,
        windows: Sequence[Window],
        about: Mapping[str, Any],
        event: Callable[[dict[str, Any]], None] = lambda event: None,
        *,
        blocks: frozenset[str] = frozenset(),
        flops: Callable[[], Mapping[str, float]] = dict,
        in_background: bool = False,
    ) -> None:
        self._folder, self._process, self._about, self._event = folder, process, dict(about), event
        self._blocks, self._flops, self._in_background = blocks, flops, in_background
        self.windows = list(windows)  # those that are left: looked at by whoever profiles besides this process
        self._asked = bool(windows)
        self.examples = 0.0  # of one step of this process
        self._trace: profiler.Trace | None = None
        self._trial = False
        self._calls = 0  # of `at`: steps that this process has done
        self._most_steps = 0
        self._place = -1  # where the last step ended, in the window's unit
        self._ahead = 1  # what the last step added to it
        self._last = 0.0  # Unix time of the last call of `at`
        self._begun = (0.0, 0, 0)  # of the window: Unix time, update, calls
        self._threads: list[threading.Thread] = []

    @property
    def waits(self) -> bool:
        """Whether anything is left to be profiled."""
        return bool(self.windows)

    def tell(self, event: Callable[[dict[str, Any]], None]) -> None:
        """Who is told what has happened, from now on."""
        self._event = event

    def at(self, updates: int, state: Any = None) -> None:
        """After a step, or an update of a server: `updates` are done. Blocks where a window begins or ends.

        Args:
          state: what the last step gives; its arrays are waited for, so that a window has whole steps.
        """
        if not self.windows:
            return
        self._calls += 1
        self._last = time.time()
        with self._never_raising():
            self._at(updates, getattr(state, "examples_seen", 0), getattr(state, "arrays", None))

    def end(self, updates: int, state: Any = None) -> None:
        """Ends a window here, as the phase or the run does."""
        with self._never_raising():
            if self._trace is not None and self._trial:
                self.close()
            elif self._trace is not None:
                # Without a state nothing was waited for since: a server may have been idle for long.
                end_time = time.time() if state is not None else self._last
                self._end(updates, getattr(state, "arrays", None), cut=True, end_time=end_time)

    def merge(self) -> None:
        """Makes one page of what all processes have written into this folder. For one process, at the end."""
        for folder in sorted(self._folder.glob("*_*-*")) if self._asked else ():
            with self._never_raising():
                merge_folder(folder)

    @contextlib.contextmanager
    def _never_raising(self) -> Iterator[None]:
        try:
            yield
        except Exception as e:  # whatever the profiler, the disk or a program that is read raises
            self._failed(e)

    def _at(self, updates: int, examples_seen: int, arrays: Any) -> None:
        place = self.windows[0].place(updates, examples_seen)
        self._ahead, self._place = max(place - self._place, 1) if self._place >= 0 else 1, place
        if self._trace is None:
            while self.windows and self.windows[0].place(updates, examples_seen) >= self.windows[0].end:
                logging.info("%s of this run were done before; they are not profiled again.", self.windows.pop(0))
            if self.windows and self._calls >= WARM_UP:
                self._maybe_begin(updates, examples_seen, arrays)
        elif self._trial:
            self._end_trial(updates, arrays)
        else:
            window = self.windows[0]
            over = window.place(updates, examples_seen) >= window.end
            if over or self._calls - self._begun[2] >= self._most_steps:
                self._end(updates, arrays, cut=not over)

    def _maybe_begin(self, updates: int, examples_seen: int, arrays: Any) -> None:
        window, place = self.windows[0], self.windows[0].place(updates, examples_seen)
        short = window.unit == "updates" and window.end - window.start <= _SHORT
        if place < window.start - (0 if short else self._ahead):
            return
        if place > window.start + self._ahead:
            logging.warning("The profile of %s begins at %d, where this process has come to.", window, place)
        if short:
            self._begin(updates, arrays, _SHORT)
        else:
            jax.block_until_ready(arrays)
            self._trace, self._trial = profiler.Trace(), True

    def _end_trial(self, updates: int, arrays: Any) -> None:
        assert self._trace is not None
        jax.block_until_ready(arrays)
        trial, self._trace, self._trial = self._trace, None, False
        try:
            trial.stop()
            events = count_events(trial.path())
        finally:
            trial.close()
        self._begin(updates, arrays, max(MOST_EVENTS // max(events, 1), 1))

    def _begin(self, updates: int, arrays: Any, most_steps: int) -> None:
        jax.block_until_ready(arrays)
        self._most_steps = most_steps
        self._trace = profiler.Trace()
        with profiler.span(_MARK):
            self._begun = (time.time(), updates, self._calls)

    def _end(self, updates: int, arrays: Any, *, cut: bool, end_time: float = 0.0) -> None:
        assert self._trace is not None
        jax.block_until_ready(arrays)
        began, first, calls = self._begun
        end_time = end_time or time.time()
        trace, self._trace = self._trace, None
        programs = profiler.programs()
        window = self.windows.pop(0)
        about = self._about | {
            "process": self._process,
            "window": str(window),
            "updates": [first, updates],
            "steps": self._calls - calls,
            "cut": cut,
            "began": began,
        }
        if cut:
            words = "The profile of %s was cut after %d steps, at update %d: %s."
            full = about["steps"] >= self._most_steps
            why = f"a trace holds {MOST_EVENTS} events" if full else "training ends here, or its phase does"
            logging.warning(words, window, about["steps"], updates, why)
        trace.stop()
        if self._in_background:
            thread = threading.Thread(
                target=self._tables_or_a_warning, args=(trace, programs, about, end_time), name="profile", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        else:
            self._tables(trace, programs, about, end_time)

    def _tables_or_a_warning(self, *of: Any) -> None:
        with self._never_raising():
            self._tables(*of)

    def _tables(self, trace: profiler.Trace, programs: Sequence[Any], about: dict[str, Any], end_time: float) -> None:
        try:
            found = read(trace.path(), SPANS | {_MARK})
        finally:
            trace.close()
        peak = 0.0 if self._in_background else matrix_flops()
        marks = [thread for what, thread in zip(found.spans.what, found.spans.thread, strict=True) if what == _MARK]
        found.spans = found.spans.without(_MARK)
        if found.num_events >= FULL:
            about["cut"] = True
            logging.warning("The trace of %s is full (%d events): its last steps may lack some.", about["window"], FULL)
        table = make_table(
            found,
            programs_of(programs, found.programs),
            begin=about["began"] - found.unix_time,
            end=end_time - found.unix_time,
            steps=max(about["steps"], 1),
            blocks=self._blocks,
            flops=self._flops(),
            examples=self.examples,
            peak=peak,
            training_thread=marks[0] if marks and not self._in_background else None,
        )
        about |= {"ended": end_time, "events": found.num_events, "peak_gflops": peak / 1e9}
        place = self._folder / about["window"]
        files.write(place, self._process, about, table, found)
        words = "Profiled %d steps up to update %d: %.1f ms a step; the tables are in %s."
        logging.info(words, about["steps"], about["updates"][1], table.step_ms, place)
        kept = {key: about[key] for key in ("steps", "cut", "events")} | {"step_ms": round(table.step_ms, 3)}
        first, last = about["updates"]
        self._event({"event": "profiled", "after_update": first, "to_update": last} | kept)

    def _failed(self, error: Exception) -> None:
        self.windows.clear()
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        logging.warning("The profile of %s has failed; training goes on: %s", self._process, words)
        self._event({"event": "profile_failed", "process": self._process, "reason": words})
        if threading.current_thread() not in self._threads:  # a thread that makes tables has no trace open
            self.close()

    def close(self, seconds: float = 120.0) -> None:
        """Ends a trace that is under way, and waits for tables that are being made. Idempotent."""
        trace, self._trace, trial, self._trial = self._trace, None, self._trial, False
        if trace is not None:
            if self.windows and not trial:
                logging.warning("The profile of %s is dropped: this process ends within it.", self.windows[0])
            try:
                trace.close()
            except Exception as e:
                logging.warning("The profiler could not be ended: %s", e)
        for thread in self._threads:
            thread.join(timeout=seconds)
            if thread.is_alive():
                logging.warning(
                    "The tables of %s's profile were not ready after %g s: they are lost.", self._process, seconds
                )
