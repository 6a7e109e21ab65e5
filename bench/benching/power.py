"""Random power curves with known energy, and sensors that see them: a fast clock in place of a real one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from joulebook.meters import Device, Reading
from joulebook.rows import Component, Method

NS = 1_000_000_000
INSTANT_SECONDS = 0.02
"""What an "instant" power reading averages over in truth."""


@dataclass(frozen=True)
class Curve:
    """Power that is constant between knots. seconds: knots, ascending from 0.  joules: energy up to each, exact."""

    seconds: np.ndarray
    joules: np.ndarray

    def energy(self, at: np.ndarray | float) -> np.ndarray:
        """Joules from 0 up to each instant; power before 0 is that of the first stretch."""
        slope = (self.joules[1] - self.joules[0]) / (self.seconds[1] - self.seconds[0])
        return np.interp(at, self.seconds, self.joules) + np.minimum(at, 0.0) * slope


WATTS = {Component.GPU: (40, 700), Component.CPU: (20, 350), Component.DRAM: (2, 60)}


def random_curve(rng: np.random.Generator, component: Component, seconds: float) -> Curve:
    """One of five shapes: steady, steps at random times, a square wave, a sine, a ramp with bursts."""
    low, high = np.sort(rng.uniform(*WATTS[component], 2))
    shape = rng.integers(5)
    if shape == 0:
        knots, watts = np.array([0.0]), np.array([high])
    elif shape == 1:
        knots = np.cumsum(rng.exponential(np.exp(rng.uniform(np.log(0.2), np.log(20))), 5000))
        knots = np.concatenate([[0.0], knots[knots < seconds]])
        watts = rng.uniform(low, high, len(knots))
    elif shape == 2:
        period, duty = np.exp(rng.uniform(np.log(0.3), np.log(30))), rng.uniform(0.1, 0.9)
        starts = np.arange(-rng.uniform(0, period), seconds, period)
        knots = np.concatenate([starts, starts + duty * period])
        order = np.argsort(knots)
        knots, watts = knots[order], np.concatenate([np.full(len(starts), high), np.full(len(starts), low)])[order]
        first = np.searchsorted(knots, 0.0, "right") - 1
        knots, watts = np.concatenate([[0.0], knots[first + 1 :]]), watts[first:]
    else:
        knots = np.arange(0.0, seconds, 0.02)
        if shape == 3:
            period = np.exp(rng.uniform(np.log(0.5), np.log(60)))
            watts = low + (high - low) * (1 + np.sin(2 * np.pi * knots / period + rng.uniform(0, 6.3))) / 2
        else:
            watts = (
                np.linspace(low, high, len(knots))
                + 100 * (rng.random(len(knots) // 25 + 1) < 0.1).repeat(25)[: len(knots)]
            )
    inside = knots < seconds
    knots, watts = knots[inside], watts[inside]
    joules = np.concatenate([[0.0], np.cumsum(watts * np.diff(np.append(knots, seconds)))])
    return Curve(np.append(knots, seconds), joules)


@dataclass(frozen=True)
class Sensor:
    """How one device's sensor departs from the truth.

    phase_seconds: when within its step it is updated.  lag_seconds: how old its value is by then.
    """

    gain: float
    phase_seconds: float
    lag_seconds: float
    step_seconds: float
    window_seconds: float


def random_sensor(rng: np.random.Generator, device: Device, gain: float) -> Sensor:
    """A sensor of that device's kind. gain: 1 for a perfect one.

    Its step is drawn from a fifth of the stated one (20 to 100 ms for boards, METHODS 1.1) up to it, its updates fall
    at a random phase, its value is up to a step old.
    """
    # An averaged device's stated step is its window; the reading itself moves every 100 ms.
    stated = 0.1 if device.method is Method.INTEGRATED else device.step_ns / NS
    step = rng.uniform(0.2, 1.0) * stated
    window = device.step_ns / NS if device.averaged else INSTANT_SECONDS
    return Sensor(gain, rng.uniform(0, step), rng.uniform(0, step), step, window)


def readings(rng: np.random.Generator, curve: Curve, sensor: Sensor, device: Device, at: np.ndarray) -> list[Reading]:
    """What the device says at each instant, seconds."""
    steps = np.floor((at - sensor.phase_seconds) / sensor.step_seconds)
    updated = steps * sensor.step_seconds + sensor.phase_seconds - sensor.lag_seconds
    times = (at * NS).astype(np.int64)
    if device.method is Method.COUNTER:
        base = int(rng.integers(1, 10**9))
        counts = base + np.floor(sensor.gain * curve.energy(updated) * 1e6).astype(np.int64)
        if device.wraps_at_microjoules:
            counts %= device.wraps_at_microjoules
        return [
            Reading(device.device_id, int(t), energy_microjoules=max(0, int(c)))
            for t, c in zip(times, counts, strict=True)
        ]
    mean = (curve.energy(updated) - curve.energy(updated - sensor.window_seconds)) / sensor.window_seconds
    watts = np.rint(1000 * sensor.gain * mean).astype(np.int64)
    return [Reading(device.device_id, int(t), power_milliwatts=int(w)) for t, w in zip(times, watts, strict=True)]


def read_times(rng: np.random.Generator, seconds: float, period: float) -> np.ndarray:
    """When a sampler reads: on its grid, a little late, and once in fifty times 50 ms late."""
    grid = np.arange(1.0, seconds - 1.0, period)
    late = np.abs(rng.normal(0, 0.001, len(grid))) + 0.05 * (rng.random(len(grid)) < 0.02)
    return grid + np.minimum(late, 0.9 * period)
