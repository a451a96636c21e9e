"""The contract that the API and the workers share: names, records, atomic steps and the broker."""

__version__ = "0.1.0"
