"""Tuning: MetaSchedule proposes, a device measures, records remember."""
