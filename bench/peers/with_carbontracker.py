"""carbontracker: its own thread samples power while an epoch lasts."""

import telling

telling.fill_in_driver()

from carbontracker.tracker import CarbonTracker  # noqa: E402

tracker = CarbonTracker(
    epochs=10, monitor_epochs=-1, update_interval=telling.period_seconds(), components="all", verbose=0
)
tracker.epoch_start()
began = telling.ready()
telling.wait()
tracker.epoch_end()
ended = telling.now_ns()
thread = tracker.tracker
joules = {component.name: component.energy_usage(thread.epoch_times) for component in thread.components}
telling.tell(began, ended, {name: float(sum(kwh)) * 3.6e6 for name, kwh in joules.items()}, "CPU includes DRAM")
