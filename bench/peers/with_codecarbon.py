"""codecarbon: OfflineEmissionsTracker, whose own threads sample. Energies in kWh."""

import telling

telling.fill_in_driver()

from codecarbon import OfflineEmissionsTracker  # noqa: E402

tracker = OfflineEmissionsTracker(
    country_iso_code="FRA",
    measure_power_secs=telling.period_seconds(),
    save_to_file=False,
    log_level="error",
    allow_multiple_runs=True,
)
tracker.start()
began = telling.ready()
telling.wait()
tracker.stop()
telling.tell(
    began,
    telling.now_ns(),
    {"gpu": tracker._total_gpu_energy.kWh * 3.6e6, "cpu": tracker._total_cpu_energy.kWh * 3.6e6},
    "DRAM is modelled",
)
