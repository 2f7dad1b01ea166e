"""Engines: how messages get from those who send to those who receive."""
