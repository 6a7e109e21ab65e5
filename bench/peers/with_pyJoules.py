"""pyJoules: an EnergyMeter that the user's own loop asks once a period. RAPL in microjoules, NVML in millijoules."""

import telling
from pyJoules.device.device_factory import DeviceFactory
from pyJoules.energy_meter import EnergyMeter

meter = EnergyMeter(DeviceFactory.create_devices())
meter.start()
began = telling.ready()
telling.every_period(meter.record)
meter.stop()
ended = telling.now_ns()
joules = {"gpu": 0.0, "cpu": 0.0, "dram": 0.0}
for sample in meter.get_trace():
    for domain, energy in sample.energy.items():
        if domain.startswith("nvidia"):
            joules["gpu"] += energy / 1e3
        elif domain.startswith("package"):
            joules["cpu"] += energy / 1e6
        elif domain.startswith("dram"):
            joules["dram"] += energy / 1e6
telling.tell(began, ended, joules)
