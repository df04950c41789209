"""Schedules per kernel class: a default that is good untuned, by target."""

from __future__ import annotations

from typing import TypeAlias

from mossnet_tg.codegen.schedules.cpu import CpuSchedule
from mossnet_tg.codegen.schedules.gpu import GpuSchedule

__all__ = ["CpuSchedule", "GpuSchedule", "Schedule"]

Schedule: TypeAlias = CpuSchedule | GpuSchedule
