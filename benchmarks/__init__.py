"""Measurements that are run by hand and logged; never part of the tests."""
