"""Measuring what the appliance does: boots of real guests, timed, with the store's counters before and after."""
