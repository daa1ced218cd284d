"""Where weights are: on the device, in host memory or in their file; and the record of every move."""
