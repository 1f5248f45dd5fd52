"""Settings that follow from the data, the device and the time there is: pure rules, each with its reason."""
