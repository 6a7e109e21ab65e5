"""zeus: a ZeusMonitor window for every period; its wrap watchers are processes of their own."""

import telling


def main() -> None:
    telling.fill_in_driver()
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=list(range(8)), approx_instant_energy=False)
    joules = {"gpu": 0.0, "cpu": 0.0, "dram": 0.0}
    monitor.begin_window("period", sync_execution=False)
    began = telling.ready()

    def sample() -> None:
        seen = monitor.end_window("period", sync_execution=False)
        monitor.begin_window("period", sync_execution=False)
        joules["gpu"] += sum(seen.gpu_energy.values())
        joules["cpu"] += sum((seen.cpu_energy or {}).values())
        joules["dram"] += sum((seen.dram_energy or {}).values())

    telling.every_period(sample)
    sample()
    import multiprocessing

    for child in multiprocessing.active_children():
        child.kill()
    telling.tell(began, telling.now_ns(), joules)


if __name__ == "__main__":
    main()
