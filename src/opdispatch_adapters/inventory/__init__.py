"""Inventories: where racks come from.

``CsvInventory`` reads a directory of CSV files in the common shape of ``csv_inventory``.
"""

from .csv_inventory import CsvInventory, Summary

__all__ = ["CsvInventory", "Summary"]
