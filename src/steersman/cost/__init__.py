"""What work costs: counted from the data, priced by measuring this machine."""
