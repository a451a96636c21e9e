"""The doors of the API: one blueprint for each surface."""
