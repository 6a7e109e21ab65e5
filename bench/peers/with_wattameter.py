"""wattameter: its tracker of NVML's energy counters and RAPL, as its command line makes it."""

import telling
from wattameter import TrackerArray
from wattameter.readers import Energy, NVMLReader, RAPLReader

readers = [NVMLReader((Energy,)), RAPLReader()]
tracker = TrackerArray(readers, dt_read=telling.period_seconds(), freq_write=3600, outputs=["nvml.log", "rapl.log"])
tracker.start()
began = telling.ready()
telling.wait()
ended = telling.now_ns()
joules = {"gpu": 0.0, "cpu": 0.0, "dram": 0.0}
gpus, zones = (list(zip(*each.data, strict=True)) for each in tracker.trackers)
joules["gpu"] = sum(values[-1] - values[0] for values in gpus) / 1e3
for device, values in zip(readers[1].devices, zones, strict=True):
    kind = "cpu" if device.name.startswith("package") else device.name
    joules[kind] = joules.get(kind, 0.0) + (values[-1] - values[0]) / 1e6
times = tracker.trackers[0].time_series
telling.tell(began, began + times[-1] - times[0], joules, f"{len(readers[1].devices)} zones, nested ones too")
