"""Schedules per kernel class: a default that is good untuned, by target."""
